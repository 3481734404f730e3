"""Which of several files have arrived, so that the same command, run again, goes on with the others."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable

import msgspec

from bitsferry.client.local_file import Identity

__all__ = ["Arrivals"]

_REMEMBERED = 14 * 86_400.0  # seconds since the last arrival; as long as servers remember a session


class _Arrival(msgspec.Struct, frozen=True):
    url: str
    identity: Identity


class Arrivals:
    """A file with a line for each arrival, readable by its owner only; `forget` ends it.

    It belongs to the folders that files come from, the URL they go to and the user: whoever says the same
    three goes on, with more files or fewer. A file that changed since has not arrived. Where nothing can be
    written, nothing is remembered.
    """

    def __init__(self, folder: str, origins: Iterable[str], url: str, user: str | None) -> None:
        said = "\n".join([*sorted({os.path.abspath(each) for each in origins}), url, user or ""])
        key = hashlib.sha256(said.encode("utf-8", "surrogateescape")).hexdigest()
        self._path = os.path.join(folder, key[:32] + ".arrived")
        self._arrived: dict[str, Identity] = {}
        with contextlib.suppress(OSError):
            if os.stat(self._path).st_mtime > time.time() - _REMEMBERED:
                self._read()
            else:
                self.forget()

    def _read(self) -> None:
        with open(self._path, "rb") as file:
            for line in file:
                # The last one of a run that was killed is no arrival.
                with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                    arrival = msgspec.json.decode(line, type=_Arrival)
                    self._arrived[arrival.url] = arrival.identity

    def has(self, path: str, url: str) -> bool:
        """Whether the file at `path`, as it is now, arrived at `url`."""
        try:
            return self._arrived.get(_without_query(url)) == Identity.of(os.stat(path))
        except OSError:
            return False

    def add(self, identity: Identity, url: str) -> None:
        """A file that looked like this arrived at `url`."""
        line = msgspec.json.encode(_Arrival(_without_query(url), identity)) + b"\n"
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with open(descriptor, "ab") as file:
                file.write(line)

    def forget(self) -> None:
        """All have arrived, or all shall be sent again."""
        self._arrived.clear()
        with contextlib.suppress(OSError):
            os.unlink(self._path)


def _without_query(url: str) -> str:
    """There may be a key in it, and it is the same for all."""
    return url.partition("?")[0]
