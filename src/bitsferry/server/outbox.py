"""A queue on disk of what is still to be told, in the order of each upload."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from bitsferry.protocol.errors import StoreFailed
from bitsferry.server.upload_events import Kind, UploadEvent, read_event
from bitsferry.store.claims import claim_at_once
from bitsferry.store.folder import make_folder, sync_folder

__all__ = ["MOST", "Outbox"]

logger = logging.getLogger(__name__)

MOST = 20_000  # events that wait at most
_FRESH = 5.0  # seconds a count may be old
_GUID = 36  # letters
_UNFINISHED = ".new"
_ABANDONED = 3600  # seconds after which nobody is writing a file any more


class Outbox:
    """Files `<folder>/<GUID>-<kind>.json`, each an event as it will be told.

    Several processes may put events in; the one that holds the `claim` takes them out. All methods block,
    and raise OSError when the disk fails.
    """

    def __init__(self, folder: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._count = 0
        self._counted_at = -_FRESH

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Nobody else takes events out, in this process or another. Raises Busy if somebody does."""
        make_folder(self._folder, 0o700)
        with claim_at_once(os.path.join(self._folder, "lock")):
            yield

    def put(self, event: UploadEvent, content: bytes) -> None:
        """Keep an event, durable when this returns; put again, it replaces what was there.

        Raises StoreFailed when too many wait. New and refused uploads, which anybody can bring about in any
        number, take half the room at most.
        """
        is_cheap = event.kind in (Kind.CREATED, Kind.REFUSED)
        if self._waiting() >= (MOST // 2 if is_cheap else MOST):
            raise StoreFailed(f"{self._count} events wait in {self._folder}, there is no room for more")
        make_folder(self._folder, 0o700)
        path = self._path(event.id)
        descriptor = os.open(
            path + _UNFINISHED, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(path + _UNFINISHED, path)
        sync_folder(self._folder)
        self._count += 1

    def _waiting(self) -> int:
        """How many events wait, about."""
        if self._clock() - self._counted_at >= _FRESH:
            self._counted_at = self._clock()
            with suppress(FileNotFoundError):
                self._count = len(os.listdir(self._folder))
        return self._count

    def sessions(self) -> set[str]:
        """The uploads of which something is to be told; what a crash left half-written goes."""
        found = set()
        for name in os.listdir(self._folder):
            if name.endswith(".json"):
                found.add(name[:_GUID])
            elif name.endswith(_UNFINISHED):
                self._sweep(name)
        return found

    def _sweep(self, name: str) -> None:
        path = os.path.join(self._folder, name)
        with suppress(FileNotFoundError):
            if time.time() - os.stat(path).st_mtime > _ABANDONED:
                os.unlink(path)

    def first(self, session: str) -> tuple[UploadEvent, bytes] | None:
        """What is to be told of an upload next, and how it is spelt; a damaged event is dropped."""
        for kind in Kind:
            path = self._path(f"{session}-{kind}")
            try:
                with open(path, "rb") as file:
                    content = file.read()
                event = read_event(content)
                if (event.session, event.kind) == (session, kind):
                    return event, content
                reason = "it is another one's"
            except FileNotFoundError:
                continue
            except ValueError as error:
                reason = str(error)
            logger.error("an event that cannot be read is dropped: %s (%s)", path, reason)
            os.unlink(path)
        return None

    def remove(self, event: UploadEvent) -> None:
        """It was told."""
        with suppress(FileNotFoundError):
            os.unlink(self._path(event.id))

    def _path(self, id_: str) -> str:
        return os.path.join(self._folder, id_ + ".json")
