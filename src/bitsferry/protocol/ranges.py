"""Which bytes a fragment carries, half-open as everywhere in Python."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bitsferry.protocol.errors import InvalidMessage, OutOfStep

__all__ = ["ContentRange", "Placement", "place"]

LARGEST = 2**63 - 1  # the largest offset a file can have
_RANGE = re.compile(r"bytes[ \t]+([0-9]{1,20})-([0-9]{1,20})/([0-9]{1,20})", re.IGNORECASE)
# A zero-length file has no range RFC 2616 can express; clients that send one at all send one of these.
_EMPTY = re.compile(r"bytes[ \t]+(?:0--1|\*)/0", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ContentRange:
    """The bytes `start <= offset < stop` of a file of `total` bytes."""

    start: int
    stop: int
    total: int

    @property
    def length(self) -> int:
        """How many bytes the range has."""
        return self.stop - self.start

    @classmethod
    def parse(cls, text: str) -> ContentRange:
        """Read a Content-Range (RFC 2616 14.16, MC-BUP 2.2.6.1).

        Raises InvalidMessage for anything but one whole byte range with a known total.
        """
        text = text.strip()
        match = _RANGE.fullmatch(text)
        if match is None:
            if _EMPTY.fullmatch(text):
                return cls(0, 0, 0)
            raise InvalidMessage(f"Content-Range {text[:80]!r} is not of the form 'bytes FIRST-LAST/TOTAL'")
        first, last, total = int(match[1]), int(match[2]), int(match[3])
        if not first <= last < total <= LARGEST:
            raise InvalidMessage(f"Content-Range {text[:80]!r} does not name bytes of the file")
        return cls(first, last + 1, total)

    def __str__(self) -> str:
        if self.start == self.stop:
            return f"bytes */{self.total}"
        return f"bytes {self.start}-{self.stop - 1}/{self.total}"


@dataclass(frozen=True, slots=True)
class Placement:
    """What to do with a fragment's body: `skip` leading bytes are held already, `take` bytes are new."""

    skip: int
    take: int


def place(range_: ContentRange, held: int) -> Placement:
    """Where a fragment belongs when `held` bytes are held; what is held is skipped, never written again.

    Raises OutOfStep when bytes between `held` and the fragment are missing (MC-BUP 3.2.5.2.6; for the
    overlap Microsoft's two texts disagree, see spec-notes, C5).
    """
    if range_.start > held:
        raise OutOfStep(held)
    skip = min(held - range_.start, range_.length)
    return Placement(skip, range_.length - skip)
