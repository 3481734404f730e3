"""Many connections that say the same, from a thread of their own."""

from __future__ import annotations

import re
import selectors
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from types import TracebackType
from typing import Self

__all__ = ["Crowd"]

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_PIPELINED = 4  # requests on a line without an answer


class _Stranger:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setblocking(False)
        self.sent = 0
        self.asked = 0
        self.next = 0.0


class Crowd:
    """`said` is asked again and again on each line; or with `drip`, a byte of it in so many seconds, once.

    A line the server ends is not opened again. `answers` counts by status.
    """

    def __init__(self, port: int, said: bytes, count: int, drip: float | None = None) -> None:
        self.said = said
        self.drip = drip
        self.answers: Counter[int] = Counter()
        self.ended = 0
        self._lines = [_Stranger(port) for _ in range(count)]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        for line in self._lines:
            line.socket.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for line in self._lines:
                selector.register(line.socket, selectors.EVENT_READ, line)
            while not self._over.is_set():
                now = time.monotonic()
                for line in [line for line in self._lines if line.next <= now]:
                    self._speak(line, now)
                for key, _ in selector.select(0.005):
                    self._hear(key.data, selector)

    def _speak(self, line: _Stranger, now: float) -> None:
        if self.drip is not None:
            piece = self.said[line.sent : line.sent + 1]
            line.next = now + self.drip
        elif line.asked < _PIPELINED:
            piece = self.said[line.sent :]
        else:
            return
        with suppress(OSError):
            line.sent += line.socket.send(piece)
        if self.drip is None and line.sent == len(self.said):
            line.sent = 0
            line.asked += 1

    def _hear(self, line: _Stranger, selector: selectors.BaseSelector) -> None:
        try:
            heard = line.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            heard = b""
        if not heard:
            selector.unregister(line.socket)
            line.next = float("inf")
            self.ended += 1
            return
        statuses = [int(status) for status in _STATUS.findall(heard)]
        self.answers.update(statuses)
        line.asked -= len(statuses)
