"""A connected socket that hears an answer while a body is still going out.

A server may answer before it has read the whole body (413, 403, 503) and close. Whoever only writes then
meets a broken pipe, and the answer is lost with it. So every block waits until the socket takes it *or* has
something to say, and what it says early is kept for the response.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import selectors
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from bitsferry.client.local_file import LocalFile
from bitsferry.client.waiting import SPELL, Ended, wait
from bitsferry.protocol.errors import LocalFileChanged

__all__ = ["Line"]

_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_CONTINUE = b"HTTP/1.1 100"
_EARLY = 64 * 1024  # bytes read at once while a body goes out: more than any head of an answer
_BUFFER = 256 * 1024  # bytes read from the file at once, where the system does not carry them

# What the socket module has names for on some systems only.
_SO_MAX_PACING_RATE = 47
_TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 0x201 if sys.platform == "darwin" else None)
_TCP_KEEPIDLE = getattr(socket, "TCP_KEEPIDLE", 0x10 if sys.platform == "darwin" else None)
_TCP_CONNECTION_INFO = 0x106

# Half a minute of silence, then six questions ten seconds apart: routers remember the connection, or we hear
# that it is gone.
_KEEPALIVE = (
    (_TCP_KEEPIDLE, 30),
    (getattr(socket, "TCP_KEEPINTVL", None), 10),
    (getattr(socket, "TCP_KEEPCNT", None), 6),
)
_LEAST_AHEAD = 16 * 1024  # bytes
_FAR = 0.005  # seconds of a round trip


class Line:
    """A socket, plain or TLS, in the place where `http.client` expects one.

    `sending` is how long, in seconds, the other end may take no byte; `answering` how long its whole answer
    may take (MC-BUP 3.1.2); no wait goes on for long once `ended`. Methods raise OSError when the line
    breaks, TimeoutError among them.
    """

    def __init__(
        self, sock: socket.socket, *, sending: float, answering: float, ended: Ended = lambda: False
    ) -> None:
        self._sock = sock
        self._sending = sending
        self._answering = answering
        self._ended = ended
        self._early = bytearray()
        self._buffer = bytearray()  # for what is read from the file, where the system does not carry it ...
        self._block = memoryview(b"")  # ... and is not sent yet
        self._answer: _Answer | None = None
        self._set(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a head does not wait for what went before
        self._set(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # nor do we for an answer, for ever
        for option, value in _KEEPALIVE:
            self._set(socket.IPPROTO_TCP, option, value)
        if sys.platform == "linux" and (self.round_trip() or 0.0) >= _FAR:
            # At no rate to speak of, but evenly: else the whole window goes out at once after each Ack, and
            # queues on the way overflow. On short ways that only costs time.
            self._set(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, (2**64 - 2).to_bytes(8, sys.byteorder))

    def _set(self, level: int, option: int | None, value: int | bytes) -> None:
        """A wish: some systems, and sockets that are none of the network, do without."""
        if option is not None:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(level, option, value)

    def round_trip(self) -> float | None:
        """The seconds a packet of TCP and its acknowledgement take just now; None where nobody says."""
        with contextlib.suppress(OSError, struct.error):
            if sys.platform == "linux":
                said = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 72)
                return struct.unpack_from("=I", said, 68)[0] / 1e6 or None  # tcpi_rtt
            if sys.platform == "darwin":
                said = self._sock.getsockopt(socket.IPPROTO_TCP, _TCP_CONNECTION_INFO, 48)
                return struct.unpack_from("=I", said, 44)[0] / 1e3 or None  # tcpi_srtt
        return None

    def certificate(self) -> bytes | None:
        """The certificate of the other end, in DER; None where no TLS is spoken."""
        return self._sock.getpeercert(binary_form=True) if isinstance(self._sock, ssl.SSLSocket) else None

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
        block_length: int | Callable[[], int],
        on_block: Callable[[int, int], None],
    ) -> bool:
        """Send the bytes `start <= offset < stop` of the file, as the socket takes them.

        `block_length` says how many may go out now; a function is asked each time. `on_block(offset, length)`
        hears of each block that went out, and may wait. Returns False when the other end answered or hung up
        before it had all. Raises OSError, or LocalFileChanged when the file shrank.
        """
        self._sock.settimeout(0)
        most = block_length() if callable(block_length) else block_length
        # What the system takes beyond what the line took is shown too early, and cannot be held back.
        ahead = max(_LEAST_AHEAD, min((stop - start) // 4, 4 * most))
        self._set(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, ahead)
        self._block = self._block[:0]
        by_system = hasattr(os, "sendfile") and not isinstance(self._sock, ssl.SSLSocket)
        send_some = self._sendfile if by_system else self._read_and_send
        if not by_system and not self._buffer:
            self._buffer = bytearray(_BUFFER)
        with selectors.DefaultSelector() as selector:
            selector.register(self._sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
            offset = start
            while offset < stop:
                ready = wait(selector.select, self._sending, self._ended)
                if not ready:
                    raise TimeoutError(f"it took no byte for {self._sending:.0f} s")
                if ready[0][1] & selectors.EVENT_READ and self._has_answered():
                    return False
                most = block_length() if callable(block_length) else block_length
                try:
                    count = send_some(file, offset, min(most, stop - offset))
                except _NOT_NOW:
                    continue
                except ConnectionError:
                    return False  # why, its answer may say
                on_block(offset, count)
                offset += count
        return True

    def _sendfile(self, file: LocalFile, offset: int, length: int) -> int:
        """The system carries the bytes from file to socket; they are never here."""
        if sys.platform == "win32":
            raise NotImplementedError  # it has none, and `send_body` knows
        try:
            count = os.sendfile(self._sock.fileno(), file.fileno(), offset, length)
        except OSError as error:
            if error.errno == errno.ENOTCONN:  # macOS says so when the other end hung up
                raise ConnectionResetError(*error.args) from error
            raise
        if not count:
            raise LocalFileChanged(f"{file.shown} became shorter while it was being sent")
        return count

    def _read_and_send(self, file: LocalFile, offset: int, length: int) -> int:
        """Through memory, not mmap: a file that shrinks under one kills the process (SIGBUS).

        TLS sends a record of 16 KiB at a time, so this goes on for as long as the socket takes them.
        """
        count = 0
        try:
            while count < length:
                if not self._block:
                    block = memoryview(self._buffer)[: length - count]
                    self._block = block[: file.read_into(block, offset + count)]
                sent = self._sock.send(self._block)  # after "not now", TLS needs the very same bytes again
                self._block = self._block[sent:]
                count += sent
        except _NOT_NOW:
            if not count:
                raise
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
        rest = bytes(self._early)
        while rest.startswith(_CONTINUE):
            _, end, rest = rest.partition(b"\r\n\r\n")
            if not end:
                return False
        return not _CONTINUE.startswith(rest)

    def makefile(self, mode: str = "rb", buffering: int | None = None, **_: Any) -> io.BufferedReader:
        """What `http.client` reads the answer from."""
        self._answer = _Answer(self._sock, self._early, self._answering, self._ended)
        return io.BufferedReader(self._answer)

    def listen_long(self) -> None:
        """From now on the time for the answer counts from its last byte: it may be as long as a file."""
        if self._answer is not None:
            self._answer.listen_long()

    def abort(self) -> None:
        """End what is under way, from any thread: it raises OSError there, or hears the end of the line."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # TLS would want to say good-bye first

    def close(self) -> None:
        """Hang up."""
        self._sock.close()


class _Answer(io.RawIOBase):
    """The bytes of one answer: those that came early, then those that come within `limit` seconds."""

    def __init__(self, sock: socket.socket, early: bytearray, limit: float, ended: Ended) -> None:
        super().__init__()
        self._sock = sock
        self._early = early
        self._limit = limit
        self._ended = ended
        self._deadline = time.monotonic() + limit
        self._long = False

    def listen_long(self) -> None:
        self._long = True
        self._deadline = time.monotonic() + self._limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._early:
            count = min(len(buffer), len(self._early))
            buffer[:count] = self._early[:count]
            del self._early[:count]
            return count
        while (left := self._deadline - time.monotonic()) > 0:
            self._sock.settimeout(min(left, SPELL))
            try:
                count = self._sock.recv_into(buffer)
            except TimeoutError as error:
                if error.errno is not None:  # the system's: the other end is gone
                    raise
                if self._ended():
                    raise ConnectionAbortedError("nobody waits for it any more") from None
                continue
            if self._long:
                self._deadline = time.monotonic() + self._limit
            return count
        raise TimeoutError(f"no whole answer came within {self._limit:.0f} s")
