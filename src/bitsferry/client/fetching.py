"""Fetches files in the foreground, going on where an earlier run stopped."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

import msgspec
from platformdirs import user_state_path

from bitsferry.client import events
from bitsferry.client.agent import UserAgent
from bitsferry.client.bandwidth import Limit
from bitsferry.client.credentials import Credentials, credentials_of
from bitsferry.client.destination import Destination
from bitsferry.client.download import Download
from bitsferry.client.options import HttpOptions
from bitsferry.client.partial_file import AlreadyBeingReceived
from bitsferry.client.patience import Patience
from bitsferry.client.places import AlreadyBeingSent, Place, Places
from bitsferry.client.sending import PATIENCE
from bitsferry.client.trust import warnings
from bitsferry.client.version import Version
from bitsferry.client.waiting import rest
from bitsferry.protocol.errors import LocalFileInTheWay

__all__ = ["Downloaded", "Fetcher", "download"]


@dataclass(frozen=True, slots=True)
class Downloaded:
    """How a download ended: `size` bytes are at `path`; `seconds` is how long this run took."""

    path: str
    size: int
    seconds: float


def download(
    url: str,
    path: str | os.PathLike[str],
    *,
    credentials: Credentials = (),
    http: HttpOptions | None = None,
    limits: Sequence[Limit] = (),
    patience: float = PATIENCE,
    tell: Callable[[events.Event], None] = lambda event: None,
    remember_in: str | None = None,
) -> Downloaded:
    """Fetch the file at `url`. Returns when all of it is at `path`, in the place of whatever was there.

    Interrupted and called again, in this process or another, it goes on where it was: what has arrived waits
    beside `path`, and of which file it is, is remembered in the folder `remember_in`. Troubles that may pass
    are waited for, up to `patience` seconds without headway. `tell` hears what happens.

    Raises ValueError for a URL that is none, and BitsError: with `transient`, another call may succeed.
    """
    with Fetcher(
        credentials=credentials,
        http=http,
        limits=limits,
        patience=patience,
        tell=tell,
        remember_in=remember_in,
    ) as fetcher:
        return fetcher.fetch(url, path)


class Fetcher:
    """Fetches files one after the other, over one connection as long as they come from one server.

    To be used in a `with`; all is as in `download`. Only `stop` may be called by another thread.
    """

    def __init__(
        self,
        *,
        credentials: Credentials = (),
        http: HttpOptions | None = None,
        limits: Sequence[Limit] = (),
        patience: float = PATIENCE,
        tell: Callable[[events.Event], None] = lambda event: None,
        remember_in: str | None = None,
    ) -> None:
        self._agent = UserAgent(http, credentials_of(credentials))
        self._limits = limits
        self._patience = patience
        self._tell = tell
        self._places = Places(remember_in or str(user_state_path("bitsferry", appauthor=False) / "downloads"))
        self._warnings = [events.Warned(warning) for warning in warnings(self._agent.options.tls)]
        self._stopped = threading.Event()

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._agent.close()

    def stop(self) -> None:
        """End what is under way, for good: within a second or so, `fetch` raises Stopped where it runs."""
        self._stopped.set()
        self._agent.abort()

    def fetch(self, url: str, path: str | os.PathLike[str]) -> Downloaded:
        """Fetch one file, as `download` says."""
        began, path = time.monotonic(), os.path.abspath(path)
        source = Destination.parse(url)
        if os.path.isdir(path):
            raise LocalFileInTheWay(f"{path} is a folder: say what the file shall be called")
        with self._place(path) as place:
            memory = _Remembered(place, str(source))
            while self._warnings:
                self._tell(self._warnings.pop(0))
            coming = Download(
                self._agent,
                source,
                path,
                version=memory.recall(),
                save=memory.save,
                limits=self._limits,
                patience=Patience(self._patience),
                foreground=True,
                tell=self._tell,
                stop=self._stopped.is_set,
                sleep=lambda seconds: rest(seconds, self._stopped),
            )
            size = coming.run().size
            coming.place()
            place.forget()
        seconds = time.monotonic() - began
        self._tell(events.Done(str(source), size, seconds, 0))
        return Downloaded(path, size, seconds)

    @contextlib.contextmanager
    def _place(self, path: str) -> Iterator[Place]:
        """By its path alone: there is one file beside it that waits, wherever it comes from."""
        with contextlib.ExitStack() as stack:
            try:
                place = stack.enter_context(self._places.take(path, ""))
            except AlreadyBeingSent:
                raise AlreadyBeingReceived(f"another process is receiving {path} just now") from None
            yield place


class _Memory(msgspec.Struct, frozen=True):
    """Of which file the bytes are that have arrived."""

    url: str
    version: Version


class _Remembered:
    """What a place holds for one download."""

    def __init__(self, place: Place, url: str) -> None:
        self._place = place
        self._url = url

    def recall(self) -> Version | None:
        """The version whose bytes are here; None when they are another file's."""
        memory = self._place.recall_as(_Memory)
        return memory.version if memory and memory.url == self._url else None

    def save(self, version: Version) -> None:
        """Before the first byte of this version is kept. Where it cannot be remembered, nothing is."""
        try:
            self._place.replace(_Memory(self._url, version), synced=True)
        except OSError:  # a full disk at home is no reason not to fetch
            self._place.forget()
