"""One server for all who can share it, and servers of their own for tests whose settings matter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from .ferry import Ferry, Upload
from .raw import Line

# Every kind of directory a test can ask for without a server of its own.
SHARED = """
listen = ["127.0.0.1:0"]
store = "file:./store"

[limits]
idle_time = 600
head_time = 600
stall_time = 600

[[directory]]
url = "/in/"
folder = "./in"

[[directory]]
url = "/over/"
folder = "./over"
allow_overwrites = true

[[directory]]
url = "/off/"
folder = "./off"
upload_enabled = false

[[directory]]
url = "/small/"
folder = "./small"
max_upload_size = 1000
max_fragment_size = 600

[[directory]]
url = "/host/"
folder = "./host"
host_id = "node1.example"
host_id_fallback_timeout = "110 s"

[[directory]]
url = "/deep/"
folder = "./deep"
create_folders = true

[[directory]]
url = "/back/"
folder = "./back"
read_back = "everybody"

[[directory]]
url = "/quota/"
folder = "./quota"
quota = "1 MB"

[[directory]]
url = "/full/"
folder = "./full"
free_space_reserve = "1000 PB"
"""


# What the server's log says of mistakes of its own; asyncio has three ways to put it.
SURPRISES = (
    "failed inside the server",
    "exception was never retrieved",
    "Exception in callback",
    "Fatal error",
)


class Serve(Protocol):
    """Starts a server with one directory, `/in/`; each argument is lines of TOML."""

    def __call__(self, *, directory: str = "", limits: str = "", top: str = "") -> Ferry: ...


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ferry]:
    ferry = Ferry(tmp_path_factory.mktemp("ferry"), SHARED)
    yield ferry
    end(ferry)


def end(ferry: Ferry) -> None:
    """Stop a server, which must not have been surprised by anything it met."""
    ferry.stop()
    log = ferry.log.read_text(encoding="utf-8")
    assert [line for line in log.splitlines() if any(words in line for words in SURPRISES)] == []


@pytest.fixture
def server(shared: Ferry) -> Iterator[Ferry]:
    """The server all share; a test that kills or stops one takes its own."""
    yield shared
    shared.forget()


@pytest.fixture
def line(server: Ferry) -> Iterator[Line]:
    with server.line() as line:
        yield line


@pytest.fixture
def upload(server: Ferry) -> Upload:
    """A session to `/in/` that has no byte yet."""
    return server.begun()


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


def settings(*, directory: str = "", limits: str = "", top: str = "") -> str:
    """A bitsferry.toml with one directory, `/in/`."""
    return f"""
listen = ["127.0.0.1:0"]
store = "file:./store"
{top}

[limits]
{limits}

[[directory]]
url = "/in/"
folder = "./in"
{directory}
"""
