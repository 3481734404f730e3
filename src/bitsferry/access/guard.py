"""Stands before a directory: lets in who proves to be somebody that may."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from bitsferry.access.asker import Identity
from bitsferry.access.rules import Rules
from bitsferry.access.scheme import Claim, GoOn, NotProved, Scheme
from bitsferry.access.throttle import Throttle
from bitsferry.protocol.errors import AccessDenied, AuthenticationRequired, Busy

__all__ = ["Guard"]

logger = logging.getLogger(__name__)


class Guard:
    """Any of `schemes` is enough; with `anonymous`, none is needed, but what is said must be true.

    `refusals` counts who was sent away, by scheme and reason; `"rules"` are those who are known and may not,
    `"throttle"` those who shall come back later.
    """

    def __init__(
        self,
        schemes: Iterable[Scheme] = (),
        *,
        anonymous: bool = False,
        rules: Rules | None = None,
        throttle: Throttle | None = None,
        shares_safely: bool = False,
    ) -> None:
        """`shares_safely`: the proxies in front give each client a connection of its own."""
        self.schemes = tuple(schemes)
        self.anonymous = anonymous or not self.schemes
        self.rules = rules or Rules()
        self.throttle = throttle or Throttle()
        self.shares_safely = shares_safely
        self.refusals: Counter[tuple[str, str]] = Counter()

    def inherit(self, old: Guard) -> None:
        """Take over from the guard that stood here before the settings were read again."""
        self.throttle.inherit(old.throttle)
        self.refusals = old.refusals

    def is_handshake(self, claim: Claim) -> bool:
        """The request carries a leg of a handshake: what it asks for is asked again with the last one.

        So its packet is not to be looked at yet: a fragment may come without its bytes (Learn, Ping).
        """
        said = claim.headers.get("authorization", "").lstrip().partition(" ")[0].lower()
        return any(said and scheme.binds_connection and scheme.spoken == said for scheme in self.schemes)

    async def admit(self, claim: Claim) -> Identity | None:
        """Who it is; None where nobody has to say.

        Raises AuthenticationRequired, AccessDenied for those who are known and may not, or where nobody can
        be asked, Busy for whoever guesses too much.
        """
        with self._counted():
            self.rules.check_address(claim.address)
        identity = await self._identify(claim)
        if identity is None and (not self.anonymous or self.rules.want_somebody):
            raise self._asking(claim)
        with self._counted():
            await self.rules.check(identity)
        return identity

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except AccessDenied:
            self.refusals["rules", "may not"] += 1
            raise

    def _usable(self, claim: Claim) -> Iterator[Scheme]:
        """What is proved for a connection is worth nothing where others speak on it, too."""
        bound = claim.link is not None and (self.shares_safely or not claim.shared)
        return (scheme for scheme in self.schemes if bound or not scheme.binds_connection)

    async def _identify(self, claim: Claim) -> Identity | None:
        for scheme in self._usable(claim):
            user = scheme.claimed(claim)
            if user is not None:
                self._check_pace(claim, user)
            try:
                identity = await scheme.identify(claim)
            except GoOn as more:
                raise AuthenticationRequired(challenges=(more.challenge,), goes_on=True) from None
            except NotProved as error:
                error.user = error.user or user
                await self._refuse(scheme, claim, error)
            if identity is not None:
                if user is not None:
                    self.throttle.succeeded(claim.address, user)
                return identity
        return None

    def _check_pace(self, claim: Claim, user: str) -> None:
        try:
            self.throttle.before(claim.address, user)
        except Busy:
            self.refusals["throttle", "too many wrong ones"] += 1
            raise

    async def _refuse(self, scheme: Scheme, claim: Claim, error: NotProved) -> None:
        if error.counts:
            self.refusals[scheme.name, str(error)] += 1
            logger.warning(
                "refused: %s",
                error,
                extra={
                    "scheme": scheme.name,
                    "user": error.user[:100] if error.user else None,
                    "address": claim.address,
                    "refused": self.refusals[scheme.name, str(error)],
                },
            )
            await self.throttle.failed(claim.address, error.user)
        told = {scheme: error.challenges} if error.challenges else {}
        asking = self._asking(claim, "the credentials are wrong", told)
        if isinstance(asking, AuthenticationRequired):
            asking.goes_on = not error.counts
        raise asking

    def _asking(
        self, claim: Claim, message: str = "", told: Mapping[Scheme, tuple[str, ...]] | None = None
    ) -> AuthenticationRequired | AccessDenied:
        """What asks a client who it is: a 401, which has to say how to answer (RFC 9110 15.5.2).

        Nobody can be asked for a certificate when the connection stands, nor for what a proxy knows. Then it
        is a 403, after which a Windows client gives up as it does after a 401 it has no answer to.
        """
        challenges = self._challenges(claim, told)
        if challenges:
            return AuthenticationRequired(message, challenges=challenges)
        self.refusals["guard", "cannot be asked"] += 1
        names = ", ".join(scheme.name for scheme in self.schemes) or "none"
        why = f"nothing that counts here (auth: {names}) says who this is, and it cannot be asked for"
        if any(scheme not in self._usable(claim) for scheme in self.schemes):
            why += "; where clients may share a connection, what is proved for it does not count"
        return AccessDenied(message or why)

    def _challenges(
        self, claim: Claim, instead: Mapping[Scheme, tuple[str, ...]] | None = None
    ) -> tuple[str, ...]:
        told = instead or {}
        return tuple(
            challenge
            for scheme in self._usable(claim)
            for challenge in told.get(scheme) or scheme.challenges(claim)
        )
