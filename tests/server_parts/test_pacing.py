"""Bodies come in as fast as their directory says: in sum, for each user, on each connection, and fairly."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from bitsferry.access.asker import Asker
from bitsferry.server.asgi import Message, _MessageBody
from bitsferry.server.directory import Directory
from bitsferry.server.pacing import Pacing
from bitsferry.server.request import Body, BodyInterrupted, Pace
from bitsferry.store.base import Receiver

from . import virtual_time
from .speaking import Arrived

ADA, BOB, NOBODY = Asker("192.0.2.1", "ada"), Asker("192.0.2.2", "bob"), Asker("192.0.2.3")
MB = 1_000_000


def limited(**limits: int) -> Directory:
    return Directory("/in/", "/nowhere", **limits)  # type: ignore[arg-type]


class Line:
    """One connection whose client sends as fast as it is read."""

    def __init__(self, pacing: Pacing, directory: Directory, asker: Asker = ADA) -> None:
        self._pacing, self._directory, self._asker = pacing, directory, asker
        self._body: Body = Arrived(b"")
        self.sent = 0

    def pace(self) -> Pace:
        pace = self._pacing.pace(self._directory, self._asker, self._body)
        assert pace is not None
        return pace

    async def send(self, size: int, late: Callable[[], float] = lambda: 0.0) -> None:
        """One fragment; timers ring `late` seconds late."""
        pace = self.pace()
        while size:
            if (seconds := pace.pause()) > 0:
                await asyncio.sleep(seconds + late())
            block = min(pace.most, size)
            pace.take(block)
            self.sent += block
            size -= block

    async def send_on(self, size: int) -> None:
        """Fragments of this size, without an end."""
        while True:
            await self.send(size)


def pacing() -> Pacing:
    return Pacing(virtual_time.now)


async def seconds_for(*work: Coroutine[Any, Any, object]) -> float:
    begun = virtual_time.now()
    await asyncio.gather(*work)
    return virtual_time.now() - begun


async def for_seconds(seconds: float, *work: Coroutine[Any, Any, object]) -> None:
    tasks = [asyncio.ensure_future(each) for each in work]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@pytest.mark.parametrize("rate", [5_000, 200_000, 10 * MB, 1000 * MB])
def test_one_connection_is_as_fast_as_it_may(rate: int) -> None:
    async def story() -> float:
        return await seconds_for(Line(pacing(), limited(bandwidth=rate)).send(10 * rate))

    assert virtual_time.run(story()) == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("size", [100, 5_000, 60_000, 5 * MB])
def test_small_fragments_are_no_way_around(size: int) -> None:
    async def story() -> int:
        line = Line(pacing(), limited(bandwidth_per_connection=200_000))
        await for_seconds(20, line.send_on(size))
        return line.sent

    assert virtual_time.run(story()) == pytest.approx(4 * MB, rel=0.1)


def test_timers_that_ring_late_cost_no_speed() -> None:
    chance = random.Random(1)

    async def story() -> float:
        line = Line(pacing(), limited(bandwidth=MB))
        return await seconds_for(line.send(10 * MB, late=lambda: chance.uniform(0, 0.05)))

    assert virtual_time.run(story()) == pytest.approx(10, rel=0.1)


def test_all_connections_share_it_fairly() -> None:
    async def story() -> list[int]:
        shared, directory = pacing(), limited(bandwidth=MB)
        lines = [Line(shared, directory, asker) for asker in (ADA, ADA, BOB, NOBODY)]
        # Those who send small fragments are neither better off nor worse.
        sizes = (10 * MB, 64_000, 10 * MB, 64_000)
        await for_seconds(20, *(line.send_on(size) for line, size in zip(lines, sizes, strict=True)))
        return [line.sent for line in lines]

    sent = virtual_time.run(story())
    assert sum(sent) == pytest.approx(20 * MB, rel=0.1)
    assert min(sent) > 0.6 * max(sent)


def test_one_users_connections_share_what_the_user_may() -> None:
    async def story() -> list[int]:
        shared, directory = pacing(), limited(bandwidth_per_user=MB)
        lines = [Line(shared, directory, asker) for asker in (ADA, ADA, ADA, BOB)]
        await for_seconds(10, *(line.send_on(5 * MB) for line in lines))
        return [sum(line.sent for line in lines[:3]), lines[3].sent]

    assert virtual_time.run(story()) == pytest.approx([10 * MB, 10 * MB], rel=0.1)


def test_the_narrowest_of_all_limits_counts() -> None:
    async def story() -> list[int]:
        shared = pacing()
        directory = limited(bandwidth=3 * MB, bandwidth_per_user=2 * MB, bandwidth_per_connection=MB)
        lines = [Line(shared, directory, asker) for asker in (ADA, ADA, ADA, BOB)]
        await for_seconds(10, *(line.send_on(5 * MB) for line in lines))
        return [sum(line.sent for line in lines[:3]), lines[3].sent]

    ada, bob = virtual_time.run(story())
    assert ada == pytest.approx(20 * MB, rel=0.15)
    assert bob == pytest.approx(10 * MB, rel=0.15)


def test_directories_have_bandwidths_of_their_own() -> None:
    async def story() -> float:
        shared = pacing()
        other = Directory("/other/", "/nowhere", bandwidth=MB)
        return await seconds_for(
            Line(shared, limited(bandwidth=MB)).send(5 * MB), Line(shared, other).send(5 * MB)
        )

    assert virtual_time.run(story()) == pytest.approx(5, rel=0.1)


def test_who_comes_and_goes_takes_no_more_than_others() -> None:
    """New connections for each few bytes: their reader waits as long as everybody's does."""

    async def hit_and_run(shared: Pacing, directory: Directory, lines: list[Line]) -> None:
        while True:
            lines.append(Line(shared, directory, BOB))
            await lines[-1].send(lines[-1].pace().most)

    async def story() -> tuple[int, int]:
        shared, directory = pacing(), limited(bandwidth=MB)
        honest, lines = Line(shared, directory), list[Line]()
        await for_seconds(
            20,
            honest.send_on(5 * MB),
            *(hit_and_run(shared, directory, lines) for _ in range(3)),
        )
        return honest.sent, sum(line.sent for line in lines)

    honest, others = virtual_time.run(story())
    assert honest + others == pytest.approx(20 * MB, rel=0.1)
    assert honest > 4 * MB


def test_a_new_speed_counts_at_once() -> None:
    async def story() -> float:
        shared = pacing()
        await Line(shared, limited(bandwidth=MB)).send(5 * MB)
        return await seconds_for(Line(shared, limited(bandwidth=10 * MB)).send(50 * MB))

    assert virtual_time.run(story()) == pytest.approx(5, rel=0.1)


def test_where_nothing_is_limited_there_is_no_pace() -> None:
    assert Pacing().pace(limited(), ADA, Arrived(b"")) is None


# Inside another server


class Taken(Receiver):
    def __init__(self) -> None:
        self.size = 0

    def write(self, block: memoryview) -> None:
        self.size += len(block)


def body_of(size: int, here: int) -> _MessageBody:
    """Of which so many bytes are here already, and no others come."""
    blocks = [64_000] * (here // 64_000) + [here % 64_000]

    async def receive() -> Message:
        if not blocks:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": bytes(blocks.pop(0)), "more_body": True}

    return _MessageBody(receive, {"content-length": str(size)})


def test_messages_are_taken_as_slowly() -> None:
    async def story() -> float:
        body, taken = body_of(2 * MB, 2 * MB), Taken()
        pace = pacing().pace(limited(bandwidth=200_000), ADA, body)
        seconds = await seconds_for(body.into(taken, pace))
        assert taken.size == 2 * MB
        return seconds

    assert virtual_time.run(story()) == pytest.approx(10, rel=0.1)


def test_a_slow_body_of_messages_ends_at_once_when_it_has_to_with_what_is_here() -> None:
    async def story() -> None:
        body, taken = body_of(2 * MB, 500_000), Taken()
        pace = pacing().pace(limited(bandwidth=1000), ADA, body)
        taking = asyncio.ensure_future(body.into(taken, pace))
        await asyncio.sleep(10)
        assert taken.size == 64_000
        body.stop()
        begun = virtual_time.now()
        with pytest.raises(BodyInterrupted):
            await taking
        assert virtual_time.now() - begun <= 1
        assert taken.size == 500_000

    virtual_time.run(story())
