"""A file that says who is in which group."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bitsferry.access.watched_file import WatchedFile

__all__ = ["GroupFile", "Groups", "parse_groups"]

_USER = re.compile(r'"([^"]*)"|(\S+)')


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of each user; `folded` has the users' names in lower case."""

    exact: Mapping[str, frozenset[str]]
    folded: Mapping[str, frozenset[str]]

    def of(self, user: str, *, whatever_case: bool = False) -> frozenset[str]:
        """The groups this user is in."""
        known, name = (self.folded, user.lower()) if whatever_case else (self.exact, user)
        return known.get(name, frozenset())


GroupFile = WatchedFile[Groups]


def parse_groups(text: str) -> Groups:
    """The groups in the text of a file, each a line `group: user user`, as Apache has them.

    A name with spaces stands between quotes. A group may have several lines; empty ones, and those that begin
    with `#`, are for people. Raises ValueError with the number of a line that is none of it.
    """
    exact: dict[str, set[str]] = {}
    folded: dict[str, set[str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        said = line.strip()
        if not said or said.startswith("#"):
            continue
        group, colon, users = said.partition(":")
        group = group.strip()
        if not colon or not group:
            raise ValueError(f"line {number} is no group with its users, such as 'senders: alice bob'")
        for quoted, plain in _USER.findall(users):
            exact.setdefault(quoted or plain, set()).add(group)
            folded.setdefault((quoted or plain).lower(), set()).add(group)
    return Groups(_frozen(exact), _frozen(folded))


def _frozen(members: Mapping[str, set[str]]) -> dict[str, frozenset[str]]:
    return {user: frozenset(groups) for user, groups in members.items()}
