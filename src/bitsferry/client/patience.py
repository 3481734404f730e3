"""When to try again after an error, and when not any more."""

from __future__ import annotations

import random
from collections.abc import Callable

from bitsferry.protocol.errors import BitsError, NoProgress

__all__ = ["Patience"]

FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0


class Patience:
    """Waits longer from error to error, and ends after `seconds` without headway.

    The time counts from the first error after the last headway, so a slow fragment does not use it up.
    `chance` gives numbers from 0 to 1: thousands of clients of one server shall not come back in step.
    """

    def __init__(self, seconds: float = 300.0, *, chance: Callable[[], float] = random.random) -> None:
        self._seconds = seconds
        self._chance = chance
        self._wait = FIRST_WAIT
        self._since: float | None = None

    def headway(self) -> None:
        """The server took bytes: all is well again."""
        self._wait = FIRST_WAIT
        self._since = None

    def wait(self, error: BitsError, now: float) -> float:
        """The seconds to wait before trying again. Raises `error` when that makes no sense (any more)."""
        if not error.transient or isinstance(error, NoProgress):
            raise error
        if self._since is None:
            self._since = now
        left = self._since + self._seconds - now
        if left <= 0 or (error.retry_after or 0) > left:
            raise error
        if error.retry_after is not None:
            return error.retry_after + self._chance()
        wait, self._wait = self._wait, min(2 * self._wait, LONGEST_WAIT)
        return min(wait * (0.75 + self._chance() / 2), left)
