"""One request at a time for each session; the newest wins, and nobody waits long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsferry.protocol.errors import Busy
from bitsferry.server.turns import PATIENCE, Turns
from bitsferry.store.base import Store

from .virtual_time import now, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

A_MOMENT = 0.001
GUID = "SESSION"


class OneProcess:
    """As much of a store as turns need when no other process shares it."""

    def claim(
        self, guid: str, stop: Callable[[], None], patience: float
    ) -> AbstractAsyncContextManager[None]:
        return nullcontext()


class SlowClaims:
    """A store another process lets go of only after a while."""

    def __init__(self, delay: float) -> None:
        self._delay = delay

    @asynccontextmanager
    async def claim(self, guid: str, stop: Callable[[], None], patience: float) -> AsyncIterator[None]:
        await asyncio.sleep(min(self._delay, patience))
        if self._delay > patience:
            raise Busy
        yield


def turns_of(store: object) -> Turns:
    return Turns(cast("Store", store))


@dataclass
class Scene:
    """Requests of one session, with what became of them."""

    turns: Turns = field(default_factory=lambda: turns_of(OneProcess()))
    served: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    waited: dict[str, float] = field(default_factory=dict)
    inside: list[str] = field(default_factory=list)

    async def request(self, name: str, *, at: float, works: float, stops_after: float | None) -> None:
        """Arrive, work, and when somebody newer comes stop after a moment or never."""
        await asyncio.sleep(at)
        arrived = now()
        stop = asyncio.Event()
        try:
            async with self.turns.take(GUID) as turn:
                self.waited[name] = now() - arrived
                self.inside.append(name)
                assert self.inside == [name], "two at once"
                try:
                    self.served.append(name)
                    turn.interrupt_by(stop.set)
                    await self._work(works, stop, stops_after)
                finally:
                    self.inside.remove(name)
        except Busy:
            self.waited[name] = now() - arrived
            self.refused.append(name)

    @staticmethod
    async def _work(works: float, stop: asyncio.Event, stops_after: float | None) -> None:
        if stops_after is None:
            await asyncio.sleep(works)
            return
        try:
            async with asyncio.timeout(works):
                await stop.wait()
        except TimeoutError:
            return
        await asyncio.sleep(stops_after)

    def is_over(self) -> bool:
        return self.turns.is_quiet(GUID) and not self.inside


def play(scene: Scene, *requests: tuple[str, float, float, float | None]) -> Scene:
    """Requests by name, arrival, work in seconds and how long they take to stop, None: they do not."""

    async def story() -> None:
        async with asyncio.TaskGroup() as group:
            for name, at, works, stops_after in requests:
                group.create_task(scene.request(name, at=at, works=works, stops_after=stops_after))

    run(story())
    return scene


def test_a_request_alone_is_served_at_once() -> None:
    scene = play(Scene(), ("a", 0, 1, 0))
    assert scene.served == ["a"]
    assert scene.waited["a"] == 0
    assert scene.is_over()


def test_the_newer_request_has_the_older_one_stopped() -> None:
    scene = play(Scene(), ("a", 0, 100, A_MOMENT), ("b", 1, 1, 0))
    assert scene.served == ["a", "b"]
    assert scene.waited["b"] < 1


def test_one_that_is_wanted_before_it_could_be_stopped_is_stopped_when_it_can_be() -> None:
    async def story() -> None:
        turns, stopped = turns_of(OneProcess()), asyncio.Event()
        async with turns.take(GUID) as turn:
            newer = asyncio.ensure_future(turns.enter(GUID))
            await asyncio.sleep(A_MOMENT)
            turn.interrupt_by(stopped.set)
            assert stopped.is_set()
        taken, _ = await newer
        turns.leave(GUID, taken)
        assert turns.is_quiet(GUID)

    run(story())


def test_of_several_that_wait_the_newest_is_served_and_the_others_hear_that_it_is() -> None:
    scene = play(
        Scene(), ("a", 0, 100, 2), ("b", 1, 1, 0), ("c", 1.5, 1, 0), ("d", 1.7, 1, 0), ("e", 2, 1, 0)
    )
    assert scene.served == ["a", "e"]
    assert scene.refused == ["b", "c", "d"]
    assert scene.is_over()


def test_nobody_waits_longer_than_the_patience() -> None:
    scene = play(Scene(), ("a", 0, 100, None), ("b", 1, 1, 0))
    assert scene.refused == ["b"]
    assert scene.waited["b"] == pytest.approx(PATIENCE)


def test_one_that_gave_up_does_not_let_the_next_in_while_the_first_is_at_work() -> None:
    scene = play(
        Scene(), ("a", 0, 12, None), ("b", 1, 1, 0), ("c", 7, 1, 0), ("d", 11, 1, 0), ("e", 20, 1, 0)
    )
    assert scene.served == ["a", "d", "e"]
    assert scene.refused == ["b", "c"]
    assert scene.is_over()


def test_one_whose_line_broke_while_it_waited_lets_nobody_in_too_early() -> None:
    scene = Scene()

    async def story() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(scene.request("a", at=0, works=4, stops_after=None))
            gone = group.create_task(scene.request("b", at=1, works=1, stops_after=0))
            group.create_task(scene.request("c", at=3, works=1, stops_after=0))
            await asyncio.sleep(2)
            gone.cancel()

    run(story())
    assert scene.served == ["a", "c"]
    assert scene.is_over()


def test_one_that_fails_leaves_the_turn_to_the_next() -> None:
    async def story() -> None:
        turns = turns_of(OneProcess())
        with pytest.raises(ZeroDivisionError):
            async with turns.take(GUID):
                raise ZeroDivisionError
        assert turns.is_quiet(GUID)
        async with turns.take(GUID):
            assert not turns.is_quiet(GUID)

    run(story())


def test_sessions_do_not_wait_for_each_other() -> None:
    async def story() -> None:
        turns = turns_of(OneProcess())
        async with turns.take("ONE"), turns.take("OTHER"):
            assert now() == 0

    run(story())


def test_a_process_that_waits_for_another_one_keeps_its_own_requests_in_line() -> None:
    scene = play(Scene(turns_of(SlowClaims(2.0))), ("a", 0, 1, None), ("b", 0.5, 1, None), ("c", 1, 1, None))
    assert scene.served == ["a", "c"]
    assert scene.refused == ["b"]


def test_nobody_is_left_behind_when_another_process_does_not_let_go() -> None:
    scene = play(Scene(turns_of(SlowClaims(100.0))), ("a", 0, 1, None), ("b", 0.5, 1, None))
    assert scene.served == []
    assert sorted(scene.refused) == ["a", "b"]
    assert scene.is_over()


times = st.integers(0, 120).map(lambda tenths: tenths / 10)
stops = st.one_of(st.none(), st.integers(0, 70).map(lambda tenths: tenths / 10))


@given(st.lists(st.tuples(times, times, stops), min_size=1, max_size=9), st.sampled_from([0.0, 0.3, 4.0]))
def test_whatever_comes_when_there_are_never_two_at_once_and_each_gets_an_answer(
    requests: list[tuple[float, float, float | None]], delay: float
) -> None:
    scene = Scene(turns_of(SlowClaims(delay)))
    play(scene, *((str(number), *request) for number, request in enumerate(requests)))
    assert sorted(scene.served + scene.refused) == sorted(map(str, range(len(requests))))
    assert max(scene.waited.values()) <= PATIENCE + A_MOMENT
    assert scene.is_over()


@given(
    st.lists(st.tuples(times, times, st.integers(0, 4)), min_size=1, max_size=9, unique_by=lambda one: one[0])
)
def test_where_all_stop_when_asked_the_newest_is_always_served(
    requests: list[tuple[float, float, int]],
) -> None:
    scene = play(Scene(), *((str(number), *request) for number, request in enumerate(requests)))
    newest = max(range(len(requests)), key=lambda number: requests[number][0])
    assert str(newest) in scene.served
