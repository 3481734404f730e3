"""How a transfer in the background makes room for everybody else, in the spirit of LEDBAT (RFC 6817)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from bitsferry.client.bandwidth import Limit, Timetable

__all__ = ["Courtesy"]

TARGET = 0.030  # seconds that what we send may wait in queues on the way (RFC 6817 2.5: 100 ms at most)
CROWD = 2 * TARGET  # a wait that is not of our own doing
MINUTES = 10  # of which the shortest round trip counts as one without waiting (RFC 6817 3.4.2)
GAIN = 0.1  # how much of what is missing is mended in one round trip
CATCHING_UP = 1.5  # times as much from one round trip to the next
STEPPING_BACK = 8  # times less at once: who comes needs room before his TCP gives in
CALM = 10.0  # seconds after that, until more is sent again: TCP needs as long to find its way
FIRST_WINDOW = 16 * 1024
SMALLEST_WINDOW = 4 * 1024  # bytes: a little must flow, or we should never hear that there is room again
IDLE = 3.0
SHORTEST_LOOK = 0.05  # seconds


class Courtesy(Limit):
    """A limit that sends what is left of the line: as much as makes the round trip 50 ms longer.

    Somebody else's bytes make it longer, too: then it steps back at once, down to almost nothing, and tries
    for more only after a calm. Alone it has most of the line. `round_trip` says how long it is just now, in
    seconds, as `Line.round_trip` does. Where that knows nothing (Windows), there is no limit.
    """

    _bucket = 0.02

    def __init__(self, round_trip: Callable[[], float | None]) -> None:
        super().__init__(Timetable(()))
        self._round_trip = round_trip
        self._window = float(FIRST_WINDOW)  # bytes on the way at the same time
        self._catch_up = math.inf  # up to this many without hesitation
        self._calm_from = -math.inf
        self._shortest: deque[tuple[float, float]] = deque(maxlen=MINUTES)  # each with its minute
        # What is learnt from one look to the next, a round trip later.
        self._looked = -math.inf
        self._trip: float | None = None
        self._lasting = SHORTEST_LOOK  # seconds in which a window goes out
        self._spent = 0  # bytes
        self._flow = 0.0  # bytes a second
        self._changed = self._crowded = False

    @property
    def rate(self) -> int | None:
        """Just now, in bytes a second; None while nothing is known."""
        return None if self._trip is None else int(self._window / self._lasting)

    @property
    def block_length(self) -> int:
        """Of a fiftieth of a second: a longer one would itself wait in the queue it looks at."""
        rate = self.rate
        return FIRST_WINDOW if rate is None else max(SMALLEST_WINDOW, min(rate // 50, super().block_length))

    def take(self, count: int, now: float) -> float:
        """As `Limit.take`; draws its conclusions once in a round trip."""
        self._spent += count
        passed = abs(now - self._looked)
        if passed >= max(SHORTEST_LOOK, self._trip or 0.0):
            idle = passed > IDLE * max(SHORTEST_LOOK, self._trip or 0.0)
            self._trip = self._round_trip()
            if self._trip is not None and not idle:
                self._learn(self._trip, self._spent / passed, now)
            self._looked, self._spent = now, 0
        return super().take(count, now)

    def _learn(self, trip: float, flow: float, now: float) -> None:
        base = self._base(trip, now // 60)
        # While a fragment waits for its Ack nothing flows for a moment.
        self._flow, flow = flow, min(max(flow, self._flow), self._window / self._lasting)
        if self._changed:
            self._changed = False  # what is seen now was on its way before
        elif trip > base + TARGET:
            self._give_room(base, trip, flow, now)
        else:
            self._crowded = False
            if now >= self._calm_from and 2 * flow * self._lasting > self._window:
                self._try_for_more(base, trip, flow)  # else nobody knows if there is more
        self._window = max(self._window, SMALLEST_WINDOW)
        # Half of the wait only: it answers what was sent two round trips ago, and all of it would swing.
        self._lasting = (base + trip) / 2

    def _base(self, trip: float, minute: float) -> float:
        """The shortest round trip of the last minutes, `trip` among them."""
        if self._shortest and self._shortest[-1][0] == minute:
            trip = min(trip, self._shortest.pop()[1])
        self._shortest.append((minute, trip))
        return min(shortest for _, shortest in self._shortest)

    def _give_room(self, base: float, trip: float, flow: float, now: float) -> None:
        if math.isinf(self._catch_up):  # that was us, finding out how much it bears
            self._window = flow * base
            self._catch_up = 0.0
        elif trip > base + CROWD and self._crowded:
            self._window = flow * base / STEPPING_BACK
            if now >= self._calm_from:
                self._catch_up = self._window
            self._calm_from = now + CALM
        else:
            self._window = flow * (base + TARGET / 2)
        self._crowded = trip > base + CROWD  # once may be chance
        self._changed = True

    def _try_for_more(self, base: float, trip: float, flow: float) -> None:
        if self._window < self._catch_up:
            self._window *= CATCHING_UP
        else:
            more = self._window * (1 + GAIN * (base + TARGET - trip) / trip)
            self._window = min(more, 2 * flow * self._lasting)
