"""Rates by the time of day as people write them, such as `1 MB/s mon-fri 08:00-18:00, 10 MB/s`."""

from __future__ import annotations

import re

from bitsferry.cli.quantities import parse_size
from bitsferry.client.bandwidth import Span, Timetable

__all__ = ["parse_rates"]

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = r"(mon(?:day)?|tue(?:sday)?|wed(?:nesday)?|thu(?:rsday)?|fri(?:day)?|sat(?:urday)?|sun(?:day)?)"
_OF_DAYS = re.compile(rf"\b{_DAY}(?:\s*-\s*{_DAY})?\b", re.IGNORECASE)
_OF_TIME = re.compile(r"(?<!\S)([0-9]{1,2}):([0-9]{2})\s*-\s*([0-9]{1,2}):([0-9]{2})(?!\S)")
_RATES = "write something like '2 MB/s', '500 KB/s 08:00-18:00' or '1 MB/s mon-fri 08:00-18:00, 10 MB/s'"


def parse_rates(text: str) -> Timetable:
    """Rates by the time of day and week, separated by commas; the first that fits holds, else none does.

    Each is a rate, `unlimited` or `0 KB/s` for nothing at all, with days (`mon-fri`, `sat sun`), with a time
    (`22:00-06:00`), with both, or for always. Raises ValueError with a sentence.
    """
    spans = tuple(_span(part) for part in re.split(r"[,;](?:\s+|$)", text.strip().rstrip(",;")))
    if any(span == Span(span.rate) for span in spans[:-1]):
        raise ValueError(f"in {text!r} the first that fits holds: what has no days and no time stands last")
    if spans == (Span(0),):
        raise ValueError("a rate of 0 would never send anything; leave the limit out for full speed")
    return Timetable(spans)


def _span(text: str) -> Span:
    times = _OF_TIME.findall(text)
    days = _OF_DAYS.findall(text)
    left = _OF_DAYS.sub(" ", _OF_TIME.sub(" ", text)).strip()
    unlimited = left.lower() == "unlimited"
    rate = None if unlimited else _rate(left)
    if len(times) > 1 or (rate is None and not unlimited):
        raise ValueError(f"{text!r} is not a rate, with or without days and a time: {_RATES}")
    start, stop = _minutes(*times[0]) if times else (0, 24 * 60)
    return Span(rate, tuple(sorted(_weekdays(days))) if days else tuple(range(7)), start, stop)


def _minutes(*numbers: str) -> tuple[int, int]:
    """Of the day, at which a span begins and ends."""
    hour, minute, last_hour, last_minute = map(int, numbers)
    start, stop = 60 * hour + minute, 60 * last_hour + last_minute
    if max(minute, last_minute) > 59 or start >= 24 * 60 or stop > 24 * 60 or start == stop:
        raise ValueError(
            f"{':'.join(numbers[:2])}-{':'.join(numbers[2:])} is no time of the day: write '08:00-18:00'"
        )
    return start, stop


def _weekdays(names: list[tuple[str, str]]) -> set[int]:
    """From one day to another, over the end of the week too."""
    days = set()
    for first, last in names:
        start = _DAYS.index(first[:3].lower())
        length = (_DAYS.index((last or first)[:3].lower()) - start) % 7
        days |= {(start + day) % 7 for day in range(length + 1)}
    return days


def _rate(text: str) -> int | None:
    size = re.sub(r"\s*/\s*s(ec(ond)?)?\s*$", "", text, flags=re.IGNORECASE)
    try:
        return parse_size(size)
    except ValueError:
        return None
