"""The audit log: who brought which file, a line of JSON for each upload's beginning and its end."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import logging
import os
import stat
from datetime import UTC, datetime

from bitsferry.protocol.errors import BitsError, Busy
from bitsferry.protocol.session import Session
from bitsferry.server.upload_events import Kind, UploadEvent
from bitsferry.store.folder import sync_folder
from bitsferry.store.threads import in_thread

__all__ = ["AuditLog"]

logger = logging.getLogger(__name__)

_PATIENCE = 60  # seconds after which a client may come again that could not be written down
_WORDS = {
    Kind.CREATED: "begun",
    Kind.REFUSED: "refused",
    Kind.COMPLETED: "completed",
    Kind.CANCELLED: "cancelled",
    Kind.EXPIRED: "expired",
}


class AuditLog:
    """Appends to the file at `path`, which only its owner may read.

    Other processes may append to the same file, and somebody may move it away or delete it at any time: it is
    looked for anew each time. `durable`: a line survives a power cut when `tell` returns.
    """

    def __init__(self, path: str, *, durable: bool = True) -> None:
        self.path = path
        self._durable = durable
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    def check(self) -> None:
        """Raises OSError when nothing can be written. Blocks."""
        self._append([])

    async def tell(
        self, event: UploadEvent, session: Session, *, directory: str = "", scheme: str | None = None
    ) -> None:
        """Write down that an upload began or ended; of a published one, that is known already.

        Raises Busy when it cannot be written: whatever the client asked for must not be done then, or said.
        """
        word = _WORDS.get(event.kind)
        if word is None or session.published:
            return
        line = _spelt(
            time=datetime.fromtimestamp(event.time, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            event=word,
            session=event.session,
            directory=directory,
            path=event.path,
            file=event.file,
            user=event.user,
            scheme=scheme,
            address=event.address,
            size=event.size,
            received=event.received,
            digest=event.digest,
            seconds=None if event.kind is Kind.CREATED else round(event.time - session.created, 3),
            reason=event.reason,
        )
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((line, written))
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write())
        await written

    async def _write(self) -> None:
        """All that waits, in order; what comes meanwhile waits for the next round, and a single sync."""
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await in_thread(self._append, [line for line, _ in batch])
            except BitsError as error:
                logger.error(  # noqa: TRY400, a full disk needs no traceback
                    "the audit log %s cannot be written, uploads wait until it can: %s",
                    self.path,
                    error.message,
                )
                for _, written in batch:
                    if not written.done():
                        written.set_exception(Busy("the audit log cannot be written", retry_after=_PATIENCE))
            else:
                for _, written in batch:
                    if not written.done():
                        written.set_result(None)
        self._writing = None

    def _append(self, lines: list[bytes]) -> None:
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "it is no file")
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # until it is closed
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                _write(descriptor, b"\n")  # a full disk or a crash cut the last line off
            for line in lines:
                _write(descriptor, line)
            if self._durable and lines:
                os.fsync(descriptor)
                if not size:
                    sync_folder(os.path.dirname(self.path))
        finally:
            os.close(descriptor)


def _write(descriptor: int, line: bytes) -> None:
    """In one go, so that whoever reads along sees whole lines."""
    if os.write(descriptor, line) < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _spelt(**facts: object) -> bytes:
    """What is known, as a line in ASCII: other letters may end lines, too."""
    known = {name: value for name, value in facts.items() if value is not None}
    return json.dumps(known, separators=(",", ":")).encode() + b"\n"
