"""How many requests somebody may send in a second."""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from bitsferry.access.asker import Asker
from bitsferry.protocol.errors import TooManyRequests
from bitsferry.server.directory import Directory

__all__ = ["Rates"]

logger = logging.getLogger(__name__)

BURST = 10.0  # seconds: what may come in so long, may come at once
_SILENCE = 60.0  # seconds between two lines of the log about the same one
_MOST = 50_000  # of whom is remembered what they sent; the rest was quiet for longest


@dataclass(slots=True)
class _Sent:
    paid_until: float = 0.0  # when as much may come at once again as at the beginning
    told: float = -math.inf


class Rates:
    """Counts by user, or address of those without a name; `clock` is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sent: OrderedDict[tuple[str, str, str], _Sent] = OrderedDict()

    def check(self, directory: Directory, asker: Asker, *, begins: bool = False) -> None:
        """A request came, which `begins` an upload or not. Raises TooManyRequests."""
        if begins and directory.sessions_per_second is not None:
            self._check("new uploads", directory, asker, directory.sessions_per_second)
        if directory.requests_per_second is not None:
            self._check("requests", directory, asker, directory.requests_per_second)

    def _check(self, what: str, directory: Directory, asker: Asker, per_second: float) -> None:
        now, each = self._clock(), 1 / per_second
        sent = self._of((what, directory.url, asker.counted_as))
        paid_until = max(sent.paid_until, now) + each
        wait = paid_until - now - max(BURST, each)
        if wait <= 0:
            sent.paid_until = paid_until
            return
        error = TooManyRequests(
            f"{directory.url} takes {per_second:g} {what} per second from one user",
            retry_after=math.ceil(wait),
        )
        if now - sent.told >= _SILENCE:
            sent.told = now
            logger.warning("%s", error.message, extra={"user": asker.user, "address": asker.address})
        raise error

    def _of(self, key: tuple[str, str, str]) -> _Sent:
        sent = self._sent.setdefault(key, _Sent())
        self._sent.move_to_end(key)
        if len(self._sent) > _MOST:
            self._sent.popitem(last=False)
        return sent
