"""One packet out, one Ack back, over HTTP/1.1."""

from __future__ import annotations

import base64
import socket
import ssl
from collections.abc import Callable, Iterable
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import NoReturn

from bitsferry import __version__
from bitsferry.client.destination import Destination
from bitsferry.client.line import Line
from bitsferry.client.local_file import LocalFile
from bitsferry.protocol import wire
from bitsferry.protocol.errors import InvalidServerResponse, TransportFailed
from bitsferry.protocol.hresult import HResult
from bitsferry.protocol.packets import Ack, Fragment, Packet

__all__ = ["Credentials", "NotTrusted", "OnBlock", "Transport"]

# Seconds; the last two are the upload timers of MC-BUP 3.1.2. SENDING counts from the last byte taken.
CONNECTING = 30.0
SENDING = 120.0
ANSWERING = 300.0

BLOCK_LENGTH = 256 * 1024
_BODY_READ = 64 * 1024  # an error page up to this length is read away, so that the connection can be kept

OnBlock = Callable[[int, int], None]
"""Called with the offset and the length of each block of the file that went out."""


class NotTrusted(TransportFailed):
    """There is no safe line to this server: trying again would not change that."""

    hresult = HResult.ERROR_WINHTTP_SECURE_FAILURE
    transient = False


class Credentials:
    """A name and a password, said to a server that asks for them by Basic (RFC 7617)."""

    def __init__(self, user: str, password: str) -> None:
        self.user = user
        self._value = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")

    def answer(self, challenges: Iterable[str]) -> str | None:
        """The Authorization for a 401 with these challenges, if one of them is Basic."""
        basic = any(challenge.strip().lower().startswith("basic") for challenge in challenges)
        return self._value if basic else None


class Transport:
    """The way to one destination; keeps its connection, its cookies and what the server asked for once.

    Every `send` either returns the Ack or raises TransportFailed (the line), InvalidServerResponse (what
    came is no answer of a BITS server) or LocalFileChanged. The next `send` starts afresh by itself.
    """

    def __init__(
        self,
        destination: Destination,
        *,
        headers: Iterable[tuple[str, str]] = (),
        credentials: Credentials | None = None,
        override_method: bool = False,
        block_length: int = BLOCK_LENGTH,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`override_method`: say POST and X-HTTP-Method-Override, for networks that eat BITS_POST."""
        self.destination = destination
        self._headers = list(headers)
        self._credentials = credentials
        self._override = override_method
        self._block_length = block_length
        self._tls = tls
        self._authorization: str | None = None
        self._cookies: dict[str, dict[str, str]] = {}  # by host
        self._connection: HTTPConnection | None = None
        self._connected_to: Destination | None = None
        self._line: Line

    def send(
        self,
        packet: Packet,
        file: LocalFile | None = None,
        *,
        host: str | None = None,
        on_block: OnBlock = lambda offset, length: None,
    ) -> Ack:
        """Say `packet`, to `host` instead of the URL's own if one is given, and return what is answered."""
        where = self.destination.on_host(host)
        try:
            response = self._say(packet, file, where, on_block)
            if response.status == 401 and self._credentials and self._authorization is None:
                self._authorization = self._credentials.answer(_all(response, "WWW-Authenticate"))
                if self._authorization is not None:
                    response = self._say(packet, file, where, on_block)
        except (OSError, HTTPException, UnicodeError) as error:
            self.close()
            _explain(error, where)
        except BaseException:
            self.close()
            raise
        return wire.read_ack(response.status, _by_lower_name(response))

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _say(
        self, packet: Packet, file: LocalFile | None, where: Destination, on_block: OnBlock
    ) -> HTTPResponse:
        if self._is_open_to(where):
            try:
                return self._say_once(packet, file, where, on_block)
            except ConnectionError:
                pass  # a kept connection may be closed the moment we speak; every packet may be repeated
        self._connect(where)
        return self._say_once(packet, file, where, on_block)

    def _is_open_to(self, where: Destination) -> bool:
        kept = self._connection is not None and self._connected_to == where
        return kept and not self._line.is_stale()

    def _connect(self, where: Destination) -> None:
        self.close()
        if where.scheme == "https":
            self._tls = self._tls or ssl.create_default_context()
            connection: HTTPConnection = HTTPSConnection(
                where.host, where.port, timeout=CONNECTING, context=self._tls
            )
        else:
            connection = HTTPConnection(where.host, where.port, timeout=CONNECTING)
        connection.connect()
        self._line = Line(connection.sock, sending=SENDING, answering=ANSWERING)
        connection.sock = self._line
        self._connection, self._connected_to = connection, where

    def _say_once(
        self, packet: Packet, file: LocalFile | None, where: Destination, on_block: OnBlock
    ) -> HTTPResponse:
        connection = self._connection
        assert connection is not None
        method = "POST" if self._override else wire.METHOD
        connection.putrequest(method, where.target, skip_host=True, skip_accept_encoding=True)
        for name, value in self._request_headers(packet, where):
            connection.putheader(name, value)
        connection.endheaders()
        whole = True
        if isinstance(packet, Fragment):
            assert file is not None, "a fragment needs the file it is of"
            whole = self._line.send_body(
                file,
                packet.range.start,
                packet.range.stop,
                block_length=self._block_length,
                on_block=on_block,
            )
        response = connection.getresponse()
        self._keep_cookies(where.host, response)
        if not whole or response.will_close or not _read_away(response):
            self.close()
        return response

    def _request_headers(self, packet: Packet, where: Destination) -> list[tuple[str, str]]:
        """In Windows' order; a header the user gave takes the place of ours."""
        ours = [
            ("Accept", "*/*"),
            *wire.write_packet(packet),
            ("User-Agent", f"bitsferry/{__version__}"),
            ("Host", where.authority),
        ]
        given = {name.lower() for name, _ in self._headers}
        headers = [(name, value) for name, value in ours if name.lower() not in given] + self._headers
        if self._override:
            headers.append((wire.OVERRIDE, wire.METHOD))
        if self._authorization is not None and "authorization" not in given:
            headers.append(("Authorization", self._authorization))
        cookies = self._cookies.get(where.host)
        if cookies and "cookie" not in given:
            headers.append(("Cookie", "; ".join(f"{name}={value}" for name, value in cookies.items())))
        return headers

    def _keep_cookies(self, host: str, response: HTTPResponse) -> None:
        """Load balancers recognise their clients by one; it goes back to the host it came from only."""
        for cookie in _all(response, "Set-Cookie"):
            name, _, value = cookie.partition(";")[0].strip().partition("=")
            if name:
                self._cookies.setdefault(host, {})[name] = value


def _all(response: HTTPResponse, name: str) -> list[str]:
    return response.headers.get_all(name) or []


def _by_lower_name(response: HTTPResponse) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in response.getheaders():
        name = name.lower()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _read_away(response: HTTPResponse) -> bool:
    """Whether nothing of the answer's body is left in the connection; an Ack has none, an error page may."""
    try:
        response.read(_BODY_READ)
    except (OSError, HTTPException):
        return False
    return response.isclosed()


def _explain(error: Exception, where: Destination) -> NoReturn:
    """Raise what went wrong on the line as an error of the protocol, in a sentence."""
    host, port = where.host, where.port
    if isinstance(error, ssl.SSLCertVerificationError):
        raise NotTrusted(f"the certificate of {host} is not trusted: {error.verify_message}") from error
    if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
        raise NotTrusted(f"{host} does not speak https at port {port}; is it http?") from error
    if isinstance(error, UnicodeError):
        raise TransportFailed(f"the host {host} cannot be found: it cannot be the name of one") from error
    if isinstance(error, OSError):
        raise TransportFailed(_reason(error, host, port)) from error
    said = str(error).strip() or type(error).__name__
    raise InvalidServerResponse(f"what {host} answered at port {port} is no HTTP: {said[:100]}") from error


def _reason(error: OSError, host: str, port: int) -> str:
    if isinstance(error, socket.gaierror):
        return f"the host {host} cannot be found: {error.strerror}"
    if isinstance(error, ConnectionRefusedError):
        return f"the server {host} cannot be reached: nobody answers at port {port}"
    if isinstance(error, ConnectionError):
        return f"the connection to {host} broke: the other end closed it"
    if isinstance(error, TimeoutError):
        # The system's own time-out has a number; ours are sentences.
        why = error.args[0] if len(error.args) == 1 and error.args[0] != "timed out" else "no answer"
        return f"the server {host} is silent: {why}"
    return f"the connection to {host} failed: {error.strerror or error}"
