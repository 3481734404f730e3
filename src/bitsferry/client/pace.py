"""How much is sent at once, and how fast: decided here without a clock, acted on elsewhere."""

from __future__ import annotations

from bitsferry.protocol.upload import LARGEST_FRAGMENT

__all__ = ["FIRST_FRAGMENT", "Limit", "after_break", "next_fragment_length"]

FIRST_FRAGMENT = 1024 * 1024
SMALLEST = 64 * 1024  # of our own accord; a server that wants smaller ones is obeyed by `Upload`

SHORTEST, BEST, LONGEST = 1.0, 2.0, 4.0  # seconds a fragment lasts


def next_fragment_length(length: int, seconds: float) -> int:
    """How many bytes to send at once after `length` bytes took `seconds`.

    A fragment shall last 1 to 4 s: long enough that waiting for Acks costs little, short enough that a line
    that breaks loses little. It grows to the double at most, and shrinks at once.
    """
    if SHORTEST <= seconds <= LONGEST:
        return length
    ideal = 2 * length if seconds < SHORTEST else int(length * BEST / seconds)
    return max(SMALLEST, min(ideal, LARGEST_FRAGMENT))


def after_break(length: int) -> int:
    """How many bytes to send at once after the line broke while `length` were on their way."""
    return max(SMALLEST, length // 2)


class Limit:
    """At most `rate` bytes a second, as a bucket that holds a tenth of a second's worth."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._paid_until = 0.0

    @property
    def block_length(self) -> int:
        """The length of blocks with which the flow looks even: about ten a second."""
        return max(1024, min(self.rate // 10, 256 * 1024))

    def take(self, count: int, now: float) -> float:
        """Spend `count` bytes at the time `now`; returns the seconds to wait before the next are sent."""
        self._paid_until = max(self._paid_until, now - 0.1) + count / self.rate
        return max(0.0, self._paid_until - now)
