"""One request at a time for each session, and the newest wins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from bitsferry.protocol.errors import Busy
from bitsferry.store.base import Store

__all__ = ["Turn", "Turns"]

PATIENCE = 5.0  # seconds a request waits for an older one to let go


class Turn:
    """A session is ours until somebody newer wants it."""

    __slots__ = ("_ended", "_stop", "before", "over", "wanted")

    def __init__(self, before: Turn | None) -> None:
        self.before = before
        self.over = False
        self.wanted = False
        self._ended: asyncio.Event | None = None  # made by who waits: most turns nobody waits for
        self._stop: Callable[[], None] | None = None

    def interrupt_by(self, stop: Callable[[], None]) -> None:
        """From here on, whoever wants the turn calls `stop`; at once if somebody does already."""
        self._stop = stop
        if self.wanted:
            stop()

    def want(self) -> None:
        """Somebody newer is here."""
        self.wanted = True
        if self._stop is not None:
            self._stop()

    def end(self) -> None:
        """Let go."""
        self.over = True
        if self._ended is not None:
            self._ended.set()

    async def ended(self) -> None:
        """Return when this turn is over."""
        if not self.over:
            self._ended = self._ended or asyncio.Event()
            await self._ended.wait()

    async def come(self) -> None:
        """Return when everybody who was here before is gone, those included who gave up waiting."""
        while self.before is not None:
            await self.before.ended()
            self.before = self.before.before


class _Taking:
    """`async with` a turn: a class, because every fragment comes by here and generators cost more."""

    __slots__ = ("_claim", "_guid", "_turn", "_turns")

    _turn: Turn
    _claim: AbstractAsyncContextManager[None]

    def __init__(self, turns: Turns, guid: str) -> None:
        self._turns = turns
        self._guid = guid

    async def __aenter__(self) -> Turn:
        self._turn, self._claim = await self._turns.enter(self._guid)
        return self._turn

    async def __aexit__(self, *error: object) -> None:
        try:
            await self._claim.__aexit__(None, None, None)
        finally:
            self._turns.leave(self._guid, self._turn)


class Turns:
    """Hands out turns, in this process by memory, between processes by the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._newest: dict[str, Turn] = {}

    def take(self, guid: str) -> _Taking:
        """The session's turn, once the request that has it stopped at a block's edge.

        Raises Busy when it did not let go within PATIENCE seconds, or when a still newer request came.
        """
        return _Taking(self, guid)

    async def enter(self, guid: str) -> tuple[Turn, AbstractAsyncContextManager[None]]:
        """Be the newest, and return when everybody older is gone, here and in other processes."""
        turn = Turn(self._newest.get(guid))
        self._newest[guid] = turn
        patience = PATIENCE
        try:
            if turn.before is not None:
                begun = asyncio.get_running_loop().time()
                await self._wait(turn, turn.before)
                patience -= asyncio.get_running_loop().time() - begun
            claim = self._store.claim(guid, turn.want, patience)
            await claim.__aenter__()
        except BaseException:
            self.leave(guid, turn)
            raise
        return turn, claim

    def leave(self, guid: str, turn: Turn) -> None:
        """The session is free for whoever waits for it."""
        turn.end()
        if self._newest[guid] is turn:
            self._step_back(guid, turn.before)

    @staticmethod
    async def _wait(turn: Turn, before: Turn) -> None:
        before.want()
        try:
            async with asyncio.timeout(PATIENCE):
                await turn.come()
        except TimeoutError:
            raise Busy("an older request of this upload does not let go; try again") from None
        if turn.wanted:
            raise Busy("a newer request of this upload is being served")

    def _step_back(self, guid: str, before: Turn | None) -> None:
        """Whoever gave up waiting leaves the place to the one it waited for, if that is still at work."""
        while before is not None and before.over:
            before = before.before
        if before is None:
            del self._newest[guid]
        else:
            self._newest[guid] = before

    def is_quiet(self, guid: str) -> bool:
        """Nobody in this process has the session or waits for it."""
        return guid not in self._newest
