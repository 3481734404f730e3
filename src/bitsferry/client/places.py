"""Where interrupted sends stopped, remembered from one run to the next."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from bitsferry.client.download import Version
from bitsferry.client.local_file import Identity
from bitsferry.client.locking import lock, unlock
from bitsferry.client.partial_file import sync_folder_of
from bitsferry.protocol.errors import BitsError, Context
from bitsferry.protocol.hresult import HResult
from bitsferry.protocol.upload import Progress

__all__ = ["AlreadyBeingSent", "Memory", "Place", "Places"]


class AlreadyBeingSent(BitsError):
    """Another process is sending this file to this URL."""

    hresult = HResult.BG_E_DESTINATION_LOCKED
    context = Context.LOCAL_FILE
    transient = True


M = TypeVar("M", bound=msgspec.Struct)


class Memory(msgspec.Struct, frozen=True):
    """What is known of an interrupted send: of which file, by whom, and how far it had come.

    `reply` is what is known of a reply that was on its way here.
    """

    file: str
    url: str
    user: str | None
    identity: Identity
    progress: Progress
    reply: Version | None = None


class Place:
    """The memory of one file on its way to one URL; nobody else has it at the same time.

    `path` None: there is nowhere to remember anything, on a full disk perhaps. A file wants to be sent all
    the same; interrupted, it would start over.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._synced: tuple[str | None, Version | None] = (None, None)

    @property
    def name(self) -> str:
        """Another one for each file and URL; empty where there is no place."""
        return "" if self._path is None else os.path.basename(self._path)[:8]

    @property
    def lasts(self) -> bool:
        """Whether another run can go on from here."""
        return self._path is not None

    def recall(self) -> Memory | None:
        """What is remembered; what cannot be read is taken for nothing."""
        return self.recall_as(Memory)

    def recall_as(self, kind: type[M]) -> M | None:
        """The same for whoever remembers something else."""
        if self._path is None:
            return None
        try:
            with open(self._path, "rb") as file:
                return msgspec.json.decode(file.read(), type=kind)
        except (OSError, ValueError):  # msgspec's own errors are some, and what is no UTF-8
            return None

    def remember(self, memory: Memory) -> None:
        """Replace what is remembered, as a whole.

        A new session or reply is synced, so that a power cut does not lose it. An offset is not: the server
        knows it better, and says it at the first fragment. Raises OSError, and then remembers what it did
        before.
        """
        kept = memory.progress.session_id, memory.reply
        self.replace(memory, synced=kept != self._synced)
        self._synced = kept

    def replace(self, memory: msgspec.Struct, *, synced: bool) -> None:
        """Remember this and nothing else; `synced`, a power cut does not lose it. Raises OSError."""
        if self._path is None:
            return
        beside = self._path + ".new"
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.encode(memory))
            if synced:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, self._path)
        if synced:
            sync_folder_of(self._path)

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
            descriptor = lock(path + ".lock")
        except BlockingIOError:
            name = os.path.basename(file)
            raise AlreadyBeingSent(f"another process is sending {name} to {url} just now") from None
        except OSError:
            yield Place(None)
            return
        try:
            yield Place(path + ".json")
        finally:
            unlock(descriptor, path + ".lock")
