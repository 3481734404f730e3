"""ASGI servers as processes, and uploads on their way to them."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from server import raw
from server.raw import Answer, Line

KINDS = ("granian", "hypercorn", "uvicorn")
_names = itertools.count(1)


class Host:
    """One server over `folder`, of some kind: one of KINDS, or httptools, which is uvicorn with that parser.

    `options` are of its command line.
    """

    def __init__(
        self, kind: str, folder: Path, *options: str, application: str = "alone", **environment: str
    ) -> None:
        self.kind = kind
        self.folder = folder
        self.port = 0
        self._options = options
        self._application = f"asgi.applications:{application}"
        self._environment = environment
        self.start()

    def start(self) -> None:
        """Return when connections are accepted."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
            if self.kind == "granian":  # which takes no socket, only a port
                listener.close()
                self._run("--interface", "asgi", "--host", "127.0.0.1", "--port", str(self.port))
                assert raw.eventually(self._accepts), self.log
            elif self.kind == "hypercorn":
                self._run("--bind", f"fd://{listener.fileno()}", listener=listener)
            else:
                http = "h11" if self.kind == "uvicorn" else "httptools"
                self._run("--http", http, "--fd", str(listener.fileno()), listener=listener)

    def _run(self, *options: str, listener: socket.socket | None = None) -> None:
        module = (
            "granian" if self.kind == "granian" else "hypercorn" if self.kind == "hypercorn" else "uvicorn"
        )
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *options, *self._options, self._application],
                env={
                    **os.environ,
                    **self._environment,
                    "PYTHONPATH": str(Path(__file__).parent.parent),
                    "BITSFERRY_TEST_FOLDER": str(self.folder),
                },
                pass_fds=[listener.fileno()] if listener else [],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _accepts(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except ConnectionError:
            return False
        return True

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def terminate(self) -> None:
        """Ask it to end; return when it did."""
        self.process.terminate()
        self.process.wait(raw.PATIENCE)

    def stop(self) -> None:
        """The end of a test: no process stays, nor a worker of it."""
        try:
            if self.process.poll() is None:
                self.terminate()
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


class Upload:
    """One file on its way to a host, over one line after the other."""

    def __init__(self, host: Host, *, prefix: str = "") -> None:
        name = f"file-{os.getpid()}-{next(_names)}"
        self.host = host
        self.url = f"{prefix}/in/{name}"
        self.file = host.folder / "in" / name
        self.line = Line(host.port)
        answer = self.line.ask(raw.create(self.url))
        assert answer.verdict == (200, None)
        assert answer.is_ack
        self.session = answer.session or ""

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *error: object) -> None:
        self.line.hang_up()

    def call_again(self) -> None:
        """Go on over a new line; the old one stays as it is."""
        self.line = Line(self.host.port)

    def begin(self, data: bytes, *, sent: int) -> None:
        """A fragment with all of `data` of whose body only `sent` bytes go out."""
        whole = raw.fragment(self.url, self.session, data)
        self.line.send(whole[: len(whole) - len(data) + sent])

    def send(self, data: bytes, at: int = 0, *, size: int = 400_000, lines: bool = False) -> None:
        """What is missing of `data` from `at` on, in fragments of `size` bytes, each on a line of its own?"""
        for start in range(at, len(data), size):
            if lines:
                self.line.hang_up()
                self.call_again()
            block = data[start : start + size]
            answer = self.line.ask(raw.fragment(self.url, self.session, block, at=start, total=len(data)))
            assert (answer.status, answer.received) == (200, start + len(block))

    def has_on_disk(self, count: int) -> bool:
        """Whether the store comes to have so many bytes, without being asked."""
        guid = self.session.strip("{}")
        data = self.host.folder / "store" / "sessions" / guid[:2] / guid / "request.data"
        return raw.eventually(lambda: data.stat().st_size >= count)

    def held(self, total: int) -> int:
        """How many bytes of a file of `total` are held, asked by a fragment that leaves a gap."""
        answer = self.line.ask(raw.fragment(self.url, self.session, b"?", at=total - 1))
        assert answer.verdict == (416, None)
        assert answer.received is not None
        return answer.received

    def close(self) -> Answer:
        return self.line.ask(raw.close(self.url, self.session))
