"""Tidies up after uploads that went quiet."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from bitsferry.protocol.errors import BitsError, SessionNotFound
from bitsferry.protocol.session import Session
from bitsferry.server.census import DAY
from bitsferry.server.directory import FOURTEEN_DAYS, Directories, Place
from bitsferry.server.service import Service
from bitsferry.server.upload_events import Kind, UploadEvent
from bitsferry.store.base import Found

__all__ = ["Janitor"]

logger = logging.getLogger(__name__)

TOMBSTONE = DAY  # seconds an ended session is remembered, at most (spec-notes, C12)
HOUR = 3600.0
_SHORTEST = 0.5


class Janitor:
    """Removes sessions nobody spoke of for their directory's timeout, and tombstones that are old enough.

    `interval` is in seconds; None: an hour, or less where a timeout is shorter. `clock` is the time of day.
    """

    def __init__(
        self, service: Service, interval: float | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._service = service
        self._clock = clock
        self.interval = interval

    async def run(self) -> None:
        """Sweep for ever, first what a crash left."""
        try:
            orphans = await self._service.store.sweep_orphans()
            if orphans:
                logger.info("orphans removed", extra={"count": orphans})
            await self._finish_released()
        except BitsError as error:
            logger.warning("the sweep at start failed: %s", error)
        while True:
            await asyncio.sleep(self._pause())
            try:
                await self.sweep()
            except BitsError as error:
                logger.warning("a sweep failed; the next one comes in %.0f s: %s", self._pause(), error)

    def _pause(self) -> float:
        if self.interval is not None:
            return self.interval
        return max(_SHORTEST, min(HOUR, self._shortest(self._service.directories) / 4))

    async def sweep(self) -> int:
        """Remove what is old; returns how many sessions and tombstones went."""
        removed = 0
        shortest = self._shortest(self._service.directories)
        async for found in self._service.store.walk():
            if self._clock() - found.quiet_since > shortest and await self._remove_if_old(found):
                removed += 1
        return removed

    @staticmethod
    def _shortest(directories: Directories) -> float:
        return min([directory.session_timeout for directory in directories.all] + [TOMBSTONE])

    async def _remove_if_old(self, found: Found) -> bool:
        service, guid = self._service, found.guid
        if not service.turns.is_quiet(guid):
            return False
        try:
            async with service.turns.take(guid), service.store.open(guid) as stored:
                session = stored.session
                place = service.directories.place_of_path(session.path)
                if self._clock() - await stored.quiet_since() <= _limit(session, place):
                    return False
                await service.notifications.forget(guid)
                service.hashing.forget(guid)
                place = None if place is None else place.at(session.file)
                await self._say_expired(session, stored.held, place)
                await stored.remove(place.destination if place else None)
        except SessionNotFound:
            return await self._discard_if_old(found)
        except BitsError as error:
            logger.warning("an old session stays for now: %s", error, extra={"session": guid})
            return False
        service.census.ended(guid)
        self._tell(session)
        return True

    async def _discard_if_old(self, found: Found) -> bool:
        """A session whose state or bytes were lost is nobody's: it goes when the most patient one would."""
        timeouts = [directory.session_timeout for directory in self._service.directories.all]
        if self._clock() - found.quiet_since <= max([*timeouts, FOURTEEN_DAYS]):
            return False
        await self._service.store.discard(found.guid)
        self._service.census.ended(found.guid)
        return True

    async def _say_expired(self, session: Session, held: int, place: Place | None) -> None:
        if not session.over and not session.published:
            event = UploadEvent(
                kind=Kind.EXPIRED,
                session=session.id,
                time=self._clock(),
                path=session.path,
                user=session.user,
                address=session.address or None,
                size=session.total,
                received=held,
            )
            await self._service.expired(event, session, None if place is None else place.directory)

    @staticmethod
    def _tell(session: Session) -> None:
        if not session.over and not session.published:
            logger.warning(
                "upload expired", extra={"path": session.path, "session": session.id, "user": session.user}
            )

    async def _finish_released(self) -> None:
        """Bytes of files that are in their place, left by a crash between the two, are deleted."""
        service = self._service
        async for found in service.store.walk():
            if found.has_bytes and service.turns.is_quiet(found.guid):
                await self._release_if_published(found.guid)

    async def _release_if_published(self, guid: str) -> None:
        service = self._service
        try:
            session = await service.store.read(guid)
            if not (session.published or session.over):
                return
            place = service.directories.place_of_path(session.path)
            async with service.turns.take(guid), service.store.open(guid) as stored:
                await stored.release(place.at(session.file).destination if place else None)
        except BitsError as error:
            logger.warning("left-over bytes stay for now: %s", error, extra={"session": guid})


def _limit(session: Session, place: Place | None) -> float:
    """For how many seconds a session may be quiet."""
    timeout = place.directory.session_timeout if place else FOURTEEN_DAYS
    limit = min(timeout, TOMBSTONE) if session.over else timeout
    if place is not None and place.directory.user_quota is not None and session.published:
        return max(limit, DAY)  # its bytes count for its user as long
    return limit
