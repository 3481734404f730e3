"""Carries one file to one URL, through whatever goes wrong on the way."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bitsferry.client import events
from bitsferry.client.bandwidth import Limit
from bitsferry.client.checksum import Checksum
from bitsferry.client.destination import Destination
from bitsferry.client.download import Download, Version, make_empty
from bitsferry.client.local_file import LocalFile
from bitsferry.client.pace import LARGEST_TO_BITSFERRY, FragmentLength
from bitsferry.client.patience import Patience
from bitsferry.client.redirects import shown
from bitsferry.client.stopped import Stopped
from bitsferry.client.transport import Transport
from bitsferry.protocol.errors import (
    AuthenticationRequired,
    BitsError,
    Context,
    DigestMismatch,
    InvalidServerResponse,
    ProxyAuthenticationRequired,
    Refused,
    SessionNotFound,
    TransportFailed,
)
from bitsferry.protocol.packets import Ack, CreateSession, Fragment, Packet
from bitsferry.protocol.upload import LARGEST_FRAGMENT, RESTARTS, Progress, State, Upload

__all__ = ["Reply", "Transfer"]

CLOSED = 60.0  # seconds until a limit that lets nothing flow is looked at again: it may be replaced
DIGEST = "sha-256"  # which every server that compares digests knows (RFC 9530)
DAMAGED = "what arrived is not what was sent; the upload starts over"
_MOMENT = 0.1  # seconds


@dataclass(slots=True)
class Reply:
    """Where the server's reply shall be; `version` is of a reply some earlier run began to fetch.

    `save` keeps the version for later runs.
    """

    path: str
    temporary: str | None = None
    version: Version | None = None
    save: Callable[[Version], None] = lambda version: None


class Transfer:
    """One file on its way.

    `clock` counts seconds, `time_of_day` is what other processes and machines mean by a time, `sleep` waits.
    """

    def __init__(
        self,
        file: LocalFile,
        transport: Transport,
        *,
        progress: Progress | None = None,
        save: Callable[[Progress], None] = lambda progress: None,
        reply: Reply | None = None,
        fragment_limit: int | None = None,
        limits: Sequence[Limit] = (),
        patience: Patience | None = None,
        tell: Callable[[events.Event], None] = lambda event: None,
        stop: Callable[[], bool] = lambda: False,
        turn_over: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        time_of_day: Callable[[], float] = time.time,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """`progress` is how far an earlier run came, `save` keeps it for a later one.

        `fragment_limit` is the most bytes to say at once, if the user has a wish; else it is what Windows
        says, or more where the server is ours. `stop` is asked at every block, `turn_over` before every
        fragment; either ends `run` by Stopped. A `sleep` that ends early when `stop` becomes true (an Event's
        `wait`) makes that quick.
        """
        self._file = file
        self._transport = transport
        self._url = str(transport.destination)
        self._upload = Upload(file.size, name=file.name, progress=progress)
        self._save = save
        self._reply = reply
        self._pace = FragmentLength(fragment_limit or LARGEST_FRAGMENT)
        self._may_be_longer = fragment_limit is None
        self._limits = limits
        self._patience = patience or Patience()
        self._tell = tell
        self._stop = stop
        self._turn_over = turn_over
        self._clock = clock
        self._time_of_day = time_of_day
        self._sleep = sleep
        self._wants_digest = transport.agent.options.digest
        self._checksum: Checksum | None = None
        self._beside = contextlib.ExitStack()
        self._connected = self._is_whole = False
        self._farthest = self._upload.progress.sent  # what was out on the line up to here ...
        self._repeated = 0  # ... and how many of those bytes went out again
        self._until = 0  # where the fragment in flight ends

    def run(self) -> None:
        """Return when the file is in its place, and the reply too, and the server has released the session.

        Raises the BitsError that ends it: transient when patience ran out, else for good; or Stopped. What
        was saved last, another run goes on with.
        """
        began, upload = self._clock(), self._upload
        with self._beside:
            while upload.state is not State.DONE:
                try:
                    self._step()
                except BitsError as error:
                    self._wait(error)
                finally:
                    self._save(upload.progress)
        self._tell_whole()  # an empty file appeared at the Close
        self._tell(events.Done(self._url, upload.size, self._clock() - began, self._repeated))

    def _step(self) -> None:
        """One packet out, one Ack back; or the reply fetched."""
        upload = self._upload
        upload.fragment_length = self._pace.next(self._rate())
        packet = upload.next_packet(self._time_of_day())
        if isinstance(packet, Fragment):
            self._send_fragment(packet)
        elif packet is not None:
            if isinstance(packet, CreateSession) and self._wants_digest is not False and upload.size:
                packet = replace(packet, will_digest=DIGEST)  # the server may compute it on the way, too
            began = self._clock()
            self._receive(self._say(packet))
            self._pace.round_trip(self._clock() - began)
        elif upload.state is State.GET_REPLY:
            self._fetch_reply()
            upload.reply_fetched()
        if upload.state is State.CLOSE_SESSION and upload.size:
            self._tell_whole()

    def _send_fragment(self, packet: Fragment) -> None:
        if self._turn_over():
            raise Stopped
        while (closed := max((limit.closed_for() for limit in self._limits), default=0.0)) > 0:
            self._rest(min(closed, CLOSED))
        packet = self._with_digest(packet)
        self._file.check()
        began, self._until = self._clock(), packet.range.stop
        try:
            ack = self._say(packet)
        except (TransportFailed, InvalidServerResponse):
            self._pace.broke(packet.range.length)
            raise
        if packet.range.stop == packet.range.total:
            self._file.check()  # there is no next fragment to notice it
        if ack.status in (200, 201):
            self._pace.answered(packet.range.length, self._clock() - began)
        self._receive(ack)

    def _with_digest(self, packet: Fragment) -> Fragment:
        """The last fragment says the whole file's, if that is wanted (RFC 9530, Repr-Digest)."""
        if self._checksum is None:
            return packet
        self._checksum.follow(packet.range.stop)
        if packet.range.stop < packet.range.total:
            return packet
        while not self._checksum.wait(_MOMENT):
            self._rest(0.0)
            if self._turn_over():
                raise Stopped
        return replace(packet, repr_digest=self._checksum.digest())

    def _begin_checksum(self, ack: Ack) -> None:
        """As soon as it is known that somebody compares it."""
        ours = self._transport.server_is_ours or ack.wants_digest is not None
        wanted = ours if self._wants_digest is None else self._wants_digest
        if wanted and self._checksum is None and self._upload.size:
            checksum = Checksum(self._file, ack.wants_digest or DIGEST)
            self._checksum = self._beside.enter_context(checksum)
            checksum.follow(self._upload.progress.sent)

    def _say(self, packet: Packet) -> Ack:
        file = self._file if isinstance(packet, Fragment) else None
        try:
            ack = self._transport.send(packet, file, host=self._upload.host, on_block=self._block_is_out)
        except (TransportFailed, InvalidServerResponse):
            self._connected = False
            self._upload.failed(self._time_of_day())
            raise
        if self._may_be_longer and self._transport.server_is_ours:
            self._pace.limit = LARGEST_TO_BITSFERRY
        self._begin_checksum(ack)
        if not self._connected:
            self._connected = True
            self._tell(events.Connected())
        return ack

    def _rate(self) -> float | None:
        rates = [rate for limit in self._limits if (rate := limit.rate) is not None]
        return min(rates, default=None)

    def _block_is_out(self, offset: int, length: int) -> None:
        stop = offset + length
        self._repeated += max(0, min(stop, self._farthest) - offset)
        self._farthest = max(stop, self._farthest)
        self._tell(events.Progress(self._upload.progress.sent, stop, self._upload.size, self._until))
        self._rest(max((limit.take(length, self._clock()) for limit in self._limits), default=0.0))

    def _receive(self, ack: Ack) -> None:
        before = self._upload.progress
        session_id, sent = before.session_id, before.sent
        discarded = self._upload.state is State.DISCARD
        try:
            self._upload.receive(ack, self._time_of_day())
        except (AuthenticationRequired, ProxyAuthenticationRequired) as error:
            raise type(error)(self._transport.refusal or error.message) from None  # it knows what was tried
        after = self._upload.progress
        if after.sent > sent:
            self._patience.headway()
        if self._upload.state is State.DISCARD:
            self._tell(events.Retry(events.Error.of(DigestMismatch(DAMAGED)), 0.0))
        elif session_id is not None and after.session_id is None and not discarded:
            lost = SessionNotFound(
                "the server no longer knows this upload; "
                f"starting over ({self._upload.restarts} of {RESTARTS})"
            )
            self._tell(events.Retry(events.Error.of(lost), 0.0))
        if after.sent != sent:
            self._tell(events.Progress(after.sent, after.sent, self._upload.size, after.sent))

    def _tell_whole(self) -> None:
        """The file is in its place, with the reply. No reply is an empty one (spec-notes, C10)."""
        if self._is_whole:
            return
        self._is_whole = True
        progress = self._upload.progress
        if self._reply is not None and not progress.reply_url:
            make_empty(self._reply.path)
            self._tell(events.Replied(self._reply.path, 0))
        self._tell(events.Whole(self._upload.size))

    def _fetch_reply(self) -> None:
        """Before the Close, after which the server may release it (MC-BUP 2.2.8)."""
        if self._reply is None:
            return  # nobody asked for it
        reply_url = self._upload.progress.reply_url
        assert reply_url is not None
        where = self._where_the_reply_is(reply_url)
        reply = self._reply
        download = Download(
            self._transport.agent,
            where,
            reply.path,
            temporary=reply.temporary,
            version=reply.version,
            save=self._save_version,
            ours=self._is_ours(where),
            limits=self._limits,
            patience=Patience(0),  # ours counts: between two tries the server hears a Ping
            foreground=True,  # a reply is short: rather from its beginning than not at all
            tell=self._hear_of_reply,
            stop=self._stop,
            clock=self._clock,
            sleep=self._sleep,
        )
        version = download.run()
        download.place()
        self._tell(events.Replied(reply.path, version.size))

    def _where_the_reply_is(self, reply_url: str) -> Destination:
        answered_by = self._transport.answered_by
        try:
            where = answered_by.relative(reply_url)
        except ValueError as error:
            raise InvalidServerResponse(f"the server's reply URL cannot be used: {error}") from None
        if answered_by.scheme == "https" and where.scheme != "https":
            raise Refused(
                f"the reply is at {shown(where)}, which is not safe as this server is (https)",
                status=502,
                hresult=None,
                context=Context.REMOTE_FILE,
                transient=False,
            )
        return where

    def _is_ours(self, where: Destination) -> bool:
        """Whether a reply's URL is one of the server the user chose, or of the host id it named."""
        chosen = self._transport.destination
        return where.origin in (chosen.origin, chosen.on_host(self._upload.host).origin)

    def _save_version(self, version: Version) -> None:
        assert self._reply is not None
        self._reply.version = version
        self._reply.save(version)

    def _hear_of_reply(self, event: events.Event) -> None:
        if isinstance(event, events.Receiving):
            self._patience.headway()
            self._tell(event)

    def _wait(self, error: BitsError) -> None:
        """Until it makes sense to go on. Raises `error` when it does not, Stopped when nobody wants to."""
        if self._stop():
            raise Stopped from error  # whoever stops us may have cut the line for it
        wait = self._patience.wait(error, self._clock())
        self._tell(events.Retry(events.Error.of(error), wait))
        self._rest(wait)
        self._upload.resume()

    def _rest(self, seconds: float) -> None:
        if seconds > 0:
            self._sleep(seconds)
        if self._stop():
            raise Stopped
