"""Sends files in the foreground, going on where an earlier run stopped."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

from platformdirs import user_state_path

from bitsferry.client import events
from bitsferry.client.agent import UserAgent
from bitsferry.client.bandwidth import Limit
from bitsferry.client.courtesy import Courtesy
from bitsferry.client.credentials import Credentials, Target, credentials_of
from bitsferry.client.destination import Destination
from bitsferry.client.download import Version
from bitsferry.client.local_file import LocalFile
from bitsferry.client.options import HttpOptions
from bitsferry.client.partial_file import SUFFIX
from bitsferry.client.patience import Patience
from bitsferry.client.places import Memory, Place, Places
from bitsferry.client.transfer import Reply, Transfer
from bitsferry.client.transport import BLOCK_LENGTH, Transport
from bitsferry.client.trust import warnings
from bitsferry.client.waiting import rest
from bitsferry.protocol.errors import BitsError, LocalDiskFailed
from bitsferry.protocol.upload import Progress, Upload

__all__ = ["PATIENCE", "Remembered", "Sender", "Uploaded", "places_folder", "upload"]

PATIENCE = 300.0  # seconds without headway
OFFSETS_EVERY = 0.5  # seconds between two offsets that are remembered


@dataclass(frozen=True, slots=True)
class Uploaded:
    """How an upload ended: `size` bytes are at `url`; `reply` is the path of the reply, if one was wanted.

    `seconds` is how long this run took; `repeated` how many bytes it had to say more than once.
    """

    url: str
    size: int
    seconds: float
    repeated: int
    reply: str | None


def places_folder() -> str:
    """Where interrupted uploads of this user are remembered."""
    return str(user_state_path("bitsferry", appauthor=False) / "sends")


def upload(
    path: str | os.PathLike[str],
    url: str,
    *,
    credentials: Credentials = (),
    http: HttpOptions | None = None,
    reply: str | os.PathLike[str] | None = None,
    limits: Sequence[Limit] = (),
    background: bool = False,
    fragment_limit: int | None = None,
    patience: float = PATIENCE,
    tell: Callable[[events.Event], None] = lambda event: None,
    remember_in: str | None = None,
) -> Uploaded:
    """Send the file at `path` to `url`; one that ends in `/` names a folder. Returns when it is in its place.

    Interrupted and called again, in this process or another, it goes on where it was: that is remembered in
    the folder `remember_in`. Troubles that may pass are waited for, up to `patience` seconds without headway.
    `reply` is where the answer of the server's application shall be. In the `background`, room is made for
    whatever else uses the line. `fragment_limit` is the most bytes to say in one fragment. `tell` hears what
    happens.

    Raises ValueError for a URL that is none, and BitsError: with `transient`, another call may succeed.
    """
    with Sender(
        credentials=credentials,
        http=http,
        limits=limits,
        background=background,
        fragment_limit=fragment_limit,
        patience=patience,
        tell=tell,
        remember_in=remember_in,
    ) as sender:
        return sender.send(path, url, reply=reply)


class Sender:
    """Sends files one after the other, over one connection as long as they go to one server.

    To be used in a `with`. `patience` may be set from file to file; all else is as in `upload`. Only `stop`
    may be called by another thread.
    """

    def __init__(
        self,
        *,
        credentials: Credentials = (),
        http: HttpOptions | None = None,
        limits: Sequence[Limit] = (),
        background: bool = False,
        fragment_limit: int | None = None,
        patience: float = PATIENCE,
        tell: Callable[[events.Event], None] = lambda event: None,
        remember_in: str | None = None,
    ) -> None:
        known = credentials_of(credentials)
        self.patience = patience
        self._user = next((each.user for each in known if each.target is Target.SERVER), None)
        self._agent = UserAgent(http, known)
        self._limits = [*limits, Courtesy(self._agent.round_trip)] if background else list(limits)
        self._fragment_limit = fragment_limit
        self._tell = tell
        self._stopped = threading.Event()
        self._places = Places(remember_in or places_folder())
        self._warnings = [events.Warned(warning) for warning in warnings(self._agent.options.tls)]

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._agent.close()

    def stop(self) -> None:
        """End what is under way, for good: within a second or so, `send` raises Stopped where it runs."""
        self._stopped.set()
        self._agent.abort()

    def _block_length(self) -> int:
        return min([BLOCK_LENGTH, *(limit.block_length for limit in self._limits)])

    def send(
        self,
        path: str | os.PathLike[str],
        url: str,
        *,
        reply: str | os.PathLike[str] | None = None,
    ) -> Uploaded:
        """Send one file, as `upload` says."""
        path = os.fspath(path)
        destination = Destination.parse(url, os.path.basename(os.path.abspath(path)))
        transport = Transport(destination, self._agent, block_length=self._block_length)
        done: list[events.Done] = []

        def hear(event: events.Event) -> None:
            if isinstance(event, events.Done):
                done.append(event)
            self._tell(event)

        with LocalFile(path) as file, self._places.take(file.path, str(destination)) as place:
            memory = Remembered(file, str(destination), self._user, place)
            progress = memory.recall(transport)
            sent = progress.sent if progress else 0
            self._tell(events.Started(file.shown, str(destination), file.size, sent, place.lasts))
            while self._warnings:
                self._tell(self._warnings.pop(0))
            with memory:
                Transfer(
                    file,
                    transport,
                    progress=progress,
                    save=memory.save_progress,
                    reply=None if reply is None else memory.reply(os.path.abspath(reply)),
                    fragment_limit=self._fragment_limit,
                    limits=self._limits,
                    patience=Patience(self.patience),
                    tell=hear,
                    stop=self._stopped.is_set,
                    sleep=lambda seconds: rest(seconds, self._stopped),
                ).run()
            place.forget()
        end = done[0]
        where = None if reply is None else os.fspath(reply)
        return Uploaded(str(destination), end.size, end.seconds, end.repeated, where)


class Remembered:
    """What a place holds for one upload, kept up to date within a `with`."""

    def __init__(self, file: LocalFile, url: str, user: str | None, place: Place) -> None:
        self._file = file
        self._url = url
        self._user = user
        self._place = place
        self._progress = Progress()
        self._saved = Progress()
        self._saved_at = -math.inf
        self.version: Version | None = None

    def recall(self, transport: Transport) -> Progress | None:
        """How far an earlier run came with this very file. Of another version the server may forget all."""
        memory = self._place.recall()
        if memory is None:
            return None
        if memory.user == self._user and memory.identity == self._file.identity:
            self._progress, self.version = memory.progress, memory.reply
            return memory.progress
        if memory.user == self._user:
            _cancel(memory, transport)
        self._place.forget()
        return None

    def reply(self, path: str) -> Reply:
        """The reply, to be fetched to `path`; on its way it is kept apart from what others fetch there."""
        temporary = f"{path}.{self._place.name}{SUFFIX}"
        return Reply(path, temporary=temporary, version=self.version, save=self.save_version)

    def save_progress(self, progress: Progress) -> None:
        """Keep how far the file came. A mere offset waits a little: the server knows it better."""
        self._progress = progress
        only_the_offset = replace(progress, sent=self._saved.sent) == self._saved
        if not only_the_offset or time.monotonic() - self._saved_at >= OFFSETS_EVERY:
            self._try_to_save()

    def __enter__(self) -> Remembered:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._try_to_save()

    def _try_to_save(self) -> None:
        with contextlib.suppress(OSError):  # a full disk at home is no reason not to send
            self._save()

    def save_version(self, version: Version) -> None:
        """Keep of which reply bytes are here, before there are any. Raises LocalDiskFailed."""
        self.version = version
        try:
            self._save()
        except OSError as error:
            raise LocalDiskFailed(f"the reply's version cannot be remembered: {error.strerror}") from error

    def _save(self) -> None:
        progress = self._progress
        if progress.session_id is None:
            return
        url = self._url.partition("?")[0]  # there may be a key in the query
        memory = Memory(self._file.shown, url, self._user, self._file.identity, progress, self.version)
        self._place.remember(memory)
        self._saved, self._saved_at = replace(progress), time.monotonic()


def _cancel(memory: Memory, transport: Transport) -> None:
    """Said once. When it fails the server's session time-out does the same, only later."""
    old = Upload(memory.identity.size, progress=memory.progress)
    old.cancel()
    with contextlib.suppress(BitsError):
        while packet := old.next_packet():
            old.receive(transport.send(packet, host=old.host))
