"""Nobody asks more often than a directory says, and whoever waits is heard again."""

from __future__ import annotations

import itertools

import pytest

from bitsferry.access.asker import Asker
from bitsferry.protocol.errors import TooManyRequests
from bitsferry.server import rates
from bitsferry.server.directory import Directory
from bitsferry.server.rates import BURST, Rates

ADA, BOB, NOBODY = Asker("192.0.2.1", "ada"), Asker("192.0.2.1", "bob"), Asker("192.0.2.1")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def limited(url: str = "/in/", **limits: float) -> Directory:
    return Directory(url, "/nowhere", **limits)  # type: ignore[arg-type]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def taken(rates: Rates, directory: Directory, asker: Asker, *, begins: bool = False) -> int:
    """How many requests are taken just now, until one is not."""
    for number in itertools.count():
        try:
            rates.check(directory, asker, begins=begins)
        except TooManyRequests:
            return number
        assert number < 100_000
    raise AssertionError


@pytest.mark.parametrize("per_second", [0.5, 1, 20, 1000])
def test_what_comes_in_ten_seconds_may_come_at_once_and_then_as_often_as_said(
    clock: Clock, per_second: float
) -> None:
    rates, directory = Rates(clock), limited(requests_per_second=per_second)
    assert taken(rates, directory, ADA) == pytest.approx(BURST * per_second, abs=1)
    total = 0
    for _ in range(40):
        clock.now += 1.0
        total += taken(rates, directory, ADA)
    assert total == pytest.approx(40 * per_second, abs=1)
    clock.now += 3600
    assert taken(rates, directory, ADA) == pytest.approx(BURST * per_second, abs=1)


def test_one_that_is_rarer_is_taken_at_least_once(clock: Clock) -> None:
    rates, directory = Rates(clock), limited(sessions_per_second=0.01)
    assert taken(rates, directory, ADA, begins=True) == 1
    clock.now += 99
    assert taken(rates, directory, ADA, begins=True) == 0
    clock.now += 2
    assert taken(rates, directory, ADA, begins=True) == 1


def test_the_client_hears_when_it_is_welcome_again(clock: Clock) -> None:
    rates, directory = Rates(clock), limited(requests_per_second=0.2)
    taken(rates, directory, ADA)
    with pytest.raises(TooManyRequests) as refused:
        rates.check(directory, ADA)
    error = refused.value
    assert (error.status, error.transient) == (503, True)
    assert error.retry_after is not None
    assert 1 <= error.retry_after <= 5
    clock.now += error.retry_after
    rates.check(directory, ADA)


def test_who_was_refused_does_not_wait_longer_for_having_asked(clock: Clock) -> None:
    rates, directory = Rates(clock), limited(requests_per_second=1)
    taken(rates, directory, ADA)
    for _ in range(1000):
        with pytest.raises(TooManyRequests):
            rates.check(directory, ADA)
    clock.now += 1
    rates.check(directory, ADA)


def test_users_addresses_and_directories_are_counted_apart(clock: Clock) -> None:
    rates, directory = Rates(clock), limited(requests_per_second=1)
    for asker in (ADA, BOB, NOBODY, Asker("192.0.2.2")):
        assert taken(rates, directory, asker) == 10
    assert taken(rates, directory, Asker("198.51.100.1", "ada")) == 0
    assert taken(rates, limited("/other/", requests_per_second=1), ADA) == 10


def test_new_uploads_are_counted_as_requests_too(clock: Clock) -> None:
    rates = Rates(clock)
    directory = limited(requests_per_second=10, sessions_per_second=1)
    assert taken(rates, directory, ADA, begins=True) == 10
    assert taken(rates, directory, ADA) == pytest.approx(90, abs=1)


def test_where_nothing_is_limited_nothing_is_remembered(clock: Clock) -> None:
    rates = Rates(clock)
    for _ in range(1000):
        rates.check(limited(), ADA, begins=True)
    assert rates._sent == {}


def test_memory_is_bounded_however_many_come(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitsferry.server.rates._MOST", 100)
    rates, directory = Rates(clock), limited(requests_per_second=1)
    for number in range(1000):
        rates.check(directory, Asker("", str(number)))
        rates.check(directory, ADA) if number < 10 else None
    assert len(rates._sent) == 100


def test_the_log_says_so_once_a_minute(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    limiter, directory = Rates(clock), limited(requests_per_second=1)
    for _ in range(3):
        for _ in range(50):
            taken(limiter, directory, ADA)
        clock.now += rates._SILENCE + 1
    lines = [record for record in caplog.records if "per second from one user" in record.getMessage()]
    assert len(lines) == 3
