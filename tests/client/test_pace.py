"""Fragments are long enough that waiting costs little, short enough that something is acknowledged soon."""

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsferry.client.pace import LARGEST_TO_BITSFERRY, FragmentLength
from bitsferry.protocol.upload import LARGEST_FRAGMENT, SMALLEST_FRAGMENT

KIB = 1024
MIB = 1024 * KIB


@dataclass
class SimulatedLine:
    """Bytes a second, and seconds for a round trip; TCP's slow start included."""

    rate: float
    round_trip: float

    def __post_init__(self) -> None:
        self.window = 10 * 1460.0

    def carry(self, length: int) -> float:
        """The seconds until the Ack of a fragment."""
        seconds, left = self.round_trip, float(length)
        while left > 0:
            burst = min(self.window, left)
            if self.window >= self.rate * self.round_trip:
                return seconds + left / self.rate  # the line is full
            seconds += max(self.round_trip, burst / self.rate)
            left -= burst
            self.window *= 2
        return seconds


def send(line: SimulatedLine, size: int, pace: FragmentLength) -> list[tuple[int, float]]:
    """Every fragment of a file of `size` bytes with the seconds it took."""
    pace.round_trip(line.round_trip)
    told = []
    while size > 0:
        length = min(pace.next(), size)
        seconds = line.carry(length)
        pace.answered(length, seconds)
        told.append((length, seconds))
        size -= length
    return told


LINES = {
    "modem": (7_000, 0.15),
    "1 Mbit/s, 50 ms": (125_000, 0.05),
    "20 Mbit/s, 30 ms": (2_500_000, 0.03),
    "100 Mbit/s, 100 ms": (12_500_000, 0.1),
    "100 Mbit/s, satellite": (12_500_000, 0.6),
    "1 Gbit/s, 1 ms": (125_000_000, 0.001),
    "loopback": (1_250_000_000, 0.0001),
}
in_every_line = pytest.mark.parametrize(("rate", "round_trip"), LINES.values(), ids=LINES)


@in_every_line
def test_waiting_for_acks_costs_less_than_a_twentieth_where_the_limit_allows_it(
    rate: float, round_trip: float
) -> None:
    pace = FragmentLength(LARGEST_TO_BITSFERRY)
    later = send(SimulatedLine(rate, round_trip), int(rate * 60), pace)[5:-1]
    if rate * 20 * round_trip <= LARGEST_TO_BITSFERRY:
        assert round_trip * len(later) <= 0.055 * sum(seconds for _, seconds in later)


@in_every_line
def test_something_is_acknowledged_every_few_seconds(rate: float, round_trip: float) -> None:
    told = send(SimulatedLine(rate, round_trip), int(rate * 60), FragmentLength(LARGEST_TO_BITSFERRY))
    longest = max(seconds for _, seconds in told[1:])
    assert longest <= max(5.5, 14 if round_trip > 0.2 else 0)


def test_the_first_fragment_keeps_nobody_waiting_for_minutes() -> None:
    assert FragmentLength().next() / 12_500 < 30  # 100 kbit/s


def test_on_100_megabits_and_100_ms_a_file_takes_little_longer_than_in_one_piece() -> None:
    size = 100_000_000
    whole = SimulatedLine(12_500_000, 0.1).carry(size)
    told = send(SimulatedLine(12_500_000, 0.1), size, FragmentLength(LARGEST_TO_BITSFERRY))
    assert whole / sum(seconds for _, seconds in told) >= 0.9


def test_fragments_follow_a_line_that_becomes_a_hundred_times_slower() -> None:
    pace = FragmentLength()
    send(SimulatedLine(10_000_000, 0.02), 100_000_000, pace)
    slow = SimulatedLine(100_000, 0.02)
    slow.window = math.inf
    told = send(slow, 50_000_000, pace)
    assert all(seconds <= 5 for _, seconds in told[1:])


def test_after_the_line_broke_less_is_sent_and_then_more_again() -> None:
    pace = FragmentLength()
    send(SimulatedLine(10_000_000, 0.02), 100_000_000, pace)
    before = pace.next()
    pace.broke(before)
    assert pace.next() == before // 2
    for _ in range(10):
        pace.answered(pace.next(), 1.0)
    assert pace.next() > before // 2


def test_a_rate_that_is_limited_limits_the_fragments() -> None:
    pace = FragmentLength()
    send(SimulatedLine(10_000_000, 0.02), 100_000_000, pace)
    assert pace.next(50_000) <= 5 * 50_000
    assert pace.next(10) == SMALLEST_FRAGMENT


def test_the_limit_may_change_at_any_time() -> None:
    pace = FragmentLength()
    for _ in range(9):
        pace.answered(pace.next(), 0.01)
    assert pace.next() == LARGEST_FRAGMENT
    pace.limit = LARGEST_TO_BITSFERRY
    assert pace.next() == LARGEST_TO_BITSFERRY


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["answered", "broke", "trip"]),
            st.integers(1, LARGEST_TO_BITSFERRY),
            st.floats(0, 1e6),
        ),
        max_size=30,
    ),
    st.integers(SMALLEST_FRAGMENT, LARGEST_TO_BITSFERRY),
    st.none() | st.floats(0, 1e12),
)
def test_whatever_the_line_does_fragments_stay_between_5_kib_and_the_limit(
    told: list[tuple[str, int, float]], limit: int, rate: float | None
) -> None:
    pace = FragmentLength(limit)
    for what, length, seconds in told:
        if what == "answered":
            pace.answered(length, seconds)
        elif what == "broke":
            pace.broke(length)
        else:
            pace.round_trip(seconds)
        assert SMALLEST_FRAGMENT <= pace.next(rate) <= limit
