"""By what a file on a server is recognised, so that parts of two versions are never put together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

import msgspec

__all__ = ["Version", "seconds_of"]

_ETAG = re.compile(r'(W/)?"[^"\x00-\x20\x7f]*"')


class Version(msgspec.Struct, frozen=True):
    """One version of a file: its size in bytes, its Last-Modified and ETag as the server spells them.

    Those are None where the server does not say them, or where they would not tell it from the next version.
    """

    size: int
    last_modified: str | None = None
    etag: str | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str], size: int) -> Version:
        """What an answer says of the file it carries; `headers` has lower-case names.

        A file that is sent in the second in which it was modified may be modified once more in that second.
        Then Last-Modified says too little (RFC 9110 8.8.2.2) unless there is a strong ETag.
        """
        etag = headers.get("etag", "").strip()
        modified = headers.get("last-modified", "").strip()
        last, sent = seconds_of(modified), seconds_of(headers.get("date", ""))
        version = cls(size, None if last is None else modified, etag if _ETAG.fullmatch(etag) else None)
        if last is not None and sent is not None and sent - last < 1 and not version.strong_etag:
            return msgspec.structs.replace(version, last_modified=None)
        return version

    @property
    def strong_etag(self) -> str | None:
        """The ETag, if it stands for these very bytes (RFC 9110 8.8.1)."""
        return None if self.etag is None or self.etag.startswith("W/") else self.etag

    @property
    def condition(self) -> tuple[str, str] | None:
        """The header by which a server gives out the rest of this version and no other, if there is one."""
        if self.strong_etag:
            return "If-Range", self.strong_etag
        if self.last_modified:
            return "If-Unmodified-Since", self.last_modified  # as Windows asks
        return None

    def is_same(self, other: Version) -> bool:
        """Whether both have the very same bytes: nothing tells them apart, and something sure says so."""
        sure = [
            self.strong_etag is not None and self.etag == other.etag,
            self.last_modified is not None and self.last_modified == other.last_modified,
        ]
        apart = [
            self.size != other.size,
            None not in (self.etag, other.etag) and self.etag != other.etag,
            None not in (self.last_modified, other.last_modified)
            and self.last_modified != other.last_modified,
        ]
        return any(sure) and not any(apart)


def seconds_of(date: str) -> float | None:
    """An HTTP date as seconds since the epoch; None for what is no date."""
    if not date.isprintable():
        return None
    try:
        moment = parsedate_to_datetime(date)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
