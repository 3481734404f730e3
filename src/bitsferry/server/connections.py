"""All connections of a server: how many there may be, how long they may take, what they share."""

from __future__ import annotations

import asyncio
import math
import sys
from abc import abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from heapq import nsmallest
from operator import attrgetter
from time import monotonic
from typing import Protocol

from bitsferry.protocol.errors import BitsError, Busy
from bitsferry.server.head import HeadReader
from bitsferry.server.request import Request, Response
from bitsferry.server.turnstile import Turnstile

__all__ = ["BLOCK", "Connections", "Limits", "Member"]

BLOCK = 256 * 1024  # bytes read from a socket at once
_SPARE_BLOCKS = 32  # as many as threads write at once
_PATIENCE = 5.0  # seconds of silence after which a connection may have to make room for another one
_CLEARING = 0.1  # seconds between two looks for such ones, of which a hundredth goes at once
_OVERRUN = 100  # connections and a tenth over the limit: from there on nobody is told why


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

    @property
    @abstractmethod
    def waits_since(self) -> float:
        """When it began to wait for a request, in monotonic seconds; infinite while there is one."""

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
        self.turnstile = Turnstile()
        self._cleared = -math.inf  # when room was made for new ones
        self.begun = 0.0  # processor time when reading the block of a body began
        self._by_address: Counter[str] = Counter()
        self.look_at_the_clock()

    def set_limits(self, limits: Limits) -> None:
        """From now on these hold, for connections that are here too."""
        self.limits = limits
        self.heads = HeadReader(limits.head_size)
        self._most = min(limits.connections, _room_for_connections())

    def welcome(self, member: Member, address: str) -> BitsError | None:
        """A new connection; returns why it cannot stay."""
        self.all.add(member)
        self._by_address[address] += 1
        if len(self.all) > self._most and not self._make_room():
            return Busy(f"the server has {self._most} connections, as many as it takes")
        if address and self._by_address[address] > self.limits.connections_per_address:
            return Busy(f"{address} has as many connections as one address may")
        return None

    @property
    def is_overrun(self) -> bool:
        """Even refusing is too much."""
        return len(self.all) > self._most * 1.1 + _OVERRUN

    def _make_room(self) -> bool:
        """Let go of those that said nothing for longest, rather than of somebody new."""
        now = monotonic()
        if now - self._cleared >= _CLEARING:
            self._cleared = now
            silent = [one for one in self.all if one.waits_since < now - _PATIENCE]
            for member in nsmallest(max(1, self._most // 100), silent, key=attrgetter("waits_since")):
                self.all.discard(member)
                member.expire()
        return len(self.all) <= self._most

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


def _room_for_connections() -> int:
    """As many as there are descriptors for: two each while it uploads, and the store's must be left."""
    try:
        import resource
    except ImportError:
        return sys.maxsize
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if descriptors == resource.RLIM_INFINITY else max(64, descriptors // 2 - 300)
