"""NTLM: the acceptor, and the scheme of that name (MS-NLMP, MS-NTHT)."""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Mapping

from bitsferry.access.asker import Identity
from bitsferry.access.handshake import HandshakeScheme, Mechanism, Proof, Step
from bitsferry.access.nt_hashes import NtAccounts, in_upper_case
from bitsferry.access.ntlm_messages import (
    Authenticate,
    Av,
    Flags,
    Response,
    kind_of,
    read_negotiate,
    write_challenge,
)
from bitsferry.access.scheme import NotProved
from bitsferry.access.watched_file import WatchedFile

__all__ = ["OUR_NAME", "Ntlm", "NtlmAcceptor", "user_of"]

OUR_NAME = "BITSFERRY"  # no name of the machine: strangers read it
_EPOCH = 116_444_736_000_000_000  # 1970, in the 100 ns since 1601 that Windows counts
_NOBODY = os.urandom(16)  # the hash of whoever does not exist, so that checking takes as long


class NtlmAcceptor(Mechanism):
    """Takes in one client by NTLMv2, and by nothing weaker (MS-NLMP 3.2)."""

    def __init__(self, accounts: WatchedFile[NtAccounts], name: str = OUR_NAME, scheme: str = "ntlm") -> None:
        """`name` is the domain's, as we call it; `scheme` is what the identity says it was proved by."""
        self._accounts = accounts
        self._name = name
        self._scheme = scheme
        self._negotiate = b""
        self._challenge_message = b""
        self._challenge = b""
        self._attributes: Mapping[int, bytes] = {}
        self._flags = Flags(0)
        self._key = b""

    async def step(self, token: bytes) -> Step:
        """See Exchange."""
        if not self._negotiate:
            return Step(self._challenged(token))
        challenge, self._challenge = self._challenge, b""
        if not challenge:
            raise NotProved("the challenge was answered before")
        return Step(proof=await self._proved(token, challenge))

    def _challenged(self, token: bytes) -> bytes:
        try:
            asked = read_negotiate(token)
        except ValueError as error:
            raise NotProved("malformed") from error
        name = self._name.encode("utf-16-le")
        now = time.time_ns() // 100 + _EPOCH
        self._attributes = {
            Av.DOMAIN_NAME: name,
            Av.COMPUTER_NAME: name,
            Av.TIMESTAMP: now.to_bytes(8, "little"),  # whoever sees one sends a MIC (MS-NLMP 3.1.5.1.2)
        }
        self._negotiate = token
        self._challenge = os.urandom(8)
        self._challenge_message = write_challenge(asked, self._challenge, self._name, self._attributes)
        return self._challenge_message

    async def _proved(self, token: bytes, challenge: bytes) -> Proof:
        """Who the answer to `challenge` is from. Raises NotProved."""
        try:
            message = Authenticate.read(token)
        except ValueError as error:
            raise NotProved("malformed") from error
        user = message.user
        if message.is_anonymous:
            raise NotProved("anonymous")
        try:
            response = Response.read(message.nt_response)
        except ValueError as error:
            weak = len(message.nt_response) <= 24
            raise NotProved("no NTLMv2" if weak else "malformed") from error

        accounts, domain = self._accounts, message.domain
        known = await accounts.value()
        account = known.find(user, domain)
        owner = (in_upper_case(user) + domain).encode("utf-16-le")
        key = _hmac(_NOBODY if account is None else account.hash, owner)
        right = hmac.compare_digest(_hmac(key, challenge + response.blob), response.proof)
        if account is None or not right:
            raise NotProved("wrong user or password")
        if any(response.attributes.get(each) != value for each, value in self._attributes.items()):
            raise NotProved("the answer is for another server")
        self._agree(message, _hmac(key, response.proof))
        if response.has_mic:
            messages = self._negotiate + self._challenge_message + message.zeroed
            if not hmac.compare_digest(_hmac(self._key, messages), message.mic):
                raise NotProved("the messages were changed on their way")

        async def holds() -> bool:
            nonlocal known
            now = await accounts.value()
            if now is not known and now.find(user, domain) == account:
                known = now
            return now is known

        return Proof(Identity(account.name, self._scheme), holds)

    def _agree(self, message: Authenticate, base: bytes) -> None:
        """On a key (MS-NLMP 3.2.5.1.2)."""
        self._flags = message.flags
        exchanged = message.flags & Flags.KEY_EXCH and len(message.session_key) == 16
        self._key = _rc4(base, message.session_key) if exchanged else base

    # Signatures, each the first one of its side (MS-NLMP 3.4.4.2)

    def signs(self) -> bool:
        """See Mechanism."""
        return bool(self._flags & Flags.SIGN) and bool(self._flags & Flags.EXTENDED_SESSIONSECURITY)

    def sign(self, message: bytes) -> bytes:
        """See Mechanism."""
        return self._signature(message, b"server-to-client")

    def check(self, message: bytes, signature: bytes) -> None:
        """See Mechanism."""
        if not hmac.compare_digest(self._signature(message, b"client-to-server"), signature):
            raise NotProved("the list of mechanisms was changed on its way")

    def _signature(self, message: bytes, direction: bytes) -> bytes:
        number = bytes(4)
        signing = _md5(self._key + b"session key to " + direction + b" signing key magic constant\0")
        checksum = _hmac(signing, number + message)[:8]
        if self._flags & Flags.KEY_EXCH:
            strength = 16 if self._flags & Flags.KEY_128 else 7 if self._flags & Flags.KEY_56 else 5
            magic = b"session key to " + direction + b" sealing key magic constant\0"
            checksum = _rc4(_md5(self._key[:strength] + magic), checksum)
        return b"\1\0\0\0" + checksum + number


class Ntlm(HandshakeScheme):
    """NTLMv2 against a file of NT hashes."""

    name = "ntlm"
    spoken = "ntlm"
    title = "NTLM"

    def __init__(self, nt_hashes: WatchedFile[NtAccounts], domain: str | None = None) -> None:
        """`domain` is what we call ourselves, for clients that fill in a domain where the user named none."""
        self._accounts = nt_hashes
        self._domain = domain or OUR_NAME

    def _begin(self, token: bytes) -> NtlmAcceptor | None:
        return NtlmAcceptor(self._accounts, self._domain) if kind_of(token) != 3 else None

    def _named(self, token: bytes) -> str | None:
        return user_of(token)


def user_of(token: bytes) -> str | None:
    """Whom an AUTHENTICATE_MESSAGE claims to be from, in upper case and without the domain, either of which a
    guesser could vary; None for any other token."""
    try:
        return in_upper_case(Authenticate.read(token).user) or None
    except ValueError:
        return None


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "md5")


def _rc4(key: bytes, data: bytes) -> bytes:
    """A key's worth of RC4, which TLS libraries leave out by now."""
    state = list(range(256))
    j = 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    i = j = 0
    out = bytearray()
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)
