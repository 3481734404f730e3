"""One HTTP request to an application, with its answer."""

from __future__ import annotations

import asyncio
import io
import os
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from typing import IO, Any, TypeVar
from urllib.parse import quote, urlsplit

from bitsferry.protocol.errors import StoreFailed
from bitsferry.protocol.hresult import HResult
from bitsferry.protocol.notification import ApplicationFailed, broken
from bitsferry.server.names import KEPT, escaped
from bitsferry.store.threads import error_of_os, settled

__all__ = ["Address", "Line", "Waits", "escaped", "too_large"]

T = TypeVar("T")

_BLOCK = 256 * 1024  # bytes of an answer's body in memory
_URL = re.compile(r"[^\s\x00-\x1f\x7f]+")
_LENGTH = re.compile(r"[0-9]{1,19}")
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Waits:
    """How long an application may take, in seconds (MC-BUP 3.3.2).

    `connecting` until there is a line, `answering` until the head of its answer is there; `sending` and
    `receiving` are without a byte of progress.
    """

    connecting: float = 30.0
    sending: float = 300.0
    answering: float = 300.0
    receiving: float = 300.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where an HTTP server is, and what to ask it for."""

    scheme: str
    host: str
    port: int
    path: str
    query: str

    @classmethod
    def of(cls, url: str) -> Address:
        """The address a URL names.

        Raises ValueError with a sentence about the URL that does not show it: it may hold secrets.
        """
        if _URL.fullmatch(url) is None:
            raise ValueError("a URL has no spaces and no control characters")
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
            if ":" not in host:  # as those of IPv6 have
                host = host.encode("idna").decode("ascii")
            port = parts.port
        except ValueError:
            raise ValueError("the host or the port of this URL cannot be") from None
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError("a URL begins with http:// or https:// and a host")
        if "@" in parts.netloc:
            raise ValueError("a name or a password must not stand in a URL")
        if "#" in url:
            raise ValueError("what follows a '#' in a URL is never sent")
        if port is None:
            port = 443 if parts.scheme == "https" else 80
        path, query = (quote(part, safe=KEPT) for part in (parts.path or "/", parts.query))
        return cls(parts.scheme, host, port, path, query)

    @property
    def origin(self) -> tuple[str, str, int]:
        """What all addresses of one server have in common (RFC 6454)."""
        return self.scheme, self.host, self.port

    @property
    def target(self) -> str:
        """The path with the query."""
        return f"{self.path}?{self.query}" if self.query else self.path

    def __str__(self) -> str:
        """For people and logs: without the query, which may hold secrets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


class Line:
    """A connection to an application, for one request and its answer; closed by `close`.

    What may take long is done in threads of `pool`. Whoever is cancelled breaks the connection by that, and
    sees the thread end. Methods raise ApplicationFailed for whatever goes wrong on the way.
    """

    def __init__(
        self,
        sock: socket.socket,
        address: Address,
        tls: ssl.SSLContext | None,
        waits: Waits,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.who = _who(address)
        self._waits = waits
        self._pool = pool
        self._target = address.target
        self._sock = sock
        if tls is None:
            self._connection = HTTPConnection(address.host, address.port)
        else:
            # A line that ends without TLS' farewell may have been cut by anybody: that must be seen.
            self._sock = tls.wrap_socket(
                sock,
                server_hostname=address.host,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=False,
            )
            self._connection = HTTPSConnection(address.host, address.port, context=tls)
        self._connection.sock = self._sock
        self._connection.response_class = _Response
        self._response: HTTPResponse | None = None
        self._headers: dict[str, str] = {}

    @classmethod
    async def open(
        cls, address: Address, tls: ssl.SSLContext | None, waits: Waits, pool: ThreadPoolExecutor
    ) -> Line:
        """Connect; over TLS when a context is given. Raises ApplicationFailed."""
        sock = await _connect(address, waits.connecting)
        try:
            line = cls(sock, address, tls, waits, pool)
        except BaseException:
            sock.close()
            raise
        try:
            if isinstance(line._sock, ssl.SSLSocket):
                await line._shake_hands(line._sock)
        except BaseException:
            line.close()
            raise
        return line

    def close(self) -> None:
        """Hang up."""
        if self._response is not None:
            self._response.close()
        self._sock.close()

    async def say(
        self, method: str, headers: list[tuple[str, bytes]], body: IO[bytes] | None, size: int
    ) -> None:
        """Send the request, with the first `size` bytes of the file `body`, if there is one.

        Raises StoreFailed when the file is shorter.
        """

        def work() -> None:
            self._sock.settimeout(self._waits.sending)
            self._connection.putrequest(method, self._target, skip_accept_encoding=True)
            for name, value in headers:
                self._connection.putheader(name, value)
            try:
                self._connection.endheaders()
                sent = self._sock.sendfile(body, 0, size) if body is not None and size else 0
            except (ConnectionError, ssl.SSLError) as error:
                if not _is_hang_up(error):
                    raise
                return  # why it hung up, its answer may say
            if body is not None and sent < size:
                raise StoreFailed(f"the upload's file has {sent} bytes where {size} were")

        await self._do(work, f"took no byte for {self._waits.sending:g} s")

    async def hear(self) -> tuple[int, dict[str, str]]:
        """The status and the headers of the answer, by lower-case names, repeated ones joined by commas."""
        limit = self._waits.answering

        def work() -> HTTPResponse:
            self._sock.settimeout(limit)
            self._response = self._connection.getresponse()
            return self._response

        response = await self._do(work, f"did not answer within {limit:g} s", limit)
        headers: dict[str, str] = {}
        for name, value in response.headers.items():
            key = name.lower()
            headers[key] = f"{headers[key]}, {value}" if key in headers else value
        self._headers = headers
        return response.status, headers

    async def receive(self, largest: int, path: str | None = None) -> None:
        """Read the answer to its end, into a new file at `path` if one is named; `largest` is in bytes.

        Raises StoreFailed when the file cannot be written.
        """
        response, limit = self._response, self._waits.receiving
        assert response is not None
        if path is not None:
            _check_coding(self.who, self._headers)

        def work() -> None:
            self._sock.settimeout(limit)
            if path is not None:
                with _disk_errors_told():
                    descriptor = _open_new(path)
                try:
                    self._read(response, largest, lambda block: _write(descriptor, block))
                finally:
                    os.close(descriptor)
            else:
                # It means nothing, but when it ends the application is done.
                try:
                    self._read(response, largest, lambda block: None)
                except ssl.SSLError as error:
                    if not _is_hang_up(error) or response.chunked or response.length is not None:
                        raise

        await self._do(work, f"sent no byte of its answer for {limit:g} s")

    async def read(self, largest: int) -> bytes:
        """The rest of the answer, which may have `largest` bytes."""
        response, limit = self._response, self._waits.receiving
        assert response is not None
        content = bytearray()

        def work() -> None:
            self._sock.settimeout(limit)
            self._read(response, largest, content.extend)

        await self._do(work, f"sent no byte of its answer for {limit:g} s")
        return bytes(content)

    def _read(self, response: HTTPResponse, largest: int, take: Callable[[memoryview], None]) -> None:
        _check_framing(self.who, self._headers)
        block, taken = memoryview(bytearray(_BLOCK)), 0
        if (response.length or 0) > largest:
            raise too_large(self.who, largest)
        while count := response.readinto(block):
            taken += count
            if taken > largest:
                raise too_large(self.who, largest)
            take(block[:count])
        if response.length:
            raise IncompleteRead(b"", response.length)

    async def _shake_hands(self, sock: ssl.SSLSocket) -> None:
        sock.settimeout(self._waits.connecting)
        try:
            await self._in_pool(sock.do_handshake, self._waits.connecting)
        except ssl.SSLError as error:
            said = getattr(error, "verify_message", None) or error.reason or "TLS is not spoken there"
            raise ApplicationFailed(
                f"there is no safe line to {self.who}: {said}", hresult=HResult.ERROR_WINHTTP_SECURE_FAILURE
            ) from error
        except OSError as error:
            raise _unreachable(self.who, error, self._waits.connecting) from error

    async def _do(self, work: Callable[[], T], late: str, limit: float | None = None) -> T:
        """The result of `work` in a thread; what goes wrong is told as MC-BUP 3.3.6 has it, or better."""
        try:
            return await self._in_pool(work, limit)
        except TimeoutError as error:
            raise ApplicationFailed(
                f"{self.who} {late}", status=408, hresult=HResult.ERROR_DISK_FULL_AS_PRINTED
            ) from error
        except (OSError, IncompleteRead) as error:
            said = getattr(error, "reason", None) or type(error).__name__
            raise ApplicationFailed(
                f"{self.who} hung up before its answer was whole ({said})",
                hresult=HResult.ERROR_WINHTTP_CONNECTION_ERROR,
            ) from error
        except HTTPException as error:
            raise broken(self.who, f"this is no HTTP ({type(error).__name__})") from error

    async def _in_pool(self, work: Callable[[], T], limit: float | None) -> T:
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            async with asyncio.timeout(limit):
                return await asyncio.shield(future)
        except (asyncio.CancelledError, TimeoutError):
            with suppress(OSError):
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # not TLS' own, the thread is in there
            with suppress(Exception):
                await settled(future)
            raise


def _is_hang_up(error: OSError) -> bool:
    """Whether the other end is gone; TLS without a farewell has another name in each Python."""
    known = (ConnectionError, ssl.SSLEOFError)
    return isinstance(error, known) or getattr(error, "reason", None) == "UNEXPECTED_EOF_WHILE_READING"


class _Lines(io.BufferedReader):
    """What http.client reads an answer from; the end inside a line, or instead of one, is an error.

    http.client would take it for the end of the head: an application that was killed while it spoke would
    have said 200, and nothing of what to do with the upload.
    """

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        if not line.endswith(b"\n") and len(line) != size:
            raise ConnectionResetError("the connection ended inside a line")
        return line


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = _Lines(self.fp.detach())


async def _connect(address: Address, limit: float) -> socket.socket:
    """A connected socket. Raises ApplicationFailed."""
    try:
        async with asyncio.timeout(limit):
            return await _reach(address)
    except socket.gaierror as error:
        raise ApplicationFailed(
            f"{_who(address)} cannot be found: {error.strerror}",
            status=503,
            hresult=HResult.ERROR_WINHTTP_NAME_NOT_RESOLVED,
        ) from error
    except OSError as error:
        raise _unreachable(_who(address), error, limit) from error


def _unreachable(who: str, error: OSError, limit: float) -> ApplicationFailed:
    return ApplicationFailed(
        f"{who} cannot be reached: {error.strerror or f'no answer within {limit:g} s'}",
        status=503,
        hresult=HResult.ERROR_WINHTTP_CANNOT_CONNECT,
    )


async def _reach(address: Address) -> socket.socket:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    failed = OSError("it has no address")
    for family, kind, protocol, _, where in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, where)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            failed = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failed


def _check_framing(who: str, headers: dict[str, str]) -> None:
    """How long the body is must be said in one way. Raises ApplicationFailed."""
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if length is not None and (coding is not None or _LENGTH.fullmatch(length) is None):
        raise broken(who, "nobody can tell how long its body is")
    if coding is not None and coding.strip().lower() != "chunked":
        raise broken(who, f"its Transfer-Encoding is {coding[:60]!r}")


def _check_coding(who: str, headers: dict[str, str]) -> None:
    """The body is the reply itself, as was asked for. Raises ApplicationFailed."""
    coding = headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        raise broken(who, f"its Content-Encoding is {coding[:60]!r}")


@contextmanager
def _disk_errors_told() -> Iterator[None]:
    """Raises StoreFailed for an OSError: those of the disk are not the line's."""
    try:
        yield
    except OSError as error:
        raise error_of_os(error) from error


def _open_new(path: str) -> int:
    with suppress(FileNotFoundError):
        os.unlink(path)  # of an attempt that failed
    return os.open(path, _NEW_FILE, 0o600)


def _write(descriptor: int, block: memoryview) -> None:
    with _disk_errors_told():
        while block:
            block = block[os.write(descriptor, block) :]


def too_large(who: str, largest: int) -> ApplicationFailed:
    """The error of a reply that nobody wants to keep."""
    return broken(who, f"its reply has more than {largest} bytes, the most that are taken")


def _who(address: Address) -> str:
    return f"the application at {address}"
