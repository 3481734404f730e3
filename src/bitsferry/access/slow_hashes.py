"""Slow hashes of passwords, in a few threads of their own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from bitsferry.protocol.errors import Busy

__all__ = ["SlowHashes"]

T = TypeVar("T")

_MOST_THREADS = 4
_MOST_WAITING = 64


class SlowHashes:
    """Whoever guesses may keep these threads busy, and no others: at most half of the processors."""

    def __init__(self, threads: int = 0, waiting: int = _MOST_WAITING) -> None:
        self._most = waiting
        self._at_work = 0
        self._threads = ThreadPoolExecutor(
            threads or max(1, min(_MOST_THREADS, (os.cpu_count() or 1) // 2)), thread_name_prefix="hashing"
        )

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns. Raises Busy when too many wait already.

        What has begun counts until it ends, whether or not somebody still wants it.
        """
        if self._at_work >= self._most:
            raise Busy("too many passwords wait to be looked at")
        self._at_work += 1
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        running.add_done_callback(self._done)
        return await asyncio.shield(running)

    def _done(self, running: asyncio.Future[T]) -> None:
        self._at_work -= 1
        if not running.cancelled():
            running.exception()  # told to whoever waits; nobody may
