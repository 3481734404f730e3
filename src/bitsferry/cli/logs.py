"""The server's log, as lines for people or as JSON for machines."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

__all__ = ["Sparing", "start_logging"]

_MOST = 4096  # addresses whose lines are counted; of more, those that were quiet for longest are forgotten

_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _facts(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _ORDINARY and value is not None}


def _when(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Text(logging.Formatter):
    """One line each, `TIME INFO file received path=/in/a.zip bytes=12`, whatever the names hold.

    A traceback follows its line, indented, so that no name in it can pass for a line of the log.
    """

    def format(self, record: logging.LogRecord) -> str:
        facts = "".join(f" {key}={_word(value)}" for key, value in _facts(record).items())
        line = f"{_when(record)} {record.levelname} {_printable(record.getMessage())}{facts}"
        if record.exc_info:
            trace = self.formatException(record.exc_info).split("\n")
            line += "".join("\n    " + _printable(each) for each in trace)
        return line


class _Json(logging.Formatter):
    """One JSON object a line, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _when(record),
            "level": record.levelname,
            "event": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _word(value: object) -> str:
    """A value without spaces as it is, any other between quotes."""
    text = str(value)
    plain = text.isprintable() and not set(text) & set(' "\\')
    return text if plain else _printable(json.dumps(text, ensure_ascii=False))


@dataclass(slots=True)
class _Budget:
    """`burst` lines at once, `rate` per second in the long run."""

    rate: float
    burst: float
    left: float
    at: float

    def take(self, now: float) -> bool:
        self.left = min(self.burst, self.left + (now - self.at) * self.rate)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Sparing(logging.Filter):
    """Warnings and errors about clients, as many as people read: a flood must not fill the disk.

    30 lines at once about an address, then one per second; about all addresses together 200, then 50 per
    second. What was left out before a line of the same kind, that line says: `left_out=1234`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._all = _Budget(50, 200, 200, clock())
        self._budgets: OrderedDict[tuple[str, int, object], _Budget] = OrderedDict()
        self._left_out: Counter[tuple[str, int]] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        if record.levelno < logging.WARNING or not hasattr(record, "address") or record.exc_info:
            return True
        now, kind = self._clock(), (record.pathname, record.lineno)
        if not (self._of((*kind, record.address), now).take(now) and self._all.take(now)):
            self._left_out[kind] += 1
            return False
        if left_out := self._left_out.pop(kind, 0):
            record.left_out = left_out
        return True

    def _of(self, key: tuple[str, int, object], now: float) -> _Budget:
        budget = self._budgets.setdefault(key, _Budget(1, 30, 30, now))
        self._budgets.move_to_end(key)
        if len(self._budgets) > _MOST:
            self._budgets.popitem(last=False)
        return budget


def start_logging(style: Literal["text", "json"]) -> None:
    """Write the log to standard error in this style, from INFO on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if style == "json" else _Text())
    handler.addFilter(Sparing())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
