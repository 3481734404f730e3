"""The sockets a server listens on: by address, by path, or handed over by systemd."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, cast

__all__ = ["Address", "ListenError", "Listener", "inherited", "notify", "open_listeners"]

BACKLOG = 1024  # connections the system keeps for us while we are busy

_FIRST_INHERITED = 3
_LAST_BREATH = 2.0  # seconds a killed server may take to let go of its port
_POLL = 0.05
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_HOST_PORT = re.compile(
    r"(?:(?P<scheme>https?)://)?(?:\[(?P<six>[\w:.%]+)\]|(?P<host>[\w.-]*)):(?P<port>[0-9]{1,5})/?", re.ASCII
)


class ListenError(Exception):
    """A listener cannot be opened; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a host, empty for every address, with a port, 0 for any free one; or a Unix path.

    `scheme` is "https" for TLS, "http" for none; empty, it is as the server has a certificate or not.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    scheme: Literal["", "http", "https"] = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """`HOST:PORT`, `[IPv6]:PORT`, `:PORT`, or one of these behind `http://` or `https://`; `unix:PATH`.

        Raises ValueError.
        """
        if text.startswith("unix:") and "\0" not in text and text != "unix:":
            return cls(path=text.removeprefix("unix:"))
        match = _HOST_PORT.fullmatch(text)
        bare = match is not None and match["scheme"] is None
        if match is None or int(match["port"]) > 65535 or (bare and text.endswith("/")):
            raise ValueError(
                f"{text!r} is no address to listen on: write HOST:PORT, [::1]:PORT or unix:/path"
            )
        scheme = cast("Literal['', 'http', 'https']", match["scheme"] or "")
        return cls(match["six"] or match["host"], int(match["port"]), scheme=scheme)

    def below(self, folder: str) -> Address:
        """The same, a relative path being meant from `folder` on."""
        return replace(self, path=os.path.join(folder, self.path)) if self.path else self

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}" if self.scheme else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket with the URL people reach it by, and the path that goes with it."""

    socket: socket.socket
    url: str
    path: str | None = None
    speaks_tls: bool = False

    def withdraw(self) -> None:
        """Remove the path: nobody new finds the way, and another server may take it."""
        if self.path is not None:
            with suppress(OSError):
                os.unlink(self.path)

    def close(self) -> None:
        """Stop listening."""
        self.socket.close()


def open_listeners(address: Address, *, has_tls: bool = False) -> list[Listener]:
    """Listen on an address; a name may have several, and each gets a listener. Raises ListenError.

    `has_tls`: the server has a certificate.
    """
    secure = address.scheme == "https" or (has_tls and not address.scheme)
    deadline = time.monotonic() + _LAST_BREATH
    while True:
        try:
            return [_unix(address.path)] if address.path else _tcp(address, secure)
        except UnicodeError:
            raise ListenError(f"cannot listen on {address}: this is no name of a host") from None
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise ListenError(f"cannot listen on {address}: {error.strerror or error}") from error
            time.sleep(_POLL)


def _tcp(address: Address, secure: bool) -> list[Listener]:
    found = socket.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    listeners: list[Listener] = []
    absent: OSError | None = None
    for family, _, _, _, (host, port, *scope) in dict.fromkeys(found):
        if listeners:
            port = listeners[0].socket.getsockname()[1]  # the same for all, where any would do
        try:
            bound = _bind(family, (host, port, *scope))
        except OSError as error:
            if error.errno not in _ABSENT:
                for listener in listeners:
                    listener.close()
                raise
            absent = error
        else:
            listeners.append(Listener(bound, _url(bound, secure), speaks_tls=secure))
    if absent is not None and not listeners:
        raise absent
    return listeners


def _bind(family: int, where: tuple[object, ...]) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(where)
        # At once: two sockets may be bound to one port, but only one can listen.
        bound.listen(BACKLOG)
    except OSError:
        bound.close()
        raise
    return bound


def _unix(path: str) -> Listener:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path).st_mode) and not _somebody_listens(path):
                os.unlink(path)
        bound.bind(path)
        # As open as a port on the loopback: who may come in is said by the folder it is in.
        os.chmod(path, 0o666)  # noqa: S103
        bound.listen(BACKLOG)
    except OSError:
        bound.close()
        raise
    return Listener(bound, _url(bound), os.path.abspath(path))


def _somebody_listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def _url(bound: socket.socket, secure: bool = False) -> str:
    name = bound.getsockname()
    if bound.family == socket.AF_UNIX:
        return "unix:" + (name if isinstance(name, str) else name.decode(errors="replace").replace("\0", "@"))
    host, port = name[0], name[1]
    host = f"[{host}]" if bound.family == socket.AF_INET6 else host
    return f"{'https' if secure else 'http'}://{host}:{port}/"


def inherited(*, has_tls: bool = False) -> list[Listener]:
    """The sockets systemd opened for us (sd_listen_fds); none when it opened none. Raises ListenError.

    `has_tls`: the server has a certificate, for those that are no Unix sockets.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    found = []
    try:
        for descriptor in range(_FIRST_INHERITED, _FIRST_INHERITED + int(os.environ["LISTEN_FDS"])):
            os.set_inheritable(descriptor, False)
            bound = socket.socket(fileno=descriptor)
            secure = has_tls and bound.family != socket.AF_UNIX
            found.append(Listener(bound, _url(bound, secure), speaks_tls=secure))
            if not bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise ListenError(f"{found[-1].url}, handed over by systemd, is no socket that listens")
    except (KeyError, ValueError, OSError) as error:
        raise ListenError(f"the sockets handed over by systemd cannot be used: {error}") from error
    return found


def notify(state: str) -> None:
    """Tell systemd how we are (sd_notify), if it wants to know: READY=1, RELOADING=1, STOPPING=1."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    if path.startswith("@"):
        path = "\0" + path[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
        line.connect(path)
        line.sendall(state.encode())
