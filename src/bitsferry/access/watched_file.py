"""A file that is read again when somebody changed it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["WatchedFile"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PAUSE = 1.0  # seconds between two looks at the file


class WatchedFile(Generic[T]):
    """What `parse` makes of the text of the file at `path`, never older than a second.

    Read when it is made: raises OSError, or ValueError from `parse`, with a sentence that shows nothing of
    what is in the file but the number of a line. Later a file that cannot be used changes nothing: what was
    known before holds, and the log says so once.
    """

    def __init__(
        self, path: str, parse: Callable[[str], T], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = path
        self._parse = parse
        self._clock = clock
        self._stamp = _stamp(path)
        self._value = self._read()
        self._looked = clock()
        self._looking: asyncio.Task[None] | None = None
        self._failed: str | None = None

    async def value(self) -> T:
        """What the file says."""
        if self._clock() - self._looked >= _PAUSE:
            if self._looking is None:
                self._looking = asyncio.get_running_loop().create_task(asyncio.to_thread(self._look))
                self._looking.add_done_callback(self._looked_at)
            await asyncio.shield(self._looking)
        return self._value

    @property
    def latest(self) -> T:
        """What it said when it was last read."""
        return self._value

    def _looked_at(self, looking: asyncio.Task[None]) -> None:
        self._looking = None
        self._looked = self._clock()

    def _look(self) -> None:
        try:
            stamp = _stamp(self.path)
            if stamp != self._stamp:
                self._value = self._read()
                self._stamp, self._failed = stamp, None
                logger.info("%s read again", self.path)
        except (OSError, ValueError) as error:
            if str(error) != self._failed:
                logger.error(  # noqa: TRY400, a typo needs no traceback
                    "%s cannot be used; what it said before holds: %s", self.path, error
                )
            self._failed = str(error)

    def _read(self) -> T:
        with open(self.path, encoding="utf-8") as file:
            return self._parse(file.read())


def _stamp(path: str) -> tuple[int, int, int] | None:
    figures = os.stat(path)
    return figures.st_ino, figures.st_mtime_ns, figures.st_size
