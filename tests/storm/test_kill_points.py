"""The server is killed in front of every single system call a packet makes it do, and hears it again."""

from __future__ import annotations

import http.client
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from store.disks import folder_in_memory, other_file_system
from store.tracing import EVERYTHING, Call, read_calls, traced

from .line import Heard, Line
from .serving import Servers

pytestmark = pytest.mark.storm

# What a server on sockets does besides; `epoll_wait` says nothing new.
CALLS = EVERYTHING + ",accept4,recvfrom,recvmsg,sendto,sendmsg,shutdown,pipe2,fcntl"
DATA = random.Random(1).randbytes(300_000)
HALF = 150_000
NAME = "file.bin"


@contextmanager
def line_to(port: int) -> Iterator[Line]:
    line = Line(port)
    try:
        yield line
    finally:
        line.close()


@dataclass(frozen=True)
class Story:
    """`held` bytes are sent, then a packet is said whose answer is lost, and said again."""

    name: str
    held: int
    say: Callable[[Line, str], Heard]
    leaves: bytes | None
    """What is at the destination when the packet was answered."""


def fragment(line: Line, session: str, start: int, stop: int) -> Heard:
    return line.fragment("/" + NAME, session, DATA, start, stop)


def close(line: Line, session: str) -> Heard:
    return line.close_session("/" + NAME, session)


def cancel(line: Line, session: str) -> Heard:
    return line.say("/" + NAME, "Cancel-Session", {"BITS-Session-Id": session})


STORIES = [
    Story("first fragment", 0, lambda line, session: fragment(line, session, 0, HALF), None),
    Story("last fragment", HALF, lambda line, session: fragment(line, session, HALF, len(DATA)), DATA),
    Story("close", len(DATA), close, DATA),
    Story("close of an empty file", 0, close, b""),
    Story("cancel half-way", HALF, cancel, None),
    Story("cancel when all is there", len(DATA), cancel, DATA),
]


@dataclass(frozen=True)
class Scene:
    """A folder to serve, the options to serve it with, and what is there already."""

    servers: Servers
    folder: Path
    options: list[str]
    older: bytes | None

    def start(self) -> None:
        self.servers.start(str(self.folder), *self.options)

    def prepare(self, line: Line, held: int) -> str:
        """An upload of which so many bytes are held; returns its session."""
        path = self.folder / NAME
        path.unlink(missing_ok=True)
        if self.older is not None:
            path.write_bytes(self.older)
        session = line.create("/" + NAME).headers["BITS-Session-Id"]
        for start in range(0, held, HALF):
            assert fragment(line, session, start, start + HALF).received == start + HALF
        return session

    def new_file(self, content: bytes | None) -> int | None:
        """The inode of the new file if it is there; whatever is there is whole."""
        path = self.folder / NAME
        there = path.read_bytes() if path.exists() else None
        assert there in (content, self.older)
        return path.stat().st_ino if there is not None and there == content else None


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
@pytest.mark.parametrize("where", ["near", "far", "over an older file"])
def test_killed_anywhere_the_packet_said_again_is_answered_as_if_nothing_had_happened(
    servers: Servers, tmp_path: Path, story: Story, where: str
) -> None:
    with folder_in_memory() as memory:
        folder, options = memory / "in", ["--store", f"file:{memory / 'store'}"]
        if where == "far":
            with other_file_system(tmp_path):
                folder = tmp_path / "in"
        older = b"older" if where == "over an older file" else None
        here = Scene(servers, folder, options + (["--allow-overwrites"] if older else []), older)
        here.start()
        try:
            _, calls, heard = speak(here, story)
            assert heard is not None
            assert heard.status == 200
            answered = next(number for number, call in enumerate(calls) if '"HTTP/1.1 200' in call.text)
            steps = [call for call in calls[:answered] if changes_something(call, memory, folder)]
            assert len(steps) > 3
            for step in [*steps, calls[answered]]:
                die_at(step, here, story)
        finally:
            servers.kill()


def changes_something(call: Call, *places: Path) -> bool:
    """Dying in front of a call that only asks is like dying in front of the next one."""
    asks = call.name in ("stat", "lstat", "newfstatat", "fstat", "statx", "lseek", "fcntl", "read", "pread64")
    if asks or ("open" in call.name and "O_CREAT" not in call.text):
        return False
    return any(str(place) in call.text for place in places)


def speak(here: Scene, story: Story, inject: str | None = None) -> tuple[str, list[Call], Heard | None]:
    """Tell the story up to its packet, which is said under strace.

    Returns the session, the system calls, and the answer unless the server was killed.
    """
    with line_to(here.servers.port) as line:
        session = here.prepare(line, story.held)
        heard = None
        with traced(here.servers.pid, CALLS, inject) as strace:
            with suppress(OSError, http.client.HTTPException):
                heard = story.say(line, session)
            if heard is not None:
                strace.stop()
        return session, read_calls(strace.lines), heard


def die_at(step: Call, here: Scene, story: Story) -> None:
    """Kill the server in front of a step, start another one, say the packet again."""
    session, _, heard = speak(here, story, f"{step.name}:signal=KILL:when={step.nth}")
    if heard is None:
        assert here.servers.ended() == -signal.SIGKILL
        here.start()
    else:
        assert step.name in ("pwrite64", "splice"), (
            f"{step}: it did not die there"
        )  # a body has no fixed pieces
    before = here.new_file(story.leaves)
    with line_to(here.servers.port) as line:
        for _ in range(2):
            again = story.say(line, session)
            assert again.status == 200, f"{step}: {again}"
            assert before in (None, here.new_file(story.leaves)), f"{step}: it was put there twice"
            before = here.new_file(story.leaves)
            assert (before is None) == (story.leaves is None), f"{step}: the Ack is no promise"
        if "fragment" in story.name:
            assert again.received == story.held + HALF
        closed = line.close_session("/" + NAME, session)
        assert closed.status == 200 or "cancel" in story.name, f"{step}: {closed}"
    there = {path.name for path in here.folder.iterdir()}
    expected = {NAME} if story.leaves is not None or here.older is not None else set()
    assert there == expected, str(step)
