"""A file that is being received, beside the place where it shall be."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Iterator
from types import TracebackType

from bitsferry.client.version import seconds_of
from bitsferry.protocol import errors
from bitsferry.protocol.errors import BitsError, Context
from bitsferry.protocol.hresult import HResult

__all__ = [
    "SUFFIX",
    "SYNC_EVERY",
    "AlreadyBeingReceived",
    "PartialFile",
    "discard",
    "make_empty",
    "place",
    "sync_folder_of",
]

SUFFIX = ".bitsferry-part"
SYNC_EVERY = 16 * 1024 * 1024  # bytes: what a power cut may cost

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR)
_NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)
_IN_THE_WAY = (errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.EMLINK)


class AlreadyBeingReceived(BitsError):
    """Another process is receiving this file."""

    hresult = HResult.BG_E_DESTINATION_LOCKED
    context = Context.LOCAL_FILE
    transient = True


class PartialFile:
    """The first bytes of a file, to be used in a `with`; nobody else has it at the same time.

    Bytes are only appended, so its length says which are there. What `append` took survives the death of the
    process. Of what a power cut leaves, the last SYNC_EVERY bytes are not trusted: a disk may know how long a
    file is before it has the bytes. So whoever opens a file that was last written before this machine
    started gets it that much shorter.
    Every method raises LocalDiskFull, LocalAccessDenied, LocalFolderMissing or LocalDiskFailed.
    """

    def __init__(self, path: str, *, known: bool) -> None:
        """Goes on with the file at `path` when it is `known` of what its bytes are; else it begins empty.

        Raises AlreadyBeingReceived, and LocalFileInTheWay for a file that may be somebody else's: a link, one
        of another user, or one that has bytes nobody knows and a name that does not end in SUFFIX.
        """
        self._path = path
        with _explained(path):
            self._descriptor = _open(path, _FLAGS | os.O_CREAT)
            try:
                self.length = self._synced = self._take_over(known=known)
            except BaseException:
                os.close(self._descriptor)
                raise

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def _take_over(self, *, known: bool) -> int:
        status = os.fstat(self._descriptor)
        if not _is_ours(status):
            raise errors.LocalFileInTheWay(
                f"{_shown(self._path)} is not ours: it is a link or somebody else's"
            )
        if status.st_size and not known and not self._path.endswith(SUFFIX):
            raise errors.LocalFileInTheWay(f"{_shown(self._path)} is there already; no download began it")
        length = _surely_held(status) if known else 0
        if length != status.st_size:
            os.ftruncate(self._descriptor, length)
        os.fsync(self._descriptor)
        sync_folder_of(self._path)
        return length

    def append(self, block: memoryview) -> None:
        """Add bytes at the end. When this raises, `length` still says how many are there."""
        if self.length + len(block) > self._synced + SYNC_EVERY:
            self.sync()
        with _explained(self._path):
            while block:
                count = os.write(self._descriptor, block)
                self.length += count
                block = block[count:]

    def sync(self) -> None:
        """Make all that is there durable; what cannot be made durable is there no more."""
        with _explained(self._path):
            try:
                os.fsync(self._descriptor)
            except OSError:
                # Nobody knows which of these bytes the disk has, and asking again would hide that.
                self.length = self._synced
                os.ftruncate(self._descriptor, self.length)
                raise
        self._synced = self.length

    def clear(self) -> None:
        """Begin anew; that nothing is there is durable when this returns."""
        with _explained(self._path):
            self.length = self._synced = 0
            os.ftruncate(self._descriptor, 0)
            os.fsync(self._descriptor)


def place(temporary: str, path: str, last_modified: str | None = None, *, size: int | None = None) -> None:
    """Give a received file its name, durably and at once, in the place of whatever file has that name.

    It gets the rights of any new file, and `last_modified`, an HTTP date, becomes its modification time.
    Done once more after a crash it does nothing. Raises LocalFileMissing when there is nothing to place,
    LocalFileInTheWay when it is not of that `size` in bytes, and what PartialFile raises.
    """
    modified = seconds_of(last_modified or "")
    with _explained(path), contextlib.ExitStack() as opened:
        try:
            descriptor = _open(temporary, _FLAGS)
        except FileNotFoundError:
            if modified is not None and _was_modified(path, modified):
                return
            raise errors.LocalFileMissing(f"{_shown(temporary)} is gone, with what was received") from None
        opened.callback(os.close, descriptor)
        status = os.fstat(descriptor)
        if not _is_ours(status) or size not in (None, status.st_size):
            raise errors.LocalFileInTheWay(f"{_shown(temporary)} is not what was received")
        if modified is not None:
            with contextlib.suppress(OSError, OverflowError):  # not every disk knows every year
                os.utime(temporary, (time.time(), modified))
        if sys.platform == "win32":
            opened.close()  # what is open gets no other name there
        else:
            os.fchmod(descriptor, _mode_of_new_files())
        os.replace(temporary, path)
        sync_folder_of(path)


def make_empty(path: str) -> None:
    """Put a file of no bytes at `path`. Raises what PartialFile and `place` raise."""
    with PartialFile(path + SUFFIX, known=False):
        pass
    place(path + SUFFIX, path)


def discard(temporary: str) -> None:
    """Delete what was received of a file that nobody wants any more. Raises what PartialFile raises."""
    with _explained(temporary), contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)


# To be sure that a file is ours

_FLAGS = os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


def _open(path: str, flags: int) -> int:
    """The file at `path`, locked. A lock ends with its process."""
    while True:
        descriptor = os.open(path, flags, 0o600)
        try:
            if not _lock(descriptor):
                raise AlreadyBeingReceived(f"another process is receiving {_shown(path)} just now")
            if _is_still(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_still(path: str, descriptor: int) -> bool:
    """Its last owner may have given it its name between our open and our lock."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    if stat.S_ISLNK(status.st_mode):  # where O_NOFOLLOW is unknown
        raise errors.LocalFileInTheWay(f"{_shown(path)} is a link")
    return os.path.samestat(os.fstat(descriptor), status)


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _is_ours(status: os.stat_result) -> bool:
        return stat.S_ISREG(status.st_mode) and status.st_nlink <= 1

    def sync_folder_of(path: str) -> None:
        """Windows has no way to ask for it."""

else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        with contextlib.suppress(OSError):  # some network's disks have no locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def _is_ours(status: os.stat_result) -> bool:
        return stat.S_ISREG(status.st_mode) and status.st_nlink <= 1 and status.st_uid == os.geteuid()

    def sync_folder_of(path: str) -> None:
        """Make durable which file has this name."""
        try:
            descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
        except PermissionError:
            return  # one may write to a folder one may not read
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # some network's disks cannot
                raise
        finally:
            os.close(descriptor)


def _surely_held(status: os.stat_result) -> int:
    """How many bytes of a file are there, whatever happened to the machine since the last was written."""
    now = time.time()
    machine_started = now - time.monotonic()  # or later, where that clock stands still in sleep
    if machine_started < status.st_mtime <= now:
        return status.st_size
    return max(0, status.st_size - SYNC_EVERY)


def _was_modified(path: str, modified: float) -> bool:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and abs(status.st_mtime - modified) < 2  # FAT counts in twos


def _mode_of_new_files() -> int:
    umask = os.umask(0o077)  # the only way to read it is to set it
    os.umask(umask)
    return 0o666 & ~umask


def _shown(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "replace")  # a name need not be text


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    """What goes wrong with the disk, in a sentence."""
    try:
        yield
    except OSError as error:
        shown, why = _shown(error.filename2 or error.filename or path), error.strerror or error
        if error.errno in _NO_ROOM:
            raise errors.LocalDiskFull(f"there is no room for {shown}: {why}") from error
        if error.errno in _NO_FOLDER:
            raise errors.LocalFolderMissing(f"the folder of {shown} is not there") from error
        if error.errno in _NO_RIGHT:
            raise errors.LocalAccessDenied(f"{shown} cannot be written: {why}") from error
        if error.errno in _IN_THE_WAY:
            raise errors.LocalFileInTheWay(f"something else is in the way at {shown}: {why}") from error
        raise errors.LocalDiskFailed(f"{shown} cannot be written: {why}") from error
