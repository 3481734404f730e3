"""At most one runner works through a queue at a time."""

from __future__ import annotations

import contextlib
import time
from types import TracebackType

from bitsferry.client.locking import lock, unlock
from bitsferry.protocol.errors import BitsError, Context

__all__ = ["RunnerLock", "RunnerWorking", "runner_is_working"]

TRIES = 5
BETWEEN = 0.02  # seconds; who only asks has the lock for a moment, too


class RunnerWorking(BitsError):
    """Another process works through this queue."""

    context = Context.GENERAL_QUEUE_MANAGER
    transient = True


class RunnerLock:
    """The right to work through the queue in the file `path`, as long as a `with` lasts or the process lives.

    Entering raises RunnerWorking while another runner has it.
    """

    def __init__(self, path: str) -> None:
        self._path = path + ".runner"
        self._queue = path
        self._descriptor = -1

    def __enter__(self) -> RunnerLock:
        for _ in range(TRIES):
            with contextlib.suppress(BlockingIOError):
                self._descriptor = lock(self._path)
                return self
            time.sleep(BETWEEN)
        raise RunnerWorking(f"another process works through the queue {self._queue} just now")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        unlock(self._descriptor, self._path)


def runner_is_working(path: str) -> bool:
    """Whether some process works through the queue in the file `path`."""
    try:
        with RunnerLock(path):
            return False
    except RunnerWorking:
        return True
