"""A listening socket, through which clients come in a few at a time."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from bitsferry.server.turnstile import Turnstile

__all__ = ["Door"]

logger = logging.getLogger(__name__)

_BACKLOG = 1024
_AT_ONCE = 4  # connections taken in at each turn
_PAUSE = 1.0  # seconds for which nobody is taken in when the system has no room
_AT_THE_DOOR = "door"  # where a request has its address, at the turnstile


class Door:
    """Takes in connections when it is the door's turn, and gives each a protocol.

    asyncio's own servers take in as many at once as may wait: a crowd at the door would hold up those inside.
    """

    def __init__(
        self, listening: socket.socket, protocol: Callable[[], asyncio.BaseProtocol], turnstile: Turnstile
    ) -> None:
        self._socket = listening
        self._protocol = protocol
        self._turnstile = turnstile
        self._loop = turnstile.loop
        self._is_open = False
        self._coming_in: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """From now on."""
        self._socket.setblocking(False)
        self._socket.listen(_BACKLOG)
        self._is_open = True
        self._watch()

    def close(self) -> None:
        """Nobody any more; the socket is closed."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._socket)
            self._socket.close()

    def _watch(self) -> None:
        if self._is_open:
            self._loop.add_reader(self._socket, self._knocked)

    def _knocked(self) -> None:
        if self._turnstile.lets(_AT_THE_DOOR):
            self._take_in()
        else:
            self._loop.remove_reader(self._socket)
            self._turnstile.wait(_AT_THE_DOOR, self._turn_came)

    def _turn_came(self) -> None:
        self._watch()
        if self._is_open:
            self._take_in()

    def _take_in(self) -> None:
        try:
            for _ in range(_AT_ONCE):
                self._take_one()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            pass  # that was all; or another process was quicker, or the client is gone
        except OSError as error:
            logger.error(  # noqa: TRY400, the system's word is enough
                "nobody can be taken in for %g s: %s", _PAUSE, error.strerror or error
            )
            self._loop.remove_reader(self._socket)
            self._loop.call_later(_PAUSE, self._watch)

    def _take_one(self) -> None:
        line, _ = self._socket.accept()
        coming = self._loop.create_task(self._seat(line))
        self._coming_in.add(coming)
        coming.add_done_callback(self._coming_in.discard)

    async def _seat(self, line: socket.socket) -> None:
        line.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(self._protocol, line)
        except OSError:
            line.close()  # it broke as it began
