"""Stands before a directory: lets in who proves to be somebody that may."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator

from bitsferry.access.asker import Identity
from bitsferry.access.rules import Rules
from bitsferry.access.scheme import Claim, GoOn, NotProved, Scheme
from bitsferry.access.throttle import Throttle
from bitsferry.protocol.errors import AccessDenied, AuthenticationRequired

__all__ = ["Guard"]

logger = logging.getLogger(__name__)


class Guard:
    """Any of `schemes` is enough; with `anonymous`, none is needed, but what is said must be true.

    `refusals` counts who was sent away, by scheme and reason; `"rules"` are those who are known and may not.
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

    def is_handshake(self, claim: Claim) -> bool:
        """The request carries a leg of a handshake: what it asks for is asked again with the last one.

        So its packet is not to be looked at yet: a fragment may come without its bytes (Learn, Ping).
        """
        said = claim.headers.get("authorization", "").lstrip().partition(" ")[0].lower()
        return any(scheme.binds_connection and scheme.spoken == said for scheme in self.schemes)

    async def admit(self, claim: Claim) -> Identity | None:
        """Who it is; None where nobody has to say.

        Raises AuthenticationRequired, AccessDenied for those who are known and may not, Busy for whoever
        guesses too much.
        """
        try:
            self.rules.check_address(claim.address)
            identity = await self._identify(claim)
            if identity is None and not self.anonymous:
                raise AuthenticationRequired(challenges=self._challenges(claim))
            self.rules.check(identity)
        except AccessDenied:
            self.refusals["rules", "may not"] += 1
            raise
        return identity

    def _usable(self, claim: Claim) -> Iterator[Scheme]:
        """What is proved for a connection is worth nothing where others speak on it, too."""
        bound = claim.link is not None and (self.shares_safely or not claim.shared)
        return (scheme for scheme in self.schemes if bound or not scheme.binds_connection)

    async def _identify(self, claim: Claim) -> Identity | None:
        for scheme in self._usable(claim):
            user = scheme.claimed(claim)
            if user is not None:
                await self.throttle.before(claim.address, user)
            try:
                identity = await scheme.identify(claim)
            except GoOn as more:
                raise AuthenticationRequired(challenges=(more.challenge,), goes_on=True) from None
            except NotProved as error:
                await self._refuse(scheme, claim, error)
            if identity is not None:
                if user is not None:
                    self.throttle.succeeded(claim.address, identity.user)
                return identity
        return None

    async def _refuse(self, scheme: Scheme, claim: Claim, error: NotProved) -> None:
        if error.counts:
            self.refusals[scheme.name, str(error)] += 1
            logger.warning(
                "refused: %s",
                error,
                extra={
                    "scheme": scheme.name,
                    "user": error.user,
                    "address": claim.address,
                    "refused": self.refusals[scheme.name, str(error)],
                },
            )
            await self.throttle.failed(claim.address, error.user)
        raise AuthenticationRequired(
            "the credentials are wrong",
            challenges=self._challenges(claim, instead={scheme: error.challenge} if error.challenge else {}),
        )

    def _challenges(self, claim: Claim, instead: dict[Scheme, str] | None = None) -> tuple[str, ...]:
        asked = []
        for scheme in self._usable(claim):
            challenge = (instead or {}).get(scheme) or scheme.challenge(claim)
            if challenge is not None:
                asked.append(challenge)
        return tuple(asked)
