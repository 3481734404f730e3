"""Nonces for Digest, each good for an hour and for each of its counts once."""

from __future__ import annotations

import base64
import binascii
import hmac
import mmap
import os
import secrets
import struct
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto

__all__ = ["Nonces", "Use"]

_LIFETIME = 3600.0  # seconds
_WINDOW = 256  # requests that may overtake each other
_SLOTS = 16_384  # nonces in use, 1 MiB in all; only somebody with a password adds one

_MADE = struct.Struct("=d16s")  # when, and what makes it one of a kind
_MARK = 18  # bytes; with what it marks no letter of base64 is left over that could be another one
_LENGTH = (_MADE.size + _MARK) * 4 // 3

# Whose slot it is, as in a nonce; the highest count seen; as bits which of those below it were, and itself.
_SLOT = struct.Struct(f"=d16sI{_WINDOW // 8}s4x")


class Use(Enum):
    """What became of it."""

    TAKEN = auto()
    SAID_BEFORE = auto()
    FORGOTTEN = auto()
    """It may have been said before; nobody knows any more."""


class Nonces:
    """Those of one server: processes that are forked from where this was made know each other's.

    Nothing is remembered of a nonce before somebody proved a password with it: asking costs us no room.
    Each has its slot, which a newer one may take; an older one is forgotten then, and never good again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, slots: int = _SLOTS) -> None:
        """`clock` is the same in all processes."""
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._slots = slots
        self._table = mmap.mmap(-1, slots * _SLOT.size)
        self._lock = _lock_file()
        weakref.finalize(self, os.close, self._lock)

    def fresh(self) -> str:
        """A new one."""
        made = _MADE.pack(self._clock(), secrets.token_bytes(16))
        return base64.urlsafe_b64encode(made + self._mark(made)).decode("ascii")

    def is_good(self, nonce: str) -> bool:
        """Whether it was made here, and not too long ago."""
        made = self._read(nonce)
        return made is not None and made[0] > self._clock() - _LIFETIME

    def use(self, nonce: str, count: int) -> Use:
        """Use up a count, of 32 bits, of a good nonce, with which a password was proved."""
        made = self._read(nonce)
        if made is None:
            return Use.FORGOTTEN
        at = int.from_bytes(made[1][:8], "big") % self._slots * _SLOT.size
        with _alone(self._lock):
            when, whose, highest, window = _SLOT.unpack_from(self._table, at)
            if (when, whose) != made:
                if made[0] <= when:
                    return Use.FORGOTTEN
                highest, window = 0, bytes(_WINDOW // 8)
            seen = _with(count, highest, int.from_bytes(window, "big"))
            if seen is None:
                return Use.SAID_BEFORE
            window = seen.to_bytes(_WINDOW // 8, "big")
            _SLOT.pack_into(self._table, at, *made, max(count, highest), window)
        return Use.TAKEN

    def _read(self, nonce: str) -> tuple[float, bytes] | None:
        """When it was made, and what makes it one of a kind; None when it was not made here."""
        try:
            raw = base64.b64decode(nonce, b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        made = raw[: _MADE.size]
        if len(nonce) != _LENGTH or not hmac.compare_digest(raw[_MADE.size :], self._mark(made)):
            return None
        when, whose = _MADE.unpack(made)
        return when, whose

    def _mark(self, made: bytes) -> bytes:
        return hmac.digest(self._key, made, "sha256")[:_MARK]


def _with(count: int, highest: int, seen: int) -> int | None:
    """The bits of `seen` with one for `count`; None where it has that already, or may have had."""
    ahead = count - highest
    if ahead > 0:
        return ((seen << ahead if ahead < _WINDOW else 0) | 1) & ((1 << _WINDOW) - 1)
    if -ahead >= _WINDOW or seen >> -ahead & 1:
        return None
    return seen | 1 << -ahead


def _lock_file() -> int:
    """A descriptor of a file that has no name."""
    if sys.platform == "linux":
        return os.memfd_create("nonces")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


@contextmanager
def _alone(lock: int) -> Iterator[None]:
    """No other process comes in between; one that is killed lets go."""
    if sys.platform == "win32":  # which does not fork
        yield
        return
    import fcntl

    fcntl.lockf(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(lock, fcntl.LOCK_UN)
