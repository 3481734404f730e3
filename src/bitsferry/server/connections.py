"""All connections of a server: how many there may be, how long they may take, what they share."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from time import monotonic
from typing import Protocol

from bitsferry.protocol.errors import BitsError, Busy
from bitsferry.server.head import HeadReader
from bitsferry.server.request import Request, Response

__all__ = ["BLOCK", "Connections", "Limits", "Member"]

BLOCK = 256 * 1024  # bytes read from a socket at once
_SPARE_BLOCKS = 32  # as many as threads write at once


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


class Member(Protocol):
    """A connection, as the others' keeper sees it; `deadline` is in monotonic seconds."""

    deadline: float

    @abstractmethod
    def expire(self) -> None:
        """The deadline is over."""

    @abstractmethod
    def wind_up(self) -> None:
        """The server ends: close what is idle, let what runs finish."""

    @abstractmethod
    def cut(self) -> None:
        """The server's patience is over: end a running body at a block's edge, keeping its bytes."""

    @abstractmethod
    def drop(self) -> None:
        """No more words."""


class Connections:
    """Keeps count of connections and of their time, and lends them what each needs only for a moment."""

    loop: asyncio.AbstractEventLoop

    def __init__(self, application: Callable[[Request], Awaitable[Response]], limits: Limits) -> None:
        self.application = application
        self.set_limits(limits)
        self.block = memoryview(bytearray(BLOCK))  # what every connection reads into, one at a time
        self._spare: list[memoryview] = []
        self.draining = False
        self.empty = asyncio.Event()  # the last connection went, or nobody waits for it any more
        self.all: set[Member] = set()
        self.answering: set[asyncio.Task[None]] = set()  # requests at work, those of lost lines too
        self._by_address: Counter[str] = Counter()
        self.look_at_the_clock()

    def set_limits(self, limits: Limits) -> None:
        """From now on these hold, for connections that are here too."""
        self.limits = limits
        self.heads = HeadReader(limits.head_size)

    def welcome(self, member: Member, address: str) -> BitsError | None:
        """A new connection; returns why it cannot stay."""
        self.all.add(member)
        self._by_address[address] += 1
        if len(self.all) > self.limits.connections:
            return Busy("the server has as many connections as it takes")
        if address and self._by_address[address] > self.limits.connections_per_address:
            return Busy(f"{address} has as many connections as one address may")
        return None

    def farewell(self, member: Member, address: str) -> None:
        """A connection is gone."""
        self.all.discard(member)
        if not self.all:
            self.empty.set()
        self._by_address[address] -= 1
        if self._by_address[address] <= 0:
            del self._by_address[address]

    def lend_block(self) -> memoryview:
        """The block goes to a slow disk, until `return_block`: everybody reads into another one."""
        lent, self.block = self.block, self._spare.pop() if self._spare else memoryview(bytearray(BLOCK))
        return lent

    def return_block(self, block: memoryview) -> None:
        """The disk is done with it."""
        if len(self._spare) < _SPARE_BLOCKS:
            self._spare.append(block)

    def look_at_the_clock(self) -> None:
        """Let go of whoever is past its deadline; renew the Date answers carry."""
        self.date = f"Date: {formatdate(usegmt=True)}\r\n"
        now = monotonic()
        for member in [one for one in self.all if one.deadline < now]:
            member.expire()
