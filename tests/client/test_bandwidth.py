"""No more flows than the limits of the hour allow, for one transfer and for many together."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsferry.cli.rates import parse_rates
from bitsferry.client.bandwidth import Limit, Span, Timetable

KIB = 1024
MONDAY = datetime(2026, 11, 23)  # local time


def at(hour: int, minute: int = 0, *, day: int = 0) -> datetime:
    return MONDAY + timedelta(days=day, hours=hour, minutes=minute)


@given(st.integers(1_000, 10**9), st.lists(st.integers(1, 256 * KIB), min_size=1, max_size=50))
def test_no_more_than_the_limit_goes_out(rate: int, blocks: list[int]) -> None:
    limit, now = Limit(rate), 100.0
    for block in blocks:
        now += limit.take(block, now)
    assert sum(blocks) <= rate * (now - 100.0 + 0.1) * 1.000001


@given(st.lists(st.sampled_from("abc"), min_size=30, max_size=60))
def test_several_transfers_share_one_limit(turns: list[str]) -> None:
    limit, free_at = Limit(100_000), dict.fromkeys("abc", 100.0)
    now = 100.0
    for who in turns:
        now = max(now, free_at[who])
        free_at[who] = now + limit.take(10_000, now)
    end = max(free_at.values())
    assert len(turns) * 10_000 <= 100_000 * (end - 100.0 + 0.1) * 1.000001


def test_a_pause_is_not_made_up_for_afterwards() -> None:
    limit = Limit(1000)
    limit.take(1000, 0.0)
    assert limit.take(1000, 3600.0) == pytest.approx(0.9)


def test_a_clock_that_is_set_back_blocks_nobody() -> None:
    limit = Limit(1000)
    limit.take(100, 1e9)
    assert limit.take(100, 5.0) <= 0.2


def test_the_first_span_that_holds_says_the_rate() -> None:
    table = parse_rates("1 MB/s mon-fri 08:00-18:00, 10 MB/s")
    assert table.rate_at(at(7, 59)) == 10_000_000
    assert table.rate_at(at(8)) == 1_000_000
    assert table.rate_at(at(17, 59, day=4)) == 1_000_000
    assert table.rate_at(at(18)) == 10_000_000
    assert table.rate_at(at(12, day=5)) == 10_000_000


def test_where_no_span_holds_there_is_no_limit() -> None:
    table = parse_rates("500 KB/s 08:00-18:00")
    assert table.rate_at(at(20)) is None
    assert Limit(table, wall=lambda: at(20)).take(10**9, 0.0) == 0


def test_a_span_may_go_over_midnight_into_the_next_day() -> None:
    table = Timetable((Span(1, (4,), 22 * 60, 6 * 60),))  # friday night
    assert table.rate_at(at(23, day=4)) == 1
    assert table.rate_at(at(5, day=5)) == 1
    assert table.rate_at(at(5, day=4)) is None
    assert table.rate_at(at(7, day=5)) is None


def test_a_rate_of_nothing_waits_until_it_opens() -> None:
    table = parse_rates("0 KB/s 08:00-18:00, 1 MB/s")
    assert Limit(table, wall=lambda: at(17)).closed_for() == 3600
    assert Limit(table, wall=lambda: at(19)).closed_for() == 0
    assert table.next_change(at(19)) == at(8, day=1)


def test_a_limit_may_change_while_it_is_used() -> None:
    limit = Limit(1000)
    limit.take(1000, 0.0)
    limit.rates = Timetable(())
    assert limit.take(10**9, 0.0) == 0
    limit.rates = parse_rates("1 KB/s")
    assert limit.take(1000, 100.0) > 0.5


@given(
    st.lists(
        st.builds(
            Span,
            st.none() | st.integers(0, 10**10),
            st.sets(st.integers(0, 6), min_size=1).map(lambda days: tuple(sorted(days))),
            st.integers(0, 1438),
            st.just(1439),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_timetable_as_text_is_read_as_the_same(spans: list[Span]) -> None:
    table = Timetable((*spans, Span(5)))
    assert parse_rates(str(table)) == table
