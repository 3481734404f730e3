"""One server of each kind for all tests that can share it, and servers of their own for the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from .hosts import KINDS, Host


class Start(Protocol):
    """Starts a server; what follows its kind is as in Host."""

    def __call__(self, kind: str, *options: str, application: str = "alone", **environment: str) -> Host: ...


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", params=KINDS)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(request.param, tmp_path_factory.mktemp(request.param))
    yield host
    host.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Host] = []

    def start(kind: str, *options: str, application: str = "alone", **environment: str) -> Host:
        started.append(Host(kind, tmp_path, *options, application=application, **environment))
        return started[-1]

    yield start
    for host in started:
        host.stop()
