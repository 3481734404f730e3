"""A file of users, one or more lines each, changed so that nothing in it is lost."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from stat import S_IMODE, S_IROTH

__all__ = ["InUseError", "changing", "is_open_to_all", "name_in", "read_lines"]


class InUseError(Exception):
    """Somebody else is changing the file, or was killed while doing so; `path` is in the way."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


def name_in(line: str) -> str | None:
    """Whose line it is; None for an empty one and for a remark."""
    name, colon, _ = line.strip().partition(":")
    return name if colon and name and not name.startswith("#") else None


def read_lines(path: str) -> list[str]:
    """The lines of the file, without their ends. Raises OSError."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        lines = file.read().split("\n")
    return lines if lines[-1] else lines[:-1]


@contextmanager
def changing(path: str) -> Iterator[list[str]]:
    """Its lines, to be changed in place; afterwards the file has them, or what it had when an error came.

    A new file is for its owner only; one that is there keeps owner and mode. Raises OSError and InUseError.
    """
    path = os.path.realpath(path)
    new = path + ".new"
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InUseError(new) from None
    try:
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            lines = []
            with suppress(FileNotFoundError):
                lines = read_lines(path)
                _resemble(path, descriptor)
            yield lines
            file.writelines(line + "\n" for line in lines)
            file.flush()
            os.fsync(descriptor)
        os.replace(new, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(new)
        raise
    _make_durable(os.path.dirname(path))


def is_open_to_all(path: str) -> bool:
    """Whether everybody on this machine can read it."""
    return sys.platform != "win32" and bool(os.stat(path).st_mode & S_IROTH)


def _resemble(path: str, descriptor: int) -> None:
    """The server, which may be another user, shall be able to read it as before."""
    if sys.platform == "win32":
        return
    old = os.stat(path)
    os.fchmod(descriptor, S_IMODE(old.st_mode))
    with suppress(PermissionError):
        os.fchown(descriptor, old.st_uid, old.st_gid)


def _make_durable(folder: str) -> None:
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
