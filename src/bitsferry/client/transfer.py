"""Carries one file to one URL, through whatever goes wrong on the way."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from bitsferry.client import events, pace
from bitsferry.client.local_file import LocalFile
from bitsferry.client.patience import Patience
from bitsferry.client.places import Memory, Place
from bitsferry.client.transport import Transport
from bitsferry.protocol.errors import BitsError, InvalidServerResponse, SessionNotFound, TransportFailed
from bitsferry.protocol.packets import Ack, Fragment, Packet
from bitsferry.protocol.upload import Progress, State, Upload

__all__ = ["Transfer"]


class Transfer:
    """One file on its way. `clock` is any clock in seconds that only grows, `sleep` waits so many."""

    def __init__(
        self,
        file: LocalFile,
        transport: Transport,
        place: Place,
        *,
        user: str | None = None,
        limit: pace.Limit | None = None,
        patience: Patience | None = None,
        tell: Callable[[events.Event], None] = lambda event: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._file = file
        self._transport = transport
        self._url = str(transport.destination)
        self._place = place
        self._user = user
        self._limit = limit
        self._patience = patience or Patience()
        self._tell = tell
        self._clock = clock
        self._sleep = sleep
        self._upload: Upload
        self._farthest = 0  # what was out on the line up to here ...
        self._repeated = 0  # ... and how many of those bytes went out again

    def run(self) -> None:
        """Return when the file is in its place; what an earlier run began is gone on with.

        Raises the BitsError that ends it: transient when patience ran out, else for good. In both cases the
        place is kept, and another run goes on from there.
        """
        began = self._clock()
        upload = self._begin()
        while packet := self._next_packet():
            try:
                ack = self._send(packet)
                self._receive(ack)
            except BitsError as error:
                self._wait(error)
            self._remember(upload.progress)
        self._place.forget()
        self._tell(events.Done(self._url, upload.size, self._clock() - began, self._repeated))

    def _begin(self) -> Upload:
        file = self._file
        self._upload = Upload(file.size, name=file.name, progress=self._recall())
        self._upload.fragment_length = pace.FIRST_FRAGMENT
        self._farthest = self._upload.progress.sent
        self._tell(events.Started(file.shown, self._url, file.size, self._farthest, self._place.lasts))
        return self._upload

    def _recall(self) -> Progress | None:
        """How far an earlier run came with this very file. Of another version the server may forget all."""
        memory = self._place.recall()
        if memory is None:
            return None
        if memory.user == self._user and memory.identity == self._file.identity:
            return memory.progress
        if memory.user == self._user:
            self._cancel(memory)
        self._place.forget()
        return None

    def _cancel(self, memory: Memory) -> None:
        """Said once. When it fails the server's session time-out does the same, only later."""
        old = Upload(memory.identity.size, progress=memory.progress)
        old.cancel()
        with contextlib.suppress(BitsError):
            while packet := old.next_packet():
                old.receive(self._transport.send(packet, host=old.host))

    def _next_packet(self) -> Packet | None:
        packet = self._upload.next_packet(self._clock())
        if packet is None and self._upload.state is State.GET_REPLY:
            self._upload.reply_fetched()  # nobody asked for the reply, so the server may release it
            packet = self._upload.next_packet(self._clock())
        return packet

    def _send(self, packet: Packet) -> Ack:
        """One packet out, one Ack back; the fragments' length follows how long that took."""
        self._file.check()
        upload, began = self._upload, self._clock()
        try:
            ack = self._transport.send(packet, self._file, host=upload.host, on_block=self._block_is_out)
        except (TransportFailed, InvalidServerResponse):
            upload.failed(self._clock())
            if isinstance(packet, Fragment):
                upload.fragment_length = pace.after_break(packet.range.length)
            raise
        if isinstance(packet, Fragment) and ack.status in (200, 201):
            upload.fragment_length = pace.next_fragment_length(packet.range.length, self._clock() - began)
        return ack

    def _block_is_out(self, offset: int, length: int) -> None:
        stop = offset + length
        self._repeated += max(0, min(stop, self._farthest) - offset)
        self._farthest = max(stop, self._farthest)
        self._tell(events.Progress(self._upload.progress.sent, stop, self._upload.size))
        if self._limit is not None:
            wait = self._limit.take(length, self._clock())
            if wait > 0:
                self._sleep(wait)

    def _receive(self, ack: Ack) -> None:
        before = self._upload.progress
        session_id, sent = before.session_id, before.sent
        self._upload.receive(ack, self._clock())
        after = self._upload.progress
        if after.sent > sent:
            self._patience.headway()
        if session_id is not None and after.session_id is None:
            lost = SessionNotFound("the server does not know this upload any more; it starts over")
            self._tell(events.Retry(events.Error.of(lost), 0.0))
        if after.sent != sent:
            self._tell(events.Progress(after.sent, after.sent, self._upload.size))

    def _wait(self, error: BitsError) -> None:
        """Until it makes sense to go on. Raises `error` when it does not."""
        wait = self._patience.wait(error, self._clock())
        self._tell(events.Retry(events.Error.of(error), wait))
        self._sleep(wait)
        self._upload.resume()

    def _remember(self, progress: Progress) -> None:
        if progress.session_id is None:
            return
        memory = Memory(self._file.shown, self._url, self._user, self._file.identity, progress)
        with contextlib.suppress(OSError):  # a full disk at home is no reason not to send
            self._place.remember(memory)
