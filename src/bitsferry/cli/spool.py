"""Standard input, kept in a private file until it has arrived, so that any part of it can be sent again."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from typing import BinaryIO

from platformdirs import user_state_path

from bitsferry.protocol.errors import BitsError, Context
from bitsferry.protocol.hresult import HResult

__all__ = ["CannotKeep", "discard", "keep", "spool_folder"]

_BLOCK = 1024 * 1024
_FILLING = ".filling"
_ABANDONED = 86_400.0  # seconds since its last byte, after which nobody fills a spool any more
_UNFIT = re.compile(r'[\x00-\x1f\x7f\\/:*?"<>|]')


class CannotKeep(BitsError):
    """There is no room to keep standard input in."""

    hresult = HResult.ERROR_DISK_FULL
    context = Context.LOCAL_FILE


def spool_folder() -> str:
    """Where this user's spools lie."""
    return str(user_state_path("bitsferry", appauthor=False) / "spool")


def keep(stream: BinaryIO, name: str, tell: Callable[[int], None]) -> str:
    """Read `stream` to its end into a file that only its owner can read, called `name` if that can be.

    Returns its path; `tell` hears how many bytes there are so far. Raises CannotKeep, and then keeps nothing.
    """
    root = spool_folder()
    folder = os.path.join(root, secrets.token_hex(8))  # known before it is there: Ctrl-C may come in between
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
        _tidy_up(root)
        os.mkdir(folder, 0o700)
        filling, path = os.path.join(folder, _FILLING), os.path.join(folder, _fit(name))
        descriptor = os.open(filling, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            read = 0
            while block := stream.read(_BLOCK):
                file.write(block)
                read += len(block)
                tell(read)
        os.rename(filling, path)
    except OSError as error:
        _remove(folder)
        cannot = CannotKeep(f"standard input cannot be kept in {root}: {error.strerror}")
        if error.errno != errno.ENOSPC:
            cannot.hresult = HResult.ERROR_IO_DEVICE
        raise cannot from error
    except BaseException:
        _remove(folder)
        raise
    return path


def discard(path: str) -> None:
    """Delete the file at `path` if it is a spool: what has arrived need not be kept."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.dirname(folder) == os.path.abspath(spool_folder()):
        _remove(folder)


def _fit(name: str) -> str:
    """A name every system can have for a file."""
    return _UNFIT.sub("_", name).strip(" .")[:200] or "standard-input"


def _tidy_up(root: str) -> None:
    """Whoever was killed while a spool was being filled left something nobody can use."""
    for each in os.scandir(root):
        try:
            written = os.stat(os.path.join(each.path, _FILLING)).st_mtime
        except OSError:
            continue
        if written < time.time() - _ABANDONED:
            _remove(each.path)


def _remove(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
