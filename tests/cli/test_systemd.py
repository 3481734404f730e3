"""What systemd does for a server, and wants to be told by it; here without systemd."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from server import raw
from server.raw import Line

from .conftest import Configure, Start
from .serving import SERVE, Sending, arrived

# As systemd starts a service whose sockets it opened: they are the descriptors from 3 on.
ACTIVATED = [
    sys.executable,
    "-c",
    "import fcntl, os, sys\n"
    "held = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in sys.argv[1].split(',')]\n"
    "for place, number in enumerate(held, start=3):\n"
    "    os.dup2(number, place)\n"
    "    os.close(number)\n"
    "environment = os.environ | {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': str(len(held))}\n"
    "os.execve(sys.argv[2], sys.argv[2:], environment)\n",
]


@contextmanager
def listening(path: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP and a Unix socket, as a socket unit opens them."""
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        unix.bind(str(path))
        unix.listen()
        yield tcp, unix


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sockets_that_are_handed_over_are_served_instead_of_the_settings(
    start: Start, configure: Configure, tmp_path: Path, workers: str
) -> None:
    path = tmp_path / "socket"
    with listening(path) as (tcp, unix):
        given = (tcp.fileno(), unix.fileno())
        command = [*ACTIVATED, ",".join(map(str, given)), *SERVE]
        arguments = ("--config", configure(), "--workers", workers)
        port = tcp.getsockname()[1]
        with Line(port) as early:  # before the server is there
            early.send(raw.ping("/in/x"))
            served = start(*arguments, command=command, descriptors=given).ready(2)
            assert early.answer().status == 200
        assert served.urls == [f"http://127.0.0.1:{port}/", f"unix:{path}"]
        with Line(str(path)) as line:
            assert line.ask(raw.ping("/in/x")).status == 200
        served.tell(signal.SIGTERM)
        assert served.ended() == 0
        # The sockets are not ours to close: who comes now is served by the next one.
        with Line(port) as line, Line(str(path)) as other:
            for waiting in (line, other):
                waiting.send(raw.ping("/in/x"))
            start(*arguments, command=command, descriptors=given).ready(2)
            assert line.answer().status == other.answer().status == 200


def test_sockets_for_another_process_are_left_alone(
    start: Start, configure: Configure, tmp_path: Path
) -> None:
    with listening(tmp_path / "socket") as (tcp, _):
        served = start("--config", configure(), environment={"LISTEN_PID": "1", "LISTEN_FDS": "1"}).ready()
        assert served.port != tcp.getsockname()[1]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (socket.SOCK_DGRAM, "is no socket that listens"),
        (socket.SOCK_STREAM, "is no socket that listens"),
        (None, "the sockets handed over by systemd cannot be used: "),
    ],
)
def test_a_descriptor_that_is_no_listener_is_an_error(
    start: Start, configure: Configure, kind: socket.SocketKind | None, reason: str
) -> None:
    with socket.socket(type=kind or socket.SOCK_STREAM) as given, open("/dev/null", "rb") as nothing:
        descriptor = nothing.fileno() if kind is None else given.fileno()
        served = start(
            *("--config", configure()),
            command=[*ACTIVATED, str(descriptor), *SERVE],
            descriptors=(descriptor,),
        )
        assert served.ended() == 1
    assert served.log.startswith("bitsferry: ")
    assert reason in served.log
    assert served.log.count("\n") == 1


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_how_it_goes(
    start: Start, configure: Configure, tmp_path: Path, workers: str, abstract: bool
) -> None:
    address = f"@bitsferry-test-{tmp_path.name}-{id(tmp_path)}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address.replace("@", "\0") if abstract else address)
        systemd.settimeout(raw.PATIENCE)
        served = start("--config", configure(), "--workers", workers, environment={"NOTIFY_SOCKET": address})
        assert systemd.recv(1000) == b"READY=1"
        assert served.ready().urls  # what it says, it says before
        sending = Sending(served)
        assert arrived(tmp_path / "store", 1 << 19)
        served.tell(signal.SIGHUP)
        reloading, _, since = systemd.recv(1000).partition(b"\n")
        assert reloading == b"RELOADING=1"
        assert int(since.removeprefix(b"MONOTONIC_USEC=")) > 0
        assert systemd.recv(1000) == b"READY=1"
        served.tell(signal.SIGTERM)
        assert systemd.recv(1000) == b"STOPPING=1"  # while the fragment still runs
        assert sending.finish().status == 200
        sending.line.hang_up()
        assert served.ended() == 0
        systemd.setblocking(False)
        with pytest.raises(BlockingIOError):
            systemd.recv(1000)  # the workers keep quiet: systemd would not listen to them


def test_nobody_who_listens_is_no_trouble(start: Start, configure: Configure, tmp_path: Path) -> None:
    served = start("--config", configure(), environment={"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    served.tell(signal.SIGTERM)
    assert served.ended() == 0
