"""One HTTP/1.1 connection: heads in, bodies from the socket straight into a receiver, answers out."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from time import monotonic, thread_time
from typing import BinaryIO, cast

from bitsferry.access.scheme import Link
from bitsferry.protocol.errors import BitsError
from bitsferry.server.app import respond_to_error
from bitsferry.server.connections import BLOCK, Connections
from bitsferry.server.head import Head
from bitsferry.server.request import (
    Body,
    BodyInterrupted,
    ConnectionLost,
    FileBody,
    Pace,
    Request,
    Response,
)
from bitsferry.store.base import Receiver
from bitsferry.store.threads import in_thread

__all__ = ["Connection"]

logger = logging.getLogger(__name__)

_HEAD_BLOCK = 16 * 1024  # while a head is expected: what follows it is copied once, so let it be little
_SENDFILE = 1024 * 1024  # bytes given out between two looks at the clock
_WORTH_PULLING = 128 * 1024  # bytes of a body below which a second reader costs more than it saves
_PULL = 1024 * 1024  # bytes pulled before others have their turn
_BROUGHT = 16 * 1024  # bytes of a fragment that gives its connection the next turn
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_REASONS = {status.value: status.phrase for status in HTTPStatus}


class Connection(asyncio.BufferedProtocol, Body):
    """The socket's side of a request, and the body of that request.

    It is in one of these states, kept in `_read`, the function the socket's bytes go to:
    `_read_head`, `_read_ahead` (a request is being answered), `_read_body`, `_read_rest` (of a refused body).
    """

    __slots__ = (
        "__weakref__",
        "_all",
        "_blocked",
        "_caught_up",
        "_client",
        "_close",
        "_done",
        "_ended",
        "_has_turn",
        "_head",
        "_held",
        "_interruption",
        "_link",
        "_most",
        "_pace",
        "_pending",
        "_pulled",
        "_pulling",
        "_read",
        "_receiver",
        "_remaining",
        "_scheme",
        "_writing",
        "deadline",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, connections: Connections) -> None:
        self._all = connections
        self._pending = bytearray()
        self._head: Head | None = None
        self._remaining = 0  # bytes of the body nobody took yet
        self._receiver: Receiver | None = None
        self._pace: Pace | None = None  # the body's, where it has one,
        self._most = BLOCK  # how many bytes of it are read at once,
        self._held: asyncio.TimerHandle | None = None  # and when more are
        self._done: asyncio.Future[None] | None = None  # an `into` is waiting for it
        self._interruption: BodyInterrupted | None = None  # why the body shall end early, `into` or not yet
        self._writing: asyncio.Future[None] | None = None  # a block on its way to a slow disk
        self._close = False
        self._ended = False  # the client will send no more
        self._blocked = False  # the client does not read what we answer
        self._caught_up: asyncio.Future[None] | None = None  # somebody waits until it does
        self._has_turn = False  # what it says next is looked at without waiting
        self._client = ""
        self._link = Link()
        self._scheme = "http"
        self._pulled = -1  # a second descriptor of the socket, which receivers pull from
        self._pulling = False
        self._read: Callable[[memoryview], None] = self._read_head
        self.deadline = math.inf

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is here."""
        self.transport = cast("asyncio.Transport", transport)
        self._client = _peer(transport)
        if transport.get_extra_info("ssl_object") is not None:
            self._scheme = "https"
            self._link.certificate = transport.get_extra_info("peercert") or None
        self.deadline = monotonic() + self._all.limits.idle_time
        refusal = self._all.welcome(self, self._client)
        if refusal is not None and self._all.is_overrun:
            self.transport.abort()
        elif refusal is not None:
            self._close = True
            self._read = self._read_rest
            self._respond(respond_to_error(refusal, address=self._client))

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the socket's next bytes go: never beyond the end of a body."""
        block = self._all.block
        if self._read == self._read_body:
            self._all.begun = thread_time()
            return block[: min(self._remaining, self._most)]
        if self._read == self._read_rest and not self._close:
            return block[: self._remaining] if self._remaining < BLOCK else block
        return block[:_HEAD_BLOCK]

    def buffer_updated(self, nbytes: int) -> None:
        """The socket's bytes are there."""
        self._read(self._all.block[:nbytes])

    def eof_received(self) -> bool:
        """The client will send no more; it still hears the answer to what it said completely."""
        self._ended = True
        if self._receiver is not None:
            self._close = True
            self._lose_body()
            return False
        return self._read == self._read_ahead

    def connection_lost(self, exc: Exception | None) -> None:
        """The line is gone."""
        self._all.farewell(self, self._client)
        self._close = True
        self._lose_body()
        self._tell_caught_up()
        if self._pulled >= 0:
            os.close(self._pulled)  # asyncio closes its own; the peer sees the end when both are gone
            self._pulled = -1

    def pause_writing(self) -> None:
        """The client asks and does not listen: no more answers until it does."""
        self._blocked = True

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._blocked = False
        self._tell_caught_up()
        if self._head is None and self._read == self._read_ahead and not self._close:
            self._listen()

    def _tell_caught_up(self) -> None:
        if self._caught_up is not None and not self._caught_up.done():
            self._caught_up.set_result(None)

    # The states

    def _read_head(self, data: memoryview) -> None:
        if not self._pending:
            self.deadline = monotonic() + self._all.limits.head_time
        self._pending += data
        self._take_turn()

    def _take_turn(self) -> None:
        """Look at what was asked, or wait until it is this address's turn."""
        if self._has_turn or self._all.turnstile.lets(self._client):
            self._has_turn = False
            self._next_request()
        else:
            self._read = self._read_ahead
            self.transport.pause_reading()
            self._all.turnstile.wait(self._client, self._turn_came)

    def _turn_came(self) -> None:
        if self.transport.is_closing():
            return
        self._read = self._read_head
        self._next_request()
        if self._read == self._read_head:  # its head is not whole yet
            self._has_turn = True
            if self._ended:
                self.transport.close()
        self.transport.resume_reading()

    def _may_listen(self) -> None:
        if not self.transport.is_closing():
            self._has_turn = True
            self.transport.resume_reading()

    def _next_request(self) -> None:
        try:
            head = self._all.heads.take(self._pending)
        except BitsError as error:
            self._close = True
            self._read = self._read_rest
            self._remaining = 0
            self._respond(respond_to_error(error, address=self._client))
            return
        if head is None:
            return
        self._head = head
        self._remaining = head.length
        self._interruption = None
        self._close = self._close or not head.keep_alive or self._all.draining
        self._read = self._read_ahead
        self.deadline = math.inf
        request = Request(
            head.method, head.target, head.headers, self, self._client, self._scheme, link=self._link
        )
        answering = self._all.loop.create_task(self._serve(request))
        self._all.answering.add(answering)
        answering.add_done_callback(self._all.answering.discard)

    def _read_ahead(self, data: memoryview) -> None:
        """Bytes nobody asked for yet: the beginning of a body, or a pipelined request. No more for now."""
        self._pending += data
        self.transport.pause_reading()

    def _read_body(self, block: memoryview) -> None:
        self._remaining -= len(block)
        self.deadline = monotonic() + self._all.limits.stall_time
        assert self._receiver is not None
        try:
            written = self._receiver.write(block)
        except BitsError as error:
            self._finish_body(error)
            return
        self._all.turnstile.body_moved(thread_time() - self._all.begun)
        if self._pace is not None:
            self._pace.take(len(block))
        if written is not None:
            self._wait_for_disk(asyncio.ensure_future(written))
        elif self._remaining == 0:
            self._finish_body(None)
        elif self._pace is not None:
            self._read_on()

    def _wait_for_disk(self, written: asyncio.Future[None]) -> None:
        """A slow disk has our buffer: go on with another one when it is done, and read nothing until then."""
        lent = self._all.lend_block()
        self._writing = written
        self.deadline = math.inf
        self.transport.pause_reading()
        written.add_done_callback(lambda _: self._all.return_block(lent))
        written.add_done_callback(self._disk_is_done)

    def _disk_is_done(self, written: asyncio.Future[None]) -> None:
        self._writing = None
        error = written.exception()
        if self._done is None or self._done.done():
            return
        if error is not None or self._remaining == 0:
            self._finish_body(error)
        else:
            self._read_on()

    def _read_on(self) -> None:
        """More of the body: the receiver pulls it from the socket where it can, else it is pushed."""
        self._held = None
        if self._pace is not None and (seconds := self._pace.pause()) > 0:
            self._hold(seconds)
            return
        self.deadline = monotonic() + self._all.limits.stall_time
        if self._can_be_pulled(cast("Receiver", self._receiver)):
            self.transport.pause_reading()
            self._all.loop.add_reader(self._pulled, self._pull)
            self._pulling = True
        else:
            self.transport.resume_reading()

    def _hold(self, seconds: float) -> None:
        """Read nothing for so long: the line is slow because we are."""
        self.deadline = math.inf
        self.transport.pause_reading()
        self._held = self._all.loop.call_later(seconds, self._read_on)

    def _stop_holding(self) -> None:
        if self._held is not None:
            self._held.cancel()
            self._held = None

    def _can_be_pulled(self, receiver: Receiver) -> bool:
        """The socket's bytes are the body's, unencrypted. asyncio wants one descriptor for each reader."""
        if self._remaining < _WORTH_PULLING or not receiver.pulls:
            return False
        if self._pulled < 0 and self.transport.get_extra_info("ssl_object") is None:
            with suppress(OSError):
                self._pulled = os.dup(self.transport.get_extra_info("socket").fileno())
        return self._pulled >= 0

    def _pull(self) -> None:
        receiver = cast("Receiver", self._receiver)
        try:
            self._pull_once(receiver)
        except BlockingIOError:
            if receiver.pulls:
                return
        except (BitsError, ConnectionLost) as error:
            self._finish_body(error)
            return
        if self._remaining == 0:
            self._finish_body(None)
        elif receiver.pulls and self._pace is None:
            self.deadline = monotonic() + self._all.limits.stall_time
        else:
            self._stop_pulling()
            self._read_on()

    def _pull_once(self, receiver: Receiver) -> None:
        """Raises BlockingIOError when nothing is there, ConnectionLost, or the BitsError of the disk."""
        begun = thread_time()
        try:
            most = _PULL if self._pace is None else self._most
            moved = receiver.pull(self._pulled, min(self._remaining, most))
        except ConnectionError:
            raise ConnectionLost from None
        except BitsError:
            self._close = True  # how many bytes left the socket is not known
            raise
        if moved == 0:
            self._ended = self._close = True
            raise ConnectionLost
        self._remaining -= moved
        self._all.turnstile.body_moved(thread_time() - begun)
        if self._pace is not None:
            self._pace.take(moved)

    def _stop_pulling(self) -> None:
        if self._pulling:
            self._all.loop.remove_reader(self._pulled)
            self._pulling = False

    def _read_rest(self, data: memoryview) -> None:
        """What follows a refused head or body: thrown away, up to a bound."""
        self._remaining -= len(data)
        if self._close:
            if self._remaining < -self._all.limits.linger_size:
                self.transport.abort()
                return
            if self._head is not None:  # a slow line must hear its answer, too
                self.deadline = monotonic() + self._all.limits.linger_time
        elif self._remaining == 0:
            self._listen()
            return
        if not self._all.turnstile.lets(self._client):
            self.transport.pause_reading()
            self._all.turnstile.wait(self._client, self._read_more)

    def _read_more(self) -> None:
        if self._read == self._read_rest:
            self.transport.resume_reading()

    # The body, as the application sees it

    async def into(self, receiver: Receiver, pace: Pace | None = None) -> None:
        """See Body."""
        if self._remaining == 0:
            return
        if self.transport.is_closing():
            raise ConnectionLost
        head = cast("Head", self._head)
        if head.expects_continue:
            head.expects_continue = False
            self.transport.write(_CONTINUE)
        self._pace, self._most = pace, BLOCK if pace is None else pace.most
        if pace is not None:
            await self._fall_in(pace)
        await self._take_what_is_there(receiver)
        if self._remaining == 0:
            return
        if self._interruption is not None:
            raise self._interruption
        if self._ended or self.transport.is_closing():
            raise ConnectionLost
        self._receiver = receiver
        self._done = self._all.loop.create_future()
        self._read = self._read_body
        try:
            self._read_on()
            await self._done
        finally:
            self._read = self._read_ahead
            self._receiver = self._done = None
            self.deadline = math.inf
            if self._writing is not None:
                await asyncio.wait([self._writing])

    async def _fall_in(self, pace: Pace) -> None:
        """Return when others have paid for what they read, or when the body has to end."""
        if (seconds := pace.pause()) > 0:
            self._done = self._all.loop.create_future()
            self._held = self._all.loop.call_later(seconds, self._finish_body, None)
            try:
                with suppress(BodyInterrupted, ConnectionLost):  # what is there is taken all the same
                    await self._done
            finally:
                self._stop_holding()
                self._done = None

    async def _take_what_is_there(self, receiver: Receiver) -> None:
        """What came with the head or right behind it needs no waiting, and no word with the event loop."""
        while self._pending and self._remaining:
            early = bytes(memoryview(self._pending)[: self._remaining])
            del self._pending[: len(early)]
            self._remaining -= len(early)
            if self._pace is not None:
                self._pace.take(len(early))
            written = receiver.write(memoryview(early))
            if written is not None:
                await written
        if self._interruption is None and self._pace is None and self._can_be_pulled(receiver):
            with suppress(BlockingIOError):
                self._pull_once(receiver)

    def stop(self) -> None:
        """See Body."""
        self._interrupt("a newer request of this upload took over")

    def _interrupt(self, why: str) -> None:
        self._interruption = BodyInterrupted(why)
        self._finish_body(self._interruption)

    def _lose_body(self) -> None:
        self._finish_body(ConnectionLost())

    def _finish_body(self, error: BaseException | None) -> None:
        if self._done is None or self._done.done():
            return
        self._stop_pulling()
        self._stop_holding()
        self._read = self._read_ahead
        if error is None:
            self._done.set_result(None)
        else:
            self.transport.pause_reading()
            self._done.set_exception(error)

    # The answer

    async def _serve(self, request: Request) -> None:
        try:
            response = await self._all.application(request)
        except ConnectionLost:
            self.transport.close()
            return
        if response.body is None:
            self._respond(response)
        else:
            await self._give_out(response, response.body)

    def _respond(self, response: Response) -> None:
        """Send an answer without a body, then go on with what the connection has next."""
        if self.transport.is_closing():
            return
        limits, head = self._all.limits, self._head
        self._has_turn = response.status == 200 and head is not None and head.length >= _BROUGHT
        most = limits.linger_size if response.goes_on else limits.drain_size
        unsent = head is not None and head.expects_continue
        if unsent and response.goes_on and 0 < self._remaining <= most:
            # The client may only go on with the handshake on this connection, so its body has to come.
            self.transport.write(_CONTINUE)
            unsent = False
        refused = self._remaining > 0 and (self._remaining > most or unsent)
        if refused or self._all.draining:
            # RFC 9110 10.1.1: whoever expected a 100 may send the body or not; nobody can tell them apart.
            self._close = True
        self.transport.write(self._spell(response))
        if not self._close:
            self._after_answer()
        elif not self._ended and (
            self._remaining > 0
            or self._read == self._read_rest
            or (self._head is not None and self._head.endless)
        ):
            self._linger()
        else:
            self.deadline = monotonic() + self._all.limits.stall_time
            self.transport.close()

    def _after_answer(self) -> None:
        self._head = None
        if self._remaining > 0:
            taken = min(self._remaining, len(self._pending))
            del self._pending[:taken]
            self._remaining -= taken
        if self._remaining > 0 and not self._ended:
            self._read = self._read_rest
            self.deadline = monotonic() + self._all.limits.stall_time
            self.transport.resume_reading()
        else:
            self._listen()

    def _listen(self) -> None:
        """The connection is free for the next request, which may be here already."""
        if self._blocked:
            self._read = self._read_ahead
            self.deadline = monotonic() + self._all.limits.stall_time
            return
        self._read = self._read_head
        if self._pending:
            self.deadline = monotonic() + self._all.limits.head_time
            self._take_turn()
            if self._read != self._read_head:
                return
        else:
            self.deadline = monotonic() + self._all.limits.idle_time
        if self._ended:
            self.transport.close()
        elif self._has_turn or self._all.turnstile.lets(self._client):
            self._has_turn = True
            self.transport.resume_reading()
        else:  # even to hear what each of thousands wants would take all the time there is
            self.transport.pause_reading()
            self._all.turnstile.wait(self._client, self._may_listen)

    def _linger(self) -> None:
        """Half-close, and read on a little, so that the client sees the answer and not a reset."""
        self._read = self._read_rest
        self._remaining = 0
        self._pending.clear()
        self.deadline = monotonic() + self._all.limits.linger_time
        if self.transport.can_write_eof():
            with suppress(OSError):  # the line broke already; reading will tell
                self.transport.write_eof()
        self.transport.resume_reading()

    def _spell(self, response: Response) -> bytes:
        lines = [f"HTTP/1.1 {response.status} {_REASONS.get(response.status, 'Error')}\r\n", self._all.date]
        lines += [f"{name}: {value}\r\n" for name, value in response.headers]
        if self._close:
            lines.append("Connection: close\r\n")
        elif self._head is not None and self._head.old:
            lines.append("Connection: keep-alive\r\n")
        lines.append("\r\n")
        return "".join(lines).encode("latin-1", "replace")

    async def _give_out(self, response: Response, body: FileBody) -> None:
        """Send a file behind the head; a client that stops reading is let go after the stall time."""
        try:
            self._close = self._close or self._remaining > 0
            self.transport.write(self._spell(response))
            with os.fdopen(body.descriptor, "rb") as file:
                for piece in body.pieces:
                    if self.transport.is_closing():
                        return
                    if isinstance(piece, bytes):
                        self.transport.write(piece)
                    else:
                        await self._send_file(file, piece)
        except (TimeoutError, ConnectionLost, BitsError, OSError, RuntimeError):
            self.transport.abort()
            return
        if self._close:
            self.deadline = monotonic() + self._all.limits.stall_time
            self.transport.close()
        elif not self.transport.is_closing():
            self._after_answer()

    async def _send_file(self, file: BinaryIO, piece: range) -> None:
        """Raises ConnectionLost when the file became shorter under our hands."""
        while piece and not self.transport.is_closing():
            async with asyncio.timeout(self._all.limits.stall_time):
                sent = await self._send_some(file, piece)
            if sent == 0:
                raise ConnectionLost
            piece = piece[sent:]

    async def _send_some(self, file: BinaryIO, piece: range) -> int:
        """The system sends a file; what is encrypted passes through our hands."""
        if self._scheme == "http":
            return await self._all.loop.sendfile(
                self.transport, file, piece.start, min(len(piece), _SENDFILE)
            )
        data = await in_thread(os.pread, file.fileno(), min(len(piece), BLOCK), piece.start)
        self.transport.write(data)
        if self._blocked:
            self._caught_up = self._all.loop.create_future()
            await self._caught_up
        return len(data)

    # Whoever keeps all connections calls these

    @property
    def is_busy(self) -> bool:
        """A request is being answered."""
        return self._read in (self._read_ahead, self._read_body)

    @property
    def waits_since(self) -> float:
        """When it began to wait for a request, in monotonic seconds; infinite while there is one."""
        if self._read != self._read_head:
            return math.inf
        limits = self._all.limits
        return self.deadline - (limits.head_time if self._pending else limits.idle_time)

    def expire(self) -> None:
        """The deadline is over."""
        if self._done is not None:
            self._lose_body()
        self.transport.abort()  # a close would wait for a client that does not read, for ever

    def wind_up(self) -> None:
        """The server ends: close what is idle, let what runs finish."""
        self._close = True
        if not self.is_busy and self._read != self._read_rest:
            self.transport.close()

    def cut(self) -> None:
        """The server's patience is over: end a running body at a block's edge, keeping its bytes."""
        self._interrupt("the server is being stopped")

    def drop(self) -> None:
        """No more words."""
        self.transport.abort()


def _peer(transport: asyncio.BaseTransport) -> str:
    """The address of whoever opened the connection; empty for a Unix socket, which may be one we trust.

    So nobody else may pass for one: on some systems a line that broke at once has lost its address.
    """
    peer = transport.get_extra_info("peername")
    if isinstance(peer, tuple):
        return str(peer[0])
    line = transport.get_extra_info("socket")
    return "" if line is None or line.family == getattr(socket, "AF_UNIX", None) else "?"
