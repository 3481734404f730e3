"""A connected socket that hears an answer while a body is still going out.

A server may answer before it has read the whole body (413, 403, 503) and close. Whoever only writes then
meets a broken pipe, and the answer is lost with it. So every block waits until the socket takes it *or* has
something to say, and what it says early is kept for the response.
"""

from __future__ import annotations

import io
import os
import selectors
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from bitsferry.client.local_file import LocalFile
from bitsferry.protocol.errors import LocalFileChanged

__all__ = ["Line"]

_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_EARLY = 64 * 1024  # bytes read at once while a body goes out: more than any head of an answer


class Line:
    """A socket, plain or TLS, in the place where `http.client` expects one.

    `sending` is how long, in seconds, the other end may take no byte; `answering` how long its whole answer
    may take (MC-BUP 3.1.2). Methods raise OSError when the line breaks, TimeoutError among them.
    """

    def __init__(self, sock: socket.socket, *, sending: float, answering: float) -> None:
        self._sock = sock
        self._sending = sending
        self._answering = answering
        self._early = bytearray()
        self._block = memoryview(b"")  # what was read from the file and is not sent yet

    def is_stale(self) -> bool:
        """Whether the other end closed, or spoke without being asked, while nothing was under way."""
        self._sock.settimeout(0)
        try:
            self._sock.recv(1)
        except _NOT_NOW:
            return False
        except OSError:
            pass
        return True

    def sendall(self, data: bytes) -> None:
        """Send a head, as `http.client` does."""
        self._sock.settimeout(self._sending)
        self._sock.sendall(data)

    def send_body(
        self,
        file: LocalFile,
        start: int,
        stop: int,
        *,
        block_length: int,
        on_block: Callable[[int, int], None],
    ) -> bool:
        """Send the bytes `start <= offset < stop` of the file, `block_length` at a time.

        `on_block(offset, length)` hears of each block that went out. Returns False when the other end
        answered or hung up before it had all. Raises OSError, or LocalFileChanged when the file shrank.
        """
        self._sock.settimeout(0)
        self._block = self._block[:0]
        by_system = hasattr(os, "sendfile") and not isinstance(self._sock, ssl.SSLSocket)
        send_some = self._sendfile if by_system else self._read_and_send
        with selectors.DefaultSelector() as selector:
            selector.register(self._sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
            offset = start
            while offset < stop:
                ready = selector.select(self._sending)
                if not ready:
                    raise TimeoutError(f"it took no byte for {self._sending:.0f} s")
                if ready[0][1] & selectors.EVENT_READ and self._has_answered():
                    return False
                try:
                    count = send_some(file, offset, min(block_length, stop - offset))
                except _NOT_NOW:
                    continue
                except ConnectionError:
                    return False  # why, its answer may say
                on_block(offset, count)
                offset += count
        return True

    def _sendfile(self, file: LocalFile, offset: int, length: int) -> int:
        """The system carries the bytes from file to socket; they are never here."""
        count = os.sendfile(self._sock.fileno(), file.fileno(), offset, length)
        if not count:
            raise LocalFileChanged(f"{file.shown} became shorter while it was being sent")
        return count

    def _read_and_send(self, file: LocalFile, offset: int, length: int) -> int:
        """Through memory, not mmap: a file that shrinks under one kills the process (SIGBUS)."""
        if not self._block:
            block = memoryview(bytearray(length))
            self._block = block[: file.read_into(block, offset)]
        count = self._sock.send(self._block)  # after "not now", TLS needs the very same bytes again
        self._block = self._block[count:]
        return count

    def _has_answered(self) -> bool:
        """Whether the other end said its answer, or hung up; TLS may become readable for less."""
        try:
            said = self._sock.recv(_EARLY)
        except _NOT_NOW:
            return False
        if not said:
            return True
        self._early += said
        # Old IIS says "100 Continue" without having been asked: that is no answer yet.
        head, _, rest = self._early.partition(b"\r\n\r\n")
        return bool(rest) or not head.startswith(b"HTTP/1.1 100")

    def makefile(self, mode: str = "rb", buffering: int | None = None, **_: Any) -> io.BufferedReader:
        """What `http.client` reads the answer from."""
        return io.BufferedReader(_Answer(self._sock, self._early, self._answering))

    def close(self) -> None:
        """Hang up."""
        self._sock.close()


class _Answer(io.RawIOBase):
    """The bytes of one answer: those that came early, then those that come within `limit` seconds."""

    def __init__(self, sock: socket.socket, early: bytearray, limit: float) -> None:
        super().__init__()
        self._sock = sock
        self._early = early
        self._limit = limit
        self._deadline = time.monotonic() + limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._early:
            count = min(len(buffer), len(self._early))
            buffer[:count] = self._early[:count]
            del self._early[:count]
            return count
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"no whole answer came within {self._limit:.0f} s")
        self._sock.settimeout(left)
        try:
            return self._sock.recv_into(buffer)
        except TimeoutError:
            raise TimeoutError(f"no whole answer came within {self._limit:.0f} s") from None
