"""A folder whose files are reached step by step, so that no symbolic link leads out of it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from bitsferry.protocol.errors import AccessDenied, DestinationExists, DestinationIsFolder, FolderNotFound

__all__ = ["OWN_PREFIX", "Companion", "Destination", "Folder", "make_folder", "sync_folder"]

# Names that begin so are the store's own, wherever they lie.
OWN_PREFIX = ".bitsferry"

_STEP = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of this machine, by its path, which may itself be a link: whoever configured it meant it."""

    path: str

    @contextmanager
    def parent(self, parts: tuple[str, ...], *, create: bool = False) -> Iterator[int]:
        """A descriptor of the folder that holds the file `parts` names; missing folders are made if `create`.

        Raises FolderNotFound for a missing folder, AccessDenied where a link or a file stands in the way.
        """
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts[:-1]:
                inner = self._step(descriptor, part, create)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)

    @staticmethod
    def _step(descriptor: int, part: str, create: bool) -> int:
        try:
            return os.open(part, _STEP, dir_fd=descriptor)
        except FileNotFoundError:
            if not create:
                raise FolderNotFound(f"the folder {part!r} does not exist here") from None
        except OSError as error:
            raise _in_the_way(part, error) from error
        with suppress(FileExistsError):
            os.mkdir(part, 0o777, dir_fd=descriptor)
            os.fsync(descriptor)
        try:
            return os.open(part, _STEP, dir_fd=descriptor)
        except OSError as error:
            raise _in_the_way(part, error) from error

    def check_free(self, parts: tuple[str, ...], *, overwrite: bool, create: bool) -> None:
        """Whether a file could appear at `parts`, as things stand now.

        Raises DestinationExists, DestinationIsFolder, FolderNotFound or AccessDenied.
        """
        try:
            with self.parent(parts) as descriptor:
                check_destination(descriptor, parts[-1], overwrite=overwrite)
        except FolderNotFound:
            if not create:
                raise

    def used(self) -> int:
        """How many bytes the files in this folder have, all in all."""
        total = 0
        folders = [self.path]
        while folders:
            with suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if not entry.name.startswith(OWN_PREFIX):
                            folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        with suppress(FileNotFoundError):
                            total += entry.stat(follow_symlinks=False).st_size
        return total

    def room(self) -> int:
        """How many bytes the file system under this folder still takes."""
        figures = os.statvfs(self.path)
        return figures.f_bavail * figures.f_frsize

    def open_file(self, parts: tuple[str, ...]) -> int:
        """A descriptor to read the regular file `parts` names. Raises FileNotFoundError or AccessDenied."""
        with self.parent(parts) as descriptor:
            try:
                file = os.open(
                    parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=descriptor
                )
            except OSError as error:
                if error.errno == errno.ENOENT:
                    raise
                raise _in_the_way(parts[-1], error) from error
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise AccessDenied("this is no file")
        return file


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a file shall appear: `parts` below `folder`, with the directory's word on what is allowed."""

    folder: Folder
    parts: tuple[str, ...]
    overwrite: bool = False
    create_folders: bool = False

    def __str__(self) -> str:
        return os.path.join(self.folder.path, *self.parts)


@dataclass(frozen=True, slots=True)
class Companion:
    """A small file that stands beside another one."""

    name: str
    content: bytes


def check_destination(folder: int, name: str, *, overwrite: bool) -> None:
    """Raises DestinationIsFolder or DestinationExists when `name` may not appear in the folder."""
    try:
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(there.st_mode):
        raise DestinationIsFolder(f"{name!r} is a folder, not a file")
    if not overwrite:
        raise DestinationExists(f"a file {name!r} is already there and may not be overwritten")


def make_folder(path: str, mode: int) -> None:
    """Make a folder, with those it lies in, so that it survives a power cut. One that is there stays."""
    above = os.path.dirname(path)
    if not os.path.isdir(above):
        make_folder(above, 0o777)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        if not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
    else:
        sync_folder(above)


def sync_folder(path: str) -> None:
    """Return when the names in the folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _in_the_way(part: str, error: OSError) -> Exception:
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
        return AccessDenied(f"{part!r} is a link or a file, which this server does not walk through")
    if error.errno in (errno.EACCES, errno.EPERM):
        return AccessDenied(f"the server's account may not enter {part!r}")
    return error
