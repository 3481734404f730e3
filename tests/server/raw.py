"""A client with nothing in it: bytes out, answers in."""

from __future__ import annotations

import re
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

GUID = "{7df0354d-249b-430f-820d-3d2a9bef4931}"
PATIENCE = 10.0  # seconds an answer may take before a test gives up
END = b"\r\n\r\n"
_CODE = re.compile(r"0x[0-9A-F]{8}")


@dataclass(frozen=True)
class Answer:
    """One response as it was on the wire."""

    version: str
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        """The value of a header that may be there once."""
        values = self.all(name)
        assert len(values) < 2, f"{name} is there {len(values)} times"
        return values[0] if values else None

    @property
    def received(self) -> int | None:
        """The next offset the server wants."""
        value = self.get("BITS-Received-Content-Range")
        return None if value is None else int(value)

    @property
    def session(self) -> str | None:
        """The session it names."""
        return self.get("BITS-Session-Id")

    @property
    def error(self) -> int | None:
        """The HRESULT it tells; all three headers of an error are there, or none."""
        code = self.get("BITS-Error-Code")
        assert code == self.get("BITS-Error")
        assert self.get("BITS-Error-Context") == ("0x5" if code else None)
        if code is None:
            return None
        assert _CODE.fullmatch(code), code
        return int(code, 16)

    @property
    def verdict(self) -> tuple[int, int | None]:
        """Status and HRESULT."""
        return self.status, self.error

    @property
    def is_ack(self) -> bool:
        """It has what stands in every Ack, and no body."""
        always = {"BITS-Packet-Type": "Ack", "Content-Length": "0", "Pragma": "no-cache"}
        told = {name: self.get(name) for name in always}
        return self.version == "HTTP/1.1" and told == always and self.body == b""

    @property
    def closes(self) -> bool:
        """It is the connection's last one."""
        return (self.get("Connection") or "").lower() == "close"


class Line:
    """One connection, used with `with` or closed by hand."""

    def __init__(self, where: int | str, *, buffer: int = 0) -> None:
        """`where` is a port of this machine or the path of a Unix socket; `buffer` is in bytes, each way."""
        family = socket.AF_INET if isinstance(where, int) else socket.AF_UNIX
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self.socket.settimeout(PATIENCE)
        try:
            self.socket.connect(("127.0.0.1", where) if isinstance(where, int) else where)
        except OSError:
            self.socket.close()
            raise
        if family == socket.AF_INET:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._early = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hang_up()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, request: bytes) -> Answer:
        """Send one request, read its answer."""
        self.send(request)
        return self.answer()

    def answer(self, *, bodiless: bool = False) -> Answer:
        """The next response, a 100 included; a `bodiless` one, to HEAD, only announces its body."""
        while END not in self._early:
            self._more()
        head, _, rest = bytes(self._early).partition(END)
        self._early[:] = rest
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = first.split(" ", 2)
        fields = tuple((line.partition(": ")[0], line.partition(": ")[2]) for line in lines)
        answer = Answer(version, int(status), fields)
        length = 0 if bodiless or int(status) == 100 else int(answer.get("Content-Length") or 0)
        while len(self._early) < length:
            self._more()
        body = bytes(self._early[:length])
        del self._early[:length]
        return Answer(version, int(status), fields, body)

    def _more(self) -> None:
        block = self.socket.recv(1 << 16)
        if not block:
            raise ConnectionError(f"the server hung up after {bytes(self._early)!r}")
        self._early += block

    def is_closed(self, within: float = PATIENCE) -> bool:
        """The server says nothing more and hangs up `within` seconds."""
        self.socket.settimeout(within)
        try:
            return not self._early and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
        finally:
            self.socket.settimeout(PATIENCE)

    def is_silent(self, seconds: float = 0.2) -> bool:
        """The server says nothing for so long, and does not hang up."""
        self.socket.settimeout(seconds)
        try:
            self._early += self.socket.recv(1)
        except TimeoutError:
            return not self._early
        else:
            return False
        finally:
            self.socket.settimeout(PATIENCE)

    def send_what_is_taken(self, data: bytes) -> int:
        """How many bytes went out until nobody took any more."""
        sent = 0
        self.socket.settimeout(0.5)
        with suppress(OSError):
            while sent < len(data):
                sent += self.socket.send(data[sent : sent + (1 << 16)])
        self.socket.settimeout(PATIENCE)
        return sent

    def stop_sending(self) -> None:
        """Half-close: nothing more goes out, answers may still come."""
        self.socket.shutdown(socket.SHUT_WR)

    def hang_up(self) -> None:
        self.socket.close()

    def break_off(self) -> None:
        """Vanish with a reset, as a program does that is killed."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def request(start: str, headers: dict[str, str | None], body: bytes = b"") -> bytes:
    """A request with a Host; headers that are None are left out."""
    fields: dict[str, str | None] = {"Host": "127.0.0.1", **headers}
    lines = [start, *(f"{name}: {value}" for name, value in fields.items() if value is not None)]
    return "\r\n".join(lines).encode("latin-1") + END + body


def packet(
    kind: str | None, url: str, headers: dict[str, str | None] | None = None, body: bytes = b""
) -> bytes:
    """A BITS_POST with the packet type `kind`; `headers` come on top, and those that are None go."""
    fields = {"BITS-Packet-Type": kind, "Content-Length": str(len(body)), **(headers or {})}
    return request(f"BITS_POST {url} HTTP/1.1", fields, body)


def ping(url: str, **headers: str | None) -> bytes:
    return packet("Ping", url, _spelt(headers))


def create(url: str, **headers: str | None) -> bytes:
    return packet("Create-Session", url, {"BITS-Supported-Protocols": GUID, **_spelt(headers)})


def close(url: str, session: str, **headers: str | None) -> bytes:
    return packet("Close-Session", url, {"BITS-Session-Id": session, **_spelt(headers)})


def cancel(url: str, session: str, **headers: str | None) -> bytes:
    return packet("Cancel-Session", url, {"BITS-Session-Id": session, **_spelt(headers)})


def fragment(
    url: str, session: str, data: bytes, *, at: int = 0, total: int | None = None, **headers: str | None
) -> bytes:
    """`data` as the bytes from `at` on, of a file that ends there or has `total` bytes."""
    size = at + len(data) if total is None else total
    fields = {
        "BITS-Session-Id": session,
        "Content-Range": f"bytes {at}-{at + len(data) - 1}/{size}",
    }
    return packet("Fragment", url, {**fields, **_spelt(headers)}, data)


def _spelt(headers: dict[str, str | None]) -> dict[str, str | None]:
    """`content_range` is Content-Range, `bits_session_id` is BITS-Session-Id."""
    return {
        "-".join(word.upper() if word == "bits" else word.capitalize() for word in name.split("_")): value
        for name, value in headers.items()
    }


def head_of(request: bytes) -> bytes:
    """A request without its body."""
    return request.partition(END)[0] + END


def eventually(what: object, within: float = PATIENCE) -> bool:
    """Whether `what`, a function of nothing, becomes true in time."""
    assert callable(what)
    deadline = time.monotonic() + within
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
