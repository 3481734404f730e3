"""Puts a finished file into its place, whole or not at all, once."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bitsferry.protocol.errors import (
    AccessDenied,
    Busy,
    DestinationExists,
    DestinationIsFolder,
    FolderNotFound,
)
from bitsferry.store.folder import OWN_PREFIX, Companion, Destination, check_destination, sync_folder

__all__ = ["clear_leftovers", "publish"]

logger = logging.getLogger(__name__)

_BLOCK = 1 << 20
_PATIENCE = 5.0  # seconds for others to let go of a folder
_POLL = 0.005
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def publish(source: str, guid: str, destination: Destination, companion: Companion | None = None) -> None:
    """Make the file at `source` appear at `destination`, durable when this returns.

    The source stays, as a second link: while it and the destination are the same file, that has been put in
    its place, which is how a crash between here and the state's next save is told from one before. Where no
    link leads (another file system, or another mount of the same one, which only the link itself can tell) a
    copy beside the destination plays the source's part. `clear_leftovers` ends both.

    The `companion` comes after the file, so that a crash between the two leaves a file without one until this
    is said again; that of a file which is replaced goes before it. Its name has to be as free as the file's.
    Raises DestinationExists, DestinationIsFolder, FolderNotFound, AccessDenied, Busy or OSError; then
    nothing is left beside the destination.
    """
    parts = destination.parts
    with destination.folder.parent(parts, create=destination.create_folders) as folder:
        copy, step = _own_names(guid)
        try:
            with _lock(folder, companion, destination):
                if not _is_placed(source, copy, folder, parts[-1]):
                    _place(source, copy, step, folder, destination, companion)
                if companion is not None:
                    _accompany(companion, step, folder, destination)
            os.fsync(folder)
        except BaseException as error:
            with suppress(OSError):
                if not _is_placed(source, copy, folder, parts[-1]):
                    _clear(guid, folder)
                    os.unlink(_note(source))
            if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
                raise AccessDenied(
                    f"the server's account may not write to the folder of {parts[-1]!r}"
                ) from error
            raise


def clear_leftovers(guid: str, destination: Destination) -> None:
    """Delete what `publish` needed beside the destination; harmless when there is nothing. Raises OSError."""
    with (
        suppress(FolderNotFound, AccessDenied, FileNotFoundError),
        destination.folder.parent(destination.parts) as folder,
    ):
        _clear(guid, folder)


def _clear(guid: str, folder: int) -> None:
    for name in _own_names(guid):
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def _own_names(guid: str) -> tuple[str, str]:
    return f"{OWN_PREFIX}-{guid}.copy", f"{OWN_PREFIX}-{guid}.step"


def _is_placed(source: str, copy: str, folder: int, name: str) -> bool:
    """Whether a crash interrupted us after the file appeared.

    The number of links would not do: a backup or a deduplicating tool may have made one of its own.
    """
    return (
        _is_linked(source, None, folder, name)
        or _is_linked(copy, folder, folder, name)
        or _is_moved(source, folder, name)
    )


def _is_linked(path: str, dir_fd: int | None, folder: int, name: str) -> bool:
    """Whether the destination is another name of the file at `path`."""
    try:
        ours = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        return os.path.samestat(ours, os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _is_moved(source: str, folder: int, name: str) -> bool:
    """Whether the file at the destination has our bytes, after a crash somewhere in `_move`.

    Its numbers would not do: file systems without links keep times to two seconds, and no inodes.
    """
    if not os.path.exists(_note(source)):
        return False
    try:
        there = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(there).st_mode) and _have_same_bytes(there, source)
    finally:
        os.close(there)


def _have_same_bytes(descriptor: int, path: str) -> bool:
    with open(descriptor, "rb", closefd=False) as one, open(path, "rb") as other:
        while block := one.read(_BLOCK):
            if block != other.read(_BLOCK):
                return False
        return not other.read(1)


def _note(source: str) -> str:
    return source + ".placing"


def _place(
    source: str, copy: str, step: str, folder: int, destination: Destination, companion: Companion | None
) -> None:
    with suppress(FileNotFoundError):
        os.unlink(step, dir_fd=folder)
    if companion is not None and not _is_there(companion, folder):
        check_destination(folder, companion.name, overwrite=destination.overwrite)
    if _link(source, None, folder, step, destination, companion):
        return
    check_destination(folder, destination.parts[-1], overwrite=destination.overwrite)
    with _lock(folder, companion, destination, waive=True):
        _copy(source, copy, folder)
    if not _link(copy, folder, folder, step, destination, companion):
        _move(source, copy, folder, destination, companion)


def _copy(source: str, copy: str, folder: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(copy, dir_fd=folder)
    descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=folder)
    try:
        with open(source, "rb") as reader, open(descriptor, "wb") as writer:
            shutil.copyfileobj(reader, writer, _BLOCK)
            writer.flush()
            os.fsync(writer.fileno())
    except BaseException:
        with suppress(OSError):
            os.unlink(copy, dir_fd=folder)
        raise


def _link(
    path: str,
    dir_fd: int | None,
    folder: int,
    step: str,
    destination: Destination,
    companion: Companion | None,
) -> bool:
    """Atomic both ways: a link refuses to replace, a rename replaces in one go. False: no link leads."""
    name = destination.parts[-1]
    try:
        if not destination.overwrite:
            os.link(path, name, src_dir_fd=dir_fd, dst_dir_fd=folder, follow_symlinks=False)
        else:
            os.link(path, step, src_dir_fd=dir_fd, dst_dir_fd=folder, follow_symlinks=False)
            _make_way(companion, folder, destination)
            os.rename(step, name, src_dir_fd=folder, dst_dir_fd=folder)
    except FileExistsError:
        raise _exists(folder, name, destination) from None
    except IsADirectoryError:
        raise DestinationIsFolder(f"{name!r} is a folder, not a file") from None
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    return True


def _move(source: str, copy: str, folder: int, destination: Destination, companion: Companion | None) -> None:
    """The way on file systems without hard links (FAT, some network shares): the copy is renamed.

    A note beside the source says that we came this far, so that after a crash the file is known again.
    """
    name, note = destination.parts[-1], _note(source)
    descriptor = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(os.path.dirname(note))
    try:
        if destination.overwrite:
            _make_way(companion, folder, destination)
            os.rename(copy, name, src_dir_fd=folder, dst_dir_fd=folder)
        else:
            _rename_no_replace(copy, name, folder)
    except (FileExistsError, IsADirectoryError):
        raise _exists(folder, name, destination) from None


@contextmanager
def _lock(
    folder: int, companion: Companion | None, destination: Destination, *, waive: bool = False
) -> Iterator[None]:
    """Nobody else replaces a pair in this folder meanwhile: of two, one thing each must not be left.

    `waive`: meanwhile others may, because it takes long.
    """
    if companion is None or not destination.overwrite:
        yield
        return
    first, then = (_unlock_folder, _lock_folder) if waive else (_lock_folder, _unlock_folder)
    first(folder)
    try:
        yield
    finally:
        then(folder)


def _lock_folder(folder: int) -> None:
    """Raises Busy when somebody, who need not be a server, does not let go."""
    deadline = time.monotonic() + _PATIENCE
    with suppress(OSError):  # some network shares have no locks
        while True:
            try:
                return fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Busy("another program keeps the folder of the file locked") from None
            time.sleep(_POLL)


def _unlock_folder(folder: int) -> None:
    with suppress(OSError):
        fcntl.flock(folder, fcntl.LOCK_UN)


def _make_way(companion: Companion | None, folder: int, destination: Destination) -> None:
    """The older file's companion goes first: rather none beside a file, for a moment, than a wrong one."""
    if companion is None:
        return
    check_destination(folder, destination.parts[-1], overwrite=True)
    if not _is_there(companion, folder):
        with suppress(FileNotFoundError):
            os.unlink(companion.name, dir_fd=folder)
            os.fsync(folder)


def _accompany(companion: Companion, step: str, folder: int, destination: Destination) -> None:
    if _is_there(companion, folder):
        return
    with suppress(FileNotFoundError):
        os.unlink(step, dir_fd=folder)
    descriptor = os.open(step, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=folder)
    try:
        with open(descriptor, "wb") as writer:
            writer.write(companion.content)
            writer.flush()
            os.fsync(descriptor)
        if destination.overwrite:
            os.rename(step, companion.name, src_dir_fd=folder, dst_dir_fd=folder)
        else:
            _rename_by_link(step, companion.name, folder)
    except (FileExistsError, IsADirectoryError):
        # The file is in its place, and its client shall hear so.
        logger.warning("%s has no %r of ours beside it: there is one", destination, companion.name)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(step, dir_fd=folder)


def _is_there(companion: Companion, folder: int) -> bool:
    """Whether it was put there before, whole."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(companion.name, flags, dir_fd=folder)
    except OSError:
        return False
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        return os.read(descriptor, len(companion.content) + 1) == companion.content
    finally:
        os.close(descriptor)


def _rename_by_link(old: str, new: str, folder: int) -> None:
    try:
        os.link(old, new, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _rename_no_replace(old, new, folder)


def _rename_no_replace(old: str, new: str, folder: int) -> None:
    """renameat2 with RENAME_NOREPLACE, which Python has no name for. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(
            errno.ENOTSUP, "this system cannot put a file in place without the risk of replacing one"
        )
    if libc.renameat2(folder, os.fsencode(old), folder, os.fsencode(new), 1) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _exists(folder: int, name: str, destination: Destination) -> DestinationExists:
    check_destination(folder, name, overwrite=destination.overwrite)
    return DestinationExists(f"a file {name!r} was put there meanwhile")
