"""A body pulled out of a socket arrives whole, also where the system cannot splice."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bitsferry.store.appending import Appender, Disk

DATA = os.urandom(60_000)
real_splice = getattr(os, "splice", None)

pytestmark = pytest.mark.skipif(real_splice is None, reason="this system has no splice")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "data", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def pull_or_push(receiver: Appender, source: socket.socket) -> None:
    """As the front does: pulled while that works, else pushed block by block."""
    left = len(DATA)
    while left:
        moved = 0
        if receiver.pulls:
            with suppress(BlockingIOError):
                moved = receiver.pull(source.fileno(), left)
        else:
            block = source.recv(left)
            assert receiver.write(memoryview(block)) is None
            moved = len(block)
        left -= moved


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EPERM])
@pytest.mark.parametrize("refused", ["nothing", "socket", "file"])
def test_a_body_arrives_whole_where_splice_is_refused(
    file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str, number: int
) -> None:
    def splice(source: int, target: int, count: int, **options: int) -> int:
        if refused == ("file" if target == file else "socket"):
            raise OSError(number, os.strerror(number))
        call: Callable[..., int] | None = real_splice
        assert call is not None
        return call(source, target, count, **options)

    monkeypatch.setattr("os.splice", splice)
    disk = Disk(str(tmp_path))
    near, far = socket.socketpair()
    with near, far:
        far.sendall(DATA)
        receiver = Appender(disk, file, 0, 0)
        pull_or_push(receiver, near)
    assert os.pread(file, len(DATA) + 1, 0) == DATA
    assert receiver.pulls == (refused == "nothing")
    disk.close()
