"""Where interrupted sends stopped, remembered from one run to the next."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator

import msgspec

from bitsferry.client.local_file import Identity
from bitsferry.protocol.errors import BitsError, Context
from bitsferry.protocol.hresult import HResult
from bitsferry.protocol.upload import Progress

__all__ = ["AlreadyBeingSent", "Memory", "Place", "Places"]


class AlreadyBeingSent(BitsError):
    """Another process is sending this file to this URL."""

    hresult = HResult.BG_E_DESTINATION_LOCKED
    context = Context.LOCAL_FILE
    transient = True


class Memory(msgspec.Struct, frozen=True):
    """What is known of an interrupted send: of which file, by whom, and how far it had come."""

    file: str
    url: str
    user: str | None
    identity: Identity
    progress: Progress


class Place:
    """The memory of one file on its way to one URL; nobody else has it at the same time.

    `path` None: there is nowhere to remember anything, on a full disk perhaps. A file wants to be sent all
    the same; interrupted, it would start over.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._synced: str | None = None

    @property
    def lasts(self) -> bool:
        """Whether another run can go on from here."""
        return self._path is not None

    def recall(self) -> Memory | None:
        """What is remembered; what cannot be read is taken for nothing."""
        if self._path is None:
            return None
        try:
            with open(self._path, "rb") as file:
                return msgspec.json.decode(file.read(), type=Memory)
        except (OSError, msgspec.DecodeError):
            return None

    def remember(self, memory: Memory) -> None:
        """Replace what is remembered, as a whole.

        A new session is synced, so that a power cut does not lose it. An offset is not: the server knows it
        better, and says it at the first fragment. Raises OSError, and then remembers what it did before.
        """
        if self._path is None:
            return
        beside = self._path + ".new"
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.encode(memory))
            if memory.progress.session_id != self._synced:
                file.flush()
                os.fsync(file.fileno())
                self._synced = memory.progress.session_id
        os.replace(beside, self._path)

    def forget(self) -> None:
        """There is nothing to go on with."""
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)


class Places:
    """A folder of places, one file each, readable by their owner only."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def take(self, file: str, url: str) -> Iterator[Place]:
        """The place of this file and URL, for this process alone. Raises AlreadyBeingSent."""
        key = hashlib.sha256(f"{os.path.abspath(file)}\n{url}".encode("utf-8", "surrogateescape")).hexdigest()
        path = os.path.join(self._folder, key[:32])
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            descriptor = _lock(path + ".lock")
        except BlockingIOError:
            name = os.path.basename(file)
            raise AlreadyBeingSent(f"another process is sending {name} to {url} just now") from None
        except OSError:
            yield Place(None)
            return
        try:
            yield Place(path + ".json")
        finally:
            _unlock(descriptor, path + ".lock")


# A lock ends with its process, whatever ends that; a file that only exists would not. `_lock` returns the
# descriptor of the locked file, and raises BlockingIOError when somebody else has it.

if sys.platform == "win32":
    import msvcrt

    def _lock(path: str) -> int:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            os.close(descriptor)
            raise BlockingIOError from None
        return descriptor

    def _unlock(descriptor: int, path: str) -> None:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(path)

else:
    import fcntl

    def _lock(path: str) -> int:
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
            except FileNotFoundError:
                pass  # its last owner removed it between our open and our lock
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _unlock(descriptor: int, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.close(descriptor)
