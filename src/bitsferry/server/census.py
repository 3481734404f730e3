"""How many uploads are open and how many bytes they bring, for the limits that ask."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from bitsferry.access.asker import Asker
from bitsferry.protocol.errors import DiskFull, FileTooLarge, OverQuota, TooManySessions
from bitsferry.protocol.session import Session
from bitsferry.server.directory import Directories, Directory, Place
from bitsferry.store.base import Store
from bitsferry.store.folder import Folder
from bitsferry.store.threads import in_thread

__all__ = ["DAY", "Census"]

DAY = 24 * 3600.0
"""Seconds for which a file that arrived counts for the user who brought it."""

_FRESH = 5.0  # seconds a count made for several processes, or of a folder's bytes, may be old
_RARELY = 20  # what takes long to count is counted less often, by this factor
_AT_ONCE = 500  # sessions that are read by a thread at once
_HOUR = 3600  # seconds, after which a user who is over the quota may always ask again

Key = TypeVar("Key")
_Account = tuple[str, str]  # a directory's URL, a user of it


@dataclass(frozen=True, slots=True)
class _Upload:
    account: _Account
    lasts: bool
    """It counts for its user a day longer than it is open."""
    is_open: bool = True
    total: int = 0
    arrived: float | None = None
    """The time of day at which the file was in its place."""


class _Count:
    """Uploads, with the sums that are asked for."""

    def __init__(self) -> None:
        self.uploads: dict[str, _Upload] = {}
        self.open: Counter[_Account] = Counter()
        self.brought: Counter[_Account] = Counter()  # bytes that arrived or are on their way
        self.promised: Counter[str] = Counter()  # bytes on their way to a directory
        self._arrived: dict[str, None] = {}  # the oldest first, as in
        self._arrived_of: dict[_Account, dict[str, None]] = {}

    def put(self, guid: str, upload: _Upload | None) -> None:
        """What is known of an upload from now on; None: it does not count."""
        if (old := self.uploads.pop(guid, None)) is not None:
            self._add(old, -1)
        if upload is not None:
            self.uploads[guid] = upload
            self._add(upload, 1)
        if upload is not None and upload.arrived is not None:
            self._arrived[guid] = None
            self._arrived_of.setdefault(upload.account, {})[guid] = None
        elif old is not None and old.arrived is not None:
            del self._arrived[guid], self._arrived_of[old.account][guid]
            if not self._arrived_of[old.account]:
                del self._arrived_of[old.account]

    def _add(self, upload: _Upload, sign: int) -> None:
        _change(self.open, upload.account, sign * upload.is_open)
        _change(self.brought, upload.account, sign * upload.total)
        if upload.arrived is None:
            _change(self.promised, upload.account[0], sign * upload.total)

    def forget_before(self, moment: float) -> None:
        """What arrived by then does not count for its user any more."""
        for guid in list(self._old(moment)):
            upload = self.uploads[guid]
            self.put(guid, replace(upload, total=0, arrived=None) if upload.is_open else None)

    def _old(self, moment: float) -> Iterator[str]:
        for guid in self._arrived:
            if (self.uploads[guid].arrived or 0) > moment:
                return
            yield guid

    def arrivals(self, account: _Account) -> Iterator[tuple[float, int]]:
        """When files of a user arrived, and of how many bytes; the oldest first."""
        for guid in self._arrived_of.get(account, ()):
            yield self.uploads[guid].arrived or 0, self.uploads[guid].total


def _change(counter: Counter[Key], key: Key, by: int) -> None:
    counter[key] += by
    if not counter[key]:
        del counter[key]


@dataclass(slots=True)
class _Used:
    size: int
    until: float


class Census:
    """Counts the store once, then keeps the count; where processes share a store it counts anew now and then.

    Nothing is counted as long as no directory has a limit on sessions or bytes. `clock` is in seconds,
    `time_of_day` in those since the epoch.
    """

    def __init__(
        self,
        store: Store,
        *,
        shared: bool = False,
        clock: Callable[[], float] = time.monotonic,
        time_of_day: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._shared = shared
        self._clock = clock
        self._time_of_day = time_of_day
        self._now = _Count()
        self._of: Directories | None = None  # what was counted
        self._fresh_until = -math.inf
        self._counting = asyncio.Lock()
        self._meanwhile: list[Callable[[_Count], None]] = []  # what happens while we count
        self._used: dict[str, _Used] = {}

    async def admit(self, directories: Directories, directory: Directory, session: Session) -> None:
        """A session is about to be made; when that fails, say that it `ended`.

        Raises TooManySessions when its user has as many open uploads in the directory as it allows.
        """
        upload = _upload(directory, session)
        limit = directory.sessions_per_user
        if limit is not None:
            await self._count(directories)
            # From here to the change below nobody else is admitted.
            mine = self._now.open[upload.account]
            if mine >= limit:
                raise TooManySessions(
                    f"{mine} uploads are open in {directory.url}, the most it allows; try again later"
                )
        self._change(lambda count: None if session.id in count.uploads else count.put(session.id, upload))

    async def promise(self, directories: Directories, place: Place, session: Session, total: int) -> None:
        """The first fragment named the file's size.

        Raises DiskFull when it is more than the quota leaves, OverQuota when it is more than the user has
        left today, FileTooLarge when it is more than that could ever be.
        """
        directory = place.directory
        if directory.quota is None and directory.user_quota is None:
            return
        await self._count(directories)
        used = 0 if directory.quota is None else await self._bytes_used(directory)
        # From here to the change below nobody else promises anything.
        upload = replace(_upload(directory, session), total=total)
        before = self._now.uploads.get(session.id)
        own = 0 if before is None else before.total
        if directory.quota is not None:
            promised = self._now.promised[directory.url] - own
            if used + promised + total > directory.quota:
                raise DiskFull(
                    f"{directory.url} may hold {directory.quota} bytes; {used} are there,"
                    f" {promised} are on their way and this file has {total}"
                )
        if directory.user_quota is not None:
            self._check_user(upload, own, directory.user_quota)
        self._change(lambda count: count.put(session.id, upload))

    def _check_user(self, upload: _Upload, own: int, quota: int) -> None:
        if upload.total > quota:
            raise FileTooLarge(f"the file has {upload.total} bytes; one user may bring {quota} a day")
        now = self._time_of_day()
        self._now.forget_before(now - DAY)
        brought = self._now.brought[upload.account] - own
        over = brought + upload.total - quota
        if over > 0:
            raise OverQuota(
                f"one user may bring {quota} bytes a day to {upload.account[0]}; this one brought {brought},"
                f" and this file has {upload.total}",
                retry_after=self._until_room(upload.account, over, now),
            )

    def _until_room(self, account: _Account, over: int, now: float) -> int:
        """Seconds after which as many bytes do not count any more, an hour at most."""
        for arrived, size in self._now.arrivals(account):
            over -= size
            if over <= 0:
                return max(1, min(_HOUR, math.ceil(arrived + DAY - now)))
        return _HOUR

    def published(self, session: Session) -> None:
        """The file is in its place: its bytes are used now, no longer promised."""
        known, now = self._now.uploads.get(session.id), self._time_of_day()
        if known is not None and known.account[0] in self._used:
            self._used[known.account[0]].size += known.total

        def arrive(count: _Count) -> None:
            upload = count.uploads.get(session.id)
            if upload is not None:
                total = upload.total if upload.lasts else 0
                count.put(session.id, replace(upload, total=total, arrived=now))

        self._change(arrive)

    def ended(self, guid: str) -> None:
        """A session is over."""

        def end(count: _Count) -> None:
            upload = count.uploads.get(guid)
            if upload is not None:
                stays = upload.lasts and upload.arrived is not None
                count.put(guid, replace(upload, is_open=False) if stays else None)

        self._change(end)

    def _change(self, change: Callable[[_Count], None]) -> None:
        """Change the count there is, and the one that is being made."""
        if self._of is not None:
            change(self._now)
        if self._counting.locked():
            self._meanwhile.append(change)

    async def _bytes_used(self, directory: Directory) -> int:
        used = self._used.get(directory.url)
        if used is None or self._clock() >= used.until:
            begun = self._clock()
            size = await in_thread(Folder(directory.folder).used)
            used = self._used[directory.url] = _Used(size, self._fresh_after(begun))
        return used.size

    def _fresh_after(self, begun: float) -> float:
        """Until when a count is good enough that began then and ends now."""
        return self._clock() + max(_FRESH, _RARELY * (self._clock() - begun))

    async def _count(self, directories: Directories) -> None:
        if self._is_fresh(directories):
            return
        async with self._counting:
            if self._is_fresh(directories):
                return
            self._meanwhile.clear()
            begun = self._clock()
            found = [each async for each in self._uploads(directories)]
            count = _Count()
            for guid, upload in sorted(found, key=lambda each: each[1].arrived or 0):
                count.put(guid, upload)
            for change in self._meanwhile:
                change(count)
            self._meanwhile.clear()
            self._now, self._of = count, directories
            self._fresh_until = self._fresh_after(begun) if self._shared else math.inf

    def _is_fresh(self, directories: Directories) -> bool:
        return directories is self._of and self._clock() < self._fresh_until

    async def _uploads(self, directories: Directories) -> AsyncIterator[tuple[str, _Upload]]:
        """What the store knows of uploads that count."""
        day_ago = self._time_of_day() - DAY
        async for guid, session, quiet_since in self._sessions():
            place = directories.place_of_path(session.path)
            if place is None:
                continue
            upload = _upload(place.directory, session)
            if not session.published:
                upload = replace(upload, total=session.total or 0)
            elif upload.lasts and quiet_since > day_ago:
                upload = replace(upload, total=session.total or 0, arrived=quiet_since)
            if upload.is_open or upload.arrived is not None:
                yield guid, upload

    async def _sessions(self) -> AsyncIterator[tuple[str, Session, float]]:
        """All there are, and since when they are quiet; read by the hundred, for there may be a million."""
        quiet: dict[str, float] = {}
        async for found in self._store.walk():
            quiet[found.guid] = found.quiet_since
            if len(quiet) == _AT_ONCE:
                for guid, session in (await self._store.read_many(quiet)).items():
                    yield guid, session, quiet[guid]
                quiet.clear()
        for guid, session in (await self._store.read_many(quiet)).items():
            yield guid, session, quiet[guid]


def _upload(directory: Directory, session: Session) -> _Upload:
    account = (directory.url, Asker(session.address, session.user).counted_as)
    return _Upload(account, lasts=directory.user_quota is not None, is_open=not session.over)
