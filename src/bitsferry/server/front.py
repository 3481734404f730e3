"""The server's front on its sockets: who may come in, how long they may take, how it ends."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from time import monotonic

from bitsferry.protocol.errors import BitsError, Busy
from bitsferry.server.connection import BLOCK, Connection
from bitsferry.server.head import HeadReader
from bitsferry.server.request import Request, Response

__all__ = ["Front", "Limits"]

logger = logging.getLogger(__name__)

_TICK = 0.5  # seconds between two looks at all deadlines
_BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What a connection may cost; sizes in bytes, times in seconds."""

    head_size: int = 16 * 1024
    head_time: float = 30.0
    idle_time: float = 300.0
    stall_time: float = 120.0
    """No byte of a body, or of what we send, for so long: the line counts as broken."""
    drain_time: float = 30.0
    """How long running requests may go on when the server ends."""
    drain_size: int = 64 * 1024
    """A refused body up to this is read to its end, and the connection stays usable."""
    linger_size: int = 16 * 1024 * 1024
    """Of a larger one this much is read so that the client sees the answer: more than a Windows fragment."""
    linger_time: float = 5.0
    connections: int = 10_000
    connections_per_address: int = 8_000


class Front:
    """Serves HTTP/1.1 on any number of sockets until it is stopped."""

    loop: asyncio.AbstractEventLoop

    def __init__(
        self, application: Callable[[Request], Awaitable[Response]], limits: Limits | None = None
    ) -> None:
        self.application = application
        self.limits = limits or Limits()
        self.heads = HeadReader(self.limits.head_size)
        self.block = memoryview(bytearray(BLOCK))  # what every connection reads into, one at a time
        self.draining = False
        self.date = ""
        self._connections: set[Connection] = set()
        self._by_address: Counter[str] = Counter()
        self._servers: list[asyncio.Server] = []
        self._gone = asyncio.Event()  # the last connection went, or nobody waits for it any more
        self._clock: asyncio.Task[None] | None = None

    async def start(self, sockets: list[socket.socket]) -> None:
        """Accept connections on these bound sockets."""
        self.loop = loop = asyncio.get_running_loop()
        self._tell_date()
        self._clock = loop.create_task(self._watch_deadlines())
        for listener in sockets:
            if listener.family == socket.AF_UNIX:
                server = await loop.create_unix_server(
                    lambda: Connection(self), sock=listener, backlog=_BACKLOG
                )
            else:
                server = await loop.create_server(lambda: Connection(self), sock=listener, backlog=_BACKLOG)
            self._servers.append(server)

    async def stop(self) -> None:
        """Refuse new connections, let running requests finish, cut them at the drain time; bytes are kept."""
        self.draining = True
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.wind_up()
        await self._empty_within(self.limits.drain_time)
        for connection in list(self._connections):
            connection.cut()
        await self._empty_within(self.limits.linger_time)
        for connection in list(self._connections):
            connection.transport.abort()
        if self._clock is not None:
            self._clock.cancel()

    def hurry(self) -> None:
        """A `stop` under way goes on to its next step at once."""
        self._gone.set()

    async def _empty_within(self, seconds: float) -> None:
        self._gone.clear()
        if self._connections:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), seconds)

    # Connections call these

    def welcome(self, connection: Connection, address: str) -> BitsError | None:
        """A new connection; returns why it cannot stay."""
        self._connections.add(connection)
        self._by_address[address] += 1
        if len(self._connections) > self.limits.connections:
            return Busy("the server has as many connections as it takes")
        if address and self._by_address[address] > self.limits.connections_per_address:
            return Busy(f"{address} has as many connections as one address may")
        return None

    def farewell(self, connection: Connection, address: str) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        if not self._connections:
            self._gone.set()
        self._by_address[address] -= 1
        if self._by_address[address] <= 0:
            del self._by_address[address]

    def renew_block(self) -> None:
        """The block is with a slow disk: everybody reads into a fresh one."""
        self.block = memoryview(bytearray(BLOCK))

    async def _watch_deadlines(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            self._tell_date()
            now = monotonic()
            for connection in [one for one in self._connections if one.deadline < now]:
                connection.expire()

    def _tell_date(self) -> None:
        self.date = f"Date: {formatdate(usegmt=True)}\r\n"
