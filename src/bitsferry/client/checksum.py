"""The digest of a file that is on its way, computed beside it."""

from __future__ import annotations

import hashlib
import os
import threading
from types import TracebackType

from bitsferry.client.local_file import Identity, LocalFile
from bitsferry.protocol.digests import Digest
from bitsferry.protocol.errors import BitsError, LocalFileChanged, LocalFileMissing

__all__ = ["Checksum"]

AHEAD = 64 * 1024 * 1024  # bytes beyond what is on its way: the next fragment, which then need not wait
_BLOCK = 1024 * 1024


class Checksum:
    """Follows a file's upload in a thread of its own, which reads what the system still has in memory.

    To be used in a `with`. After a resume it has all of the earlier bytes to read first. It costs a processor
    about 0.6 s for each GiB, beside the upload and not before it.
    """

    def __init__(self, file: LocalFile, algorithm: str) -> None:
        """`algorithm` is one of `protocol.digests`."""
        self._file = file
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm.replace("-", ""))
        self._allowed = 0
        self._is_over = False
        self._error: BitsError | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, name="checksum", daemon=True)

    def __enter__(self) -> Checksum:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify()
        self._thread.join()

    def follow(self, offset: int) -> None:
        """The bytes before `offset` are on their way, or are there."""
        with self._changed:
            self._allowed = max(self._allowed, offset + AHEAD)
            self._changed.notify()

    def wait(self, seconds: float) -> bool:
        """Whether all of the file has been read, after so long at most."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def digest(self) -> Digest:
        """Of the whole file, once `wait` said so. Raises LocalFileChanged and LocalFileMissing."""
        if self._error is not None:
            raise self._error
        return Digest(self._algorithm, self._hash.digest())

    def _read(self) -> None:
        try:
            with open(self._file.path, "rb", buffering=0) as file:
                if Identity.of(os.fstat(file.fileno())) != self._file.identity:
                    raise LocalFileChanged(f"{self._file.shown} changed while it was being sent")
                block, read = memoryview(bytearray(min(_BLOCK, self._file.size))), 0
                while read < self._file.size and self._may_read(read):
                    count = file.readinto(block)
                    if not count:
                        raise LocalFileChanged(f"{self._file.shown} became shorter while it was being sent")
                    self._hash.update(block[:count])
                    read += count
        except OSError as error:
            self._error = LocalFileMissing(f"{self._file.shown} cannot be read: {error.strerror}")
        except BitsError as error:
            self._error = error

    def _may_read(self, offset: int) -> bool:
        """Wait until the upload is near; False when nobody wants the digest any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or offset < self._allowed)
            return not self._is_over
