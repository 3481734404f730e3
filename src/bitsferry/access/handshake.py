"""Handshakes that prove for a whole connection who is at its other end."""

from __future__ import annotations

import base64
import binascii
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from bitsferry.access.asker import Identity
from bitsferry.access.scheme import Claim, GoOn, NotProved, Scheme, credentials

__all__ = ["Exchange", "HandshakeScheme", "Mechanism", "Proof", "Step"]


@dataclass(frozen=True, slots=True)
class Proof:
    """Somebody who proved to be that, for as long as `holds` says so."""

    identity: Identity
    holds: Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Step:
    """What one leg of a handshake led to: an answer, and with the last one a proof."""

    answer: bytes = b""
    proof: Proof | None = None


class Exchange(ABC):
    """The server's side of one handshake."""

    @abstractmethod
    async def step(self, token: bytes) -> Step:
        """What the client's next token leads to. Raises NotProved; then this exchange is over."""


class Mechanism(Exchange):
    """One that can also vouch for a message, once it is complete."""

    @abstractmethod
    def signs(self) -> bool:
        """Whether the two sides agreed on a key for that."""

    @abstractmethod
    def sign(self, message: bytes) -> bytes:
        """Our signature."""

    @abstractmethod
    def check(self, message: bytes, signature: bytes) -> None:
        """Raises NotProved for what is not the client's signature."""


@dataclass(slots=True)
class _UnderWay:
    scheme: HandshakeScheme
    exchange: Exchange


@dataclass(slots=True)
class _Known:
    """`next` is the target at which something new may begin, with the next request; None: nowhere."""

    scheme: HandshakeScheme
    proof: Proof
    next: str | None


class HandshakeScheme(Scheme):
    """Any scheme whose proof is for the connection (RFC 4559, MS-NTHT).

    A connection has one handshake under way, or one identity, whichever scheme and directory it is for; any
    token ends what was there before. A request without one is believed when it goes on with something, an
    upload or its reply. One that begins something new is believed right behind a handshake only, for the
    same target, and not behind one that began something itself: a proxy that shares connections and does not
    say so shall not pass a stranger off as whoever used the connection before. Whoever is not believed ends
    what was known.
    """

    binds_connection = True
    title: ClassVar[str]
    """Its name, as challenges spell it."""

    @abstractmethod
    def _begin(self, token: bytes) -> Exchange | None:
        """A new exchange, when the token is the first of one. Raises NotProved."""

    @abstractmethod
    def _named(self, token: bytes) -> str | None:
        """Whom the token claims to be from, where it says that by itself; always spelt the same way."""

    def challenges(self, claim: Claim) -> tuple[str, ...]:
        """See Scheme."""
        return (self.title,)

    def claimed(self, claim: Claim) -> str | None:
        """See Scheme."""
        said = credentials(claim, self.spoken)
        try:
            return self._named(_decoded(said)) if said else None
        except NotProved:
            return None

    async def identify(self, claim: Claim) -> Identity | None:
        """See Scheme."""
        if claim.link is None:
            return None
        memory = claim.link.memory
        said = credentials(claim, self.spoken)
        if said is None:
            return await self._known(claim, memory)
        before = memory.pop(HandshakeScheme, None)
        token = _decoded(said)
        exchange = self._begin(token)
        if exchange is None:
            if not isinstance(before, _UnderWay) or before.scheme is not self:
                raise NotProved("no handshake is under way on this connection")
            exchange = before.exchange
        step = await exchange.step(token)
        answer = f"{self.title} {base64.b64encode(step.answer).decode('ascii')}"
        if step.proof is None:
            memory[HandshakeScheme] = _UnderWay(self, exchange)
            raise GoOn(answer)
        memory[HandshakeScheme] = _Known(self, step.proof, None if claim.begins else claim.target)
        identity = step.proof.identity
        return replace(identity, headers=(("WWW-Authenticate", answer),)) if step.answer else identity

    async def _known(self, claim: Claim, memory: dict[object, object]) -> Identity | None:
        """Who is known to be at the other end, for a request that proves nothing itself."""
        known = memory.get(HandshakeScheme)
        if not isinstance(known, _UnderWay | _Known) or known.scheme is not self:
            return None
        del memory[HandshakeScheme]
        if isinstance(known, _UnderWay) or "authorization" in claim.headers:
            return None
        if (claim.begins and known.next != claim.target) or not await known.proof.holds():
            return None
        known.next = None
        memory[HandshakeScheme] = known
        return known.proof.identity


def _decoded(said: str) -> bytes:
    try:
        return base64.b64decode(said, validate=True)
    except (binascii.Error, ValueError):
        raise NotProved("the token is no base64") from None
