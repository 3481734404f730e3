"""How fast bytes may flow: a rate by the time of day, spent from a bucket that transfers may share."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from itertools import groupby

import msgspec

__all__ = ["Limit", "Span", "Timetable"]

_LONGEST_BLOCK = 256 * 1024
_SHORTEST_BLOCK = 1024
_BLOCKED = 60.0  # seconds until a rate of nothing is looked at again
_A_DAY = 24 * 60
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_UNITS = {
    "B": 1,
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)},
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)},
}


class Span(msgspec.Struct, frozen=True):
    """On `days` (0 is Monday), from the minute `start` of the day until `stop`, `rate` bytes a second.

    `rate` None is as fast as can be, 0 is nothing at all. A `stop` before `start` is on the next day.
    """

    rate: int | None
    days: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)
    start: int = 0
    stop: int = _A_DAY

    def holds(self, when: datetime) -> bool:
        """Whether `when`, local time, lies in this span."""
        minute, day = when.hour * 60 + when.minute, when.weekday()
        if self.start <= self.stop:
            return day in self.days and self.start <= minute < self.stop
        return (day in self.days and minute >= self.start) or (
            (day - 1) % 7 in self.days and minute < self.stop
        )

    def __str__(self) -> str:
        words = [_spell(self.rate)]
        if self.days != (0, 1, 2, 3, 4, 5, 6):
            words += _spell_days(self.days)
        if (self.start, self.stop) != (0, _A_DAY):
            times = (f"{minute // 60:02}:{minute % 60:02}" for minute in (self.start, self.stop))
            words.append("-".join(times))
        return " ".join(words)


class Timetable(msgspec.Struct, frozen=True):
    """Rates by the time of day: the first span that holds says it; where none does there is no limit.

    As text it is what `parse_rates` understands, to the byte.
    """

    spans: tuple[Span, ...]

    def rate_at(self, when: datetime) -> int | None:
        """In bytes a second; None is no limit, 0 is nothing."""
        return next((span.rate for span in self.spans if span.holds(when)), None)

    def next_change(self, when: datetime) -> datetime | None:
        """When another rate begins, in local time; None: never."""
        midnight = when.replace(hour=0, minute=0, second=0, microsecond=0)
        minutes = {0, *(minute for span in self.spans for minute in (span.start, span.stop))}
        for days in range(9):  # a week, and what of today and its twin a week on lies beyond `when`
            for minute in sorted(minutes):
                moment = midnight + timedelta(days=days, minutes=minute)
                if moment > when and self.rate_at(moment) != self.rate_at(when):
                    return moment
        return None

    def __str__(self) -> str:
        return ", ".join(str(span) for span in self.spans)


class Limit:
    """At most so many bytes a second, for one transfer or for many together, of any thread.

    Who shares one gets his turn in the order of asking: with blocks of one length, everybody the same.
    """

    _bucket = 0.1  # seconds' worth of bytes that may flow at once

    def __init__(self, rates: Timetable | int, *, wall: Callable[[], datetime] = datetime.now) -> None:
        self.rates = rates if isinstance(rates, Timetable) else Timetable((Span(rates),))
        """May be replaced at any time; it holds from the next block on."""
        self._wall = wall
        self._lock = threading.Lock()
        self._debt = 0.0  # bytes spent ahead of their time at `_asked`; below zero there are some to spare
        self._asked = 0.0

    @property
    def rate(self) -> int | None:
        """Just now, in bytes a second; None is no limit, 0 is nothing."""
        return self.rates.rate_at(self._wall())

    @property
    def block_length(self) -> int:
        """The most bytes to send before `take` is asked again; about ten blocks a second look even."""
        rate = self.rate
        return sys.maxsize if rate is None else max(_SHORTEST_BLOCK, min(rate // 10, _LONGEST_BLOCK))

    def closed_for(self) -> float:
        """The seconds until something may flow at all: 0 when it may now, infinite when it never will."""
        now = self._wall()
        if self.rates.rate_at(now) != 0:
            return 0.0
        opens = self.rates.next_change(now)
        return math.inf if opens is None else max(0.0, opens.timestamp() - now.timestamp())

    def take(self, count: int, now: float) -> float:
        """Spend `count` bytes at the time `now`; returns the seconds to wait before the next are sent.

        `now` is of any clock; one that is set back costs nothing. At a rate of nothing these are up to 60 s,
        after which `closed_for` wants to be asked.
        """
        rate = self.rate
        with self._lock:
            passed, self._asked = max(0.0, now - self._asked), now
            if rate is None:
                self._debt = 0.0
                return 0.0
            self._debt = max(self._debt - passed * rate, -self._bucket * rate) + count
            if rate == 0:
                return min(self.closed_for(), _BLOCKED)
            return max(0.0, self._debt / rate)


def _spell(rate: int | None) -> str:
    """To the byte, unlike what is for people."""
    if rate is None:
        return "unlimited"
    if rate == 0:
        return "0 B/s"
    size, unit = max((size, unit) for unit, size in _UNITS.items() if rate % size == 0)
    return f"{rate // size} {unit}/s"


def _spell_days(days: Iterable[int]) -> Iterator[str]:
    """Days that follow each other as one word: `mon-fri`, `sun`."""
    for _, run in groupby(enumerate(sorted(days)), lambda pair: pair[1] - pair[0]):
        names = [_DAYS[day] for _, day in run]
        yield names[0] if len(names) == 1 else f"{names[0]}-{names[-1]}"
