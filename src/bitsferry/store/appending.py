"""Appends the bytes of a fragment to a file, each block touched by Python once or not at all."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import resource
import time
from contextlib import suppress

from bitsferry.store.base import Receiver
from bitsferry.store.threads import error_of_os, in_thread

__all__ = ["Appender", "Disk"]

SLOW_WRITE = 0.002  # seconds in one write after which the disk is busy
SLOW_SPELL = 2.0  # seconds for which its writes then go to threads
_PIPE = 1 << 20  # bytes on their way through a pipe at once, the most an ordinary user may have
# A file system or a sandbox may know no splice, or refuse it.
_NO_SPLICE = (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP)
_THREAD = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", 1031)


class Disk:
    """What the appenders of one store share: how quick its disk is just now, and a pipe.

    While a write takes long, writing in place would hold up everybody else's Acks (a bulk upload on a
    saturated disk: 65 ms at the 99th percentile, 10 with threads). Memory never does.
    """

    def __init__(self, path: str) -> None:
        """The disk under `path`."""
        self.in_memory = _in_memory(path)
        self.splices = hasattr(os, "splice")
        self._slow_until = 0.0
        self._pipe: tuple[int, int] | None = None

    @property
    def is_slow(self) -> bool:
        """Writes belong into threads just now."""
        return not self.in_memory and time.monotonic() < self._slow_until

    def begin(self) -> tuple[float, int] | None:
        """A write begins: the time in seconds, and how often this thread has waited so far."""
        return None if self.in_memory else (time.monotonic(), _waits())

    def end(self, begun: tuple[float, int] | None) -> None:
        """The write that began so is done. One that only lost the processor for a while was not slow."""
        if begun is not None and (now := time.monotonic()) - begun[0] > SLOW_WRITE and _waits() > begun[1]:
            self._slow_until = now + SLOW_SPELL

    def splice(self, source: int, target: int, offset: int, most: int) -> int:
        """Move up to `most` bytes from a socket to a file without showing them to Python.

        Returns how many; 0 is the socket's end. Raises BlockingIOError when there is nothing now, or when
        the system cannot (then `splices` says so, and nothing was moved), ConnectionError when the socket
        broke, another OSError when the file did: then bytes are lost that were not in the file yet, as if
        they had never come.
        """
        reader, writer = self._open_pipe()
        try:
            arrived = os.splice(source, writer, most, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno in _NO_SPLICE:
                self.splices = False
                raise BlockingIOError(*error.args) from error
            raise ConnectionResetError(*error.args) from error
        try:
            self._empty_pipe(reader, target, offset, arrived)
        except OSError:
            self.close()  # what is in the pipe belongs to nobody now
            raise
        return arrived

    def _empty_pipe(self, reader: int, target: int, offset: int, left: int) -> None:
        """By splice; by hand where this file system has none, and from then on without the pipe."""
        while left:
            moved = 0
            if self.splices:
                try:
                    moved = os.splice(reader, target, left, offset_dst=offset)
                except OSError as error:
                    if error.errno not in _NO_SPLICE:
                        raise
                    self.splices = False
            if not moved:
                block = os.read(reader, left)
                _write_all(target, memoryview(block), offset)
                moved = len(block)
            offset += moved
            left -= moved

    def _open_pipe(self) -> tuple[int, int]:
        if self._pipe is None:
            self._pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            with suppress(OSError):
                fcntl.fcntl(self._pipe[1], _F_SETPIPE_SZ, _PIPE)
        return self._pipe

    def close(self) -> None:
        """Let go of the pipe."""
        for descriptor in self._pipe or ():
            os.close(descriptor)
        self._pipe = None


class Appender(Receiver):
    """Writes to `file` from `offset` on: in place while the disk is quick, in a thread while it is slow."""

    __slots__ = ("_disk", "_file", "_offset", "_skip")

    def __init__(self, disk: Disk, file: int, offset: int, skip: int) -> None:
        """The first `skip` bytes given are dropped: they are in the file already."""
        self._disk = disk
        self._file = file
        self._offset = offset
        self._skip = skip

    def write(self, block: memoryview) -> asyncio.Future[None] | None:
        """See Receiver."""
        if self._skip:
            skipped = min(self._skip, len(block))
            self._skip -= skipped
            if skipped == len(block):
                return None
            block = block[skipped:]
        offset = self._offset
        self._offset += len(block)
        if self._disk.is_slow:
            return asyncio.ensure_future(in_thread(_write_all, self._file, block, offset))
        begun = self._disk.begin()
        try:
            _write_all(self._file, block, offset)
        except OSError as error:
            raise error_of_os(error) from error
        self._disk.end(begun)
        return None

    @property
    def pulls(self) -> bool:
        """See Receiver: Linux can, while nothing is to be dropped and the disk keeps up."""
        return self._disk.splices and not self._skip and not self._disk.is_slow

    def pull(self, source: int, most: int) -> int:
        """See Receiver."""
        begun = self._disk.begin()
        try:
            moved = self._disk.splice(source, self._file, self._offset, most)
        except (BlockingIOError, ConnectionError):
            raise
        except OSError as error:
            raise error_of_os(error) from error
        self._offset += moved
        self._disk.end(begun)
        return moved


def _waits() -> int:
    """How often this thread gave the processor up to wait for something."""
    return resource.getrusage(_THREAD).ru_nvcsw


def _write_all(file: int, block: memoryview, offset: int) -> None:
    while block:
        written = os.pwrite(file, block, offset)
        offset += written
        block = block[written:]


def _in_memory(path: str) -> bool:
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError), open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            fields, _, kind = line.partition(" - ")
            if fields.split()[2] == number:
                return kind.split()[0] in ("tmpfs", "ramfs")
    return False
