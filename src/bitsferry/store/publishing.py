"""Puts a finished file into its place, whole or not at all, once."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from contextlib import suppress

from bitsferry.protocol.errors import AccessDenied, DestinationExists, DestinationIsFolder, FolderNotFound
from bitsferry.store.folder import OWN_PREFIX, Destination, check_destination, sync_folder

__all__ = ["clear_leftovers", "publish"]

_BLOCK = 1 << 20
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def publish(source: str, guid: str, destination: Destination) -> None:
    """Make the file at `source` appear at `destination`, durable when this returns.

    The source stays, as a second link: while it and the destination are the same file, that has been put in
    its place, which is how a crash between here and the state's next save is told from one before. Where no
    link leads (another file system, or another mount of the same one, which only the link itself can tell) a
    copy beside the destination plays the source's part. `clear_leftovers` ends both.
    Raises DestinationExists, DestinationIsFolder, FolderNotFound, AccessDenied or OSError; then nothing is
    left beside the destination.
    """
    parts = destination.parts
    with destination.folder.parent(parts, create=destination.create_folders) as folder:
        copy, step = _own_names(guid)
        try:
            if not _is_placed(source, copy, folder, parts[-1]):
                _place(source, copy, step, folder, destination)
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


def _place(source: str, copy: str, step: str, folder: int, destination: Destination) -> None:
    with suppress(FileNotFoundError):
        os.unlink(step, dir_fd=folder)
    if _link(source, None, folder, step, destination):
        return
    check_destination(folder, destination.parts[-1], overwrite=destination.overwrite)
    _copy(source, copy, folder)
    if not _link(copy, folder, folder, step, destination):
        _move(source, copy, folder, destination)


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
    """Atomic both ways: a link refuses to replace, a rename replaces in one go. False: no link leads."""
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
        raise DestinationIsFolder(f"{name!r} is a folder, not a file") from None
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    return True


def _move(source: str, copy: str, folder: int, destination: Destination) -> None:
    """The way on file systems without hard links (FAT, some network shares): the copy is renamed.

    A note beside the source says that we came this far, so that after a crash the file is known again.
    """
    name, note = destination.parts[-1], _note(source)
    with open(note, "wb") as writer:
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
