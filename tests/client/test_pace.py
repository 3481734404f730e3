"""How much is sent at once, and how fast."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsferry.client.pace import Limit, after_break, next_fragment_length
from bitsferry.protocol.upload import LARGEST_FRAGMENT

KIB = 1024
MIB = 1024 * KIB

lengths = st.integers(5 * KIB, LARGEST_FRAGMENT)


def test_a_fragment_that_lasts_one_to_four_seconds_is_right() -> None:
    assert next_fragment_length(3 * MIB, 1.0) == next_fragment_length(3 * MIB, 4.0) == 3 * MIB


def test_a_quick_fragment_grows_to_the_double_at_most() -> None:
    assert next_fragment_length(MIB, 0.0) == 2 * MIB
    assert next_fragment_length(MIB, 0.01) == 2 * MIB


def test_a_slow_fragment_shrinks_at_once() -> None:
    assert next_fragment_length(10 * MIB, 20.0) == MIB


@given(lengths, st.floats(0, 1e6))
def test_fragments_stay_between_64_kib_and_13_mib(length: int, seconds: float) -> None:
    assert 64 * KIB <= next_fragment_length(length, seconds) <= 13 * MIB or 1 <= seconds <= 4
    assert 64 * KIB <= after_break(length) <= 13 * MIB


@given(st.floats(70_000, 3e6), lengths)
def test_on_an_even_line_fragments_soon_last_one_to_four_seconds(rate: float, length: int) -> None:
    for _ in range(8):
        length = next_fragment_length(length, length / rate)
    assert 1 <= length / rate <= 4


@given(st.integers(1_000, 10**9), st.lists(st.integers(1, 256 * KIB), min_size=1, max_size=50))
def test_no_more_than_the_limit_goes_out(rate: int, blocks: list[int]) -> None:
    limit, now = Limit(rate), 100.0
    for block in blocks:
        now += limit.take(block, now)
    assert sum(blocks) <= rate * (now - 100.0 + 0.1) * 1.000001


def test_a_pause_is_not_made_up_for_afterwards() -> None:
    limit = Limit(1000)
    limit.take(1000, 0.0)
    assert limit.take(1000, 3600.0) == pytest.approx(0.9)
