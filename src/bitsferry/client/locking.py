"""Locks between processes; one ends with its holder, as a file that only exists would not."""

from __future__ import annotations

import contextlib
import os
import sys
import time

__all__ = ["lock", "unlock"]

if sys.platform == "win32":
    import msvcrt

    def lock(path: str) -> int:
        """The descriptor of the file `path`, locked. Raises BlockingIOError when somebody else has it."""
        descriptor = _open(path)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            os.close(descriptor)
            raise BlockingIOError from None
        return descriptor

    def _open(path: str) -> int:
        """Nobody can open a file in the moment in which its last owner removes it."""
        for _ in range(10):
            with contextlib.suppress(PermissionError):
                return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            time.sleep(0.01)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def unlock(descriptor: int, path: str) -> None:
        """Give back what `lock` returned."""
        os.close(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(path)

else:
    import fcntl

    def lock(path: str) -> int:
        """The descriptor of the file `path`, locked. Raises BlockingIOError when somebody else has it."""
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
            except FileNotFoundError:
                pass  # its last owner removed it between our open and our lock
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def unlock(descriptor: int, path: str) -> None:
        """Give back what `lock` returned."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.close(descriptor)
