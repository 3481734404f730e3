"""Servers for one test each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from .serving import Served

SETTINGS = """
listen = ["127.0.0.1:0"]
{top}

[limits]
{limits}

[[directory]]
url = "/in/"
folder = "in"
{directory}
"""


class Start(Protocol):
    """Starts `bitsferry serve` in the test's folder."""

    def __call__(
        self,
        *arguments: str,
        environment: dict[str, str] | None = None,
        command: list[str] | None = None,
        descriptors: tuple[int, ...] = (),
    ) -> Served: ...


class Configure(Protocol):
    """Writes bitsferry.toml, with one directory `/in/`; each argument is lines of TOML. Returns its path."""

    def __call__(self, *, top: str = "", limits: str = "", directory: str = "") -> str: ...


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Served] = []

    def start(
        *arguments: str,
        environment: dict[str, str] | None = None,
        command: list[str] | None = None,
        descriptors: tuple[int, ...] = (),
    ) -> Served:
        folder = tmp_path / f"server{len(started)}"
        folder.mkdir()
        served = Served(
            folder, list(arguments), environment=environment, command=command, descriptors=descriptors
        )
        started.append(served)
        return served

    yield start
    for served in started:
        served.stop()


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    path = tmp_path / "bitsferry.toml"

    def configure(*, top: str = "", limits: str = "", directory: str = "") -> str:
        path.write_text(SETTINGS.format(top=top, limits=limits, directory=directory), encoding="utf-8")
        return str(path)

    return configure
