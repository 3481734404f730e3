"""The client's half of an upload, `Upload`, as the state machine of MC-BUP 3.1.5.1."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bitsferry.protocol import errors
from bitsferry.protocol.errors import BitsError, Context
from bitsferry.protocol.hresult import HResult, spell
from bitsferry.protocol.packets import (
    BITS_1_5,
    Ack,
    CancelSession,
    CloseSession,
    CreateSession,
    Fragment,
    Packet,
    Ping,
)
from bitsferry.protocol.ranges import ContentRange

__all__ = ["LARGEST_FRAGMENT", "RESTARTS", "SMALLEST_FRAGMENT", "Progress", "State", "Upload", "error_of_ack"]

SMALLEST_FRAGMENT = 5 * 1024  # MC-BUP <16>: Windows never goes below
LARGEST_FRAGMENT = 13 * 1024 * 1024  # MC-BUP <10>
RESTARTS = 5  # sessions lost in a row, without a new byte between, until we stop
DAMAGES = 3  # times a file may arrive as another one, until we stop
SETBACKS = 50  # fragments in a row that brought nothing, until we stop

_TRANSIENT_4XX = (408, 425, 429)
_FATAL_5XX = (501, 505)


class State(StrEnum):
    """Where an upload stands (MC-BUP 3.1.5.1)."""

    CREATE_SESSION = "CREATE_SESSION"
    PING = "PING"
    FRAGMENT = "FRAGMENT"
    GET_REPLY = "GET_REPLY"
    CLOSE_SESSION = "CLOSE_SESSION"
    CANCEL = "CANCEL"
    DISCARD = "DISCARD"
    """What arrived is not what was sent: the session is given up, and another one begins."""
    DONE = "DONE"
    CANCELLED = "CANCELLED"
    ERROR = "ERROR"


_ENDS = (State.DONE, State.CANCELLED)
_LASTING = (*_ENDS, State.CANCEL)  # left by no late answer, broken line or `resume`


@dataclass(slots=True)
class Progress:
    """What an interrupted upload needs to go on later; `sent` is in bytes."""

    session_id: str | None = None
    sent: int = 0
    host_id: str | None = None
    host_id_fallback_timeout: int | None = None
    host_lost_at: float | None = None
    """When the host of the host id could not be reached for the first time since its last answer."""
    fragment_limit: int | None = None
    """The longest fragment the server takes, once a 413 told."""
    reply_url: str | None = None
    closing: bool = False
    """The reply is fetched: once the Close is said, the server may have released it."""


class Upload:
    """One file on its way: says what to say next, and takes what is answered.

    Used as ``while packet := upload.next_packet(now): ... upload.receive(ack, now)``. `now` is the time of
    day in seconds: what it is compared with may have been noted by an earlier process. When the line breaks,
    `failed` is told; after any error `resume` goes on with a Ping, as Windows does (MC-BUP 3.1.4.4).
    """

    def __init__(
        self,
        size: int,
        *,
        name: str | None = None,
        progress: Progress | None = None,
        fragment_length: int = LARGEST_FRAGMENT,
    ) -> None:
        """`size` is the file's in bytes, `fragment_length` how many to send at once if the server agrees."""
        self.size = size
        self.name = name
        self.progress = progress or Progress()
        self.fragment_length = fragment_length
        self.restarts = 0
        self._setbacks = self._damages = 0
        self._farthest = self.progress.sent  # the offset that counts as headway when it is passed
        self._in_flight: Packet | None = None
        if self.progress.session_id is None:
            self.state = State.CREATE_SESSION
        else:
            self.state = State.PING

    @property
    def host(self) -> str | None:
        """The host to talk to instead of the URL's, if the server named one (BITS-Host-Id)."""
        return self.progress.host_id

    def next_packet(self, now: float = 0.0) -> Packet | None:
        """The packet to send now, or None when there is nothing more to say.

        None in state GET_REPLY means: fetch `progress.reply_url`, then call `reply_fetched`.
        """
        self._fall_back(now)
        packet = self._next()
        self._in_flight = packet
        return packet

    def _next(self) -> Packet | None:
        session_id = self.progress.session_id
        match self.state:
            case State.CREATE_SESSION:
                return CreateSession()
            case State.PING:
                return Ping()
            case State.FRAGMENT:
                assert session_id is not None
                start = self.progress.sent
                length = max(1, min(self.fragment_length, self.progress.fragment_limit or self.size))
                return Fragment(
                    session_id, ContentRange(start, min(start + length, self.size), self.size), self.name
                )
            case State.CLOSE_SESSION:
                assert session_id is not None
                return CloseSession(session_id, self.name)
            case State.CANCEL | State.DISCARD if session_id is not None:
                return CancelSession(session_id)
            case State.CANCEL:
                self.state = State.CANCELLED  # there is nothing the server could forget
        return None

    def receive(self, ack: Ack, now: float = 0.0) -> None:
        """Take the server's answer to the last packet.

        Raises the error the answer says, when it is not one the protocol itself mends (a 416, a vanished
        session, a smaller fragment). A transient one: wait, `resume`, go on. Any other: the upload is over.
        """
        packet, self._in_flight = self._in_flight, None
        self.progress.host_lost_at = None
        before = self.state
        try:
            self._receive(packet, ack)
        except BitsError:
            self.state = State.ERROR
            raise
        finally:
            # An answer that was under way when the user gave up must not undo that, nor one after the end.
            if before in _LASTING and self.state not in _ENDS:
                self.state = before

    def _receive(self, packet: Packet | None, ack: Ack) -> None:
        match packet:
            case CreateSession():
                self._created(ack)
            case Ping():
                if self._accept(ack):
                    self._continue()
            case Fragment():
                self._fragment_answered(packet, ack)
            case CloseSession():
                self._closed(ack)
            case CancelSession() if self.state is State.DISCARD:
                # Whatever the server says, its session time-out does the same, only later.
                self.progress = Progress(fragment_limit=self.progress.fragment_limit)
                self.state = State.CREATE_SESSION
            case CancelSession():
                # Learn: whatever is no 5xx, and a session that is gone, need no second Cancel.
                if ack.status >= 500 and ack.hresult != HResult.BG_E_SESSION_NOT_FOUND:
                    raise _failed_after_the_file(ack)
                self.state = State.CANCELLED
            case None:
                raise errors.InvalidServerResponse("an answer came that nobody asked for")

    def _created(self, ack: Ack) -> None:
        if not self._accept(ack):
            return
        if ack.session_id is None:
            raise errors.InvalidServerResponse("the server made a session without a BITS-Session-Id")
        if ack.protocol is not None and ack.protocol.lower() != BITS_1_5:
            raise errors.ProtocolMismatch(
                f"the server wants to speak {ack.protocol[:60]}, which nobody offered"
            )
        limit = self.progress.fragment_limit
        self.progress = Progress(
            ack.session_id, 0, ack.host_id, ack.host_id_fallback_timeout, fragment_limit=limit
        )
        if ack.host_id:
            self.state = State.PING  # MC-BUP 3.1.5.2.2: try the host before a big body is sent there
        else:
            self._continue()

    def _fragment_answered(self, packet: Fragment, ack: Ack) -> None:
        if ack.status == 413:
            self._shrink(packet)
            return
        if ack.status == 416:
            if ack.received is None:
                raise errors.InvalidServerResponse(
                    "the server is out of step and does not say which byte it wants"
                )
        elif not self._accept(ack):
            return
        # The server names the offset. One old variant says nothing on success; then all was taken.
        offset = packet.range.stop if ack.received is None else ack.received
        if not 0 <= offset <= self.size:
            raise errors.InvalidServerResponse(
                f"the server wants byte {offset} of a file that has {self.size}"
            )
        self._measure_headway(packet, offset)
        self.progress.sent = offset
        if offset == self.size and ack.reply_url:
            self.progress.reply_url = ack.reply_url  # on a 416 too: MC-BUP 3.1.5.1.4 takes both alike
        self._continue()

    def _measure_headway(self, packet: Fragment, offset: int) -> None:
        """A server may step back; one that never lets the file grow must not hold us for ever."""
        if offset > self._farthest:
            self._farthest = offset
            self.restarts = self._setbacks = 0
        elif offset <= packet.range.start:
            self._setbacks += 1
            if self._setbacks > SETBACKS:
                self._setbacks = 0
                raise errors.NoProgress(f"the server took no byte of {SETBACKS} fragments in a row")

    def _shrink(self, packet: Fragment) -> None:
        """413: half the length, remembered, never below what Windows sends."""
        length = packet.range.length
        if length <= SMALLEST_FRAGMENT:
            raise errors.Refused(
                f"the server refuses even a fragment of {length} bytes as too large",
                status=413,
                hresult=None,
                context=Context.REMOTE_FILE,
                transient=False,
            )
        self.progress.fragment_limit = max(SMALLEST_FRAGMENT, length // 2)

    def _closed(self, ack: Ack) -> None:
        if self.size == 0:
            # An empty file appears at Close: a refusal is one of the file, and in a vanished session nothing
            # appeared. It is made anew, which costs less than a success without a file.
            if self._accept(ack):
                self.state = State.DONE
        elif ack.status >= 500 and ack.hresult != HResult.BG_E_SESSION_NOT_FOUND:
            raise _failed_after_the_file(ack)
        else:
            # The file has been in its place since the last fragment. Learn: 1xx to 4xx and a session that
            # is gone need no second Close (spec-notes, C12).
            self.state = State.DONE

    def _accept(self, ack: Ack) -> bool:
        """True on success, False when the session vanished and we start over; any other error is raised."""
        if ack.status in (200, 201):
            return True
        error = error_of_ack(ack)
        if isinstance(error, errors.SessionNotFound):
            self._start_over()
            return False
        if isinstance(error, errors.DigestMismatch) and self.progress.session_id is not None:
            self._discard()
            return False
        raise error

    def _discard(self) -> None:
        """Not what was sent: nothing but all of it once more mends that, if anything does."""
        self._damages += 1
        if self._damages == DAMAGES:
            self._damages = 0
            raise errors.DigestMismatch(
                f"the file arrived {DAMAGES} times as another one than was sent: "
                "something on the way, or a memory or disk at either end, damages it"
            )
        self.state = State.DISCARD

    def _start_over(self) -> None:
        self.restarts += 1
        if self.restarts > RESTARTS:
            self.restarts = 0
            self.progress = Progress(fragment_limit=self.progress.fragment_limit)
            raise errors.NoProgress(
                f"the server forgot this upload {RESTARTS} times without one new byte between"
            )
        self.progress = Progress(fragment_limit=self.progress.fragment_limit)
        self.state = State.CREATE_SESSION

    def _continue(self) -> None:
        """After any success: the next step is what the offset says."""
        if self.progress.sent < self.size:
            self.state = State.FRAGMENT
        elif self.progress.sent > self.size:
            # A Close would now throw away what the server holds, and be answered as a success (C9).
            raise errors.LocalFileChanged(
                f"{self.progress.sent} bytes were sent of a file that has only {self.size} now"
            )
        elif self.progress.reply_url and not self.progress.closing:
            self.state = State.GET_REPLY
        else:
            self.state = State.CLOSE_SESSION

    def reply_fetched(self) -> None:
        """The reply is safe on the client's side: the server may release it."""
        assert self.state is State.GET_REPLY
        self.progress.closing = True
        self.state = State.CLOSE_SESSION

    def failed(self, now: float = 0.0) -> None:
        """The line broke before an answer came: the fallback timer of a host id starts (MC-BUP 3.1.6.3)."""
        self._in_flight = None
        if self.progress.host_id is not None and self.progress.host_lost_at is None:
            self.progress.host_lost_at = now
        if self.state not in (*_LASTING, State.DISCARD):
            self.state = State.ERROR

    def resume(self) -> None:
        """Go on after an error or a pause: with a Ping, or a new session where there is none."""
        if self.state in (*_LASTING, State.DISCARD):
            return
        self.state = State.CREATE_SESSION if self.progress.session_id is None else State.PING

    def cancel(self) -> None:
        """Give the upload up; the next packet tells the server."""
        if self.state not in _ENDS:
            self.state = State.CANCEL

    def _fall_back(self, now: float) -> None:
        """Leave a host-id host nobody could reach for its fallback timeout (MC-BUP 3.1.2.3; none: never)."""
        progress = self.progress
        if progress.host_lost_at is None or progress.host_id_fallback_timeout is None:
            return
        if now - progress.host_lost_at >= progress.host_id_fallback_timeout:
            progress.host_id = progress.host_lost_at = None


def _failed_after_the_file(ack: Ack) -> BitsError:
    """A Close or Cancel the server could not carry out: said again later, whatever its number."""
    error = errors.ServerFailed(
        f"the server could not release the upload (HTTP status {ack.status})",
        status=ack.status,
        hresult=ack.hresult,
        context=ack.context or Context.REMOTE_FILE,
        transient=True,
    )
    error.retry_after = ack.retry_after
    return error


def error_of_ack(ack: Ack) -> BitsError:
    """The error an Ack says, as the class that knows it best, else Refused or ServerFailed."""
    known = None if ack.context is Context.REMOTE_APPLICATION else _servers_own_error(ack)
    return known or _error_by_status(ack)


def _servers_own_error(ack: Ack) -> BitsError | None:
    by_code: dict[int | None, type[BitsError]] = {
        HResult.BG_E_SESSION_NOT_FOUND: errors.SessionNotFound,
        HResult.BG_E_TOO_LARGE: errors.FileTooLarge,
        HResult.ERROR_DISK_FULL: errors.DiskFull,
        HResult.ERROR_DISK_FULL_AS_PRINTED: errors.DiskFull,
    }
    if ack.hresult == HResult.ERROR_CRC and ack.status == 400:
        return errors.DigestMismatch()
    if ack.hresult in by_code:
        return by_code[ack.hresult](retry_after=ack.retry_after)
    match ack.status:
        case 401:
            return errors.AuthenticationRequired("the server wants a user name and a password")
        case 403:
            return errors.AccessDenied(
                "the server refuses: no right to upload there, or a file of this name is already there"
            )
        case 407:
            return errors.ProxyAuthenticationRequired("the proxy wants a user name and a password")
        case 409:
            return errors.DestinationExists()
        case 501 if ack.hresult == HResult.E_ACCESSDENIED:
            return errors.UploadsDisabled()
    return None


def _error_by_status(ack: Ack) -> BitsError:
    from_application = ack.context is Context.REMOTE_APPLICATION
    transient = (
        ack.status in _TRANSIENT_4XX
        or (500 <= ack.status <= 599 and ack.status not in _FATAL_5XX)
        or (ack.status == 409 and from_application)  # Learn: the application may think better of it
    )
    said = f"the server answered with HTTP status {ack.status}"
    if ack.hresult is not None:
        said += f" and error {spell(ack.hresult)}"
    if from_application:
        said = "the server's application failed: " + said
    if 300 <= ack.status < 400:
        said += "; a redirect cannot be followed for an upload, use the URL it points to"
    error = (errors.ServerFailed if transient else errors.Refused)(
        said,
        status=ack.status,
        hresult=ack.hresult,
        context=ack.context or Context.REMOTE_FILE,
        transient=transient,
    )
    error.retry_after = ack.retry_after
    return error
