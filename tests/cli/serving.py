"""`bitsferry serve` as a process of its own, with what it prints and the processes it makes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from server import raw
from server.raw import Answer, Line, eventually

SERVE = [sys.executable, "-m", "bitsferry", "serve"]


class Served:
    """A server that was started with these arguments; `ready` waits until it listens."""

    def __init__(
        self,
        folder: Path,
        arguments: list[str],
        *,
        environment: dict[str, str] | None = None,
        command: list[str] | None = None,
        descriptors: tuple[int, ...] = (),
    ) -> None:
        """`command` instead of ours runs the server; `descriptors` stay open in it."""
        if sys.platform != "linux":
            pytest.skip("the server's home is Linux")
        self._out, self._log = folder / "out", folder / "log"
        with self._out.open("wb") as out, self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*(command or SERVE), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                cwd=folder,
                env=os.environ | (environment or {}),
                pass_fds=descriptors,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        return self._out.read_text(encoding="utf-8")

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def ready(self, listeners: int = 1) -> Served:
        """Returns itself when it said that so many addresses listen."""
        eventually(lambda: self.out.count("\n") >= listeners or self.process.poll() is not None, 20)
        assert self.out.count("\n") == listeners, self.log
        return self

    @property
    def urls(self) -> list[str]:
        """What it says it listens on."""
        lines = self.out.splitlines()
        assert all(line.startswith("listening on ") for line in lines), lines
        return [line.removeprefix("listening on ") for line in lines]

    @property
    def port(self) -> int:
        return urlsplit(self.urls[0]).port or 0

    def line(self) -> Line:
        return Line(self.port)

    @property
    def refuses(self) -> bool:
        """Nobody takes new connections any more."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) != 0

    def tell(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def says(self, text: str, times: int = 1) -> bool:
        """Whether its log has a text so often, soon."""
        return eventually(lambda: self.log.count(text) >= times)

    def ended(self, within: float = 20.0) -> int:
        """Its exit code, once it ended."""
        return self.process.wait(within)

    @property
    def workers(self) -> list[int]:
        """The processes it made that still live."""
        return [pid for pid in self._children() if is_alive(pid)]

    def _children(self) -> list[int]:
        with suppress(OSError):
            text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii")
            return [int(pid) for pid in text.split()]
        return []

    def serving(self, line: Line) -> int:
        """The process at the other end of a line; 0 as long as nobody took it."""
        here = line.socket.getsockname()[1]
        entries = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
        for fields in map(str.split, entries):
            if fields[1].endswith(f":{self.port:04X}") and fields[2].endswith(f":{here:04X}"):
                for pid in [self.pid, *self.workers]:
                    if f"socket:[{fields[9]}]" in sockets(pid):
                        return pid
        return 0

    def stop(self) -> None:
        """The end of a test: no process stays."""
        for pid in [self.pid, *self._children()]:
            if self.process.poll() is None or pid != self.pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()


def is_alive(pid: int) -> bool:
    """The process is there, and not only as a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def sockets(pid: int) -> set[str]:
    """The sockets a process has open, as /proc names them."""
    found = set()
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def put(line: Line, url: str, data: bytes) -> Answer:
    """A whole file in one fragment; the Ack of the fragment, or of the Create-Session that was refused."""
    created = line.ask(raw.create(url))
    if created.status != 200:
        return created
    return line.ask(raw.fragment(url, created.session or "", data))


class Sending:
    """A fragment of which the first half has arrived."""

    def __init__(self, served: Served, url: str = "/in/file", size: int = 1 << 20) -> None:
        self.url = url
        self.data = os.urandom(size)
        self.line = served.line()
        self.session = self.line.ask(raw.create(url)).session or ""
        request = raw.fragment(url, self.session, self.data)
        self._rest = request[-size // 2 :]
        self.line.send(request[: -size // 2])

    def finish(self) -> Answer:
        self.line.send(self._rest)
        return self.line.answer()


def arrived(store: Path, size: int) -> bool:
    """Whether the only open upload has so many bytes in the store, soon."""
    return raw.eventually(lambda: [path.stat().st_size for path in store.rglob("request.data")] == [size])
