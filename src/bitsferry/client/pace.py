"""How much is sent at once, decided from what the line did."""

from __future__ import annotations

import math

from bitsferry.protocol.upload import LARGEST_FRAGMENT, SMALLEST_FRAGMENT

__all__ = ["LARGEST_TO_BITSFERRY", "FragmentLength"]

FIRST_FRAGMENT = 256 * 1024  # twenty seconds at 100 kbit/s
LARGEST_TO_BITSFERRY = 64 * 1024 * 1024  # a server of ours takes more at once than Windows sends

LASTING = 4.0  # seconds a fragment shall last, its Ack included ...
ROUND_TRIPS = 20  # ... or as many round trips, so that waiting for Acks costs no more than a twentieth ...
LONGEST = 12.0  # ... but no longer than this
STEEPEST = 16  # times the last: lines that are quick with the first bytes only must not fool us
RECOVERY = 1.25  # times the last, after the line broke


class FragmentLength:
    """How many bytes to send at once: told what the line did, it says `next`.

    A fragment shall last about 4 s: long enough that waiting for its Ack costs little, short enough that a
    slow line has something acknowledged every few seconds, and that one that breaks loses little. On a line
    with a long round trip it lasts up to 12 s. While nothing is known but the round trip, it is
    short; then it grows as fast as the line allows, because each fragment on the way there costs a round
    trip. All `seconds` are of any clock. One of these serves all transfers to a server, one after the other.
    """

    def __init__(self, limit: int = LARGEST_FRAGMENT) -> None:
        self.limit = limit
        """The most bytes; may be set at any time."""
        self._fits = float(FIRST_FRAGMENT)
        self._bears = math.inf  # after it broke
        self._round_trip = math.inf

    def next(self, rate: float | None = None) -> int:
        """The bytes to send at once, 5 KiB to `limit`, when no more than `rate` bytes a second may go out."""
        paced = math.inf if rate is None else rate * self._lasting
        return int(max(SMALLEST_FRAGMENT, min(self._fits, self._bears, paced, self.limit)))

    def round_trip(self, seconds: float) -> None:
        """A packet without a body had its Ack after so long."""
        self._round_trip = min(self._round_trip, seconds)

    def answered(self, length: int, seconds: float) -> None:
        """A fragment of `length` bytes had its Ack so long after its first byte went out."""
        self._bears *= RECOVERY
        waiting = 0.0 if math.isinf(self._round_trip) else self._round_trip
        on_its_way = max(seconds - waiting, self._lasting / STEEPEST)
        fits = length * self._lasting / on_its_way
        # The last fragment of a file is short: that it came through quickly says nothing against long ones.
        self._fits = fits if seconds > self._lasting else max(fits, self._fits)

    def broke(self, length: int) -> None:
        """The line broke while `length` bytes were on their way, or no answer came that made sense."""
        self._bears = min(self._bears, length / 2)

    @property
    def _lasting(self) -> float:
        if math.isinf(self._round_trip):
            return LASTING
        return max(LASTING, min(ROUND_TRIPS * self._round_trip, LONGEST))
