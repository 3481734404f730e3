"""Sizes and times as people write them, such as `10 GB` or `14 days`."""

from __future__ import annotations

import re
from decimal import Decimal

__all__ = ["parse_duration", "parse_size", "spell_duration", "spell_size"]

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)", re.IGNORECASE)

_SIZES = {"": 1, "b": 1, "byte": 1, "bytes": 1}
for _power, _letter in enumerate("kmgtp", start=1):
    _SIZES[_letter + "b"] = 1000**_power
    _SIZES[_letter + "ib"] = 1024**_power

_TIMES = {"": 1}
for _seconds, _names in (
    (1, "s sec secs second seconds"),
    (60, "m min mins minute minutes"),
    (3600, "h hour hours"),
    (86400, "d day days"),
    (604800, "w week weeks"),
):
    _TIMES |= dict.fromkeys(_names.split(), _seconds)


def parse_size(text: str | int) -> int:
    """The bytes `text` means: `10 GB` is decimal, `10 GiB` binary, a plain number is bytes.

    Raises ValueError with a sentence that says what would be understood.
    """
    help_ = "write a number of bytes, or a size such as '500 MB', '10 GB' or '64 KiB'"
    size = _parse(text, _SIZES, "a size", help_)
    if size != int(size):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size)


def parse_duration(text: str | float) -> float:
    """The seconds `text` means: `90 s`, `5 minutes`, `14 days`; a plain number is seconds.

    Raises ValueError with a sentence that says what would be understood.
    """
    help_ = "write a number of seconds, or a time such as '90 s', '5 minutes', '12 hours' or '14 days'"
    return float(_parse(text, _TIMES, "a time", help_))


def _parse(text: str | float, units: dict[str, int], what: str, help_: str) -> Decimal:
    match = _QUANTITY.fullmatch(str(text).strip())
    if match is None or isinstance(text, bool):
        raise ValueError(f"{text!r} is not {what}: {help_}")
    unit = match[2].lower()
    if unit not in units:
        raise ValueError(f"{match[2]!r} in {text!r} is no unit of {what}: {help_}")
    return Decimal(match[1]) * units[unit]


def spell_size(size: float) -> str:
    """`size` bytes for people: `512 bytes`, `64 KB`, `1.5 GB` (decimal, one digit)."""
    if size < 1000:
        return f"{size:.0f} bytes"
    power = 1
    while size / 1000**power >= 999.95 and power < 5:
        power += 1
    return f"{size / 1000**power:.1f}".removesuffix(".0") + " " + "KMGTP"[power - 1] + "B"


def spell_duration(seconds: float) -> str:
    """`seconds` for people, in at most two units: `0.3 s`, `4 s`, `2 min 5 s`, `14 days`."""
    if 0.05 <= seconds < 0.95:
        return f"{seconds:.1f} s"
    left = round(seconds)
    if left < 60:
        return f"{left} s"
    parts = []
    for unit, length in (("day", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count} {unit}" + ("s" if unit == "day" and count > 1 else ""))
        elif parts:
            break
    return " ".join(parts[:2])
