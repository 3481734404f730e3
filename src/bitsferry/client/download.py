"""Fetches one file from one URL, through whatever goes wrong on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from bitsferry.client import events, redirects
from bitsferry.client.agent import Response, UserAgent
from bitsferry.client.answer import error_of, length_of, part_of, size_of
from bitsferry.client.bandwidth import Limit
from bitsferry.client.destination import Destination
from bitsferry.client.partial_file import SUFFIX, PartialFile, discard, make_empty, place
from bitsferry.client.patience import Patience
from bitsferry.client.stopped import Stopped
from bitsferry.client.version import Version, seconds_of
from bitsferry.protocol import errors
from bitsferry.protocol.errors import BitsError

__all__ = ["Download", "Version", "discard", "make_empty", "place"]

BLOCK_LENGTH = 256 * 1024
CHANGES = 5  # of the server's file before it is given up, for a while
CLOSED = 60.0  # seconds between two looks whether a limit lets anything through again

_ALWAYS = [("Accept", "*/*"), ("Accept-Encoding", "identity")]


class Download:
    """One file on its way here; it waits in `temporary` until all of it is there.

    Its bytes are those of one version of the server's file, never of two: the rest of a file is asked for by
    its strong ETag or its Last-Modified, and the answer must say the same. Otherwise it begins anew.
    """

    def __init__(
        self,
        agent: UserAgent,
        url: Destination,
        path: str,
        *,
        temporary: str | None = None,
        version: Version | None = None,
        save: Callable[[Version], None] = lambda version: None,
        ours: bool = True,
        limits: Sequence[Limit] = (),
        patience: Patience | None = None,
        foreground: bool = False,
        tell: Callable[[events.Event], None] = lambda event: None,
        stop: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """`path` is where the file shall be, in a folder that exists; `temporary` is beside it.

        `version` is what `save` was given last, in this process or another. `save` must have it on the disk
        when it returns: after a power cut an older one would be taken for that of newer bytes.
        Not `ours`: the URL came from a server, and is not one of its own. In the `foreground`, a file is
        begun anew where a server cannot send the rest alone. `tell` hears of `Receiving` when there is
        headway, so not of what comes once more. `stop` is asked at every block.
        """
        self._agent = agent
        self._url = url
        self._path = path
        self._temporary = temporary or path + SUFFIX
        self._version = version
        self._save = save
        self._ours = ours
        self._limits = limits
        self._patience = patience or Patience()
        self._foreground = foreground
        self._tell = tell
        self._stop = stop
        self._clock = clock
        self._sleep = sleep
        self._block = memoryview(bytearray(BLOCK_LENGTH))
        self._part: PartialFile
        self._modified = version.last_modified if version else None
        self._connected = self._asked_for_size = self._is_whole = False
        self._farthest = 0  # how many bytes of this version were ever here
        self._changes = 0

    def run(self) -> Version:
        """Return when all of the file is in `temporary`, durably, and which version it is.

        Raises Stopped, or the BitsError that ends it: transient when patience ran out, else for good. In all
        cases another run goes on from there.
        """
        with PartialFile(self._temporary, known=self._version is not None) as self._part:
            self._farthest = self._part.length
            # A file of no bytes looks like one of which none is here yet.
            self._is_whole = self._version is not None and 0 < self._version.size == self._part.length
            while not self._is_whole:
                try:
                    self._step()
                except BitsError as error:
                    self._wait(error)
        assert self._version is not None
        # Even one that does not tell versions apart is the time of this one.
        return msgspec.structs.replace(self._version, last_modified=self._modified)

    def place(self) -> None:
        """Give what `run` fetched its name, durably and at once, in the place of whatever has that name."""
        assert self._version is not None, "nothing was fetched"
        place(self._temporary, self._path, self._modified, size=self._version.size)

    def _step(self) -> None:
        """How long is it? Then all of it, or what is missing."""
        self._rest(0.0)
        try:
            if self._version is None and not self._asked_for_size:
                self._ask_for_size()
            condition = self._version.condition if self._version else None
            if self._part.length and condition:
                self._receive_rest(condition)
            else:
                self._receive_all()
        except BaseException:
            self._agent.close()  # the rest of a body must not be taken for the next answer
            raise

    def _ask_for_size(self) -> None:
        """Known before the first byte comes, it can be shown. What HEAD refuses, GET may give."""
        response = self._ask("HEAD")
        response.discard()
        if response.status >= 400 and (error := error_of(response)).transient:
            raise error
        self._asked_for_size = True
        if response.status == 200 and (size := length_of(response)) is not None:
            self._begin(response, size)

    def _receive_all(self) -> None:
        response = self._ask("GET")
        if response.status != 200:
            raise error_of(response)
        size = size_of(response)
        self._begin(response, size)
        self._receive(response, size)

    def _receive_rest(self, condition: tuple[str, str]) -> None:
        response = self._ask("GET", condition, ("Range", f"bytes={self._part.length}-"))
        if response.status == 206:
            self._receive_part(response)
        elif response.status == 200:
            self._receive_instead(response)
        elif response.status in (412, 416):
            response.discard()
            self._has_changed()
        else:
            raise error_of(response)

    def _receive_part(self, response: Response) -> None:
        part = part_of(response)
        if not self._is_same(response, part.total):
            self._agent.close()
            self._has_changed()
        elif part.start != self._part.length:
            raise errors.InvalidServerResponse(
                f"the server was asked for byte {self._part.length} and sent byte {part.start}"
            )
        else:
            self._receive(response, part.length)

    def _receive_instead(self, response: Response) -> None:
        """All of it, though only the rest was asked for: it changed, or the server knows no better."""
        size = size_of(response)
        if not self._is_same(response, size):
            self._has_changed()
        elif not self._foreground:
            raise errors.InsufficientRangeSupport(
                f"{redirects.shown(self._url)} was interrupted, and its server cannot send the rest alone"
            )
        self._begin(response, size)
        self._receive(response, size)

    def _is_same(self, response: Response, size: int) -> bool:
        assert self._version is not None
        return self._version.is_same(Version.of(response.headers, size))

    def _has_changed(self) -> None:
        """What is here is of a version that is no more."""
        self._changes += 1
        self._part.clear()
        self._farthest = 0
        shown = redirects.shown(self._url)
        if self._changes >= CHANGES:
            raise errors.NoProgress(f"{shown} changed {self._changes} times while it was being received")
        changed = errors.RemoteFileChanged(f"{shown} changed while it was being received; it starts over")
        self._tell(events.Retry(events.Error.of(changed), 0.0))

    def _begin(self, response: Response, size: int) -> None:
        """From its first byte. What is here goes before the new version is saved: it is none of its bytes."""
        if self._part.length:
            self._part.clear()
        modified = response.headers.get("last-modified", "").strip()
        self._modified = None if seconds_of(modified) is None else modified
        version = Version.of(response.headers, size)
        if version != self._version:
            self._save(version)
            self._version = version

    def _receive(self, response: Response, length: int) -> None:
        assert self._version is not None
        while length:
            count = response.readinto(self._next_block(length))
            assert count, "it raises when the body ends too early"
            self._part.append(self._block[:count])
            length -= count
            self._has_received(count)
        if self._part.length == self._version.size:
            self._part.sync()
            self._is_whole = True

    def _next_block(self, length: int) -> memoryview:
        """Room for at most `length` bytes, as soon as any may be fetched."""
        while (closed := max((limit.closed_for() for limit in self._limits), default=0.0)) > 0:
            self._rest(min(closed, CLOSED))
        return self._block[: min([length, *(limit.block_length for limit in self._limits)])]

    def _has_received(self, count: int) -> None:
        assert self._version is not None
        if self._part.length > self._farthest:
            self._farthest = self._part.length
            self._patience.headway()
            self._tell(events.Receiving(str(self._url), self._part.length, self._version.size))
        self._rest(max((limit.take(count, self._clock()) for limit in self._limits), default=0.0))

    def _ask(self, method: str, *headers: tuple[str, str]) -> Response:
        response = redirects.request(self._agent, method, self._url, [*_ALWAYS, *headers], ours=self._ours)
        if not self._connected:
            self._connected = True
            self._tell(events.Connected())
        return response

    def _wait(self, error: BitsError) -> None:
        """Until it makes sense to go on. Raises `error` when it does not, Stopped when nobody wants to."""
        if self._stop():
            raise Stopped from error  # whoever stops us may have cut the line for it
        if isinstance(error, errors.TransportFailed):
            self._connected = False
        wait = self._patience.wait(error, self._clock())
        self._tell(events.Retry(events.Error.of(error), wait))
        self._rest(wait)

    def _rest(self, seconds: float) -> None:
        if seconds > 0:
            self._sleep(seconds)
        if self._stop():
            raise Stopped
