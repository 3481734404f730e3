"""Digests of files that are on their way, computed beside the upload."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

from bitsferry.protocol.digests import ALGORITHMS, Digest
from bitsferry.protocol.errors import Busy, StoreFailed
from bitsferry.server.turns import Turn
from bitsferry.store.base import Store
from bitsferry.store.threads import error_of_os

__all__ = ["Hashing", "lacks"]

_THREADS = max(1, min(4, os.cpu_count() or 1))
_BLOCK = 1 << 18  # bytes read at once: as many as stay in a processor's cache
_STRETCH = 1 << 24  # bytes of one file until another one has its turn
_WORTH = 1 << 20  # bytes below which the threads are left alone until the file is whole
_MOST = 4096  # files at once
_QUIET = 600.0  # seconds without a byte after which a file makes room for another


def lacks(algorithm: str) -> str | None:
    """The extra that has to be installed before `algorithm` can be used; None when nothing has to be."""
    return "blake3" if algorithm == "blake3" and find_spec("blake3") is None else None


def _new_hasher(algorithm: str) -> Any:
    if algorithm == "blake3":
        from blake3 import blake3  # in an extra

        return blake3(max_threads=1)
    return hashlib.new(algorithm.replace("-", ""))


class _Trail:
    """How far one file is hashed by one algorithm; it follows the bytes that are durable."""

    def __init__(self, store: Store, guid: str, algorithm: str) -> None:
        self.algorithm = algorithm
        self.done = 0
        self.end = 0  # how far it may go: no byte before that changes any more
        self.followed = 0.0
        self.at_work: asyncio.Future[None] | None = None
        self.error: BaseException | None = None
        self._store = store
        self._guid = guid
        self._hasher = _new_hasher(algorithm)

    def go_on(self, until: int) -> None:
        """In a thread, one at a time. Raises SessionNotFound, StoreFailed."""
        try:
            file = self._store.open_bytes(self._guid)
            try:
                self._read(file, until)
            finally:
                os.close(file)
        except OSError as error:
            raise error_of_os(error) from error

    def _read(self, file: int, until: int) -> None:
        block = _block_of_thread()
        while self.done < until:
            count = os.preadv(file, [block[: until - self.done]], self.done)
            if count == 0:
                raise StoreFailed(f"the file has {self.done} bytes, {until} were expected")
            self._hasher.update(block[:count])
            self.done += count

    @property
    def digest(self) -> Digest:
        return Digest(self.algorithm, self._hasher.digest())


_local = threading.local()


def _block_of_thread() -> memoryview:
    if not hasattr(_local, "block"):
        _local.block = memoryview(bytearray(_BLOCK))
    return _local.block  # type: ignore[no-any-return]


class Hashing:
    """Hashes sessions' files in a few threads of its own, each file as far as it is durable.

    It reads the files again, out of the system's memory as a rule: nothing is asked of whoever receives them.
    Where a file was not followed from its start, after a restart say, or by another process, it begins at
    byte 0 with the next fragment. A bounded number of files is followed; others are read when they are whole.
    `clock` is in seconds.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._ended = False
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="hashing")
        self._trails: OrderedDict[tuple[str, str], _Trail] = OrderedDict()  # quiet for longest first

    def follow(self, guid: str, algorithms: Iterable[str], before: int, held: int) -> None:
        """The file had `before` bytes, now `held` are durable: hash what is new, when it is worth it."""
        for algorithm in algorithms:
            trail = self._trail(guid, algorithm, before)
            if trail is None and self._is_room():
                trail = self._begin(guid, algorithm)
            if trail is not None:
                self._lengthen(guid, trail, held)
                if held - trail.done >= _WORTH:
                    self._go_on(guid, trail)

    async def digest(self, guid: str, algorithm: str, size: int, turn: Turn, patience: float) -> Digest:
        """The digest of a file of which all `size` bytes are durable, when it is known.

        The work goes on when nobody waits for it any more. Raises Busy when that takes longer than `patience`
        seconds, when `turn` is wanted or when the server ends; SessionNotFound or StoreFailed where the bytes
        cannot be read.
        """
        trail = self._trail(guid, algorithm, size) or self._begin(guid, algorithm)
        self._lengthen(guid, trail, size)
        self._go_on(guid, trail)
        if trail.done < size:
            await self._wait(trail, size, turn, patience)
        return trail.digest

    async def _wait(self, trail: _Trail, size: int, turn: Turn, patience: float) -> None:
        loop = asyncio.get_running_loop()
        wanted: asyncio.Future[None] = loop.create_future()
        turn.interrupt_by(lambda: None if wanted.done() else wanted.set_result(None))
        deadline = loop.time() + patience
        while trail.at_work is not None:
            left = deadline - loop.time()
            await asyncio.wait({trail.at_work, wanted}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if wanted.done():
                raise Busy("a newer request of this upload is being served")
            if left <= 0:
                raise Busy(f"{trail.done} of {size} bytes are hashed; ask again")
        if trail.error is not None:
            raise trail.error
        if trail.done < size:
            raise Busy("the file is not hashed to its end, because the server ends; ask again")

    def _trail(self, guid: str, algorithm: str, held: int) -> _Trail | None:
        """What there is, unless it came farther than the file is now: then bytes were cut off."""
        trail = self._trails.get((guid, algorithm))
        if trail is not None and trail.end > held:
            del self._trails[guid, algorithm]
            return None
        return trail

    def _is_room(self) -> bool:
        """A stranger with many uploads must not make us begin the same files again and again."""
        if len(self._trails) < _MOST:
            return True
        key, oldest = next(iter(self._trails.items()))
        if self._clock() - oldest.followed < _QUIET:
            return False
        del self._trails[key]
        return True

    def _begin(self, guid: str, algorithm: str) -> _Trail:
        trail = self._trails[guid, algorithm] = _Trail(self._store, guid, algorithm)
        return trail

    def _lengthen(self, guid: str, trail: _Trail, end: int) -> None:
        trail.end = end
        trail.followed = self._clock()
        self._trails.move_to_end((guid, trail.algorithm))

    def _go_on(self, guid: str, trail: _Trail) -> None:
        if trail.at_work is not None or trail.done >= trail.end or self._ended:
            return
        until = min(trail.end, trail.done + _STRETCH)
        trail.at_work = asyncio.get_running_loop().run_in_executor(self._pool, trail.go_on, until)
        trail.at_work.add_done_callback(lambda work: self._went_on(guid, trail, work))

    def _went_on(self, guid: str, trail: _Trail, work: asyncio.Future[None]) -> None:
        trail.at_work = None
        is_followed = self._trails.get((guid, trail.algorithm)) is trail
        if not work.cancelled():
            trail.error = work.exception()
        if trail.error is not None and is_followed:
            del self._trails[guid, trail.algorithm]
        elif is_followed:
            self._go_on(guid, trail)

    def forget(self, guid: str) -> None:
        """Nobody wants to know any more."""
        for algorithm in (*ALGORITHMS, "blake3") if self._trails else ():
            self._trails.pop((guid, algorithm), None)

    def end(self) -> None:
        """Begin nothing any more; whoever waits is told to come again."""
        self._ended = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def stop(self) -> None:
        """The same, and return when no thread is at work."""
        self.end()
        if working := {trail.at_work for trail in self._trails.values() if trail.at_work is not None}:
            await asyncio.wait(working)
