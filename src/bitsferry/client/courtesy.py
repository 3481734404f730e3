"""How a transfer in the background makes room for everybody else, in the spirit of LEDBAT (RFC 6817)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from bitsferry.client.bandwidth import Limit, Timetable

__all__ = ["Courtesy"]

TARGET = 0.060  # seconds that what we send may wait in queues on the way (RFC 6817 2.5: 100 ms at most)
MINUTES = 10  # of which the shortest round trip counts as one without waiting (RFC 6817 3.4.2)
GAIN = 0.25  # how much of what is missing is mended in one round trip
CALM = 2.0  # seconds without more waiting than that, until more is sent
FIRST_WINDOW = 16 * 1024
SMALLEST_WINDOW = 4 * 1024  # bytes: a little must flow, or we should never hear that there is room again
SHORTEST_LOOK = 0.05  # seconds


class Courtesy(Limit):
    """A limit that sends what is left of the line: as much as makes the round trip no more than 60 ms longer.

    Somebody else's bytes make it longer, too; then less is sent, down to almost nothing, until they are
    through. `round_trip` says how long it is just now, in seconds, as `Line.round_trip` does. Where that
    knows nothing (Windows), there is no limit.
    """

    _bucket = 0.02

    def __init__(self, round_trip: Callable[[], float | None]) -> None:
        super().__init__(Timetable(()))
        self._round_trip = round_trip
        self._window = float(FIRST_WINDOW)  # bytes on the way at the same time
        self._starting = True  # until the line was full for the first time
        self._trip: float | None = None
        self._shortest: deque[tuple[float, float]] = deque(maxlen=MINUTES)  # each with its minute
        self._calm_since = -math.inf
        self._looked = -math.inf
        self._seen = math.inf  # the shortest round trip since then: a single long one says nothing
        self._spent = 0  # bytes since then

    @property
    def rate(self) -> int | None:
        """Just now, in bytes a second; None while nothing is known."""
        return None if self._trip is None else int(self._window / self._trip)

    @property
    def block_length(self) -> int:
        """Of a fiftieth of a second: a longer one would itself wait in the queue it looks at."""
        rate = self.rate
        return FIRST_WINDOW if rate is None else max(SMALLEST_WINDOW, min(rate // 50, super().block_length))

    def take(self, count: int, now: float) -> float:
        """As `Limit.take`; draws its conclusions once in a round trip."""
        self._spent += count
        self._seen = min(self._seen, self._round_trip() or math.inf)
        if abs(now - self._looked) >= max(SHORTEST_LOOK, self._trip or 0.0):
            self._trip = None if math.isinf(self._seen) else self._seen
            if self._trip is not None:
                self._learn(self._trip, now)
            self._looked, self._seen, self._spent = now, math.inf, 0
        return super().take(count, now)

    def _learn(self, trip: float, now: float) -> None:
        minute = now // 60
        if self._shortest and self._shortest[-1][0] == minute:
            trip_before = self._shortest.pop()[1]
            self._shortest.append((minute, min(trip, trip_before)))
        else:
            self._shortest.append((minute, trip))
        missing = TARGET - (trip - min(shortest for _, shortest in self._shortest))
        if missing <= 0:
            self._calm_since = now + CALM
            self._starting = False
            self._window *= 1 + max(missing / TARGET, -0.5)
        elif self._spent < (now - self._looked) * (self.rate or 0) / 2:
            pass  # who does not send what he may does not see whether the line bears more
        elif self._starting:
            self._window *= 2
        elif now >= self._calm_since:
            self._window *= 1 + min(GAIN * missing / trip, 1.0)
        self._window = max(self._window, SMALLEST_WINDOW)
