"""How many uploads are open and how many bytes they will bring, for the limits that ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from bitsferry.protocol.errors import BitsError, DiskFull, TooManySessions
from bitsferry.protocol.session import Session
from bitsferry.server.directory import Directories, Directory, Place
from bitsferry.store.base import Store
from bitsferry.store.folder import Folder
from bitsferry.store.threads import in_thread

__all__ = ["Census"]

_FRESH = 5.0  # seconds a count made for several processes, or of a folder's bytes, may be old


@dataclass(slots=True)
class _Open:
    directory: str
    user: str | None
    promised: int = 0


_Change = Callable[[dict[str, _Open]], object]


@dataclass(slots=True)
class _Used:
    size: int
    until: float


class Census:
    """Counts the store once, then keeps the count; where processes share a store it counts anew now and then.

    Nothing is counted as long as no directory has a limit on sessions or bytes.
    """

    def __init__(
        self, store: Store, *, shared: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._shared = shared
        self._clock = clock
        self._open: dict[str, _Open] = {}
        self._counted_at: float | None = None
        self._counting = asyncio.Lock()
        self._meanwhile: list[_Change] = []  # what happens while we count
        self._used: dict[str, _Used] = {}

    async def admit(self, directories: Directories, directory: Directory, session: Session) -> None:
        """A session is about to be made; when that fails, say that it `ended`.

        Raises TooManySessions when its user has as many open uploads in the directory as it allows.
        """
        limit = directory.sessions_per_user
        if limit is not None:
            await self._count(directories)
            # From here to the change below nobody else is admitted.
            mine = sum(
                one.directory == directory.url and one.user == session.user for one in self._open.values()
            )
            if mine >= limit:
                raise TooManySessions(
                    f"{mine} uploads are open in {directory.url}, the most it allows; try again later"
                )
        self._change(lambda count: count.setdefault(session.id, _Open(directory.url, session.user)))

    async def promise(self, directories: Directories, place: Place, session: Session, total: int) -> None:
        """The first fragment named the file's size. Raises DiskFull when it is more than the quota leaves."""
        directory = place.directory
        if directory.quota is None:
            return
        await self._count(directories)
        used = await self._bytes_used(directory)
        promised = sum(
            one.promised
            for guid, one in self._open.items()
            if one.directory == directory.url and guid != session.id
        )
        if used + promised + total > directory.quota:
            raise DiskFull(
                f"{directory.url} may hold {directory.quota} bytes; {used} are there,"
                f" {promised} are on their way and this file has {total}"
            )
        one = _Open(directory.url, session.user, total)
        self._change(lambda count: count.update({session.id: one}))

    def published(self, session: Session) -> None:
        """The file is in its place: its bytes are used now, no longer promised."""
        one = self._open.get(session.id)
        if one is not None and one.directory in self._used:
            self._used[one.directory].size += one.promised

        def keep_promise(count: dict[str, _Open]) -> None:
            if session.id in count:
                count[session.id].promised = 0

        self._change(keep_promise)

    def ended(self, guid: str) -> None:
        """A session is over."""
        self._change(lambda count: count.pop(guid, None))

    def _change(self, change: _Change) -> None:
        """Change the count there is, and the one that is being made."""
        if self._counted_at is not None:
            change(self._open)
        if self._counting.locked():
            self._meanwhile.append(change)

    async def _bytes_used(self, directory: Directory) -> int:
        used = self._used.get(directory.url)
        if used is None or self._clock() >= used.until:
            begun = self._clock()
            size = await in_thread(Folder(directory.folder).used)
            # A large folder takes long to count, and is counted less often.
            used = self._used[directory.url] = _Used(
                size, self._clock() + max(_FRESH, 20 * (self._clock() - begun))
            )
        return used.size

    async def _count(self, directories: Directories) -> None:
        if self._is_fresh():
            return
        async with self._counting:
            if self._is_fresh():
                return
            self._meanwhile.clear()
            counted: dict[str, _Open] = {}
            async for found in self._store.walk():
                try:
                    session = await self._store.read(found.guid)
                except BitsError:
                    continue
                place = directories.place_of_path(session.path)
                if place is not None and not session.over:
                    promised = 0 if session.published else session.total or 0
                    counted[session.id] = _Open(place.directory.url, session.user, promised)
            for change in self._meanwhile:
                change(counted)
            self._meanwhile.clear()
            self._open = counted
            self._counted_at = self._clock()

    def _is_fresh(self) -> bool:
        if self._counted_at is None:
            return False
        return not self._shared or self._clock() - self._counted_at <= _FRESH
