"""`bitsferry jobs monitor` on a terminal."""

from __future__ import annotations

import codecs
import os
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bitsferry.client.client import Client
from bitsferry.client.job import Job
from server.raw import eventually

fcntl = pytest.importorskip("fcntl")
pty = pytest.importorskip("pty")
termios = pytest.importorskip("termios")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with an empty queue."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def create(name: str) -> Job:
    with Client() as client:
        return client.create(name)


@pytest.fixture
def terminal(home: Path) -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


class Terminal:
    """A terminal of 80 columns and 24 lines, with `bitsferry jobs monitor` in front of it."""

    def __init__(self) -> None:
        self._person, self._program = pty.openpty()
        self._modes = termios.tcgetattr(self._program)
        self.resize(80, 24)
        self._process: subprocess.Popen[bytes] | None = None
        self.text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a letter may come in two parts

    def begin(self, *arguments: str) -> None:
        for name in ("COLUMNS", "LINES"):  # xdist sets them for its workers, and they hold for ever
            os.environ.pop(name, None)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bitsferry", "jobs", "monitor", *arguments],
            stdin=self._program,
            stdout=self._program,
            stderr=self._program,
            env=os.environ | {"TERM": "xterm-256color"},
            start_new_session=True,
        )

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._program, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def shows(self, text: str) -> bool:
        """Whether a text comes soon; what came before it is read away."""

        def came() -> bool:
            if select.select([self._person], [], [], 0)[0]:
                self.text += self._decoder.decode(os.read(self._person, 65536))
            return text in self.text

        found = eventually(came, 20)
        self.text = self.text.partition(text)[2]
        return found

    def type(self, keys: str) -> None:
        os.write(self._person, keys.encode())

    def tell(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def ended(self) -> int:
        """The exit code, once the process ended and left the terminal as it was."""
        assert self.shows("\x1b[?1049l"), "the other screen stayed"
        assert self._process is not None
        code = self._process.wait(10)
        assert termios.tcgetattr(self._program) == self._modes
        return code

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        os.close(self._person)
        os.close(self._program)


@pytest.mark.parametrize(
    ("leave", "code"),
    [
        (lambda terminal: terminal.type("q"), 0),
        (lambda terminal: terminal.tell(signal.SIGINT), 130),
        (lambda terminal: terminal.tell(signal.SIGTERM), 75),
    ],
)
def test_the_monitor_leaves_the_terminal_as_it_was(
    terminal: Terminal, leave: Callable[[Terminal], None], code: int
) -> None:
    create("weekly")
    terminal.begin()
    assert terminal.shows("\x1b[?1049h")
    assert terminal.shows("1 job")
    assert terminal.shows("weekly")
    assert terminal.shows("q: quit")
    leave(terminal)
    assert terminal.ended() == code


def test_the_monitor_draws_anew_when_the_terminal_changes(terminal: Terminal) -> None:
    create("a name that is too long for forty columns")
    terminal.begin("--interval", "1 hour")
    assert terminal.shows("forty columns")
    terminal.resize(40, 10)
    assert terminal.shows("a name that is t…")
    terminal.type("q")
    assert terminal.ended() == 0


def test_the_monitor_of_a_job_that_is_over_leaves_its_last_picture(terminal: Terminal) -> None:
    job = create("weekly")
    terminal.begin("weekly", "--interval", "0.1")
    assert terminal.shows("suspended")
    with Client() as client:
        client.cancel(job)
    assert terminal.ended() == 0
    assert terminal.shows("weekly: gone; somebody has completed or cancelled it")


def test_the_monitor_shows_what_changes(terminal: Terminal) -> None:
    terminal.begin("--interval", "0.1")
    assert terminal.shows("the queue is empty")
    create("weekly")
    assert terminal.shows("weekly")
    terminal.type("q")
    assert terminal.ended() == 0
