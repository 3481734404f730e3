"""The file that is sent, watched so that no mixture of two versions arrives."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from types import TracebackType

from bitsferry.protocol.errors import LocalFileChanged, LocalFileMissing

__all__ = ["Identity", "LocalFile"]


@dataclass(frozen=True, slots=True)
class Identity:
    """How a file looked; a file that looks the same is taken for the same."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """The identity in what `os.stat` says."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


class LocalFile:
    """One open file, to be used in a `with`; `identity` is how it looked when it was opened.

    `shown` is its path for people, where `path` is for the system.
    """

    def __init__(self, path: str) -> None:
        """Raises LocalFileMissing when there is no regular file that may be read."""
        self.path = os.path.abspath(path)
        self.shown = os.fsencode(self.path).decode("utf-8", "replace")  # a name need not be text
        self.name = os.path.basename(self.path)
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise LocalFileMissing(f"{self.shown} is no regular file, so it cannot be sent")
            self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115 (closed in __exit__)
        except OSError as error:
            raise LocalFileMissing(f"{self.shown} cannot be read: {error.strerror}") from error
        self.identity = Identity.of(os.fstat(self._file.fileno()))

    def __enter__(self) -> LocalFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def size(self) -> int:
        """In bytes, when it was opened."""
        return self.identity.size

    def fileno(self) -> int:
        """The descriptor, for `sendfile`."""
        return self._file.fileno()

    def check(self) -> None:
        """Raises LocalFileChanged when the file is not what it was when it was opened.

        The path is asked, not the open file: a file that was replaced is a change, too.
        """
        try:
            now = Identity.of(os.stat(self.path))
        except OSError as error:
            raise LocalFileChanged(f"{self.shown} is gone: {error.strerror}") from error
        if now != self.identity:
            raise LocalFileChanged(f"{self.shown} changed while it was being sent")

    def read_into(self, block: memoryview, offset: int) -> int:
        """Fill `block` with the bytes from `offset` on. Raises LocalFileChanged when they are not there."""
        self._file.seek(offset)
        count = self._file.readinto(block)
        if not count:
            raise LocalFileChanged(f"{self.shown} became shorter while it was being sent")
        return count
