"""A small BITS server on real sockets that is honest until a test tells it not to be."""

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from types import UnionType

from bitsferry.protocol import wire
from bitsferry.protocol.errors import BitsError, SessionNotFound
from bitsferry.protocol.packets import Ack, CancelSession, CloseSession, CreateSession, Fragment, Packet, Ping
from bitsferry.protocol.ranges import place

HeadersOf = Iterable[tuple[str, str]]


class HungUp(Exception):
    """The conversation on this connection is over."""


@dataclass
class Heard:
    """One request as it came."""

    packet: Packet
    method: str
    target: str
    headers: dict[str, str]


class Exchange:
    """One packet, and all one can do with it."""

    def __init__(self, server: "HostileServer", line: socket.socket, heard: Heard) -> None:
        self.server = server
        self.packet = heard.packet
        self.headers = heard.headers
        self.target = heard.target
        self._line = line

    def read_body(self, most: int | None = None) -> bytes:
        """The body, or its first `most` bytes."""
        left = int(self.headers["content-length"])
        left = left if most is None else min(left, most)
        body = bytearray()
        while len(body) < left:
            block = self._line.recv(min(left - len(body), 1 << 20))
            if not block:
                break
            body += block
        return bytes(body)

    def process(self, most: int | None = None) -> Ack:
        """Do what the packet asks for, with the first `most` bytes of its body; the Ack is not yet said."""
        return self.server.process(self.packet, self.target, self.read_body(most))

    def say(self, ack: Ack) -> None:
        """Answer as a server of today does."""
        self.say_plainly(ack.status, wire.write_ack(ack))

    def say_plainly(self, status: int, headers: HeadersOf = (), body: bytes = b"") -> None:
        """Answer with just these headers."""
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers)
        self._line.sendall(head.encode() + b"\r\n" + body)

    def refuse(self, error: BitsError) -> None:
        """Read what came, and answer with the error."""
        self.read_body()
        self.say(wire.ack_of_error(error))

    def say_raw(self, data: bytes) -> None:
        """Answer with something that need not be HTTP."""
        self._line.sendall(data)

    def stay_silent(self, seconds: float = 10) -> bool:
        """Do nothing for so long; True if the test ended meanwhile."""
        return self.server.ending.wait(seconds)

    def hang_up(self, *, reset: bool = False) -> None:
        """Close at once; `reset`: so rudely that unread bytes turn into a reset."""
        if reset:
            self._line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise HungUp


Trick = Callable[[Exchange], object]
"""Answers in the server's place."""


@dataclass
class _Plan:
    kind: type[Packet] | UnionType
    turns: Callable[[int], bool]
    trick: Trick
    count: int = 0


@dataclass
class HostileServer:
    """Listens on a free port of loopback until `close`."""

    tls: ssl.SSLContext | None = None
    scheme: str = "http"
    files: dict[str, bytes] = field(default_factory=dict)
    sessions: dict[str, bytearray] = field(default_factory=dict)
    heard: list[Heard] = field(default_factory=list)
    connections: int = 0
    _plans: list[_Plan] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ending = threading.Event()
        self._numbers = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._listen)]
        self._threads[0].start()

    def url(self, target: str = "/in/file.bin") -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}{target}"

    def kinds(self) -> list[str]:
        """What was said, by the packets' names."""
        return [type(heard.packet).__name__ for heard in self.heard]

    def fragments(self) -> list[Fragment]:
        return [heard.packet for heard in self.heard if isinstance(heard.packet, Fragment)]

    def on(
        self, kind: type[Packet] | UnionType = Packet, *, first: int | None = None, every: int = 1
    ) -> Callable[[Trick], Trick]:
        """Answer packets of this kind by the decorated trick: the `first` ones, or `every` so many-th."""

        def turns(number: int) -> bool:
            return number % every == 0 and (first is None or number <= first)

        def plan(trick: Trick) -> Trick:
            self._plans.append(_Plan(kind, turns, trick))
            return trick

        return plan

    def behave(self) -> None:
        """No tricks from now on."""
        self._plans.clear()

    def process(self, packet: Packet, target: str, body: bytes) -> Ack:
        """The honest server."""
        match packet:
            case CreateSession(protocols):
                self._numbers += 1
                session_id = f"{{session {self._numbers}}}"
                self.sessions[session_id] = bytearray()
                return Ack(session_id=session_id, protocol=protocols[0], accept_encoding="identity")
            case Ping():
                return Ack()
        if packet.session_id not in self.sessions:
            return wire.ack_of_error(SessionNotFound())
        held = self.sessions[packet.session_id]
        match packet:
            case Fragment(session_id, range_):
                try:
                    placement = place(range_, len(held))
                except BitsError as error:
                    return wire.ack_of_error(error)
                held += body[placement.skip :]
                if len(held) == range_.total:
                    self.files[target] = bytes(held)
                return Ack(session_id=session_id, received=len(held))
            case CloseSession(session_id):
                self.files.setdefault(target, bytes(held))
                del self.sessions[session_id]
            case CancelSession(session_id):
                del self.sessions[session_id]
        return Ack()

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
                while self._wait_for_request(line):
                    self._answer(line)

    def _wait_for_request(self, line: socket.socket) -> bool:
        while not self.ending.is_set():
            if select.select([line], [], [], 0.02)[0]:
                return True
        return False

    def _answer(self, line: socket.socket) -> None:
        heard = _hear(line)
        self.heard.append(heard)
        exchange = Exchange(self, line, heard)
        due = []
        for plan in self._plans:
            if isinstance(heard.packet, plan.kind):
                plan.count += 1
                if plan.turns(plan.count):
                    due.append(plan)
        if due:
            due[0].trick(exchange)
        else:
            exchange.say(exchange.process())


def _hear(line: socket.socket) -> Heard:
    """The head of one request, byte by byte, so that the body stays in the socket."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        byte = line.recv(1)
        if not byte:
            raise HungUp
        head += byte
        if not head[:1].isalpha():
            line.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")  # as servers do when they hear TLS
            raise HungUp
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers: dict[str, str] = {}
    for each in lines:
        name, _, value = each.partition(": ")
        headers[name.lower()] = value
    return Heard(wire.read_packet(headers), method, target, headers)
