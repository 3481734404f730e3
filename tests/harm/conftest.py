"""A server for each test, and crowds to send at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from server.conftest import Serve, end, settings
from server.ferry import Ferry

from .crowd import Crowd


class Gather(Protocol):
    """Opens so many connections to a server, which say something again and again until the test is over."""

    def __call__(self, ferry: Ferry, said: bytes, count: int, *, drip: float | None = None) -> Crowd: ...


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    started: list[Ferry] = []

    def serve(*, directory: str = "", limits: str = "", top: str = "") -> Ferry:
        folder = tmp_path / f"ferry{len(started)}"
        folder.mkdir()
        started.append(Ferry(folder, settings(directory=directory, limits=limits, top=top)))
        return started[-1]

    yield serve
    for ferry in started:
        end(ferry)


@pytest.fixture
def gather() -> Iterator[Gather]:
    with ExitStack() as stack:

        def gather(ferry: Ferry, said: bytes, count: int, *, drip: float | None = None) -> Crowd:
            return stack.enter_context(Crowd(ferry.port, said, count, drip))

        yield gather
