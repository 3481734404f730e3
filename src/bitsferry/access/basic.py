"""Basic: a name and its password with each request (RFC 7617)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import time
from collections.abc import Callable

from bitsferry.access.asker import Identity
from bitsferry.access.htpasswd import LONGEST_PASSWORD, Users
from bitsferry.access.scheme import Claim, NotProved, Scheme, credentials
from bitsferry.access.slow_hashes import SlowHashes
from bitsferry.access.user_name import checked_name
from bitsferry.access.watched_file import WatchedFile

__all__ = ["Basic"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_REMEMBERED = 300.0  # seconds, beyond the connection
_MOST_REMEMBERED = 10_000
_HASHES = SlowHashes()  # one for all directories: how many there are, is no reason to hash more at once


class Basic(Scheme):
    """Users of an htpasswd file.

    What was right once needs no hash again on its connection, and for five minutes anywhere; a file that
    changes ends both.
    """

    name = "basic"
    spoken = "basic"

    def __init__(
        self,
        file: WatchedFile[Users],
        realm: str,
        *,
        hashes: SlowHashes = _HASHES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = file
        self._realm = realm
        self._hashes = hashes
        self._clock = clock
        self._proved: dict[bytes, float] = {}  # tokens, with when they are forgotten; oldest first
        self._checking: dict[bytes, asyncio.Task[bool]] = {}

    def challenges(self, claim: Claim) -> tuple[str, ...]:
        """See Scheme."""
        return (f'Basic realm="{self._realm}", charset="UTF-8"',)

    def claimed(self, claim: Claim) -> str | None:
        """See Scheme; None, too, for what is known to be right."""
        said = credentials(claim, self.spoken)
        if said is None:
            return None
        try:
            name, password = _read(said)
        except NotProved:
            return None
        known = self._is_proved(self._file.latest.token(name, password), claim)
        return None if known else name

    async def identify(self, claim: Claim) -> Identity | None:
        """See Scheme."""
        said = credentials(claim, self.spoken)
        if said is None:
            return None
        name, password = _read(said)
        users = await self._file.value()
        token = users.token(name, password)
        if not self._is_proved(token, claim):
            if not await self._check(users, name, password, token):
                raise NotProved("wrong user name or password", user=name)
            self._remember(token)
        if claim.link is not None:
            claim.link.memory[self] = token
        return Identity(name, self.name)

    def _is_proved(self, token: bytes, claim: Claim) -> bool:
        if claim.link is not None and claim.link.memory.get(self) == token:
            return True
        return self._proved.get(token, 0.0) > self._clock()

    def _remember(self, token: bytes) -> None:
        self._proved.pop(token, None)
        self._proved[token] = self._clock() + _REMEMBERED
        if len(self._proved) > _MOST_REMEMBERED:
            del self._proved[next(iter(self._proved))]

    async def _check(self, users: Users, name: str, password: bytes, token: bytes) -> bool:
        """Whether it is right; a thousand machines that come at once with one account need one hash."""
        checking = self._checking.get(token)
        if checking is None:
            checking = asyncio.get_running_loop().create_task(
                self._hashes.run(lambda: users.check(name, password))
            )
            self._checking[token] = checking
            checking.add_done_callback(lambda done: self._checked(token, done))
        return await asyncio.shield(checking)

    def _checked(self, token: bytes, done: asyncio.Task[bool]) -> None:
        self._checking.pop(token, None)
        if not done.cancelled():
            done.exception()  # told to whoever waits; nobody may


def _read(said: str) -> tuple[str, bytes]:
    """The name and the password, in UTF-8; as Latin-1 where the client says them so. Raises NotProved."""
    try:
        raw = base64.b64decode(said, validate=True)
    except (binascii.Error, ValueError):
        raise NotProved("not base64 (RFC 7617)") from None
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    name, colon, password = text.partition(":")
    secret = password.encode()
    if not colon or _CONTROL.search(password) or len(secret) > LONGEST_PASSWORD:
        raise NotProved("no name and password (RFC 7617)")
    return checked_name(name), secret
