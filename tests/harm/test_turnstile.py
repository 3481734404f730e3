"""Whose request is looked at next: a crowd does not starve the bodies, one address not another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from bitsferry.server.turnstile import Turnstile
from server_parts import virtual_time

CROWD, HONEST = "203.0.113.9", "192.0.2.1"


class Processor:
    """Its time, which passes when a test says so."""

    def __init__(self) -> None:
        self.spent = 0.0

    def __call__(self) -> float:
        return self.spent


def story(tell: Callable[[Turnstile, Processor], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        processor = Processor()
        turnstile = Turnstile(processor, processor, lambda: 0)
        turnstile.loop = asyncio.get_running_loop()
        await tell(turnstile, processor)

    virtual_time.run(told())


async def rounds(count: int) -> None:
    """All sockets are looked at so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


def crowd(turnstile: Turnstile, count: int, went: list[str], address: str = CROWD) -> None:
    for number in range(count):
        if turnstile.lets(address):
            went.append(f"{address} {number}")
        else:
            turnstile.wait(address, lambda number=number: went.append(f"{address} {number}"))  # type: ignore[misc]


def test_without_a_crowd_nobody_waits() -> None:
    async def tell(turnstile: Turnstile, processor: Processor) -> None:
        for _ in range(100):
            assert turnstile.lets(HONEST)
            await rounds(2)

    story(tell)


def test_few_of_a_crowd_are_let_through_between_two_looks_at_all_sockets() -> None:
    async def tell(turnstile: Turnstile, processor: Processor) -> None:
        went: list[str] = []
        crowd(turnstile, 1000, went)
        assert len(went) == 1
        await rounds(10)
        assert 80 < len(went) <= 32 * 10
        await rounds(100)
        assert went == [f"{CROWD} {number}" for number in range(1000)], "in the order they came, and all"

    story(tell)


def test_addresses_take_turns_so_that_a_crowd_from_one_delays_another_by_a_round() -> None:
    async def tell(turnstile: Turnstile, processor: Processor) -> None:
        went: list[str] = []
        crowd(turnstile, 1000, went)
        crowd(turnstile, 1, went, HONEST)
        await rounds(2)
        assert f"{HONEST} 0" in went

    story(tell)


def test_nobody_overtakes_those_who_wait() -> None:
    async def tell(turnstile: Turnstile, processor: Processor) -> None:
        went: list[str] = []
        crowd(turnstile, 100, went)
        await rounds(1)
        assert not turnstile.lets(HONEST)

    story(tell)


async def work(
    turnstile: Turnstile, processor: Processor, body: float, request: float
) -> tuple[float, float]:
    """A second in which bodies and a crowd want all they can get, a block and a request at a time; the time
    each of them had.
    """
    had = {"bodies": 0.0, "requests": 0.0}

    def ask() -> None:
        processor.spent += request
        had["requests"] += request
        asyncio.get_running_loop()._clock.now += request  # type: ignore[attr-defined]
        turnstile.wait(CROWD, ask)

    for _ in range(100):
        turnstile.wait(CROWD, ask)
    while virtual_time.now() < 1:
        processor.spent += body
        had["bodies"] += body
        asyncio.get_running_loop()._clock.now += body  # type: ignore[attr-defined]
        turnstile.body_moved(body)
        await asyncio.sleep(0)
    return had["bodies"], had["requests"]


@pytest.mark.parametrize("request_", [0.00005, 0.0005, 0.002])
@pytest.mark.parametrize("body", [0.0001, 0.0005])
def test_bodies_that_want_all_get_half_of_the_time_or_more(body: float, request_: float) -> None:
    async def tell(turnstile: Turnstile, processor: Processor) -> None:
        bodies, requests = await work(turnstile, processor, body, request_)
        assert bodies >= 0.48
        assert requests >= 0.2, "and requests are not starved either"

    story(tell)


def test_requests_go_on_at_a_pace_even_when_something_else_takes_all_the_time() -> None:
    """As fragments of a few KiB may, which cost more for their heads than for their bytes."""

    async def tell(turnstile: Turnstile, processor: Processor) -> None:
        went: list[str] = []
        crowd(turnstile, 500, went)
        for _ in range(1500):
            processor.spent += 0.01
            turnstile.body_moved(0.0)
            await asyncio.sleep(0.001)
        assert len(went) == 500


def test_bodies_that_come_slowly_keep_no_request_waiting() -> None:
    async def tell(turnstile: Turnstile, processor: Processor) -> None:
        waiting = 2000

        def ask() -> None:
            nonlocal waiting
            waiting -= 1
            processor.spent += 0.0001
            asyncio.get_running_loop()._clock.now += 0.0001  # type: ignore[attr-defined]

        for _ in range(waiting):
            turnstile.wait(CROWD, ask)
        while waiting:
            processor.spent += 0.00001
            turnstile.body_moved(0.00001)
            await asyncio.sleep(0.005)
        assert virtual_time.now() < 2000 * 0.0001 * 1.2

    story(tell)


def test_when_no_body_comes_in_requests_have_all_the_time() -> None:
    async def tell(turnstile: Turnstile, processor: Processor) -> None:
        went: list[str] = []
        turnstile.body_moved(0.001)
        await asyncio.sleep(1)
        crowd(turnstile, 800, went)
        await rounds(100)
        assert len(went) == 800

    story(tell)
