"""The server's front: its sockets, from the first connection to the last."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

from bitsferry.server.connection import Connection
from bitsferry.server.connections import Connections, Limits
from bitsferry.server.request import Request, Response

__all__ = ["Front"]

_TICK = 0.5  # seconds between two looks at all deadlines
_BACKLOG = 1024


class Front:
    """Serves HTTP/1.1 on any number of sockets until it is stopped."""

    def __init__(
        self, application: Callable[[Request], Awaitable[Response]], limits: Limits | None = None
    ) -> None:
        self.connections = Connections(application, limits or Limits())
        self._servers: list[asyncio.Server] = []
        self._clock: asyncio.Task[None] | None = None

    async def start(self, sockets: list[socket.socket]) -> None:
        """Accept connections on these bound sockets."""
        self.connections.loop = loop = asyncio.get_running_loop()
        self._clock = loop.create_task(self._watch_the_clock())
        for listener in sockets:
            # Unix sockets, too: since Python 3.13 create_unix_server removes their path at the end, which may
            # be systemd's, or another worker's.
            server = await loop.create_server(
                lambda: Connection(self.connections), sock=listener, backlog=_BACKLOG
            )
            self._servers.append(server)

    async def stop(self, cutting: Callable[[], None]) -> None:
        """Refuse new connections, let running requests finish, cut them at the drain time; bytes are kept.

        `cutting` is called at that time: who waits for something else than bytes waits no longer. Nothing is
        at work any more when this returns.
        """
        connections, limits = self.connections, self.connections.limits
        connections.draining = True
        for server in self._servers:
            server.close()
        for connection in list(connections.all):
            connection.wind_up()
        await self._empty_within(limits.drain_time)
        for connection in list(connections.all):
            connection.cut()
        cutting()
        await self._empty_within(limits.linger_time)
        for connection in list(connections.all):
            connection.drop()
        if connections.answering:
            await asyncio.wait(connections.answering)
        if self._clock is not None:
            self._clock.cancel()

    def hurry(self) -> None:
        """A `stop` under way goes on to its next step at once."""
        self.connections.empty.set()

    async def _empty_within(self, seconds: float) -> None:
        self.connections.empty.clear()
        if self.connections.all:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.connections.empty.wait(), seconds)

    async def _watch_the_clock(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            self.connections.look_at_the_clock()
