"""NTLM and Negotiate, which prove who is asking for one connection after the other."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import logging
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bitsferry.client.challenges import Challenge

if TYPE_CHECKING:
    from spnego import ContextProxy
    from spnego.channel_bindings import GssChannelBindings

__all__ = ["CannotProve", "Handshake", "missing"]

MOST_LEGS = 5  # Kerberos has one, NTLM two, SPNEGO around it one more
_NTLM, _NEGOTIATE = "ntlm", "negotiate"
_SPELT = {_NTLM: "NTLM", _NEGOTIATE: "Negotiate"}

# AUTHENTICATE_MESSAGE, wherever it stands in a token: its answer to the challenge is 24 bytes long in NTLMv1,
# longer in NTLMv2, and empty where nobody wants to be known (MS-NLMP 2.2.1.3, 2.2.2.6, 2.2.2.8).
_AUTHENTICATE = b"NTLMSSP\0\3\0\0\0"
_LENGTH_OF_ANSWER = slice(20, 22)
_V1 = 24


class CannotProve(Exception):
    """Nothing can be said for the user; the message is the sentence why, with nothing secret in it."""


def missing(scheme: str, user: str) -> str | None:
    """What has to be installed before `scheme` can be said for `user`, as a sentence; None: nothing."""
    if not _is_there("spnego"):
        extra = "kerberos" if scheme == _NEGOTIATE else _NTLM
        return f"{_SPELT[scheme]} needs a package that is not here: pip install 'bitsferry[{extra}]'"
    if scheme == _NEGOTIATE and not user and sys.platform != "win32" and not _knows_kerberos():
        return "a Kerberos ticket needs packages that are not here: pip install 'bitsferry[kerberos]'"
    return None


def _is_there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _knows_kerberos() -> bool:
    return _is_there("gssapi") and _is_there("krb5")


class Handshake:
    """One user before one server, or proxy: says who it is on each connection once, in several legs.

    Kerberos may be asked for with every request (RFC 4559 leaves that open, and some servers do); that is
    noticed when it happens. NTLMv1 is never said, whatever the system is set to.
    """

    def __init__(self, scheme: str, user: str, password: str, *, asker: str, host: str) -> None:
        """`scheme` is `ntlm` or `negotiate`; no user means the log-on of this account, or its ticket.

        A ticket is for the service HTTP on `host`; `asker` is who that is, in a sentence.
        """
        self._scheme = scheme
        self._asker = asker
        self._user = user
        self._password = password
        self._host = host.rstrip(".")
        self._bindings: GssChannelBindings | None = None
        self._earlier: ContextProxy | None = None
        self._context: ContextProxy | None = None
        self._token = b""
        self._legs = 0
        self._proved = self._each_time = self._begun_again = False

    @property
    def is_between_legs(self) -> bool:
        """Whether the next leg must be said where the last one was."""
        return self._legs > 0 and not self._proved

    @property
    def was_heard(self) -> bool:
        """Whether the other end ever went on with it."""
        return self._legs > 0 or self._earlier is not None

    @property
    def is_open(self) -> bool:
        """Whether a request may still be answered by the next challenge, so that a body would be in vain."""
        return not self._proved and not self._each_time

    def next_request(self) -> None:
        """A request begins that was not said yet: what was asked for during the last one is forgotten."""
        self._begun_again = False

    def connected(self, certificate: bytes | None) -> None:
        """A new connection: what was proved on the last one is worth nothing.

        `certificate` is the server's, in DER, when TLS is spoken with it (RFC 5929).
        """
        self._bindings = None if certificate is None else _bindings(certificate)
        self._start_over()

    def prepare(self) -> None:
        """Have the first leg ready. Raises CannotProve when there is nothing to say."""
        if why := missing(self._scheme, self._user):
            raise CannotProve(why)
        self._context, self._token = self._begin()

    def authorization(self, method: str, target: str) -> str | None:
        """The value of Authorization for the next request; None when all is said. Raises CannotProve."""
        if self._each_time and not self.is_between_legs:
            self._start_over()
        if self._proved:
            return None
        if self._context is None:
            self.prepare()
        return f"{_SPELT[self._scheme]} {base64.b64encode(self._token).decode('ascii')}"

    def goes_on(self, offered: Iterable[Challenge]) -> bool:
        """Whether a 401 is the next leg, or wants all of it once more where it was already said.

        Raises CannotProve when what was said in it makes no sense.
        """
        challenge = next((each for each in offered if each.scheme == self._scheme), None)
        if challenge is None:
            return False
        if self._proved:
            return self._begins_again()
        if challenge.token is None or self._context is None or self._context.complete:
            return False  # that was all, and it was not enough
        if self._legs == MOST_LEGS:
            raise CannotProve(f"{self._asker} asks on and on by {_SPELT[self._scheme]}")
        self._token = self._step(self._context, self._decoded(challenge))
        self._legs += 1
        return bool(self._token)

    def _begins_again(self) -> bool:
        """Asked once more where all was said: once in a request that is all right."""
        if self._begun_again:
            return False
        self._begun_again = True
        self._each_time = self._earlier is not None and self._earlier.negotiated_protocol == "kerberos"
        self._start_over()
        return True

    def accepted(self, offered: Iterable[Challenge], *, good: bool) -> None:
        """Take an answer that is no 401; `good` if it gave what was asked for.

        Raises CannotProve when the other end says who it is, and that is not true.
        """
        if self._context is None or self._proved:
            return
        challenge = next((each for each in offered if each.scheme == self._scheme and each.token), None)
        if challenge is not None:
            self._step(self._context, self._decoded(challenge))
        if good or self._context.complete:
            self._proved, self._earlier = True, self._context
        else:
            self._start_over()

    def _start_over(self) -> None:
        self._context, self._token, self._legs, self._proved = None, b"", 0, False

    def _begin(self) -> tuple[ContextProxy, bytes]:
        if self._earlier is not None:
            with contextlib.suppress(Exception):  # a ticket that ran out: then another one is fetched
                context = self._earlier.new_context()
                return context, self._step(context)
        context = self._make()
        return context, self._step(context)

    def _make(self) -> ContextProxy:
        # What its steps say, their answers to a challenge included, it would tell in its log.
        if (log := logging.getLogger("spnego")).level == logging.NOTSET:
            log.setLevel(logging.INFO)
        import spnego
        from spnego import CredentialCache, Password

        who = Password(self._user, self._password) if self._user else CredentialCache()
        try:
            return spnego.client([who], hostname=self._host, service="HTTP", protocol=self._scheme)
        except Exception as error:
            raise self._cannot(error) from None

    def _step(self, context: ContextProxy, token: bytes | None = None) -> bytes:
        try:
            said = context.step(token, channel_bindings=self._bindings) or b""
        except Exception as error:  # whatever pyspnego, gssapi and Windows make of a stranger's token
            if token is None:
                raise self._cannot(error) from None
            raise self._senseless() from None
        _check(said)
        return said

    def _senseless(self) -> CannotProve:
        return CannotProve(
            f"what {self._asker} says by {_SPELT[self._scheme]} makes no sense, or is not true"
        )

    def _decoded(self, challenge: Challenge) -> bytes:
        try:
            return base64.b64decode(challenge.token or "", validate=True)
        except ValueError:
            raise self._senseless() from None

    def _cannot(self, error: BaseException) -> CannotProve:
        why = _reason(error)
        if not self._user:
            return CannotProve(f"this account has no log-on, or ticket, for {_SPELT[self._scheme]}{why}")
        return CannotProve(f"{_SPELT[self._scheme]} cannot be said for {self._user!r}{why}")


def _check(token: bytes) -> None:
    """Raises CannotProve for an NTLMv1 answer: it gives the password away."""
    at = token.find(_AUTHENTICATE)
    if at >= 0 and int.from_bytes(token[at:][_LENGTH_OF_ANSWER], "little") <= _V1:
        raise CannotProve(
            "this system would answer by NTLMv1, which gives the password away: "
            "set LM_COMPAT_LEVEL, on Windows LmCompatibilityLevel, to 3 or more"
        )


def _reason(error: BaseException | None) -> str:
    """What Kerberos said, which names principals and files, never secrets."""
    while error is not None:
        if said := re.search(r"Minor \(\d+\): ([^\n]+?)(?:, Context|$)", str(error)):
            return f": {said[1][:200]}"
        error = getattr(error, "base_error", None)
    return ""


def _bindings(certificate: bytes) -> GssChannelBindings | None:
    """`tls-server-end-point` (RFC 5929 4.1), without which IIS' Extended Protection lets nobody in.

    None for a certificate whose signature has no hash of its own (Ed25519): for that nothing is agreed.
    """
    if not _is_there("spnego"):
        return None
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509 import load_der_x509_certificate
    from spnego.channel_bindings import GssChannelBindings

    try:
        algorithm = load_der_x509_certificate(certificate).signature_hash_algorithm
    except (UnsupportedAlgorithm, ValueError):
        return None
    if algorithm is None:
        return None
    if isinstance(algorithm, (hashes.MD5, hashes.SHA1)):
        algorithm = hashes.SHA256()
    digest = hashes.Hash(algorithm)
    digest.update(certificate)
    return GssChannelBindings(application_data=b"tls-server-end-point:" + digest.finalize())
