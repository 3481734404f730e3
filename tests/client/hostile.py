"""A small BITS server on real sockets that is honest until a test tells it not to be."""

import base64
import contextlib
import re
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
from bitsferry.protocol.errors import BitsError, OutOfStep, SessionNotFound
from bitsferry.protocol.packets import Ack, CancelSession, CloseSession, CreateSession, Fragment, Packet, Ping
from bitsferry.protocol.ranges import place

HeadersOf = Iterable[tuple[str, str]]
LAST_MODIFIED = "Mon, 18 Jun 2007 21:12:01 GMT"


class HungUp(Exception):
    """The conversation on this connection is over."""


@dataclass(frozen=True)
class Get:
    """A request for a reply: GET or HEAD."""


Said = Packet | Get


@dataclass
class Heard:
    """One request as it came."""

    packet: Said
    method: str
    target: str
    headers: dict[str, str]


class Exchange:
    """One packet, and all one can do with it."""

    def __init__(self, server: "HostileServer", line: socket.socket, heard: Heard) -> None:
        self.server = server
        self.packet = heard.packet
        self.method = heard.method
        self.headers = heard.headers
        self.target = heard.target
        self._line = line

    @property
    def line(self) -> socket.socket:
        """The connection it came on."""
        return self._line

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
        assert not isinstance(self.packet, Get)
        if self.server.keeps_bytes:
            return self.server.process(self.packet, self.target, self.read_body(most))
        return self.server.count(self.packet, self._drop_body())

    def _drop_body(self) -> int:
        """How many bytes came."""
        block, left = bytearray(1 << 20), int(self.headers["content-length"])
        count = 0
        while count < left and (came := self._line.recv_into(block, min(left - count, len(block)))):
            count += came
        return count

    def give(self, most: int | None = None) -> None:
        """Give out the reply, or the part of it that is asked for, and of that the first `most` bytes."""
        reply = self.server.replies.get(self.target)
        if reply is None:
            self.say_plainly(404, [("Content-Length", "0")])
            return
        part, headers = reply, [("Last-Modified", LAST_MODIFIED), ("ETag", '"f84d5b50edb1c71:2488"')]
        status = 200
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", "")):
            start, stop = int(asked[1]), min(int(asked[2] or len(reply)) + 1, len(reply))
            part, status = reply[start:stop], 206
            headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{len(reply)}"))
        headers.append(("Content-Length", str(len(part))))
        self.say_plainly(status, headers, b"" if self.method == "HEAD" else part[:most])

    def say(self, ack: Ack) -> None:
        """Answer as a server of today does."""
        self.say_plainly(ack.status, wire.write_ack(ack))

    def say_plainly(
        self, status: int, headers: HeadersOf = (), body: bytes = b"", *, version: str = "1.1"
    ) -> None:
        """Answer with just these headers."""
        head = f"HTTP/{version} {status} {HTTPStatus(status).phrase}\r\n"
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
    kind: type[Said] | UnionType
    turns: Callable[[int], bool]
    trick: Trick
    count: int = 0


@dataclass
class HostileServer:
    """Listens on a free port of loopback until `close`."""

    tls: ssl.SSLContext | None = None
    scheme: str = "http"
    files: dict[str, bytes] = field(default_factory=dict)
    replies: dict[str, bytes] = field(default_factory=dict)
    keeps_bytes: bool = True
    sessions: dict[str, bytearray] = field(default_factory=dict)
    heard: list[Heard] = field(default_factory=list)
    lengths: dict[str, int] = field(default_factory=dict)
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
        self, kind: type[Said] | UnionType = Packet, *, first: int | None = None, every: int = 1
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

    def count(self, packet: Packet, length: int) -> Ack:
        """A server that keeps nothing but how many bytes there are."""
        match packet:
            case Fragment(session_id, range_):
                held = self.lengths.setdefault(session_id, 0)
                if range_.start != held:
                    return wire.ack_of_error(OutOfStep(held))
                self.lengths[session_id] = held + length
                return Ack(session_id=session_id, received=held + length)
        return self.process(packet, "", b"")

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
        elif isinstance(heard.packet, Get):
            exchange.give()
        else:
            exchange.say(exchange.process())


def _hear(line: socket.socket) -> Heard:
    method, target, headers = read_head(line)
    packet = Get() if method in ("GET", "HEAD") else wire.read_packet(headers)
    return Heard(packet, method, target, headers)


def read_head(line: socket.socket) -> tuple[str, str, dict[str, str]]:
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
    return method, target, headers


class Proxy:
    """A proxy on real sockets: passes requests on, or makes tunnels; it may want a name and a password."""

    def __init__(
        self,
        *,
        user: str | None = None,
        password: str = "",
        refuses: int | None = None,
        asks: Callable[[socket.socket, str | None], str | None] | None = None,
    ) -> None:
        """`asks` says, for a connection and a Proxy-Authorization, with what to challenge."""
        self.heard: list[tuple[str, str]] = []
        self.in_vain = 0  # bytes that came with a request that was not passed on
        self._refuses = refuses
        self.ending = threading.Event()
        said = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._wanted = None if user is None else f"Basic {said}"
        self._asks = asks or self._ask_by_basic
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:{1}".format(*self._listener.getsockname())
        self._threads = [threading.Thread(target=self._listen)]
        self._threads[0].start()

    def close(self) -> None:
        self.ending.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _listen(self) -> None:
        while not self.ending.is_set():
            if select.select([self._listener], [], [], 0.02)[0]:
                line, _ = self._listener.accept()
                thread = threading.Thread(target=self._converse, args=(line,))
                self._threads.append(thread)
                thread.start()

    def _converse(self, line: socket.socket) -> None:
        with line, contextlib.suppress(OSError, HungUp):
            line.settimeout(5)
            while True:
                while not select.select([line], [], [], 0.02)[0]:
                    if self.ending.is_set():
                        return
                self._pass_on(line)

    def _pass_on(self, line: socket.socket) -> None:
        method, target, headers = read_head(line)
        self.heard.append((method, target))
        challenge = self._asks(line, headers.pop("proxy-authorization", None))
        if challenge is not None:
            came = int(headers.get("content-length", "0"))
            self.in_vain += came
            self._drain(line, came)
            line.sendall(
                b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                b"Proxy-Authenticate: " + challenge.encode() + b"\r\nContent-Length: 0\r\n\r\n"
            )
            return
        if self._refuses is not None:
            line.sendall(f"HTTP/1.1 {self._refuses} No\r\nContent-Length: 0\r\n\r\n".encode())
            return
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            with socket.create_connection((host, int(port)), 5) as there:
                line.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                self._copy(line, there)
            raise HungUp
        asked = re.fullmatch(r"http://([^/]+):(\d+)(/.*)", target)
        assert asked, f"no absolute target: {target}"
        host, port, path = asked.groups()
        with socket.create_connection((host, int(port)), 5) as there:
            fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            there.sendall(f"{method} {path} HTTP/1.1\r\n{fields}\r\n".encode())
            self._drain(line, int(headers.get("content-length", "0")), there)
            head = bytearray()
            while not head.endswith(b"\r\n\r\n"):
                byte = there.recv(1)
                if not byte:
                    raise HungUp
                head += byte
            line.sendall(head)
            length = re.search(rb"(?i)content-length: (\d+)", head)
            self._drain(there, int(length[1]) if length and method != "HEAD" else 0, line)

    def _ask_by_basic(self, line: socket.socket, said: str | None) -> str | None:
        return None if self._wanted in (None, said) else 'Basic realm="gate"'

    def _drain(self, line: socket.socket, count: int, to: socket.socket | None = None) -> None:
        while count > 0 and (block := line.recv(min(count, 1 << 16))):
            count -= len(block)
            if to is not None:
                to.sendall(block)

    def _copy(self, one: socket.socket, other: socket.socket) -> None:
        """In both directions, until either hangs up."""
        while not self.ending.is_set():
            for ready in select.select([one, other], [], [], 0.02)[0]:
                block = ready.recv(1 << 16)
                if not block:
                    return
                (other if ready is one else one).sendall(block)
