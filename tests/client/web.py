"""A small web server on real sockets that gives out files, honestly until a test tells it not to."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus

from .hostile import HungUp

LONG_AGO = 1_182_201_121  # Mon, 18 Jun 2007 21:12:01 GMT


@dataclass(frozen=True)
class WebFile:
    """A file as a server knows it; without an ETag or a date where those are None."""

    data: bytes
    modified: int | None = LONG_AGO
    etag: str | None = None

    def headers(self) -> list[tuple[str, str]]:
        headers = [("Accept-Ranges", "bytes")]
        if self.modified is not None:
            headers.append(("Last-Modified", formatdate(self.modified, usegmt=True)))
        if self.etag is not None:
            headers.append(("ETag", self.etag))
        return headers


@dataclass
class Asked:
    """One request as it came."""

    method: str
    target: str
    headers: dict[str, str]


class Exchange:
    """One request, and all one can do with it."""

    def __init__(self, server: WebServer, line: socket.socket, asked: Asked) -> None:
        self.server = server
        self.asked = asked
        self._line = line

    def say(
        self, status: int, headers: Iterable[tuple[str, str]] = (), body: bytes = b"", *, version: str = "1.1"
    ) -> None:
        """An answer of just this."""
        head = f"HTTP/{version} {status} {HTTPStatus(status).phrase}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers)
        body = b"" if self.asked.method == "HEAD" else body
        with contextlib.suppress(ConnectionError):  # somebody stopped listening
            self._line.sendall(head.encode() + b"\r\n" + body)

    def refuse(self, status: int, *headers: tuple[str, str]) -> None:
        """An answer without a file."""
        self.say(status, [("Content-Length", "4"), *headers], b"sad\n")

    def redirect(self, location: str, status: int = 302) -> None:
        self.refuse(status, ("Location", location))

    def serve(self, *, cut: int | None = None, ranges: bool = True, more: str | None = None) -> None:
        """What was asked for; of the body only `cut` bytes, and then the line breaks."""
        file = self.server.files.get(self.asked.target)
        if file is None:
            self.refuse(404)
            return
        headers = file.headers()
        if self.server.date is not None:
            headers.append(("Date", formatdate(self.server.date, usegmt=True)))
        if more is not None:
            headers.append(("Content-Encoding", more))
        if self._is_stale(file):
            self.refuse(412)
            return
        span = re.fullmatch(r"bytes=(\d+)-", self.asked.headers.get("range", ""))
        if not ranges or span is None or self.asked.headers.get("if-range", file.etag) != file.etag:
            body, status = file.data, 200
        elif int(span[1]) >= len(file.data):
            self.refuse(416, ("Content-Range", f"bytes */{len(file.data)}"))
            return
        else:
            body, status = file.data[int(span[1]) :], 206
            total = len(file.data)
            headers.append(("Content-Range", f"bytes {span[1]}-{total - 1}/{total}"))
        headers.append(("Content-Length", str(len(body))))
        self.say(status, headers, body if cut is None else body[:cut])
        if cut is not None and self.asked.method != "HEAD":
            self.hang_up()

    def _is_stale(self, file: WebFile) -> bool:
        since = self.asked.headers.get("if-unmodified-since")
        return since is not None and since != formatdate(file.modified, usegmt=True)

    def say_raw(self, data: bytes) -> None:
        """Something that need not be HTTP."""
        self._line.sendall(data)

    def stay_silent(self, seconds: float = 10) -> bool:
        """Do nothing for so long; True if the test ended meanwhile."""
        return self.server.ending.wait(seconds)

    def hang_up(self, *, reset: bool = False) -> None:
        """Close at once; `reset`: so rudely that the other end may lose what it has not read."""
        if reset:
            self._line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise HungUp


Trick = Callable[[Exchange], object]
"""Answers in the server's place."""


@dataclass
class _Plan:
    method: str
    target: str | None
    left: int | None
    trick: Trick

    def is_due(self, asked: Asked) -> bool:
        if asked.method != self.method or self.target not in (None, asked.target) or self.left == 0:
            return False
        if self.left is not None:
            self.left -= 1
        return True


@dataclass
class WebServer:
    """Listens on a free port of loopback until `close`. `date` is what it says in each Date."""

    files: dict[str, WebFile] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    date: int | None = LONG_AGO + 1000
    _plans: list[_Plan] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ending = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._listen)]
        self._threads[0].start()

    def url(self, target: str = "/out/file.bin") -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}{target}"

    def on(
        self, method: str = "GET", target: str | None = None, *, first: int | None = None
    ) -> Callable[[Trick], Trick]:
        """Answer such requests, or the `first` few of them, by the decorated trick; earlier ones go first."""

        def plan(trick: Trick) -> Trick:
            self._plans.append(_Plan(method, target, first, trick))
            return trick

        return plan

    def behave(self) -> None:
        """No tricks from now on."""
        self._plans.clear()

    def methods(self) -> list[str]:
        return [asked.method for asked in self.asked]

    def ranges(self) -> list[str | None]:
        """What each GET asked for."""
        return [asked.headers.get("range") for asked in self.asked if asked.method == "GET"]

    def close(self) -> None:
        self.ending.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _listen(self) -> None:
        while not self.ending.is_set():
            if select.select([self._listener], [], [], 0.02)[0]:
                line, _ = self._listener.accept()
                self.connections += 1
                thread = threading.Thread(target=self._converse, args=(line,))
                self._threads.append(thread)
                thread.start()

    def _converse(self, line: socket.socket) -> None:
        with line, contextlib.suppress(OSError, HungUp):
            line.settimeout(5)
            if self.tls is not None:
                line = self.tls.wrap_socket(line, server_side=True)
            with line:
                self._hear_out(line)

    def _hear_out(self, line: socket.socket) -> None:
        while self._wait_for_request(line):
            self._answer(line)

    def _wait_for_request(self, line: socket.socket) -> bool:
        while not self.ending.is_set():
            if select.select([line], [], [], 0.02)[0]:
                return True
        return False

    def _answer(self, line: socket.socket) -> None:
        asked = _hear(line)
        self.asked.append(asked)
        exchange = Exchange(self, line, asked)
        for plan in self._plans:
            if plan.is_due(asked):
                plan.trick(exchange)
                return
        exchange.serve()


def _hear(line: socket.socket) -> Asked:
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        block = line.recv(4096)  # nobody says two requests at once, and none has a body
        if not block:
            raise HungUp
        head += block
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers: dict[str, str] = {}
    for each in lines:
        name, _, value = each.partition(": ")
        headers[name.lower()] = value
    return Asked(method, target, headers)
