"""A flood of refusals is told in few lines, and how many were left out."""

from __future__ import annotations

import logging

from bitsferry.cli.logs import Sparing


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def line(address: str | None, level: int = logging.WARNING, place: int = 1) -> logging.LogRecord:
    record = logging.LogRecord("bitsferry", level, "file.py", place, "refused", (), None)
    if address is not None:
        record.address = address
    return record


def test_thirty_lines_about_an_address_and_then_one_a_second() -> None:
    clock = Clock()
    sparing = Sparing(clock)
    assert sum(sparing.filter(line("192.0.2.1")) for _ in range(1000)) == 30
    for _ in range(10):
        clock.now += 1
        assert sum(sparing.filter(line("192.0.2.1")) for _ in range(1000)) == 1


def test_the_next_line_says_how_many_were_left_out() -> None:
    clock = Clock()
    sparing = Sparing(clock)
    for _ in range(100):
        sparing.filter(line("192.0.2.1"))
    clock.now += 5
    told = line("192.0.2.1")
    assert sparing.filter(told)
    assert vars(told)["left_out"] == 70
    told = line("192.0.2.1")
    assert sparing.filter(told)
    assert not hasattr(told, "left_out")


def test_one_address_does_not_take_anothers_lines() -> None:
    sparing = Sparing(Clock())
    for _ in range(100_000):
        sparing.filter(line("192.0.2.1"))
    assert sparing.filter(line("192.0.2.2"))


def test_many_addresses_together_have_a_bound_too() -> None:
    clock = Clock()
    sparing = Sparing(clock)
    written = 0
    for second in range(10):
        clock.now = second
        written += sum(sparing.filter(line(f"2001:db8::{number}")) for number in range(2000))
    assert written <= 200 + 10 * 50
    assert len(sparing._budgets) <= 4096


def test_what_is_no_clients_doing_is_never_left_out() -> None:
    sparing = Sparing(Clock())
    assert all(sparing.filter(line(None)) for _ in range(1000))
    assert all(sparing.filter(line("192.0.2.1", logging.INFO)) for _ in range(1000))
