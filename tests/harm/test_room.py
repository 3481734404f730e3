"""When there are as many connections as there may be, those that say nothing make room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bitsferry.protocol.errors import Busy
from bitsferry.server import connections
from bitsferry.server.connections import Connections, Limits, Member
from bitsferry.server.request import Request, Response

STRANGER = "203.0.113.9"


async def nothing(request: Request) -> Response:
    return Response(200)


class Somebody(Member):
    """A connection that waits since then; never, while its request is answered."""

    waits_since: Any = float("inf")
    deadline = float("inf")

    def __init__(self, all_: Connections, waits_since: float) -> None:
        self.waits_since = waits_since
        self.is_here = True
        self._all = all_
        self.refusal = all_.welcome(self, STRANGER)

    def expire(self) -> None:
        self.is_here = False
        self._all.farewell(self, STRANGER)

    def wind_up(self) -> None: ...

    def cut(self) -> None: ...

    def drop(self) -> None: ...


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let so many seconds pass."""
    now = [1000.0]
    monkeypatch.setattr(connections, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_who_is_silent_for_longest_makes_room_for_somebody_new(wait: Callable[[float], None]) -> None:
    all_ = Connections(nothing, Limits(connections=3))
    first, second, third = (Somebody(all_, 1000.0 + number) for number in range(3))
    wait(60)
    new = Somebody(all_, 1060.0)
    assert new.refusal is None
    assert [each.is_here for each in (first, second, third, new)] == [False, True, True, True]


def test_nobody_whose_request_is_answered_has_to_go(wait: Callable[[float], None]) -> None:
    all_ = Connections(nothing, Limits(connections=3))
    busy = [Somebody(all_, float("inf")) for _ in range(3)]
    wait(60)
    new = Somebody(all_, 1060.0)
    assert isinstance(new.refusal, Busy)
    assert all(each.is_here for each in busy)


def test_nobody_has_to_go_who_came_just_now(wait: Callable[[float], None]) -> None:
    all_ = Connections(nothing, Limits(connections=3))
    here = [Somebody(all_, 1000.0) for _ in range(3)]
    wait(1)
    assert isinstance(Somebody(all_, 1001.0).refusal, Busy)
    assert all(each.is_here for each in here)


def test_a_thousand_newcomers_do_not_make_us_look_for_room_a_thousand_times(
    wait: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    all_ = Connections(nothing, Limits(connections=1000))
    monkeypatch.setattr(all_, "_most", 1000)
    here = [Somebody(all_, 1000.0) for _ in range(1000)]
    wait(60)
    new = [Somebody(all_, 1060.0) for _ in range(1000)]
    assert sum(each.refusal is None for each in new) == 10, "a hundredth at a time"
    assert sum(each.is_here for each in here) == 990
    wait(0.2)
    assert all_.is_overrun


def test_there_are_never_more_connections_than_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (4096, 4096))
    all_ = Connections(nothing, Limits(connections=10_000))
    refused = [Somebody(all_, float("inf")).refusal for _ in range(1800)]
    assert refused.count(None) == 4096 // 2 - 300
