"""Puts a finished file into its place, whole or not at all, once."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from contextlib import suppress

from bitsferry.protocol.errors import AccessDenied, DestinationExists, DestinationIsFolder
from bitsferry.store.folder import OWN_PREFIX, Destination, check_destination, sync_folder

__all__ = ["clear_leftovers", "publish"]

_BLOCK = 1 << 20
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def publish(source: str, guid: str, destination: Destination) -> None:
    """Make the file at `source` appear at `destination`, durable when this returns.

    The source stays, as a second link: while it has a link that is not ours the file has been put in its
    place, which is how a crash between here and the state's next save is told from one before. On another
    file system a copy beside the destination plays the source's part. `clear_leftovers` ends both.
    Raises DestinationExists, DestinationIsFolder, FolderNotFound, AccessDenied or OSError.
    """
    parts = destination.parts
    with destination.folder.parent(parts, create=destination.create_folders) as folder:
        copy, step = _own_names(guid)
        try:
            if _placed(source, folder, step):
                return
            with suppress(FileNotFoundError):
                os.unlink(step, dir_fd=folder)
            if os.stat(source).st_dev == os.fstat(folder).st_dev:
                linked = _link(source, None, folder, step, destination)
            else:
                if _placed(copy, folder, step, dir_fd=folder):
                    return
                _copy(source, copy, folder)
                linked = _link(copy, folder, folder, step, destination)
            if not linked:
                _move(source, copy, folder, destination)
            os.fsync(folder)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                raise AccessDenied(
                    f"the server's account may not write to the folder of {parts[-1]!r}"
                ) from error
            raise


def clear_leftovers(guid: str, destination: Destination) -> None:
    """Delete what `publish` needed beside the destination; harmless when there is nothing."""
    with suppress(Exception), destination.folder.parent(destination.parts) as folder:
        for name in _own_names(guid):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)


def _own_names(guid: str) -> tuple[str, str]:
    return f"{OWN_PREFIX}-{guid}.copy", f"{OWN_PREFIX}-{guid}.step"


def _placed(path: str, folder: int, step: str, *, dir_fd: int | None = None) -> bool:
    """Whether the file at `path` has a link that is neither itself nor the step towards the destination."""
    try:
        ours = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    links = ours.st_nlink - 1
    with suppress(FileNotFoundError):
        links -= os.path.samestat(ours, os.stat(step, dir_fd=folder, follow_symlinks=False))
    return links > 0


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


def _link(path: str, dir_fd: int | None, folder: int, step: str, destination: Destination) -> bool:
    """Atomic both ways: a link refuses to replace, a rename replaces in one go. False: no links here."""
    name = destination.parts[-1]
    try:
        if not destination.overwrite:
            os.link(path, name, src_dir_fd=dir_fd, dst_dir_fd=folder, follow_symlinks=False)
        else:
            os.link(path, step, src_dir_fd=dir_fd, dst_dir_fd=folder, follow_symlinks=False)
            os.rename(step, name, src_dir_fd=folder, dst_dir_fd=folder)
    except FileExistsError:
        raise _exists(folder, name, destination) from None
    except IsADirectoryError:
        with suppress(FileNotFoundError):
            os.unlink(step, dir_fd=folder)
        raise DestinationIsFolder(f"{name!r} is a folder, not a file") from None
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    return True


def _move(source: str, copy: str, folder: int, destination: Destination) -> None:
    """The way on file systems without hard links (FAT, some network shares): a copy that is renamed.

    A note beside the source says what the copy looks like, so that after a crash the file is known again.
    """
    name, note = destination.parts[-1], source + ".placing"
    with suppress(FileNotFoundError), open(note, encoding="ascii") as reader:
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if reader.read() == f"{there.st_size} {there.st_mtime_ns}":
            return
    _copy(source, copy, folder)
    made = os.stat(copy, dir_fd=folder)
    with open(note, "w", encoding="ascii") as writer:
        writer.write(f"{made.st_size} {made.st_mtime_ns}")
        writer.flush()
        os.fsync(writer.fileno())
    sync_folder(os.path.dirname(note))
    try:
        if destination.overwrite:
            os.rename(copy, name, src_dir_fd=folder, dst_dir_fd=folder)
        else:
            _rename_no_replace(copy, name, folder)
    except (FileExistsError, IsADirectoryError):
        raise _exists(folder, name, destination) from None


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
