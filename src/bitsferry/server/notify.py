"""The talks with applications: one for each whole upload, which go on while clients come and go."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bitsferry.protocol.errors import BitsError, Busy
from bitsferry.protocol.notification import Answer, ApplicationFailed, Dialogue, Later
from bitsferry.server.backend import Backend, Timing, WholeUpload
from bitsferry.server.turns import Turn
from bitsferry.store.base import Store

__all__ = ["Notifications"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Talk:
    task: asyncio.Task[Answer]
    again_in: float  # seconds after which it makes sense to ask for its end
    taken: asyncio.Event = field(default_factory=asyncio.Event)  # the application said "later"


class Notifications:
    """Tells applications of whole uploads, and keeps what they answer. `clock` is the time of day."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._ended = False
        self._talks: dict[str, _Talk] = {}

    async def answer(
        self,
        backend: Backend,
        timing: Timing,
        guid: str,
        about: Callable[[str, str], WholeUpload],
        turn: Turn,
    ) -> Answer:
        """What the application answers to this upload; if it answered before, it is not told again.

        `about` makes the upload from the paths of file and reply. The talk belongs to nobody: when `turn` is
        wanted it goes on, and a later call hears how it ended. Raises ApplicationFailed, also for an
        application that works on it still, or Busy.
        """
        dialogue = await self._store.read_dialogue(guid)
        if dialogue.answer is not None:
            return dialogue.answer
        talk = self._talks.get(guid)
        if talk is None or talk.task.done():
            if self._ended:
                raise Busy("the server ends; the application will be told later")
            talk = self._begin(guid, backend, timing, about)
        return await self._wait(talk, timing.hold, turn)

    def _begin(
        self,
        guid: str,
        backend: Backend,
        timing: Timing,
        about: Callable[[str, str], WholeUpload],
    ) -> _Talk:
        async def run() -> Answer:
            with self._store.claim_dialogue(guid):
                return await self._talk(talk, guid, backend, timing, about)

        talk = _Talk(asyncio.get_running_loop().create_task(run()), timing.poll)
        self._talks[guid] = talk
        talk.task.add_done_callback(lambda task: self._over(guid, talk))
        return talk

    def _over(self, guid: str, talk: _Talk) -> None:
        if self._talks.get(guid) is talk:
            del self._talks[guid]
        if not talk.task.cancelled() and (error := talk.task.exception()) is not None:
            level = logging.WARNING if isinstance(error, BitsError) else logging.ERROR
            logger.log(level, "the application failed: %s", error, extra={"session": guid})

    async def _talk(
        self,
        talk: _Talk,
        guid: str,
        backend: Backend,
        timing: Timing,
        about: Callable[[str, str], WholeUpload],
    ) -> Answer:
        dialogue = await self._store.read_dialogue(guid)
        if dialogue.answer is not None:
            return dialogue.answer  # another talk ended while this one began
        papers = await self._store.papers(guid)
        upload = about(papers.request, papers.response)
        later, since = dialogue.later, dialogue.since
        while True:
            if later is None:
                said = await backend.tell(upload)
            else:
                said = await backend.ask_again(upload, later)
            if isinstance(said, Answer):
                answer = await self._store.keep_answer(guid, said)
                logger.info("the application answered", extra={"session": guid, "path": upload.path})
                return answer
            since = self._clock() if since is None else since
            later = Later(said.seconds, said.location or (later.location if later else None))
            await self._store.keep_dialogue(guid, Dialogue(later=later, since=since))
            pause = later.seconds or timing.poll
            left = since + timing.patience - self._clock()
            if left <= 0:
                await self._store.keep_dialogue(guid, Dialogue())
                raise ApplicationFailed(
                    f"the server's application has not answered for {timing.patience:.0f} s", status=504
                )
            talk.again_in = min(pause, left)
            talk.taken.set()
            await asyncio.sleep(talk.again_in)

    async def _wait(self, talk: _Talk, hold: float, turn: Turn) -> Answer:
        loop = asyncio.get_running_loop()
        wanted: asyncio.Future[None] = loop.create_future()
        turn.interrupt_by(lambda: None if wanted.done() else wanted.set_result(None))
        taken = loop.create_task(talk.taken.wait())
        try:
            events: set[asyncio.Future[Any]] = {talk.task, wanted, taken}
            await asyncio.wait(events, timeout=hold, return_when=asyncio.FIRST_COMPLETED)
        finally:
            taken.cancel()
        if talk.task.done():
            if talk.task.cancelled():
                raise Busy("the server ends; the application will be told again")
            return talk.task.result()
        if wanted.done() and not talk.taken.is_set():
            raise Busy("a newer request of this upload is being served")
        raise ApplicationFailed(
            "the server's application works on it still; ask again",
            status=503,
            retry_after=max(1, round(talk.again_in)),
        )

    async def forget(self, guid: str) -> None:
        """The upload is over: nobody waits for an answer any more."""
        talk = self._talks.pop(guid, None)
        if talk is not None:
            talk.task.cancel()
            await asyncio.wait({talk.task})

    def end(self) -> None:
        """Begin no talk any more, and break off those there are; what was not answered will be told again."""
        if not self._ended:
            self._ended = True
            for talk in self._talks.values():
                talk.task.cancel()

    async def stop(self) -> None:
        """The same, and return when the last one is over."""
        self.end()
        if self._talks:
            await asyncio.wait({talk.task for talk in self._talks.values()})
