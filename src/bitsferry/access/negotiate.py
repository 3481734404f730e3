"""Negotiate: Kerberos, or NTLM, whichever a client has (RFC 4559, RFC 4178, MS-SPNG)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bitsferry.access.handshake import Exchange, HandshakeScheme, Mechanism, Proof, Step
from bitsferry.access.kerberos import KerberosAcceptor, Keytab
from bitsferry.access.nt_hashes import NtAccounts
from bitsferry.access.ntlm import OUR_NAME, NtlmAcceptor, user_of
from bitsferry.access.ntlm_messages import kind_of
from bitsferry.access.scheme import NotProved
from bitsferry.access.spnego import ACCEPTED, INCOMPLETE, KERBEROS, MIC_WANTED, NTLM, Offer, Reply, is_offer
from bitsferry.access.watched_file import WatchedFile

__all__ = ["Negotiate"]

Makers = Mapping[bytes, Callable[[], Mechanism]]


class Negotiate(HandshakeScheme):
    """Kerberos where there is a keytab, NTLM where there are NT hashes; at least one of them.

    Of those a client has, the one it likes best is taken. Clients also send NTLM's messages as they are,
    without SPNEGO around them; those are answered in kind.
    """

    name = "negotiate"
    spoken = "negotiate"
    title = "Negotiate"

    def __init__(
        self,
        keytab: Keytab | None = None,
        nt_hashes: WatchedFile[NtAccounts] | None = None,
        domain: str | None = None,
    ) -> None:
        self._makers: dict[bytes, Callable[[], Mechanism]] = {}
        if keytab is not None:
            for name in KERBEROS:
                self._makers[name] = lambda: KerberosAcceptor(keytab, self.name)
        if nt_hashes is not None:
            self._makers[NTLM] = lambda: NtlmAcceptor(nt_hashes, domain or OUR_NAME, self.name)

    def _begin(self, token: bytes) -> Exchange | None:
        if is_offer(token):
            return Spnego(self._makers)
        if kind_of(token) != 1:
            return None
        if NTLM not in self._makers:
            raise NotProved("no mechanism in common", counts=False)
        return self._makers[NTLM]()

    def _named(self, token: bytes) -> str | None:
        try:
            return user_of(token) or user_of(Reply.read(token).token)
        except ValueError:
            return None


class Spnego(Exchange):
    """The choice of a mechanism, and that mechanism's tokens inside."""

    def __init__(self, makers: Makers) -> None:
        """`makers` has what we speak."""
        self._makers = makers
        self._listed: bytes | None = None  # of the offer no more than that: its token may be large
        self._chosen = b""
        self._mechanism: Mechanism | None = None
        self._proof: Proof | None = None
        self._mic_wanted = False

    async def step(self, token: bytes) -> Step:
        """See Exchange."""
        try:
            if self._listed is None:
                return await self._begin(Offer.read(token))
            reply = Reply.read(token)
        except ValueError as error:
            raise NotProved("malformed") from error
        return await self._go_on(self._listed, reply)

    async def _begin(self, offer: Offer) -> Step:
        self._listed = offer.listed
        self._chosen = next((each for each in offer.mechanisms if each in self._makers), b"")
        if not self._chosen:
            raise NotProved("no mechanism in common", counts=False)
        self._mechanism = self._makers[self._chosen]()
        if offer.is_bare:
            return await self._mechanism.step(offer.token)
        if self._chosen == offer.mechanisms[0] and offer.token:
            return await self._go_on(offer.listed, Reply(token=offer.token))
        self._mic_wanted = self._chosen != offer.mechanisms[0]  # RFC 4178 5
        state = MIC_WANTED if self._mic_wanted else INCOMPLETE
        return Step(Reply(state, self._chosen).write())

    async def _go_on(self, listed: bytes, reply: Reply) -> Step:
        mechanism = self._mechanism
        assert mechanism is not None
        answer, waits_for_mic = b"", self._proof is not None
        if not waits_for_mic:
            step = await mechanism.step(reply.token)
            answer, self._proof = step.answer, step.proof
        chosen, self._chosen = self._chosen, b""  # said once
        if self._proof is None:
            return Step(Reply(INCOMPLETE, chosen, answer).write())
        if reply.mic:
            mechanism.check(listed, reply.mic)
        elif waits_for_mic:
            raise NotProved("nobody vouched for the list of mechanisms")
        elif self._mic_wanted and mechanism.signs():
            return Step(Reply(INCOMPLETE, chosen, answer, mechanism.sign(listed)).write())
        mic = mechanism.sign(listed) if reply.mic and not waits_for_mic else b""
        return Step(Reply(ACCEPTED, chosen, answer, mic).write(), self._proof)
