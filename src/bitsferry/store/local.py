"""A store in a folder of this machine, which needs nothing to be installed."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import stat
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Literal

import msgspec

from bitsferry.protocol.errors import BitsError, Busy, SessionNotFound, StoreFailed
from bitsferry.protocol.notification import Answer, Dialogue
from bitsferry.protocol.session import Session
from bitsferry.store import claims, publishing
from bitsferry.store.appending import Appender, Disk
from bitsferry.store.base import Found, Papers, Receiver, Store, StoredSession
from bitsferry.store.folder import Companion, Destination, Folder, make_folder, sync_folder
from bitsferry.store.threads import error_of_os, in_thread

__all__ = ["Durability", "LocalStore"]

logger = logging.getLogger(__name__)

Durability = Literal["power", "process"]

_MOST_IDLE = 512  # sessions whose files stay open between two fragments
_POLL = 0.02  # seconds between two looks at a session another process has
_LAST_BREATH = 2.0  # seconds a killed server may take to let go
_YOUNG = 3600  # seconds for which another process may be making a session

_DATA, _STATE, _TURN = "request.data", "session.json", "turn"
_REPLY, _NEW_REPLY, _DIALOGUE, _TALK = "reply.data", "reply.new", "dialogue.json", "talk"
_OPEN_DATA = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_BYTES = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_REPLY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class _Record(msgspec.Struct):
    """A state as it lies on disk."""

    session: Session
    format: int = 1


_NOTHING_TO_CLAIM = nullcontext()

_decoder = msgspec.json.Decoder(_Record)


class LocalStore(Store):
    """Sessions in `<root>/sessions/<first two digits>/<GUID>/`, a folder each.

    `durability` "power": what is acknowledged survives a power cut; "process": it survives the death of the
    process. With `shared`, several processes use the same root; nothing is then remembered between requests.
    Raises StoreFailed when the root cannot be made or another server has it.
    """

    def __init__(self, root: str, durability: Durability = "power", *, shared: bool = False) -> None:
        self.root = os.path.abspath(root)
        self.durability = durability
        self.shared = shared
        self._started = time.time()
        self._sessions = os.path.join(self.root, "sessions")
        self._open: dict[str, _LocalSession] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()  # those of them nobody uses, longest so first
        try:
            self._lock = _make_root(self.root, self._sessions, shared)
        except OSError as error:
            raise StoreFailed(f"the store {self.root} cannot be used: {error.strerror or error}") from error
        self.disk = Disk(self.root)

    @property
    def outbox(self) -> str:
        """See Store."""
        return os.path.join(self.root, "outbox")

    def folder_of(self, guid: str) -> str:
        """Where the session of this id lies."""
        return os.path.join(self._sessions, guid[:2], guid)

    async def create(self, session: Session) -> None:
        """See Store."""
        await in_thread(self._create, session)

    def _create(self, session: Session) -> None:
        folder = self.folder_of(session.id)
        try:
            os.mkdir(folder, 0o700)
            os.close(
                os.open(
                    os.path.join(folder, _DATA), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
                )
            )
            self.write_state(session)
            if self.durability == "power":
                sync_folder(os.path.dirname(folder))
        except FileExistsError:
            raise  # the folder is another session's
        except OSError:
            self._check_reachable()
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _check_reachable(self) -> None:
        """Raises Busy when the disk is not mounted: its uploads are not lost, their clients shall wait."""
        if not os.path.isdir(self._sessions):
            raise Busy(f"the store {self.root} cannot be reached; is its disk mounted?")

    def write_state(self, session: Session) -> None:
        """Replace a state."""
        self._replace(session.id, _STATE, msgspec.json.encode(_Record(session)))

    def _replace(self, guid: str, name: str, content: bytes) -> None:
        """A small file, whole or not at all: write beside, sync, rename, sync the folder."""
        folder = self.folder_of(guid)
        path, beside = os.path.join(folder, name), os.path.join(folder, name + ".new")
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            if self.durability == "power":
                os.fsync(file.fileno())
        os.rename(beside, path)
        if self.durability == "power":
            sync_folder(folder)

    def open(self, guid: str) -> _Opening:
        """See Store."""
        return _Opening(self, guid)

    async def take(self, guid: str) -> _LocalSession:
        """The session of this id, its file open, until `put_back`."""
        stored = self._open.get(guid)
        if stored is None:
            stored = self._open[guid] = await in_thread(self._load, guid)
        self._idle.pop(guid, None)
        stored.users += 1
        return stored

    def put_back(self, stored: _LocalSession) -> None:
        """Keep the session's file open for the next fragment, unless it is over or may change elsewhere."""
        stored.users -= 1
        if self.shared or stored.session.over or stored.stale:
            self.forget(stored.session.id)
        elif stored.users == 0:
            self._idle[stored.session.id] = None
            if len(self._idle) > _MOST_IDLE:
                self.forget(next(iter(self._idle)))

    async def read(self, guid: str) -> Session:
        """See Store."""
        return await in_thread(self._read, guid)

    def _read(self, guid: str) -> Session:
        folder = self.folder_of(guid)
        try:
            with open(os.path.join(folder, _STATE), "rb") as file:
                return _decoder.decode(file.read()).session
        except (FileNotFoundError, NotADirectoryError):
            self._check_reachable()
            raise SessionNotFound(f"the server knows no upload {guid}") from None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            logger.warning("the state in %s cannot be read (%s); its client will start over", folder, error)
            raise SessionNotFound(f"the server cannot read the upload {guid} any more") from error

    async def read_many(self, guids: Iterable[str]) -> dict[str, Session]:
        """See Store."""
        return await in_thread(self._read_many, guids)

    def _read_many(self, guids: Iterable[str]) -> dict[str, Session]:
        sessions = {}
        for guid in guids:
            with suppress(BitsError, OSError):
                sessions[guid] = self._read(guid)
        return sessions

    async def touch(self, guid: str) -> None:
        """See Store."""
        await in_thread(os.utime, os.path.join(self.folder_of(guid), _STATE))

    def open_bytes(self, guid: str) -> int:
        """See Store."""
        try:
            return os.open(os.path.join(self.folder_of(guid), _DATA), _OPEN_BYTES)
        except FileNotFoundError:
            raise SessionNotFound(f"the server has no bytes of the upload {guid} any more") from None

    async def room(self) -> int:
        """See Store."""
        return await in_thread(Folder(self.root).room)

    def _load(self, guid: str) -> _LocalSession:
        session = self._read(guid)
        folder = self.folder_of(guid)
        data = -1
        if not session.over:
            try:
                data = os.open(os.path.join(folder, _DATA), _OPEN_DATA)
            except FileNotFoundError:
                if not session.published:
                    logger.warning("the bytes of %s are gone; its client will start over", folder)
                    raise SessionNotFound(f"the server lost the bytes of the upload {guid}") from None
        return _LocalSession(self, session, data, self._sync_loaded(data))

    def _sync_loaded(self, data: int) -> int:
        """A process that died may have left bytes that never reached the disk: sync before they count."""
        if data < 0:
            return 0
        try:
            if self.durability == "power":
                os.fdatasync(data)
            return os.fstat(data).st_size
        except OSError:
            os.close(data)
            raise

    def forget(self, guid: str) -> None:
        """Close a session's file; the next request opens it again."""
        self._idle.pop(guid, None)
        stored = self._open.pop(guid, None)
        if stored is not None:
            stored.close()

    def claim(
        self, guid: str, stop: Callable[[], None], patience: float
    ) -> AbstractAsyncContextManager[None]:
        """See Store. Only processes that share the root have anything to wait for."""
        if not self.shared:
            return _NOTHING_TO_CLAIM
        return claims.claim(os.path.join(self.folder_of(guid), _TURN), stop, patience)

    async def walk(self) -> AsyncIterator[Found]:
        """See Store."""
        for shelf in await in_thread(os.listdir, self._sessions):
            for found in await in_thread(self._walk_shelf, os.path.join(self._sessions, shelf)):
                yield found

    @staticmethod
    def _walk_shelf(shelf: str) -> list[Found]:
        found = []
        for guid in _names_in(shelf):
            with suppress(OSError):
                folder = os.path.join(shelf, guid)
                found.append(Found(guid, _quiet_since(folder), os.path.exists(os.path.join(folder, _DATA))))
        return found

    @contextmanager
    def claim_dialogue(self, guid: str) -> Iterator[None]:
        """See Store."""
        with ExitStack() as stack:
            try:
                stack.enter_context(claims.claim_at_once(os.path.join(self.folder_of(guid), _TALK)))
            except SessionNotFound:
                self._check_reachable()
                raise
            yield

    async def papers(self, guid: str) -> Papers:
        """See Store."""
        return await in_thread(self._papers, guid)

    def _papers(self, guid: str) -> Papers:
        data, reply, new = (os.path.join(self.folder_of(guid), name) for name in (_DATA, _REPLY, _NEW_REPLY))
        if self._read_dialogue(guid).later is None:
            _clear(reply, new)
        elif not os.path.lexists(new):
            with suppress(FileNotFoundError):
                os.rename(reply, new)  # a crash came before the answer to it was kept
        return Papers(data, new)

    async def read_dialogue(self, guid: str) -> Dialogue:
        """See Store."""
        return await in_thread(self._read_dialogue, guid)

    def _read_dialogue(self, guid: str) -> Dialogue:
        try:
            with open(os.path.join(self.folder_of(guid), _DIALOGUE), "rb") as file:
                return msgspec.json.decode(file.read(), type=Dialogue)
        except FileNotFoundError:
            return Dialogue()
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            logger.warning(
                "what an application said of %s cannot be read (%s); it is told again", guid, error
            )
            return Dialogue()

    async def keep_dialogue(self, guid: str, dialogue: Dialogue) -> None:
        """See Store."""
        await in_thread(self._replace, guid, _DIALOGUE, msgspec.json.encode(dialogue))

    async def keep_answer(self, guid: str, answer: Answer) -> Answer:
        """See Store."""
        return await in_thread(self._keep_answer, guid, answer)

    def _keep_answer(self, guid: str, answer: Answer) -> Answer:
        folder = self.folder_of(guid)
        reply, new = os.path.join(folder, _REPLY), os.path.join(folder, _NEW_REPLY)
        has_reply = not answer.static_url and not answer.refusal and _sync_reply(new)
        if has_reply:
            os.rename(new, reply)
            sync_folder(folder)  # before the answer is known, whatever `durability` says
        else:
            _clear(reply, new)
        answer = replace(answer, has_reply=has_reply)
        self._replace(guid, _DIALOGUE, msgspec.json.encode(Dialogue(answer)))
        return answer

    async def open_reply(self, guid: str) -> int:
        """See Store."""
        return await in_thread(self._open_reply, guid)

    def _open_reply(self, guid: str) -> int:
        try:
            return os.open(os.path.join(self.folder_of(guid), _REPLY), _OPEN_REPLY)
        except FileNotFoundError:
            raise SessionNotFound("there is no reply to this upload, or not any more") from None

    async def discard(self, guid: str) -> None:
        """See Store."""
        await in_thread(shutil.rmtree, self.folder_of(guid), ignore_errors=True)

    async def sweep_orphans(self) -> int:
        """See Store: folders a crash left without a state, states it left half-written."""
        return sum(
            [
                await in_thread(self._sweep_shelf, shelf)
                for shelf in await in_thread(os.listdir, self._sessions)
            ]
        )

    def _sweep_shelf(self, shelf: str) -> int:
        swept = 0
        oldest = self._started - (
            _YOUNG if self.shared else 0
        )  # what is younger may be a session in the making
        for guid in _names_in(os.path.join(self._sessions, shelf)):
            folder = os.path.join(self._sessions, shelf, guid)
            with suppress(OSError):
                if os.stat(folder).st_mtime < oldest and not os.path.exists(os.path.join(folder, _STATE)):
                    shutil.rmtree(folder)
                    swept += 1
        return swept

    def close(self) -> None:
        """See Store."""
        for guid in list(self._open):
            self.forget(guid)
        self.disk.close()
        os.close(self._lock)


class _Opening:
    """`async with` a session: a class, because every fragment comes by here and generators cost more."""

    __slots__ = ("_guid", "_store", "_stored")

    _stored: _LocalSession

    def __init__(self, store: LocalStore, guid: str) -> None:
        self._store = store
        self._guid = guid

    async def __aenter__(self) -> _LocalSession:
        self._stored = await self._store.take(self._guid)
        return self._stored

    async def __aexit__(self, *error: object) -> None:
        self._store.put_back(self._stored)


class _LocalSession(StoredSession):
    def __init__(self, store: LocalStore, session: Session, data: int, synced: int) -> None:
        self.store = store
        self.session = session
        self.data = data
        self.users = 0
        self.stale = False
        self.synced = synced  # bytes this process saw reach the disk
        self.torn = False  # what follows them did not, and could not be cut off yet

    @property
    def held(self) -> int:
        if self.data < 0:
            return self.session.total or 0
        return self.synced if self.torn else os.fstat(self.data).st_size

    def receiver(self, skip: int) -> Receiver:
        if self.torn:
            self._cut()
        return Appender(self.store.disk, self.data, self.held, skip)

    async def sync(self) -> int:
        held = self.held
        if self.data < 0 or self.store.durability == "process" or held == self.synced:
            return held
        if self.store.disk.in_memory:
            self._sync_data()
        else:
            await in_thread(self._sync_data)
        self.synced = held
        return held

    def _sync_data(self) -> None:
        try:
            os.fdatasync(self.data)
        except OSError as error:
            # What failed to reach the disk is lost even if a later sync succeeds: it must not be counted.
            self.torn = True
            with suppress(StoreFailed):
                self._cut()
            raise error_of_os(error) from error

    def _cut(self) -> None:
        try:
            os.ftruncate(self.data, self.synced)
        except OSError as error:
            raise error_of_os(error) from error
        self.torn = False

    async def cut(self, most: int) -> None:
        if self.data >= 0 and most < self.held:
            await in_thread(self._cut_to, most)

    def _cut_to(self, most: int) -> None:
        os.ftruncate(self.data, most)
        self.synced = min(self.synced, most)
        self.torn = False
        if self.store.durability == "power":
            os.fdatasync(self.data)

    async def save(self) -> None:
        self.stale = True
        await in_thread(self.store.write_state, self.session)
        self.stale = False

    async def publish(self, destination: Destination, companion: Companion | None = None) -> None:
        await in_thread(self._publish, destination, companion)

    def _publish(self, destination: Destination, companion: Companion | None) -> None:
        os.fchmod(self.data, 0o666 & ~_umask)
        try:
            os.fsync(self.data)
        except OSError:
            if self.store.durability == "process":
                self._forget_bytes()
            raise
        publishing.publish(self._path(_DATA), self.session.id, destination, companion)

    def _forget_bytes(self) -> None:
        """Some that were acknowledged without a sync are lost, and nobody knows which: better all again."""
        self.torn, self.synced = True, 0
        with suppress(StoreFailed):
            self._cut()

    async def release(self, destination: Destination | None) -> None:
        await in_thread(self._release, destination)

    def _release(self, destination: Destination | None) -> None:
        if destination is not None:
            publishing.clear_leftovers(self.session.id, destination)
        for name in (_DATA, _DATA + ".placing"):
            with suppress(FileNotFoundError):
                os.unlink(self._path(name))
        self.close()

    async def drop_reply(self) -> None:
        await in_thread(self._drop_reply)

    def _drop_reply(self) -> None:
        _clear(*map(self._path, (_REPLY, _NEW_REPLY, _DIALOGUE, _DIALOGUE + ".new", _TALK)))

    async def remove(self, destination: Destination | None) -> None:
        await in_thread(self._remove, destination)

    def _remove(self, destination: Destination | None) -> None:
        try:
            self._release(destination)
        except OSError as error:
            logger.warning("leftovers beside %s may stay: %s", destination, error)
        self.stale = True  # nobody must find it in memory who would not find it on disk
        folder = self.store.folder_of(self.session.id)
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, _STATE))  # first: without it the rest is an orphan, not a session
        shutil.rmtree(folder, ignore_errors=True)

    async def quiet_since(self) -> float:
        return await in_thread(_quiet_since, self.store.folder_of(self.session.id))

    def close(self) -> None:
        if self.data >= 0:
            os.close(self.data)
            self.data = -1

    def _path(self, name: str) -> str:
        return os.path.join(self.store.folder_of(self.session.id), name)


def _sync_reply(path: str) -> bool:
    """Whether an application wrote a reply that is not empty, which is durable then.

    Raises StoreFailed for what can be no reply: of a link, nobody knows whose file it leads to.
    """
    try:
        figures = os.lstat(path)
        if not stat.S_ISREG(figures.st_mode):
            raise StoreFailed("the application's reply is no file; a link, a folder or a pipe is none")
        if figures.st_size == 0:
            return False
        descriptor = os.open(path, _OPEN_REPLY)
    except FileNotFoundError:
        return False
    except PermissionError as error:
        raise StoreFailed("the application's reply may not be read by the server's account") from error
    try:
        if figures.st_nlink == 1:
            with suppress(PermissionError):  # it may be the application's
                os.fchmod(descriptor, 0o600)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True


def _clear(*paths: str) -> None:
    """Nothing is there any more, whatever an application put there."""
    for path in paths:
        with suppress(FileNotFoundError):
            if stat.S_ISDIR(os.lstat(path).st_mode):
                shutil.rmtree(path)
            else:
                os.unlink(path)


def _names_in(shelf: str) -> list[str]:
    """What lies on a shelf; nothing, where somebody else put a file among the shelves."""
    with suppress(NotADirectoryError):
        return os.listdir(shelf)
    return []


def _quiet_since(folder: str) -> float:
    latest = os.stat(os.path.join(folder, _STATE)).st_mtime
    with suppress(FileNotFoundError):
        latest = max(latest, os.stat(os.path.join(folder, _DATA)).st_mtime)
    return latest


def _make_root(root: str, sessions: str, shared: bool) -> int:
    """Make the folders of a store; returns the descriptor that holds it against other servers."""
    make_folder(root, 0o700)
    lock = os.open(os.path.join(root, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not _lock_root(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
        os.close(lock)
        raise StoreFailed(f"another bitsferry server is using the store {root}")
    os.makedirs(sessions, 0o700, exist_ok=True)
    for number in range(256):
        with suppress(FileExistsError):
            os.mkdir(os.path.join(sessions, f"{number:02X}"), 0o700)
    sync_folder(sessions)
    sync_folder(root)
    return lock


def _lock_root(lock: int, kind: int) -> bool:
    """False when another server has the store, and not just because it is dying as we begin."""
    deadline = time.monotonic() + _LAST_BREATH
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL)
        else:
            return True


def _read_umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


_umask = _read_umask()
