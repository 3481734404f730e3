"""What every store promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass

from bitsferry.protocol.notification import Answer, Dialogue
from bitsferry.protocol.session import Session
from bitsferry.store.folder import Companion, Destination

__all__ = ["Found", "Papers", "Receiver", "Store", "StoredSession"]


class Receiver(ABC):
    """Takes the new bytes of one fragment, block by block, as they come out of the socket."""

    @abstractmethod
    def write(self, block: memoryview) -> Awaitable[None] | None:
        """Append `block` to what is held.

        Returns None when the block is written, or something to wait for when the disk is slow: until it is
        done neither the block's memory may change nor another block be written. Raises a BitsError when the
        disk fails; what was written before stays.
        """

    @property
    def pulls(self) -> bool:
        """`pull` works just now, and is better than `write`."""
        return False

    def pull(self, source: int, most: int) -> int:
        """Append up to `most` bytes straight from the socket with the descriptor `source`.

        Returns how many, 0 at the socket's end. Raises BlockingIOError when nothing is there yet,
        ConnectionError when the socket broke, a BitsError when the disk failed.
        """
        raise NotImplementedError


class StoredSession(ABC):
    """One session while somebody has its turn."""

    session: Session

    @property
    @abstractmethod
    def held(self) -> int:
        """How many leading bytes of the file the store holds; the one place that knows."""

    @abstractmethod
    def receiver(self, skip: int) -> Receiver:
        """A receiver that drops the first `skip` bytes it is given, which are held already.

        Raises StoreFailed.
        """

    @abstractmethod
    async def sync(self) -> int:
        """Return how many bytes are held, when they survive what the store's durability promises.

        Raises StoreFailed; then only what an earlier call counted is held.
        """

    @abstractmethod
    async def cut(self, most: int) -> None:
        """Give up what is held beyond the first `most` bytes; durable when it returns. Raises StoreFailed."""

    @abstractmethod
    async def save(self) -> None:
        """Replace the state on disk by `session`, whole or not at all.

        Raises StoreFailed; then `session` is read from disk again by whoever has the next turn.
        """

    @abstractmethod
    async def publish(self, destination: Destination, companion: Companion | None = None) -> None:
        """Put the file into its place, complete and durable, or raise and leave everything as it was.

        With a `companion` beside it, complete and durable, too. Said again after a crash it does nothing a
        second time. Raises DestinationExists,
        DestinationIsFolder, FolderNotFound, AccessDenied or StoreFailed.
        """

    @abstractmethod
    async def release(self, destination: Destination | None) -> None:
        """Delete the bytes; the state stays, a tombstone. `destination` is where leftovers may lie."""

    @abstractmethod
    async def drop_reply(self) -> None:
        """Delete the application's reply; nobody fetches it any more."""

    @abstractmethod
    async def remove(self, destination: Destination | None) -> None:
        """Delete the bytes and the state."""

    @abstractmethod
    async def quiet_since(self) -> float:
        """When somebody last spoke of this session, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Found:
    """A session met while walking the store; `quiet_since` is in seconds since the epoch."""

    guid: str
    quiet_since: float
    has_bytes: bool


@dataclass(frozen=True, slots=True)
class Papers:
    """What an application reads and writes: the paths of the uploaded file and of the reply to it."""

    request: str
    response: str


class Store(ABC):
    """Keeps sessions."""

    @property
    @abstractmethod
    def outbox(self) -> str:
        """The folder for what is still to be told of uploads; not there until there is something."""

    @abstractmethod
    async def create(self, session: Session) -> None:
        """Keep a new session, durable when this returns. Raises StoreFailed."""

    @abstractmethod
    def open(self, guid: str) -> AbstractAsyncContextManager[StoredSession]:
        """The session of this id, for whoever has its turn. Raises SessionNotFound or StoreFailed."""

    @abstractmethod
    async def read(self, guid: str) -> Session:
        """The state of a session as it is on disk, without a turn: to look at, not to change.

        Raises SessionNotFound or StoreFailed.
        """

    @abstractmethod
    async def touch(self, guid: str) -> None:
        """Somebody spoke of this session: its timeout begins anew. No turn is needed."""

    @abstractmethod
    def open_bytes(self, guid: str) -> int:
        """A descriptor to read what is held, which only grows unless it is cut. No turn is needed.

        Blocks: it is for threads. Raises SessionNotFound where no bytes are any more, or OSError.
        """

    @abstractmethod
    async def room(self) -> int:
        """How many more bytes fit."""

    @abstractmethod
    def claim(
        self, guid: str, stop: Callable[[], None], patience: float
    ) -> AbstractAsyncContextManager[None]:
        """Keep other processes away from a session; `stop` is called when one of them wants it.

        Raises Busy when another process did not let go within `patience` seconds.
        """

    @abstractmethod
    async def read_many(self, guids: Iterable[str]) -> dict[str, Session]:
        """The states of these sessions, without those that are gone or cannot be read."""

    @abstractmethod
    def walk(self) -> AsyncIterator[Found]:
        """Every session, in no order; each may be gone by the time it is opened."""

    # The talk with an application. Nobody's turn is needed: it may go on while clients come and go.

    @abstractmethod
    def claim_dialogue(self, guid: str) -> AbstractContextManager[None]:
        """Nobody else talks about this session, in this process or another. Raises Busy if somebody does."""

    @abstractmethod
    async def papers(self, guid: str) -> Papers:
        """Where the uploaded file is and the reply goes.

        What an earlier talk left of a reply is gone, unless the application said that it works on it still.
        """

    @abstractmethod
    async def read_dialogue(self, guid: str) -> Dialogue:
        """How far the talk came; an empty one when there was none."""

    @abstractmethod
    async def keep_dialogue(self, guid: str, dialogue: Dialogue) -> None:
        """Replace what is kept of the talk; durable when this returns. Raises StoreFailed."""

    @abstractmethod
    async def keep_answer(self, guid: str, answer: Answer) -> Answer:
        """Keep the application's answer with its reply, if it wrote one that is not empty.

        Durable when this returns, and where the answer is known, after whatever crash, its reply is whole.
        Returns the answer, with `has_reply` as it is. Raises StoreFailed, also for a reply that is no file.
        """

    @abstractmethod
    async def open_reply(self, guid: str) -> int:
        """A descriptor to read the reply. Raises SessionNotFound where there is none, or StoreFailed."""

    @abstractmethod
    async def discard(self, guid: str) -> None:
        """Delete what is left of a session that cannot be opened any more."""

    @abstractmethod
    async def sweep_orphans(self) -> int:
        """Delete what a crash left that belongs to no session; returns how many things."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; sessions stay."""
