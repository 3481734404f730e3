"""Sizes and times as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsferry.cli.quantities import parse_duration, parse_size, spell_duration, spell_size
from bitsferry.cli.rates import parse_rates
from bitsferry.client.bandwidth import Span, Timetable


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("500", 500),
        (500, 500),
        ("500 bytes", 500),
        ("1 KB", 1000),
        ("1 KiB", 1024),
        ("10 GB", 10_000_000_000),
        ("10GiB", 10 * 1024**3),
        (" 1.5 mb ", 1_500_000),
        ("0.1 GB", 100_000_000),
        ("2 TB", 2 * 10**12),
        ("2 PiB", 2 * 1024**5),
    ],
)
def test_sizes_are_understood(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "ten GB", "-5", "1,5 GB", "10 G", "10 GBit", "0.5", "1e3", "nan"])
def test_what_is_no_size_is_answered_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"'10 GB'|whole number"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        (90, 90),
        (0.5, 0.5),
        ("90 s", 90),
        ("5 minutes", 300),
        ("12 hours", 43_200),
        ("1 day", 86_400),
        ("14 days", 1_209_600),
        ("2weeks", 1_209_600),
        ("1.5 h", 5_400),
    ],
)
def test_times_are_understood(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1 s", "5 fortnights", "1 month", "12:30"])
def test_what_is_no_time_is_answered_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="'14 days'"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["2 MB/s", "2MB / s", "2 MB", "2000000", "2000 KB/sec"])
def test_rates_are_understood(text: str) -> None:
    assert parse_rates(text) == Timetable((Span(2_000_000),))


@pytest.mark.parametrize("text", ["fast", "2 MB/h", "0"])
def test_what_is_no_rate_is_answered_in_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="rate"):
        parse_rates(text)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 KB"),
        (64_000, "64 KB"),
        (999_949, "999.9 KB"),
        (999_950, "1 MB"),
        (1_500_000_000, "1.5 GB"),
        (10**18, "1000 PB"),
    ],
)
def test_sizes_are_spelt_for_people(size: int, words: str) -> None:
    assert spell_size(size) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.01, "0 s"),
        (0.3, "0.3 s"),
        (4.2, "4 s"),
        (59.6, "1 min"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (3605, "1 h"),
        (3840, "1 h 4 min"),
        (86_400, "1 day"),
        (1_209_600, "14 days"),
    ],
)
def test_times_are_spelt_for_people(seconds: float, words: str) -> None:
    assert spell_duration(seconds) == words


@given(st.integers(0, 10**18))
def test_a_size_that_was_spelt_is_understood_again(size: int) -> None:
    assert parse_size(spell_size(size)) == pytest.approx(size, rel=0.06)
