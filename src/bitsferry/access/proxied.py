"""Who one is by the word of a proxy that asked already."""

from __future__ import annotations

from typing import ClassVar

from bitsferry.access.asker import Identity
from bitsferry.access.scheme import Claim, NotProved, Scheme
from bitsferry.access.user_name import checked_name

__all__ = ["Proxied"]


class Proxied(Scheme):
    """The header `user_header` of a request that comes from a proxy we trust; from others it is nothing.

    `groups_header`, if there is one, has the user's groups between commas. The proxy has to write both into
    every request, over whatever its client wrote there: from here nobody can tell.
    """

    name: ClassVar[str] = "proxy"

    def __init__(self, user_header: str, groups_header: str | None = None) -> None:
        self._user_header = user_header.lower()
        self._groups_header = None if groups_header is None else groups_header.lower()

    async def identify(self, claim: Claim) -> Identity | None:
        """See Scheme."""
        said = claim.headers.get(self._user_header, "").strip() if claim.fronted else ""
        if not said:
            return None
        if "," in said:
            # Two headers are one with a comma here: the proxy's, and one the client wrote.
            raise NotProved("the proxy names more than one user, or one with a comma")
        groups = claim.headers.get(self._groups_header, "") if self._groups_header is not None else ""
        each = (_text(group).strip() for group in groups.split(","))
        return Identity(checked_name(_text(said)), self.name, frozenset(group for group in each if group))

    def challenges(self, claim: Claim) -> tuple[str, ...]:
        """See Scheme: it is the proxy that asks."""
        return ()


def _text(value: str) -> str:
    """What a proxy, which today speaks UTF-8, meant by a header's bytes."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        raise NotProved("what the proxy says is not UTF-8") from None
