"""The server's front: its sockets, from the first connection to the last."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from bitsferry.server.connection import Connection
from bitsferry.server.connections import Connections, Limits
from bitsferry.server.door import Door
from bitsferry.server.listeners import Listener
from bitsferry.server.request import Request, Response
from bitsferry.server.tls import Tls
from bitsferry.server.tls_line import TlsLine

__all__ = ["Front"]

_TICK = 0.5  # seconds between two looks at all deadlines


class Front:
    """Serves HTTP/1.1 on any number of sockets until it is stopped."""

    def __init__(
        self,
        application: Callable[[Request], Awaitable[Response]],
        limits: Limits | None = None,
        tls: Tls | None = None,
    ) -> None:
        self.connections = Connections(application, limits or Limits())
        self.tls = tls
        self._doors: list[Door] = []
        self._clock: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self, listeners: list[Listener]) -> None:
        """Accept connections on these; those that speak TLS need some."""
        self.connections.loop = self.connections.turnstile.loop = loop = asyncio.get_running_loop()
        self._clock = loop.create_task(self._watch_the_clock())
        if self.tls is not None:
            self._watching = loop.create_task(self.tls.watch())
        for listener in listeners:
            protocol = self._tls_line if listener.speaks_tls else self._connection
            door = Door(listener.socket, protocol, self.connections.turnstile)
            door.open()
            self._doors.append(door)

    def _connection(self) -> Connection:
        return Connection(self.connections)

    def _tls_line(self) -> TlsLine:
        assert self.tls is not None, "see start"
        return TlsLine(self.connections, self.tls)

    async def stop(self, cutting: Callable[[], None]) -> None:
        """Refuse new connections, let running requests finish, cut them at the drain time; bytes are kept.

        `cutting` is called at that time: who waits for something else than bytes waits no longer. Nothing is
        at work any more when this returns.
        """
        connections, limits = self.connections, self.connections.limits
        connections.draining = True
        for door in self._doors:
            door.close()
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
        for task in (self._clock, self._watching):
            if task is not None:
                task.cancel()

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
