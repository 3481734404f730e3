"""What may stand behind a key of the settings: each reader makes of a TOML value what it means."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from bitsferry.cli.quantities import parse_duration, parse_size

__all__ = [
    "DEFAULT_REALM",
    "Reader",
    "checked_by",
    "count",
    "duration",
    "largest",
    "often",
    "one_of",
    "path",
    "patience",
    "realm",
    "room",
    "shown",
    "size",
    "speed",
    "text",
    "texts",
    "yes_or_no",
]

DEFAULT_REALM = "bitsferry"

_REALM = r"[!#-9;-\[\]-~](?:[ !#-9;-\[\]-~]{0,98}[!#-9;-\[\]-~])?"
_PER_SECOND = re.compile(r"\s*/\s*s(ec(ond)?)?\s*$", re.IGNORECASE)
_OFTEN = 1_000_000

# Each raises ValueError with a sentence that says what would be right.

Reader = Callable[[Any], Any]


def shown(value: object) -> str:
    """A value much as TOML spells it, and not too much of it."""
    spelt = json.dumps(value, ensure_ascii=False, default=str)
    return spelt if len(spelt) <= 80 else spelt[:77] + "..."


def text(value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is no text: put it between quotes")  # noqa: TRY004, one for all
    return value


def path(value: Any) -> str:
    """A path, relative ones included."""
    if not text(value) or "\0" in value:
        raise ValueError(f"{shown(value)} is no path")
    return text(value)


def yes_or_no(value: Any) -> bool:
    """A boolean."""
    if not isinstance(value, bool):
        raise ValueError(f"{shown(value)} is neither true nor false (without quotes)")  # noqa: TRY004
    return value


def one_of(*choices: str) -> Reader:
    """One of some words."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{shown(value)} is none of {', '.join(map(shown, choices))}")
        return value

    return read


def count(most: int) -> Reader:
    """A whole number from 1 on."""

    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ValueError(f"{shown(value)} is no whole number from 1 to {most}")
        return value

    return read


def size(value: Any) -> int:
    """Bytes, at least one."""
    length = parse_size(value)
    if not 0 < length < 1 << 63:
        raise ValueError(f"{shown(value)} must be at least one byte, and less than 8 EiB")
    return length


def texts(value: Any) -> tuple[str, ...]:
    """A list of strings, not empty."""
    if not isinstance(value, list) or not value:
        raise ValueError(f'{shown(value)} is no list of texts, such as ["one", "two"]')
    return tuple(map(text, value))


def largest(value: Any) -> int:
    """A limit in bytes."""
    if parse_size(value) == 0:
        raise ValueError("a limit of 0 would let nothing in; leave it out for no limit")
    return size(value)


def speed(value: Any) -> int:
    """Bytes per second."""
    if isinstance(value, str):
        value = _PER_SECOND.sub("", value)
    try:
        length = parse_size(value)
    except ValueError:
        raise ValueError(
            f"{shown(value)} is no speed: write bytes per second, such as '500 KB/s' or '10 MB/s'"
        ) from None
    if not length:
        raise ValueError("at a speed of 0 nothing would ever come; leave it out for no limit")
    return size(length)


def often(value: Any) -> float:
    """How many times in a second, more than none."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= _OFTEN:
        raise ValueError(f"{shown(value)} is no number of times in a second, such as 20 or 0.5")
    return float(value)


def room(value: Any) -> int:
    """Bytes, none included."""
    return 0 if parse_size(value) == 0 else size(value)


_CENTURY = 100 * 365.25 * 86400


def patience(value: Any) -> float:
    """Seconds, none included."""
    seconds = parse_duration(value)
    if seconds > _CENTURY:
        raise ValueError(f"{shown(value)} is more than a hundred years")
    return seconds


def duration(value: Any) -> float:
    """Seconds, more than none."""
    if not parse_duration(value):
        raise ValueError("a time of 0 makes no sense here")
    return patience(value)


def realm(value: Any) -> str:
    """What people are asked a password for; it stands between quotes in headers, between colons in files."""
    if not re.fullmatch(_REALM, text(value)):
        raise ValueError(
            f"{shown(value)} is no realm: up to 100 characters of ASCII, none of them a quote, a backslash or"
            " a colon, and no blanks around them"
        )
    return text(value)


def checked_by(check: Callable[[str], object]) -> Reader:
    """A string that `check`, which raises ValueError, finds right."""

    def read(value: Any) -> str:
        check(text(value))
        return text(value)

    return read
