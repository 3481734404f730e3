"""Whose request is looked at next, when more come than can be: one address after the other."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Callable
from time import process_time, thread_time

from bitsferry.store.threads import at_work

__all__ = ["Turnstile"]

_AT_ONCE = 32  # requests between two looks at all sockets,
_BURST = 0.001  # which take so many seconds
_LATELY = 0.01  # seconds since the last block of a body
_LITTLE = 0.02  # of the time: bodies that take less than this want no more
_AT_LEAST = 0.002  # seconds until the next request, however much the bodies want
_CREDIT = 0.001  # seconds that requests may be ahead,
_DEBT = 0.02  # and behind
_OF_IDLE = 4  # seconds of credit for one in which nobody wanted anything
_LEARNT = 0.1  # how much the last requests say of what the next one costs
_THREADS = 4  # of the disk's, at work at once: each of them takes Python's lock from the bodies


class Turnstile:
    """Keeps who asks much from keeping others waiting.

    A request costs many times what a block of a body does, and thousands of them between two blocks would
    starve an upload. So few are let through before all sockets are looked at again; while bodies want all
    the time there is, requests get a third of it; and where many wait, addresses take turns. Without a crowd
    nobody waits.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        thread_time: Callable[[], float] = thread_time,
        process_time: Callable[[], float] = process_time,
        at_work: Callable[[], int] = at_work,
    ) -> None:
        """Processor time in seconds, the event loop's and that of all threads; how many the disk has."""
        self._thread_time = thread_time
        self._process_time = process_time
        self._at_work = at_work
        self._waiting: OrderedDict[str, deque[Callable[[], None]]] = OrderedDict()
        self._most = self._left = 1  # how many may go through in this round, and how many still
        self._round: asyncio.Handle | None = None
        self._paused = False  # before this round
        self._went = -math.inf  # the end of the last round in which somebody went through
        self._moved = -math.inf  # when the last block of a body came in
        self._moving = 0.0  # processor time for bodies in this round
        self._credit = 0.0
        self._cost = 0.0001  # processor time of a request
        self._share = 0.0  # of all time, that of bodies
        self._looked = self._spent = self._all_spent = 0.0  # the times when the round began

    def body_moved(self, seconds: float) -> None:
        """A block of a body came in, for so much processor time."""
        self._moving += seconds
        self._moved = self.loop.time()

    def lets(self, address: str) -> bool:
        """Whether somebody may go on at once; who may not, `wait`s."""
        self._watch()
        if self._waiting or not self._left:
            return False
        self._left -= 1
        return True

    def wait(self, address: str, go: Callable[[], None]) -> None:
        """Call `go` when it is the address's turn; it must bear that its connection is gone by then."""
        self._waiting.setdefault(address, deque()).append(go)
        self._watch()

    def _watch(self) -> None:
        if self._round is None:
            self._round = self.loop.call_soon(self._next_round)

    def _next_round(self) -> None:
        """All sockets were looked at since the last one."""
        self._round = None
        self._most = self._left = self._allowed()
        self._paused = False
        while self._waiting and self._left:
            self._left -= 1
            address, queue = self._waiting.popitem(last=False)
            go = queue.popleft()
            if queue:
                self._waiting[address] = queue
            go()
        if self._left < self._most:
            self._watch()
        elif self._waiting:
            self._paused = True
            self._round = self.loop.call_later(_AT_LEAST / 4, self._next_round)

    def _allowed(self) -> int:
        now, spent, all_spent = self.loop.time(), self._thread_time(), self._process_time()
        went = self._most - self._left
        requests = max(0.0, spent - self._spent - self._moving)
        # Without a pause the loop never waited: what is missing then, other programs had.
        idle = max(0.0, now - self._looked - (all_spent - self._all_spent)) if self._paused else 0.0
        earned = self._moving + _OF_IDLE * idle
        share = self._moving / max(now - self._looked, self._moving, 1e-6)
        self._share += (share - self._share) * _LEARNT
        if went:
            self._went = now
            self._cost += (requests / went - self._cost) * _LEARNT
        self._looked, self._spent, self._all_spent, self._moving = now, spent, all_spent, 0.0
        if now - self._moved > _LATELY or self._share < _LITTLE:
            self._credit = 0.0
            return min(_AT_ONCE, 1 + int(_BURST / self._cost))
        self._credit = min(max(self._credit + earned - 2 * requests, -_DEBT), _CREDIT)
        at_least = int(now - self._went >= _AT_LEAST)
        if self._credit <= 0:
            return at_least
        return max(min(1 + int(self._credit / 2 / self._cost), _THREADS - self._at_work()), at_least)
