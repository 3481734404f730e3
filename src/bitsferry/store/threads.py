"""Disk work in threads, waited for even when nobody wants it any more."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, ParamSpec, TypeVar

from bitsferry.protocol.errors import BitsError, DiskFull, StoreFailed, WriteProtected

__all__ = ["at_work", "error_of_os", "in_thread", "settled"]

P = ParamSpec("P")
T = TypeVar("T")

# Enough that the fsyncs of many sessions run side by side: one after the other they cost four times as much.
_pool = ThreadPoolExecutor(max_workers=32, thread_name_prefix="disk")
_at_work: set[object] = set()


def at_work() -> int:
    """How much is being done in threads, or waits for one."""
    return len(_at_work)


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of `work`, done in a thread.

    When the caller is cancelled the work is still waited for, because a cancelled request leaves its thread
    writing, and the next request of the same session must find it quiet. An OSError becomes a StoreFailed.
    """
    future = asyncio.get_running_loop().run_in_executor(_pool, _Counted(lambda: work(*args, **kwargs)))
    try:
        return await settled(future)
    except OSError as error:
        raise error_of_os(error) from error


class _Counted(Generic[T]):
    """Work that counts until it is done."""

    __slots__ = ("_work",)

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        _at_work.add(self)

    def __call__(self) -> T:
        try:
            return self._work()
        finally:
            _at_work.discard(self)


async def settled(future: asyncio.Future[T]) -> T:
    """The future's result; a cancellation is passed on only when the future is done."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(asyncio.wait([future]))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not future.cancelled():
            future.exception()  # seen: nobody is left to hear it
        raise cancelled
    return future.result()


def error_of_os(error: OSError) -> BitsError:
    """What the operating system said, as an error an Ack can tell; all of them are worth another try."""
    said = f"{error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFull(f"the server has no room for more bytes ({said})")
    if error.errno == errno.EROFS:
        return WriteProtected(f"the server's disk is read-only ({said})")
    return StoreFailed(f"the server could not use its disk ({said})")
