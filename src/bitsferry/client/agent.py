"""A user agent: requests over one kept HTTP/1.1 connection, straight to the server or through a proxy."""

from __future__ import annotations

import errno
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import NoReturn

from bitsferry import __version__
from bitsferry.client.credentials import Authenticator, Credential, Target
from bitsferry.client.destination import Destination
from bitsferry.client.line import Line
from bitsferry.client.options import HttpOptions
from bitsferry.client.proxies import Proxy, proxy_for
from bitsferry.client.trust import Trust
from bitsferry.client.waiting import connect, shake_hands
from bitsferry.protocol import errors
from bitsferry.protocol.hresult import HResult

__all__ = ["NotTrusted", "Response", "UserAgent"]

# Seconds; the last two are the upload timers of MC-BUP 3.1.2. SENDING counts from the last byte taken.
CONNECTING = 30.0
SENDING = 120.0
ANSWERING = 300.0

_MOMENT = 1.0  # seconds
# What a server says of a client's certificate (RFC 8446 6.2), as OpenSSL spells it.
_ALERT = re.compile(
    r"alert ((?:bad |unsupported )?certificate[a-z ]*|unknown ca|access denied)", re.IGNORECASE
)
_BODY_READ = 64 * 1024  # an error page up to this length is read away, so that the connection can be kept
_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN)
_GREETINGS = 2  # requests without a body in vain, after each of which the connection was gone
_COOKIES = 4096  # bytes of a Cookie header at most: servers refuse more (MC-BUP 2.2.1 <2>)

Body = Callable[[Line], bool]
"""Sends a request's body; False when the other end answered before it had all."""


class NotTrusted(errors.TransportFailed):
    """There is no safe line to this server: trying again would not change that."""

    hresult = HResult.ERROR_WINHTTP_SECURE_FAILURE
    transient = False


class CertificateRefused(NotTrusted):
    """The server takes no client without a certificate, or not with the one it was shown."""

    hresult = HResult.ERROR_WINHTTP_CLIENT_AUTH_CERT_NEEDED


class Response:
    """An answer whose body is still on its way; reading it all, or `discard`, frees the connection."""

    def __init__(self, agent: UserAgent, response: HTTPResponse, where: Destination) -> None:
        self._agent = agent
        self._response = response
        self.where = where
        self.status = response.status
        self.refusal = ""
        """Why nobody can say who is asking as this answer, a 401 or 407, wants it."""
        self.headers: dict[str, str] = {}  # by lower-case name, repeated ones joined by commas
        for name, value in response.getheaders():
            name = name.lower()
            self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value

    def all(self, name: str) -> list[str]:
        """Every value of a header that may be repeated."""
        return self._response.headers.get_all(name) or []

    @property
    def length(self) -> int | None:
        """How many bytes of the body are still to come, or None when nobody said so."""
        return self._response.length

    def readinto(self, block: memoryview) -> int:
        """Fill `block` as far as bytes are there; 0 at the end. Raises TransportFailed when the line breaks,
        InvalidServerResponse when the body is shorter than was said.
        """
        self._agent.listen_long()
        try:
            # Not readinto(): it waits until all of `block` is full, and loses what came when the line breaks.
            came = self._response.read1(len(block))
        except (OSError, HTTPException) as error:
            self._agent.close()
            explain(error, self.where)
        count = len(came)
        block[:count] = came
        if not count and self._response.length:
            self._agent.close()
            raise errors.TransportFailed(
                f"the connection to {self.where.host} broke: {self._response.length} bytes are missing"
            )
        return count

    def discard(self) -> None:
        """What is left of the body is not wanted: a short rest is read away, a long one ends the line."""
        try:
            self._response.read(_BODY_READ)
        except (OSError, HTTPException):
            self._agent.close()
            return
        if not self._response.isclosed() or not self._agent.is_kept:
            self._agent.close()


class UserAgent:
    """Says one request after the other; keeps its connection, its cookies and what servers asked for.

    `request` raises TransportFailed (the line), NotTrusted (no safe one) or InvalidServerResponse (what came
    is no HTTP). The next request starts afresh by itself. Only `abort` may be called by another thread.
    """

    def __init__(
        self,
        options: HttpOptions | None = None,
        credentials: Iterable[Credential] = (),
        *,
        connecting: float = CONNECTING,
        sending: float = SENDING,
        answering: float = ANSWERING,
    ) -> None:
        """The times are in seconds."""
        self.options = options or HttpOptions()
        self._credentials = list(credentials)
        self._connecting, self._sending, self._answering = connecting, sending, answering
        self._trust = Trust(self.options.tls)
        self._trust_of_others = Trust(replace(self.options.tls, client_certificate=None, client_key=None))
        self._authenticators: dict[tuple[str, str, int], Authenticator] = {}
        self._cookies: dict[tuple[str, str, int], dict[str, str]] = {}  # by origin
        self._line: Line | None = None
        self._connected_to: tuple[object, ...] | None = None
        self._aborted = False

    def request(
        self,
        method: str,
        where: Destination,
        headers: Sequence[tuple[str, str]],
        body: Body | None = None,
        *,
        greeting: Sequence[tuple[str, str]] = (),
        ours: bool = True,
    ) -> Response:
        """Say a request and return its answer. Where it wants credentials and we have them, say it again.

        `greeting` are the headers of a request without a body that does nothing. It goes before one with a
        body where NTLM or Negotiate has to prove on each connection who is asking, so that no body goes out
        in vain; when it is refused, its answer is the one that is returned.

        Not `ours`: the address came from a server and is another one's. It gets no credentials, no
        certificate of ours, no headers the user gave and no cookies but its own.
        """
        proxy = proxy_for(self.options.proxy, where.scheme, where.host, where.port)
        server = self._authenticator(where, ours=ours)
        gate = self._proxy_authenticator(proxy) if proxy and not self._is_tunnelled(where) else None
        askers = [server] if gate is None else [server, gate]
        for each in askers:
            each.next_request()
        greetings = 0
        while True:
            line, is_new = self._ready(where, proxy, askers, ours=ours)
            greets = bool(greeting) and any(each.is_open for each in askers)
            began = time.monotonic()
            try:
                whole = self._headers(greeting if greets else headers, where, ours=ours)
                if (value := server.authorization(method, where.target)) and not _has(whole, "authorization"):
                    whole.append(("Authorization", value))
                uri = f"{where.scheme}://{where.authority}{where.target}"
                if gate and (value := gate.authorization(method, uri)):
                    whole.append(("Proxy-Authorization", value))
                target = uri if gate else where.target
                response = self._say(line, method, target, where, whole, None if greets else body)
            except (OSError, HTTPException, UnicodeError) as error:
                self.close()
                # A kept connection may be closed the moment we speak; every request may be repeated. What
                # breaks later in a body is for the ears of whoever chooses how long it is.
                late = is_new or self._aborted or time.monotonic() - began > _MOMENT
                if isinstance(error, ConnectionError) and not late:
                    continue
                explain(error, where if proxy is None else _address_of(proxy))
            except BaseException:
                self.close()
                raise
            if self._is_to_be_repeated(response, server, gate):
                continue
            if not greets or not 200 <= response.status < 300:
                return response
            response.discard()
            greetings += 1
            if greetings > _GREETINGS:
                response.status = 401
                response.refusal = (
                    f"{where.host} ends each connection on which it was proved who is asking: "
                    "NTLM and Negotiate need connections that are kept"
                )
                return response

    def _is_to_be_repeated(
        self, response: Response, server: Authenticator, gate: Authenticator | None
    ) -> bool:
        """Whether an answer asks who is asking, and we have something to say.

        Raises NotTrusted when whoever answered is not the one it should be.
        """
        asks = {401: server, 407: gate}.get(response.status)
        if response.status != 407:  # what comes from the proxy says nothing of the server behind it
            for each, header in ((server, "WWW-Authenticate"), (gate, "Proxy-Authenticate")):
                if each is None or each is asks:
                    continue
                if why := each.accepted(response.all(header), good=response.status < 400):
                    self.close()
                    raise NotTrusted(f"{response.where.host} is not known by its answer: {why}")
        if asks is None:
            return False
        challenges = response.all("WWW-Authenticate" if asks is server else "Proxy-Authenticate")
        response.discard()
        if asks.challenged(challenges, kept=self.is_kept):
            return True
        response.refusal = asks.refusal()
        return False

    @property
    def is_kept(self) -> bool:
        """Whether the next request can be said on the same connection."""
        return self._connected_to is not None

    def round_trip(self) -> float | None:
        """The seconds to the other end and back just now; None where nobody can say."""
        return None if self._line is None else self._line.round_trip()

    def listen_long(self) -> None:
        """The body that comes may be a file: the time for the answer counts from each byte anew."""
        if self._line is not None:
            self._line.listen_long()

    def close(self) -> None:
        """Hang up."""
        if self._line is not None:
            self._line.close()
        self._line = self._connected_to = None

    def abort(self) -> None:
        """End the request under way, from any thread: it raises TransportFailed there."""
        self._aborted = True
        line = self._line
        if line is not None:
            line.abort()

    # The connection

    def _ready(
        self, where: Destination, proxy: Proxy | None, askers: Iterable[Authenticator], *, ours: bool
    ) -> tuple[Line, bool]:
        """The connection the last request was said on, or else a new one; and whether it is one."""
        line, route = self._line, (where.origin, proxy, ours)
        if line is not None and self._connected_to == route and not line.is_stale():
            return line, False
        self.close()
        cut = any(each.is_between_legs for each in askers)
        for each in askers:
            each.connected()
        if cut:
            raise errors.TransportFailed(
                f"the connection to {where.host} broke in the middle of a handshake: the other end closed it"
            )
        try:
            line = self._connect(where, proxy, ours=ours)
        except (OSError, HTTPException, UnicodeError) as error:
            self.close()
            explain(error, where if proxy is None else _address_of(proxy))
        except BaseException:
            self.close()
            raise
        self._connected_to = route
        for each in askers:
            each.connected(line.certificate())
        return line, True

    def _say(
        self,
        line: Line,
        method: str,
        target: str,
        where: Destination,
        headers: Sequence[tuple[str, str]],
        body: Body | None,
    ) -> Response:
        connection = HTTPConnection(where.host, where.port)
        connection.sock = line
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        whole = body(line) if body is not None else True
        # Not getresponse(): it hangs up at once where the server says it will, with the body still to come.
        answer = HTTPResponse(line, method=method)  # type: ignore[arg-type]  # all it asks of a socket
        answer.begin()
        self._keep_cookies(where, answer)
        response = Response(self, answer, where)
        if not whole or answer.will_close:
            self._connected_to = None  # what is to be read can be read, but nothing more be said
        return response

    def _connect(self, where: Destination, proxy: Proxy | None, *, ours: bool) -> Line:
        if where.scheme == "https":
            trust = self._trust if ours else self._trust_of_others
            sock: socket.socket = trust.handshake(
                lambda: self._reach(where, proxy), where.host, self._shake_hands
            )
        else:
            sock = self._reach(where, proxy)
        self._line = self._line_of(sock)
        if self._aborted:
            self._line.abort()
        return self._line

    def _reach(self, where: Destination, proxy: Proxy | None) -> socket.socket:
        """A connected socket on which the server itself listens, or a proxy that passes requests on."""
        if proxy is None:
            return self._dial(where.host, where.port)
        if not self._is_tunnelled(where):
            return self._dial(proxy.host, proxy.port)
        gate = self._proxy_authenticator(proxy)
        gate.next_request()
        target = f"[{where.host}]:{where.port}" if ":" in where.host else f"{where.host}:{where.port}"
        while True:
            sock = self._dial(proxy.host, proxy.port)
            gate.connected()
            try:
                if self._tunnel(sock, proxy, gate, target):
                    return sock
            except BaseException:
                sock.close()
                raise
            sock.close()

    def _tunnel(self, sock: socket.socket, proxy: Proxy, gate: Authenticator, target: str) -> bool:
        """Ask the proxy until the tunnel is there; False when it wants to be asked on another connection."""
        while True:
            answer = self._ask_for_tunnel(sock, target, gate.authorization("CONNECT", target))
            challenges = answer.headers.get_all("Proxy-Authenticate") or []
            if answer.status != 407:
                opened = 200 <= answer.status < 300
                if why := gate.accepted(challenges, good=opened):
                    raise NotTrusted(why)
                if not opened:
                    raise _no_tunnel(answer.status, proxy, target)
                return True
            answer.read(_BODY_READ)
            kept = answer.isclosed() and not answer.will_close
            if not gate.challenged(challenges, kept=kept):
                raise errors.ProxyAuthenticationRequired(gate.refusal())
            if not kept:
                return False

    def _ask_for_tunnel(self, sock: socket.socket, target: str, authorization: str | None) -> HTTPResponse:
        """CONNECT (RFC 9110 9.3.6); nothing follows the answer's head until we speak."""
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}", f"User-Agent: bitsferry/{__version__}"]
        if authorization is not None:
            lines.append(f"Proxy-Authorization: {authorization}")
        line = self._line_of(sock)
        line.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        answer = HTTPResponse(line, method="CONNECT")  # type: ignore[arg-type]
        answer.begin()
        return answer

    def _dial(self, host: str, port: int) -> socket.socket:
        sock = connect(host, port, self._connecting, self._is_aborted)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _shake_hands(self, line: ssl.SSLSocket) -> None:
        shake_hands(line, self._connecting, self._is_aborted)

    def _line_of(self, sock: socket.socket) -> Line:
        return Line(sock, sending=self._sending, answering=self._answering, ended=self._is_aborted)

    def _is_aborted(self) -> bool:
        return self._aborted

    def _is_tunnelled(self, where: Destination) -> bool:
        return where.scheme == "https" or self.options.proxy.tunnel

    # What is said with every request

    def _authenticator(self, where: Destination, *, ours: bool) -> Authenticator:
        if not ours:
            return Authenticator((), Target.SERVER)
        if where.origin not in self._authenticators:
            authenticator = Authenticator(self._credentials, Target.SERVER, host=where.host)
            self._authenticators[where.origin] = authenticator
        return self._authenticators[where.origin]

    def _proxy_authenticator(self, proxy: Proxy) -> Authenticator:
        key = ("proxy", proxy.host, proxy.port)
        if key not in self._authenticators:
            own = [Credential(Target.PROXY, None, proxy.user, proxy.password or "")] if proxy.user else []
            self._authenticators[key] = Authenticator(
                [*self._credentials, *own], Target.PROXY, host=proxy.host
            )
        return self._authenticators[key]

    def _headers(
        self, said: Sequence[tuple[str, str]], where: Destination, *, ours: bool
    ) -> list[tuple[str, str]]:
        """In Windows' order; a header the user gave takes the place of ours."""
        given = list(self.options.headers) if ours else []
        common = [*said, ("User-Agent", f"bitsferry/{__version__}"), ("Host", where.authority)]
        headers = [(name, value) for name, value in common if not _has(given, name)] + given
        cookies = self._cookies.get(where.origin)
        if cookies and not _has(given, "cookie"):
            headers.append(("Cookie", "; ".join(f"{name}={value}" for name, value in cookies.items())))
        return headers

    def _keep_cookies(self, where: Destination, response: HTTPResponse) -> None:
        """Load balancers recognise their clients by one; it goes back to the origin it came from only."""
        for cookie in response.headers.get_all("Set-Cookie") or []:
            name, _, value = cookie.partition(";")[0].strip().partition("=")
            kept = self._cookies.get(where.origin, {}) | {name: value}
            if name and sum(len(name) + len(value) + 3 for name, value in kept.items()) <= _COOKIES:
                self._cookies[where.origin] = kept


def _has(headers: Iterable[tuple[str, str]], name: str) -> bool:
    return any(each.lower() == name.lower() for each, _ in headers)


def _address_of(proxy: Proxy) -> Destination:
    return Destination("http", proxy.host, proxy.port, "/")


def _no_tunnel(status: int, proxy: Proxy, target: str) -> errors.BitsError:
    where = f"the proxy {proxy.host}:{proxy.port}"
    transient = status in (408, 425, 429) or status >= 500
    return errors.Refused(
        f"{where} opens no way to {target} (HTTP status {status})",
        status=status,
        hresult=None,
        context=errors.Context.GENERAL_TRANSPORT,
        transient=transient,
    )


def explain(error: Exception, where: Destination) -> NoReturn:
    """Raise what went wrong on the line as an error of the protocol, in a sentence."""
    host, port = where.host, where.port
    if isinstance(error, ssl.SSLCertVerificationError):
        raise NotTrusted(f"the certificate of {host} is not trusted: {error.verify_message}") from error
    if isinstance(error, ssl.SSLError) and (alert := _ALERT.search(str(error))):
        why = alert[1].lower().replace("_", " ")
        raise CertificateRefused(
            f"{host} does not let this client in by its certificate ({why}); "
            "a job or transfer can have one of its own"
        ) from error
    if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
        raise NotTrusted(f"{host} does not speak https at port {port}; is it http?") from error
    if isinstance(error, UnicodeError):
        raise errors.HostNotFound(f"the host {host} cannot be found: it cannot be the name of one") from error
    if isinstance(error, OSError):
        raise _failed(error, host, port) from error
    said = str(error).strip() or type(error).__name__
    raise errors.InvalidServerResponse(
        f"what {host} answered at port {port} is no HTTP: {said[:100]}"
    ) from error


def _failed(error: OSError, host: str, port: int) -> errors.TransportFailed:
    if isinstance(error, socket.gaierror):
        return errors.HostNotFound(f"the host {host} cannot be found: {error.strerror}")
    if isinstance(error, ConnectionRefusedError):
        return errors.CannotConnect(f"the server {host} cannot be reached: nobody answers at port {port}")
    if isinstance(error, ConnectionError):
        return errors.TransportFailed(f"the connection to {host} broke: the other end closed it")
    if isinstance(error, TimeoutError):
        # The system's own time-out has a number; ours are sentences.
        why = error.args[0] if len(error.args) == 1 and error.args[0] != "timed out" else "no answer"
        return errors.TimedOut(f"the server {host} is silent: {why}")
    if error.errno in _UNREACHABLE:
        return errors.CannotConnect(f"there is no way to the server {host}: {error.strerror}")
    return errors.TransportFailed(f"the connection to {host} failed: {error.strerror or error}")
