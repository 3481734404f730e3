"""A `bitsferry serve` process, and uploads on their way to it."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from . import raw
from .raw import Answer, Line

_names = itertools.count(1)
_TCP = Path("/proc/net/tcp")


class Ferry:
    """One server over `folder`, which holds its settings, its store and what its directories receive."""

    def __init__(self, folder: Path, settings: str) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.port = 0
        self._uploads: list[Upload] = []
        self._settings = folder / "bitsferry.toml"
        self.configure(settings)
        self.start()

    def configure(self, settings: str) -> None:
        self._settings.write_text(settings, encoding="utf-8")

    def start(self) -> None:
        """Return when it listens."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bitsferry", "serve", "--config", str(self._settings)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), self.log.read_text()
        self.port = int(line.strip().rstrip("/").rpartition(":")[2])

    def kill(self) -> None:
        """As a power cut would, for the process."""
        self._send(signal.SIGKILL)
        self.ended()

    def terminate(self) -> None:
        """Ask it to end."""
        self._send(signal.SIGTERM)

    def catch_up(self) -> None:
        """Return when it has read every byte that was sent to it, whether or not the line still stands.

        A newer request of a session would cut off an older one whose bytes wait in the system.
        """
        if not _TCP.exists():
            time.sleep(0.5)
            return
        assert raw.eventually(
            lambda: not any(map(self._is_on_its_way, _TCP.read_text("ascii").splitlines()[1:]))
        )

    def _is_on_its_way(self, connection: str) -> bool:
        """Whether a line of the system's table speaks of bytes to us that we have not read."""
        here, there, _, queues = connection.split()[1:5]
        unsent, unread = (int(size, 16) for size in queues.split(":"))
        if _port(here) == self.port:
            return unread > 0
        return _port(there) == self.port and unsent > 0

    def reload(self) -> None:
        """Ask it to read its settings again."""
        self._send(signal.SIGHUP)

    def ended(self) -> int:
        """Its exit code, once it ended."""
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(raw.PATIENCE)

    def restart(self) -> None:
        """Kill it without a word and start it again; lines to it are gone, uploads get new ones."""
        self.kill()
        self.start()
        for upload in self._uploads:
            upload.call_again()

    def forget(self) -> None:
        """Hang up the lines of all uploads."""
        for upload in self._uploads:
            upload.line.hang_up()
        self._uploads.clear()

    def stop(self) -> None:
        """The end of a test: no line and no process stays."""
        self.forget()
        if self.process.poll() is None:
            self.kill()

    def _send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def line(self) -> Line:
        return Line(self.port)

    def upload(self, under: str = "/in/", name: str | None = None) -> Upload:
        """A file nobody else sends, to the directory at `under`, before its Create-Session."""
        name = name or f"file-{os.getpid()}-{next(_names)}"
        upload = Upload(self, under + name, self.folder / under.strip("/") / name)
        self._uploads.append(upload)
        return upload

    def begun(self, under: str = "/in/", name: str | None = None) -> Upload:
        """The same, after it."""
        upload = self.upload(under, name)
        assert upload.create().verdict == (200, None)
        return upload

    @property
    def is_listening(self) -> bool:
        """Somebody answers the door."""
        try:
            self.line().hang_up()
        except (ConnectionRefusedError, ConnectionResetError):  # or hung up on while we waited at it
            return False
        return True

    @property
    def is_welcoming(self) -> bool:
        """There is room for one more connection."""
        with suppress(OSError), self.line() as line:
            return line.ask(raw.ping("/in/a")).status == 200
        return False

    @property
    def memory(self) -> int:
        """How many bytes of memory the process has."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * resource.getpagesize()

    @property
    def files(self) -> set[str]:
        """Every name below the folders it receives into, the store and the settings apart."""
        own = {"store", "log", "bitsferry.toml"}
        return {
            str(path.relative_to(self.folder))
            for path in self.folder.rglob("*")
            if path.relative_to(self.folder).parts[0] not in own
        }


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


class Upload:
    """One file on its way over one line; `file` is where it will appear."""

    def __init__(self, ferry: Ferry, url: str, file: Path) -> None:
        self._ferry = ferry
        self.line = ferry.line()
        self.url = url
        self.file = file
        self.session = ""

    def call_again(self) -> None:
        """Go on over a new line."""
        self.line.hang_up()
        self.line = self._ferry.line()

    def create(self) -> Answer:
        answer = self.line.ask(raw.create(self.url))
        self.session = answer.session or ""
        return answer

    def ping(self, **headers: str | None) -> Answer:
        return self.line.ask(raw.ping(self.url, **headers))

    def fragment(
        self, data: bytes, *, at: int = 0, total: int | None = None, **headers: str | None
    ) -> Answer:
        return self.line.ask(raw.fragment(self.url, self.session, data, at=at, total=total, **headers))

    def send(self, data: bytes, size: int) -> Answer:
        """All of `data` in fragments of `size` bytes; the last Ack."""
        for at in range(0, len(data), size):
            answer = self.fragment(data[at : at + size], at=at, total=len(data))
            assert answer.verdict == (200, None)
            assert answer.received == min(at + size, len(data))
        return answer

    def close(self) -> Answer:
        return self.line.ask(raw.close(self.url, self.session))

    def cancel(self) -> Answer:
        return self.line.ask(raw.cancel(self.url, self.session))

    def held(self, total: int = 2**40) -> int:
        """How many bytes the server has of a file of `total`, fewer than all but one.

        It is asked as a client finds out: by a fragment, here of the last byte, that leaves a gap.
        """
        answer = self.fragment(b"?", at=total - 1)
        assert answer.verdict == (416, None)
        assert answer.received is not None
        return answer.received
