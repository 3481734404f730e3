"""A disk that is full, read-only or failing is told of, costs no acknowledged byte, and may recover."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from store.disks import MIB, failing_disk, small_disk
from store.tracing import traced
from storm.line import Heard, Line
from storm.serving import Serving

DATA = random.Random(2).randbytes(int(1.5 * MIB))
PATH = "/file.bin"

DISK_FULL, WRITE_PROTECTED, IO_DEVICE = "0x80070070", "0x80070013", "0x8007045D"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def serve(stack: ExitStack, tmp_path: Path, folder: Path, store: Path) -> tuple[Serving, Line]:
    server = Serving(folder, tmp_path / "log", "--store", f"file:{store}")
    stack.callback(server.kill)
    server.start()
    line = Line(server.port)
    stack.callback(line.close)
    return server, line


def begin(line: Line) -> str:
    heard = line.create(PATH)
    assert heard.status == 200
    return heard.headers["BITS-Session-Id"]


def send(line: Line, session: str, start: int, stop: int) -> Heard:
    return line.fragment(PATH, session, DATA, start, stop)


def check_trouble(heard: Heard, code: str) -> None:
    assert heard.status == 500
    assert heard.headers["BITS-Error"] == heard.headers["BITS-Error-Code"] == code
    assert heard.headers["BITS-Error-Context"] == "0x5"


def held_in(store: Path) -> int:
    (data,) = store.glob("sessions/*/*/request.data")
    return data.stat().st_size


@pytest.mark.parametrize("size", [MIB, 100_000], ids=["one large fragment", "many small fragments"])
def test_a_full_store_keeps_what_it_acknowledged_and_goes_on_when_there_is_room(
    stack: ExitStack, tmp_path: Path, size: int
) -> None:
    disk = stack.enter_context(small_disk(tmp_path / "disk", 2 * MIB))
    folder, store = tmp_path / "in", disk / "store"
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(MIB))
    server, line = serve(stack, tmp_path, folder, store)
    session, acknowledged = begin(line), 0
    while True:
        heard = send(line, session, acknowledged, min(acknowledged + size, len(DATA)))
        assert heard.received >= acknowledged
        acknowledged = heard.received
        if heard.status != 200:
            break
    check_trouble(heard, DISK_FULL)
    assert acknowledged == held_in(store)
    assert 0 < acknowledged < MIB
    check_trouble(send(line, session, acknowledged, len(DATA)), DISK_FULL)
    check_trouble(line.create("/other.bin"), DISK_FULL)
    server.kill()
    server.start()  # the room is no larger after a restart, and the bytes no fewer
    line.close()
    heard = send(line, session, acknowledged, len(DATA))
    check_trouble(heard, DISK_FULL)
    assert heard.received >= acknowledged
    ballast.unlink()
    heard = send(line, session, heard.received, len(DATA))
    assert (heard.status, heard.received) == (200, len(DATA))
    assert (folder / "file.bin").read_bytes() == DATA
    assert line.close_session(PATH, session).status == 200


def test_a_full_destination_keeps_the_session_and_takes_the_file_when_there_is_room(
    stack: ExitStack, tmp_path: Path
) -> None:
    disk = stack.enter_context(small_disk(tmp_path / "disk", 2 * MIB))
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(MIB))
    _, line = serve(stack, tmp_path, disk, tmp_path / "store")
    session = begin(line)
    for _ in range(2):
        heard = send(line, session, 0, len(DATA))
        check_trouble(heard, DISK_FULL)
        assert heard.received == len(DATA)
        assert {path.name for path in disk.iterdir()} == {"ballast"}
    ballast.unlink()
    heard = send(line, session, len(DATA) - 1, len(DATA))
    assert (heard.status, heard.received) == (200, len(DATA))
    assert {path.name for path in disk.iterdir()} == {"file.bin"}
    assert (disk / "file.bin").read_bytes() == DATA


def test_a_store_that_turned_read_only_is_told_and_the_server_lives_on(
    stack: ExitStack, tmp_path: Path
) -> None:
    disk = stack.enter_context(failing_disk(tmp_path / "disk"))
    server, line = serve(stack, tmp_path, tmp_path / "in", disk.folder / "store")
    session = begin(line)
    assert send(line, session, 0, 50_000).received == 50_000
    disk.fail()
    heard = send(line, session, 50_000, 100_000)
    check_trouble(heard, WRITE_PROTECTED)
    assert heard.received == 50_000
    check_trouble(line.create("/other.bin"), WRITE_PROTECTED)
    assert line.say("/", "Ping").status == 200
    assert server.stop() == 0


def test_a_destination_that_turned_read_only_is_told_and_the_session_lives(
    stack: ExitStack, tmp_path: Path
) -> None:
    disk = stack.enter_context(failing_disk(tmp_path / "disk"))
    _, line = serve(stack, tmp_path, disk.folder, tmp_path / "store")
    session = begin(line)
    disk.fail()
    for _ in range(2):
        heard = send(line, session, 0, len(DATA))
        check_trouble(heard, WRITE_PROTECTED)
        assert heard.received == len(DATA)
    assert begin(line)


def test_what_a_failing_disk_did_not_take_is_not_acknowledged(stack: ExitStack, tmp_path: Path) -> None:
    server, line = serve(stack, tmp_path, tmp_path / "in", tmp_path / "store")
    session = begin(line)
    assert send(line, session, 0, 50_000).received == 50_000
    with traced(server.pid, "fdatasync", "fdatasync:error=EIO:when=1") as strace:
        heard = send(line, session, 50_000, 100_000)
        strace.stop()
    check_trouble(heard, IO_DEVICE)
    assert heard.received == 50_000
    heard = send(line, session, 50_000, len(DATA))
    assert (heard.status, heard.received) == (200, len(DATA))
    assert (tmp_path / "in" / "file.bin").read_bytes() == DATA
