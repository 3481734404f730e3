"""Tells webhooks what happens to uploads: of each upload in order, until it is heard."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from bitsferry.protocol.errors import BitsError, Busy
from bitsferry.protocol.notification import ApplicationFailed
from bitsferry.server.directory import Directories, Directory
from bitsferry.server.outbox import Outbox
from bitsferry.server.upload_events import UploadEvent, write_event
from bitsferry.server.webhook import AT_ONCE, Webhook
from bitsferry.store.threads import in_thread

__all__ = ["OLDEST", "Webhooks", "pause"]

logger = logging.getLogger(__name__)

OLDEST = 3 * 86_400.0  # seconds for which an event is told again
_LONGEST_PAUSE = 3600.0
_LOOK = 2.0  # seconds until events are seen that another process, or the last one, put into the outbox
_AWAY = {502, 503, 504}
_HANDFUL = 50
_READERS = 4  # of the outbox: the disk's threads are there for uploads first


def pause(attempts: int) -> float:
    """Seconds until the next attempt after so many: a second, twice as long each time, up to an hour."""
    return min(_LONGEST_PAUSE, 2.0 ** min(attempts - 1, 20)) * random.uniform(0.5, 1.0)  # noqa: S311


class _Room:
    """Lets so many in at once, in the order they came.

    asyncio's Semaphore would look at all who wait each time one of them is cancelled: 20,000 take 8 seconds.
    """

    def __init__(self, size: int) -> None:
        self._free = size
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                await self.__aexit__()
            raise

    async def __aexit__(self, *error: object) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


@dataclass(slots=True)
class _Hearing:
    """How a webhook listens."""

    away_since: float | None = None  # by the time of day; None while it answers
    is_gone: bool = False
    is_back: asyncio.Event = field(default_factory=asyncio.Event)
    room: _Room = field(default_factory=lambda: _Room(AT_ONCE))

    def wake(self) -> None:
        """Whoever waits for it need not wait any longer."""
        self.is_back.set()
        self.is_back = asyncio.Event()


class Webhooks:
    """Keeps what happens in the outbox, and tells it from there.

    `directories` says who wants to hear of what. `clock` is the time of day.
    """

    def __init__(
        self, outbox: Outbox, directories: Callable[[], Directories], clock: Callable[[], float] = time.time
    ) -> None:
        self._outbox = outbox
        self._directories = directories
        self._clock = clock
        self._reading = _Room(_READERS)
        self._renewed = asyncio.Event()
        self._hearing: dict[str, _Hearing] = {}
        self._telling: dict[str, asyncio.Task[None]] = {}
        self._is_ours = False
        self._running: asyncio.Task[None] | None = None

    async def happened(self, directory: Directory, event: UploadEvent) -> None:
        """Whoever wants to hear of this will, also after a crash. Raises nothing: uploads go on regardless.

        Returns at once where nobody wants to hear of it.
        """
        webhook = directory.webhook
        if webhook is None or event.kind not in webhook.kinds:
            return
        content = write_event(event, directory.source)
        try:
            await in_thread(self._outbox.put, event, content)
        except BitsError as error:
            logger.error(  # noqa: TRY400, no traceback for a full disk
                "a webhook will not hear of an event: %s", error.message, extra=_about(event)
            )
        else:
            if self._is_ours:
                self._begin(event.session)

    def renewed(self) -> None:
        """The directories changed: every webhook may be asked again, those that said they are gone, too."""
        for hearing in self._hearing.values():
            hearing.wake()
        self._hearing.clear()
        self._renewed.set()
        self._renewed = asyncio.Event()

    def start(self) -> None:
        """Tell what is to be told, until `stop`."""
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Break off; what was not heard stays in the outbox for the next start."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def _run(self) -> None:
        while True:
            renewed = self._renewed
            if all(directory.webhook is None for directory in self._directories().all):
                await renewed.wait()
                continue
            try:
                with self._outbox.claim():
                    await self._tell_all()
            except Busy:
                pass  # another process tells
            except (OSError, BitsError) as error:
                logger.warning("the outbox cannot be used: %s", error)
            await asyncio.sleep(_LOOK)

    async def _tell_all(self) -> None:
        self._is_ours = True
        try:
            while True:
                try:
                    for number, session in enumerate(await in_thread(self._outbox.sessions)):
                        self._begin(session)
                        if number % _HANDFUL == 0:
                            await asyncio.sleep(0)  # requests come first
                except BitsError as error:
                    logger.warning("the outbox cannot be read: %s", error.message)
                await asyncio.sleep(_LOOK)
        finally:
            self._is_ours = False
            tasks = set(self._telling.values())
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    def _begin(self, session: str) -> None:
        if session not in self._telling:
            task = asyncio.get_running_loop().create_task(self._tell_of(session))
            self._telling[session] = task
            task.add_done_callback(lambda task: self._over(session, task))

    def _over(self, session: str, task: asyncio.Task[None]) -> None:
        del self._telling[session]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("events stay in the outbox for now: %s", error, extra={"session": session})

    async def _tell_of(self, session: str) -> None:
        """Everything there is to tell of an upload, one after the other."""
        attempts = 0  # in vain, one after the other
        while (first := await self._first(session)) is not None:
            event, content = first
            webhook = self._webhook(event)
            left = event.time + OLDEST - self._clock()
            if left <= 0:
                logger.error("a webhook never heard of an event, which is too old now", extra=_about(event))
            elif webhook is None or self._hearing_of(webhook).is_gone:
                await _wait(self._renewed, left)
                continue
            elif not await self._tell(webhook, event, content, attempts):
                attempts += 1
                await _wait(self._hearing_of(webhook).is_back, min(left, pause(attempts)))
                continue
            attempts = 0 if await self._remove(event) else attempts + 1
            if attempts:
                await asyncio.sleep(pause(attempts))

    async def _remove(self, event: UploadEvent) -> bool:
        try:
            await in_thread(self._outbox.remove, event)
        except BitsError as error:
            logger.warning("an event will be told again: %s", error.message, extra=_about(event))
            return False
        return True

    async def _first(self, session: str) -> tuple[UploadEvent, bytes] | None:
        async with self._reading:
            return await in_thread(self._outbox.first, session)

    def _webhook(self, event: UploadEvent) -> Webhook | None:
        place = self._directories().place_of_path(event.path)
        return None if place is None else place.directory.webhook

    def _hearing_of(self, webhook: Webhook) -> _Hearing:
        return self._hearing.setdefault(webhook.url, _Hearing())

    async def _tell(self, webhook: Webhook, event: UploadEvent, content: bytes, attempts: int) -> bool:
        """Whether the webhook heard. The log says what is new: not each attempt of a thousand events."""
        hearing = self._hearing_of(webhook)
        async with hearing.room:
            if attempts == 0 and hearing.away_since is not None:
                # Thousands may wait: as long as nobody is there, few try, and the others stay behind them.
                await _wait(hearing.is_back, self._caution(hearing.away_since))
            if hearing.is_gone:
                return False
            try:
                status = await webhook.tell(event.id, content, self._clock())
            except ApplicationFailed as error:
                self._is_away(hearing, event, f"a webhook does not hear: {error.message}")
                return False
        if 200 <= status < 300:
            if hearing.away_since is not None:
                hearing.away_since = None
                hearing.wake()
                logger.info("the webhook %s hears again", webhook)
            return True
        if status == 410:
            if not hearing.is_gone:
                logger.error("the webhook %s is gone; it hears no more until a restart or SIGHUP", webhook)
            hearing.is_gone = True
        elif status in _AWAY:
            self._is_away(hearing, event, f"a webhook does not hear: {webhook} answered with {status}")
        else:
            level = logging.DEBUG if attempts else logging.WARNING
            logger.log(level, "the webhook %s answered with %d", webhook, status, extra=_about(event))
        return False

    def _is_away(self, hearing: _Hearing, event: UploadEvent, said: str) -> None:
        if hearing.away_since is None:
            hearing.away_since = self._clock()
            logger.warning("%s", said, extra=_about(event))

    def _caution(self, away_since: float) -> float:
        """Seconds until somebody new tries: as long as the webhook has been away, which doubles each time."""
        away = max(1.0, self._clock() - away_since)
        return min(_LONGEST_PAUSE, away) * random.uniform(0.5, 1.0)  # noqa: S311


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


def _about(event: UploadEvent) -> dict[str, object]:
    return {"kind": str(event.kind), "session": event.session, "path": event.path}
