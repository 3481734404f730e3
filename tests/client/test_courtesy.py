"""A background transfer leaves the line to others, and uses it when nobody else does."""

import pytest

from bitsferry.client.courtesy import SMALLEST_WINDOW, TARGET, Courtesy

BASE = 0.1
RATE = 12_500_000


class Bottleneck:
    """A line with a queue in front of it, and somebody else who may use it; the clock is a number."""

    def __init__(self, others: float = 0.0) -> None:
        self.others = others  # the bytes a second somebody else sends
        self.queue = 0.0
        self.now = 1000.0
        self.sent = 0

    def round_trip(self) -> float:
        return BASE + self.queue / RATE

    def run(self, courtesy: Courtesy, seconds: float) -> float:
        """The bytes a second that went through."""
        end, before = self.now + seconds, self.sent
        while self.now < end:
            length = min(courtesy.block_length, 256 * 1024)
            wait = max(courtesy.take(length, self.now), length / (4 * RATE))
            self.sent += length
            self.queue = max(0.0, self.queue + length + (self.others - RATE) * wait)
            self.now += wait
        return (self.sent - before) / seconds


def test_alone_it_uses_most_of_the_line_without_filling_its_queue() -> None:
    line = Bottleneck()
    courtesy = Courtesy(line.round_trip)
    line.run(courtesy, 20)
    assert line.run(courtesy, 20) >= 0.8 * RATE
    assert line.queue / RATE <= 3 * TARGET


def test_it_makes_room_for_somebody_who_fills_the_line() -> None:
    line = Bottleneck()
    courtesy = Courtesy(line.round_trip)
    line.run(courtesy, 20)
    line.others = RATE
    line.run(courtesy, 10)
    assert line.run(courtesy, 20) <= 0.2 * RATE


def test_it_comes_back_when_the_line_is_free_again() -> None:
    line = Bottleneck(others=RATE)
    courtesy = Courtesy(line.round_trip)
    line.run(courtesy, 10)
    line.others, line.queue = 0.0, 0.0
    line.run(courtesy, 30)
    assert line.run(courtesy, 20) >= 0.6 * RATE


def test_something_always_flows() -> None:
    courtesy = Courtesy(lambda: 10.0)
    now = 0.0
    for _ in range(100):
        now += courtesy.take(SMALLEST_WINDOW, now)
    assert courtesy.rate is not None
    assert courtesy.rate > 0


def test_where_nothing_is_known_there_is_no_limit() -> None:
    courtesy = Courtesy(lambda: None)
    assert courtesy.take(10**9, 0.0) == 0
    assert courtesy.rate is None


@pytest.mark.parametrize("back", [1.0, 1e9])
def test_a_clock_that_is_set_back_blocks_nobody(back: float) -> None:
    courtesy = Courtesy(lambda: 0.01)
    now = 1e9
    for _ in range(50):
        now += courtesy.take(4096, now)
    assert courtesy.take(4096, now - back) < 5
