"""Slows down who guesses passwords, and nobody else."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from bitsferry.access.networks import address_of
from bitsferry.protocol.errors import Busy

__all__ = ["Throttle"]

_HALF_LIFE = 300.0  # seconds until half of the failures are forgotten
_TRUST = 86_400.0  # seconds for which somebody who was right is known
_MOST = 20_000  # addresses, users and pairs of them that are remembered; about 300 bytes each
_CAP = 20  # failures beyond the free ones that count: an attack that ends is over in half an hour

# Attempts under suspicion within the longest delay. A user's are so many that one address, or a few of
# them, cannot use them up and keep the user from coming in elsewhere.
_OF_PAIR, _OF_ADDRESS, _OF_USER = 4, 16, 256

_Key = bytes


@dataclass(slots=True)
class _Record:
    """Failures as of the time `at`; `held` is when attempts that were let in under suspicion make room."""

    failures: float = 0.0
    at: float = 0.0
    held: list[float] = field(default_factory=list)


class Throttle:
    """Remembers failures by address, by user and by both together.

    After so many `wrong_passwords` the answers to further ones come later and later, up to a delay of
    `wrong_password_delay` seconds; a right one never waits. A few attempts may be under way at a time; more
    are told to come back. Who was right within a day, from the same address, is let in whatever others do.
    """

    def __init__(
        self,
        wrong_passwords: int = 5,
        wrong_password_delay: float = 5.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Without a delay nobody is slowed down."""
        self._free = wrong_passwords
        self._longest = wrong_password_delay
        self._clock = clock
        self._sleep = sleep
        self._records: dict[_Key, _Record] = {}  # longest untouched first
        self._trusted: dict[_Key, float] = {}  # pairs, with when that ends

    def inherit(self, old: Throttle) -> None:
        """Know what `old` knows, which is used no more."""
        self._records, self._trusted = old._records, old._trusted

    def before(self, address: str, user: str) -> None:
        """Somebody is about to prove to be `user`. Raises Busy when too many do who may be guessing."""
        now, keys = self._clock(), _keys(address, user)
        if not self._longest or self._trusts(keys, now):
            return
        suspects = [
            (record, most)
            for key, most in keys.items()
            if (record := self._records.get(key)) is not None and self._delay(record, now)
        ]
        for record, most in suspects:
            record.held = [until for until in record.held if until > now]
            if len(record.held) >= most:
                raise Busy(
                    "too many wrong passwords from this address or for this user",
                    retry_after=math.ceil(self._longest),
                )
        for record, _ in suspects:
            record.held.append(now + self._longest)

    async def failed(self, address: str, user: str | None) -> None:
        """It was wrong; returns when that may be told."""
        now, keys = self._clock(), _keys(address, user)
        delays = {key: self._delay(self._count(key, now), now) for key in keys}
        if self._trusts(keys, now):
            pair = _pair(keys)
            if not delays[pair]:
                return
            del self._trusted[pair]
        if delay := max(delays.values(), default=0.0):
            await self._sleep(delay)

    def succeeded(self, address: str, user: str) -> None:
        """It was right."""
        now, keys = self._clock(), _keys(address, user)
        if not self._trusts(keys, now):  # else `before` held no place, and this would make room for guesses
            for key in keys:
                record = self._records.get(key)
                if record is not None and record.held:
                    record.held.pop()
        if pair := _pair(keys):
            self._records.pop(pair, None)
            self._trusted.pop(pair, None)
            self._trusted[pair] = now + _TRUST
            _forget_oldest(self._trusted)

    def _trusts(self, keys: dict[_Key, int], now: float) -> bool:
        return self._trusted.get(_pair(keys), 0.0) > now

    def _count(self, key: _Key, now: float) -> _Record:
        record = self._records.pop(key, None) or _Record(at=now)
        record.failures = min(self._failures(record, now) + 1, self._free + _CAP)
        record.at = now
        self._records[key] = record
        _forget_oldest(self._records)
        return record

    def _failures(self, record: _Record, now: float) -> float:
        return float(record.failures * 2.0 ** ((record.at - now) / _HALF_LIFE))

    def _delay(self, record: _Record, now: float) -> float:
        """Seconds; 0 for those who may just have mistyped."""
        beyond = round(self._failures(record, now)) - self._free
        return 0.0 if beyond < 0 else min(self._longest, self._longest / 16 * 2.0**beyond)


def _forget_oldest(table: dict[_Key, _Record] | dict[_Key, float]) -> None:
    if len(table) > _MOST:
        del table[next(iter(table))]


def _keys(address: str, user: str | None) -> dict[_Key, int]:
    """What failures are counted by, with how many attempts each may have at a time.

    Where no address is known, everybody would share it: then only the user counts.
    """
    keys = {}
    network = _network(address) if address else b""
    if address:
        keys[b"address " + network] = _OF_ADDRESS
    if user is not None:
        name = hashlib.blake2b(user.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        keys[b"user " + name] = _OF_USER
        if address:
            keys[b"pair " + name + network] = _OF_PAIR
    return keys


def _pair(keys: dict[_Key, int]) -> _Key:
    """The key of user and address together; empty, and so nobody's, where one of them is unknown."""
    return next((key for key, most in keys.items() if most == _OF_PAIR), b"")


def _network(address: str) -> bytes:
    """Whose address it is: whoever has one of IPv6 has at least 2**64 of them."""
    parsed = address_of(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return parsed.packed[:8]
    return parsed.packed if parsed is not None else address[:100].encode("utf-8", "surrogatepass")
