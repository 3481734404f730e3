"""The sockets a server listens on: by address, by path, or handed over by systemd."""

from __future__ import annotations

import os
import re
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass

__all__ = ["ListenError", "Listener", "inherited", "notify", "open_listener"]

_FIRST_INHERITED = 3
_HOST_PORT = re.compile(r"(?:\[(?P<six>[^\]]+)\]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]{1,5})")


class ListenError(Exception):
    """A listener cannot be opened; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound socket with the URL people reach it by, and the path to remove at the end."""

    socket: socket.socket
    url: str
    path: str | None = None

    def close(self) -> None:
        """Stop listening; a Unix socket's path goes, if it is still ours."""
        self.socket.close()
        if self.path is not None:
            with suppress(OSError):
                os.unlink(self.path)


def open_listener(address: str) -> list[Listener]:
    """Bind `HOST:PORT`, `[IPv6]:PORT`, `:PORT` (every address) or `unix:PATH`; port 0 is any free one.

    A name may have several addresses; each gets a listener. Raises ListenError.
    """
    if address.startswith("unix:"):
        return [_unix(address.removeprefix("unix:"))]
    match = _HOST_PORT.fullmatch(address)
    if match is None or int(match["port"]) > 65535:
        raise ListenError(
            f"{address!r} is no address to listen on; write HOST:PORT, [::1]:PORT or unix:/path"
        )
    host, port = match["six"] or match["host"] or None, int(match["port"])
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: {error.strerror}") from error
    listeners: list[Listener] = []
    for family, _, _, _, where in dict.fromkeys(found):
        if port == 0 and listeners:
            where = (where[0], listeners[0].socket.getsockname()[1], *where[2:])
        try:
            listeners.append(_tcp(family, where))
        except OSError as error:
            for listener in listeners:
                listener.close()
            raise ListenError(f"cannot listen on {address}: {error.strerror or error}") from error
    return listeners


def _tcp(family: int, where: tuple[object, ...]) -> Listener:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(where)
    except OSError:
        bound.close()
        raise
    return Listener(bound, _url(bound))


def _unix(path: str) -> Listener:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path).st_mode) and not _somebody_listens(path):
                os.unlink(path)
        bound.bind(path)
    except OSError as error:
        bound.close()
        raise ListenError(f"cannot listen on unix:{path}: {error.strerror or error}") from error
    return Listener(bound, _url(bound), os.path.abspath(path))


def _somebody_listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def _url(bound: socket.socket) -> str:
    name = bound.getsockname()
    if bound.family == socket.AF_UNIX:
        return f"unix:{name}"
    host, port = name[0], name[1]
    return f"http://[{host}]:{port}/" if bound.family == socket.AF_INET6 else f"http://{host}:{port}/"


def inherited() -> list[Listener]:
    """The sockets systemd opened for us (sd_listen_fds); none when it did not start us."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    found = []
    for descriptor in range(_FIRST_INHERITED, _FIRST_INHERITED + count):
        os.set_inheritable(descriptor, False)
        bound = socket.socket(fileno=descriptor)
        found.append(Listener(bound, _url(bound)))
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
