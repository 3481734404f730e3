"""Keeps other processes away from a session, by a lock on its turn file, until one of them wants it more."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from bitsferry.protocol.errors import Busy, SessionNotFound

__all__ = ["claim", "claim_at_once"]

_POLL = 0.02  # seconds between two looks at a session another process has


@asynccontextmanager
async def claim(path: str, stop: Callable[[], None], patience: float) -> AsyncIterator[None]:
    """Hold the turn file at `path`; `stop` is called when another process wants it.

    Raises Busy when another process did not let go within `patience` seconds. Where the session's folder is
    gone there is nothing to claim: whoever opens the session will hear it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (FileNotFoundError, NotADirectoryError):
        yield  # whoever opens the session will hear that there is none
        return
    try:
        wish = await _lock_against_others(descriptor, patience)
        watch = asyncio.get_running_loop().create_task(_watch(descriptor, wish, stop))
        try:
            yield
        finally:
            watch.cancel()
    finally:
        os.close(descriptor)


async def _lock_against_others(descriptor: int, patience: float) -> bytes:
    """Take the lock of a session's turn file, telling whoever has it that it is wanted; returns our wish."""
    wish = os.urandom(8)
    os.pwrite(descriptor, wish, 0)
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Busy("another request of this upload does not let go") from None
            await asyncio.sleep(_POLL)
        else:
            return wish


async def _watch(descriptor: int, wish: bytes, stop: Callable[[], None]) -> None:
    """Call `stop` when somebody else's wish stands in the turn file."""
    while os.pread(descriptor, 8, 0) == wish:  # noqa: ASYNC110, another process cannot set our events
        await asyncio.sleep(_POLL)
    stop()


@contextmanager
def claim_at_once(path: str) -> Iterator[None]:
    """Hold the lock on the file at `path`. Raises Busy when somebody else does, SessionNotFound where the
    session's folder is gone.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (FileNotFoundError, NotADirectoryError):
        raise SessionNotFound("the upload is gone") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy("the application is just being told of this upload") from None
        yield
    finally:
        os.close(descriptor)
