"""Waits for the other end that somebody else can end."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["SPELL", "Ended", "connect", "rest", "shake_hands", "wait"]

# Seconds between two looks around. On Windows nothing ends a longer wait, neither Ctrl-C nor another thread.
SPELL = 0.5

_UNDER_WAY = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN)

Ended = Callable[[], bool]
"""Whether nobody wants to wait any more."""

T = TypeVar("T")


def wait(look: Callable[[float], T], seconds: float, ended: Ended) -> T:
    """What `look` returns, which waits for as many seconds as it is told and returns something empty then.

    Raises ConnectionAbortedError once `ended`, soon.
    """
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        seen = look(max(0.0, min(left, SPELL)))
        if seen or left <= SPELL:
            return seen
        if ended():
            raise ConnectionAbortedError("nobody waits for it any more")


def rest(seconds: float, end: threading.Event) -> None:
    """Sleep, but no longer than until `end` is set. `Event.wait` alone would not hear Ctrl-C on Windows."""
    wait(end.wait, seconds, lambda: False)


def connect(host: str, port: int, seconds: float, ended: Ended) -> socket.socket:
    """A connection to the first of the host's addresses that takes one within so many seconds.

    Raises OSError as `socket.create_connection` does, of the last address.
    """
    last: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            return _connected(socket.socket(family, kind, protocol), address, seconds, ended)
        except OSError as error:
            if ended():
                raise
            last = error
    raise last or OSError(f"the host {host} has no address")


def _connected(sock: socket.socket, address: Any, seconds: float, ended: Ended) -> socket.socket:
    try:
        sock.setblocking(False)
        code = sock.connect_ex(address)
        if code in _UNDER_WAY:
            _wait_for(sock, selectors.EVENT_WRITE, seconds, ended)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise _error(code)
    except BaseException:
        sock.close()
        raise
    return sock


def shake_hands(line: ssl.SSLSocket, seconds: float, ended: Ended) -> None:
    """Do the TLS handshake. Raises OSError: ssl.SSLCertVerificationError for a certificate with a fault."""
    line.setblocking(False)
    while True:
        try:
            line.do_handshake()
            return
        except ssl.SSLWantReadError:
            _wait_for(line, selectors.EVENT_READ, seconds, ended)
        except ssl.SSLWantWriteError:
            _wait_for(line, selectors.EVENT_WRITE, seconds, ended)


def _wait_for(sock: socket.socket, event: int, seconds: float, ended: Ended) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(sock, event)
        if not wait(selector.select, seconds, ended):
            raise TimeoutError("timed out")


if sys.platform == "win32":
    import ctypes

    def _error(code: int) -> OSError:
        return ctypes.WinError(code)

else:

    def _error(code: int) -> OSError:
        return OSError(code, os.strerror(code))
