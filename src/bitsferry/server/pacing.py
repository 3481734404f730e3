"""How fast bodies are taken in, where a directory says how fast."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from bitsferry.access.asker import Asker
from bitsferry.server.directory import Directory
from bitsferry.server.request import Body, Pace

__all__ = ["Pacing"]

_SLACK = 0.25  # seconds a timer may be late before its bytes are lost to us
_PER_SECOND = 32  # blocks: whose fragments are smaller than one, gets less than the others
_BLOCKS = range(4 * 1024, 256 * 1024 + 1)  # bytes
_MOST = 10_000  # users whose pace is remembered; the rest was quiet for longest


@dataclass(slots=True)
class _Line:
    """Everybody in it shares `rate` bytes per second."""

    rate: float
    paid_until: float = 0.0

    def take(self, size: int, now: float) -> None:
        self.paid_until = max(self.paid_until, now - _SLACK) + size / self.rate


class Pacing:
    """Slows bodies down: all of a directory, all of a user, each connection. `clock` is in seconds.

    Nobody is kept in a queue. Whoever took a block reads the next one when that and all that others took
    before would have come at the rate; meanwhile the system's buffers are full, and TCP slows the client.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shared: OrderedDict[tuple[str, str], _Line] = OrderedDict()
        self._own: WeakKeyDictionary[Body, _Line] = WeakKeyDictionary()

    def pace(self, directory: Directory, asker: Asker, body: Body) -> Pace | None:
        """At which pace a body is taken in; None, if it may come as it likes."""
        lines = []
        if directory.bandwidth is not None:
            lines.append(self._line((directory.url, ""), directory.bandwidth))
        if directory.bandwidth_per_user is not None:
            lines.append(self._line((directory.url, asker.counted_as), directory.bandwidth_per_user))
        if directory.bandwidth_per_connection is not None:
            own = self._own.setdefault(body, _Line(0))
            own.rate = directory.bandwidth_per_connection
            lines.append(own)
        return _SharedPace(lines, self._clock) if lines else None

    def _line(self, key: tuple[str, str], rate: float) -> _Line:
        line = self._shared.setdefault(key, _Line(rate))
        line.rate = rate
        self._shared.move_to_end(key)
        if len(self._shared) > _MOST:
            self._shared.popitem(last=False)
        return line


class _SharedPace(Pace):
    """As slow as the slowest of its lines."""

    __slots__ = ("_clock", "_lines", "_until")

    def __init__(self, lines: list[_Line], clock: Callable[[], float]) -> None:
        self._lines = lines
        self._clock = clock
        self._until = max(line.paid_until for line in lines)
        rate = min(line.rate for line in lines)
        self.most = int(min(max(rate / _PER_SECOND, _BLOCKS[0]), _BLOCKS[-1]))

    def take(self, size: int) -> None:
        """See Pace."""
        now = self._clock()
        for line in self._lines:
            line.take(size, now)
        self._until = max(line.paid_until for line in self._lines)

    def pause(self) -> float:
        """See Pace."""
        return max(0.0, self._until - self._clock())
