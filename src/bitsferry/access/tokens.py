"""A file of the tokens that may come in."""

from __future__ import annotations

import datetime
import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bitsferry.access.user_name import is_name
from bitsferry.access.watched_file import WatchedFile

__all__ = ["KnownToken", "TokenFile", "Tokens", "new_token", "parse_tokens", "token_line"]

_LINE = re.compile(
    r"(?P<user>[^:]+):sha256:(?P<digest>[0-9A-Fa-f]{64})(?::(?P<last>[0-9]{4}-[0-9]{2}-[0-9]{2}))?"
)
_RANDOM = 32  # bytes of a new token


@dataclass(frozen=True, slots=True)
class KnownToken:
    """Whose token it is, and the last day on which it is good, by UTC; None is for ever."""

    user: str
    last: datetime.date | None = None

    def is_over(self, now: float) -> bool:
        """Whether its last day was before `now`, in seconds since 1970."""
        return self.last is not None and datetime.datetime.fromtimestamp(now, datetime.UTC).date() > self.last


class Tokens:
    """The tokens of a file, of which it has the hashes only."""

    # A token is 256 random bits: nobody tries so many, and one round of SHA-256 is as good here as a slow
    # hash is for a password. How long it takes to look one up depends on its hash alone, which says nothing
    # of a token that would fit better: measuring it leads nowhere.

    def __init__(self, known: Mapping[bytes, KnownToken]) -> None:
        self._known = known

    def find(self, token: str) -> KnownToken | None:
        """Whose token it is, over or not; None when nobody knows it."""
        return self._known.get(_digest(token))


TokenFile = WatchedFile[Tokens]


def parse_tokens(text: str) -> Tokens:
    """The tokens in the text of a file, each a line `NAME:sha256:HASH`, with `:2027-01-31` behind it for one
    that ends with that day.

    A user may have several, so that a new one can take over from the old. Empty lines, and those that begin
    with `#`, are for people. Raises ValueError with the number of a line that is none of it.
    """
    known: dict[bytes, KnownToken] = {}
    for number, line in _lines(text):
        match = _LINE.fullmatch(line)
        if match is None or not is_name(match["user"]):
            raise ValueError(
                f"line {number} is no NAME:sha256:HASH, with HASH in 64 hexadecimal digits, and behind it"
                " nothing or the last day, such as :2027-01-31"
            )
        try:
            last = None if match["last"] is None else datetime.date.fromisoformat(match["last"])
        except ValueError:
            raise ValueError(f"line {number} ends in a day there is none of") from None
        digest = bytes.fromhex(match["digest"])
        if digest in known:
            raise ValueError(f"line {number} has the token of another line")
        known[digest] = KnownToken(match["user"], last)
    return Tokens(known)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        said = line.strip()
        if said and not said.startswith("#"):
            yield number, said


def new_token() -> str:
    """A token nobody has."""
    return secrets.token_urlsafe(_RANDOM)


def token_line(user: str, token: str, last: datetime.date | None = None) -> str:
    """The line of the file that lets `token` in as `user`. Raises ValueError for what is no user's name."""
    if not is_name(user) or ":" in user or user.startswith("#"):
        raise ValueError("a user's name has no ':', no '#' in front, and nothing that cannot be shown")
    return f"{user}:sha256:{_digest(token).hex()}" + ("" if last is None else f":{last.isoformat()}")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
