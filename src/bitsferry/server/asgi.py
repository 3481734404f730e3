"""The same application inside somebody else's ASGI server, alone or mounted in a larger application."""

from __future__ import annotations

import asyncio
import math
import os
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from bitsferry.access.fronts import Fronts
from bitsferry.protocol.errors import BitsError
from bitsferry.protocol.wire import VALUE_LIMIT
from bitsferry.server.app import Application, respond_to_error
from bitsferry.server.callable_backend import Function
from bitsferry.server.directory import Directory
from bitsferry.server.janitor import Janitor
from bitsferry.server.plan import Plan
from bitsferry.server.request import Body, BodyInterrupted, ConnectionLost, FileBody, Pace, Request, Response
from bitsferry.server.service import Service
from bitsferry.store.base import Receiver
from bitsferry.store.local import Durability
from bitsferry.store.threads import in_thread, settled

__all__ = ["AsgiApp", "Directory"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

F = TypeVar("F", bound=Function)

_STALL_TIME = 120.0  # seconds without a byte of a body after which its client counts as gone
_GRACE = 0.25  # seconds in which a body that has to end may still bring what had arrived before
_BEARABLE = 16 * 1024 * 1024  # bytes of a refused body read to its end: more than a Windows fragment
_BLOCK = 256 * 1024  # bytes of a file given out at once
_LENGTH = re.compile(r"[0-9]{1,20}")


class AsgiApp:
    """An ASGI 3 application that receives uploads into `directories`; it needs asyncio.

    `store` is where unfinished uploads live; it may be left out for a single directory, whose folder then
    holds it, hidden. `shared`: several processes serve the same store. Nothing is touched before the first
    request or the lifespan's start, so that a server may import the application in one process and run it in
    others. `trusted_proxies` are addresses and networks of proxies that say in X-Forwarded-For who asks, and
    "unix" for a server that names no client's address. Raises ValueError for what cannot be meant.
    """

    def __init__(
        self,
        *directories: Directory,
        store: str | None = None,
        durability: Durability = "power",
        shared: bool = False,
        method_override: bool = True,
        header_value_limit: int = VALUE_LIMIT,
        trusted_proxies: Iterable[str] = (),
    ) -> None:
        self._plan = Plan(directories, store, durability, shared=shared)
        self._method_override = method_override
        self._header_value_limit = header_value_limit
        self._fronts = Fronts.of(trusted_proxies)
        self._application: Application | None = None
        self._tidying: asyncio.Task[None] | None = None
        self._answering: dict[asyncio.Task[Response], _MessageBody] = {}

    def on_upload(self, url: str = "/", *, keep: bool = True, at_once: int = 32) -> Callable[[F], F]:
        """As `Server.on_upload`; RuntimeError comes once a request or the lifespan opened the store."""
        return self._plan.on_upload(url, keep=keep, at_once=at_once)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve what ASGI calls a connection: a request, a lifespan, or a websocket, which is refused."""
        match scope["type"]:
            case "http":
                await self._serve(scope, receive, send)
            case "lifespan":
                await self._live(receive, send)
            case "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1000})
            case other:
                raise ValueError(f"Bitsferry answers HTTP, not {other!r}")

    # A life, from start to stop

    def start(self) -> None:
        """Open the store and begin to tidy up; the first request does it where nobody else did.

        Does nothing a second time. Raises StoreFailed, or ValueError for a kind of store there is none of.
        """
        if self._application is None:
            self._application = self._open()
        if self._tidying is None or self._tidying.done():
            self._application.service.webhooks.start()
            janitor = Janitor(self._application.service)
            self._tidying = asyncio.get_running_loop().create_task(janitor.run())

    async def stop(self) -> None:
        """End what still runs at a block's edge, keeping its bytes; then let go of the store."""
        for body in self._answering.values():
            body.end(BodyInterrupted("the server is being stopped"))
        if self._application is not None:
            self._application.service.hashing.end()
            await self._application.service.notifications.stop()
        while self._answering:
            await asyncio.wait(self._answering)
        if self._tidying is not None and not self._tidying.done():
            self._tidying.cancel()
            await asyncio.wait([self._tidying])
        if self._application is not None:
            await self._application.service.hashing.stop()
            await self._application.service.webhooks.stop()
            self._plan.close(self._application.service.store)
            self._application = None

    def _open(self) -> Application:
        store, directories = self._plan.open()
        return Application(
            Service(store, directories, shared=self._plan.shared),
            method_override=self._method_override,
            header_value_limit=self._header_value_limit,
            fronts=self._fronts,
        )

    async def _live(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] == "lifespan.startup":
            try:
                self.start()
            except (BitsError, ValueError) as error:
                reason = error.message if isinstance(error, BitsError) else str(error)
                await send({"type": "lifespan.startup.failed", "message": f"bitsferry: {reason}"})
                return
            await send({"type": "lifespan.startup.complete"})
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    # A request, from its head to the answer

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope["headers"])
        body = _MessageBody(receive, headers)
        client = scope.get("client")
        request = Request(
            scope["method"],
            _target(scope),
            headers,
            body,
            client[0] if client else "",
            scope.get("scheme", "http"),
            quote(scope.get("root_path", "").rstrip("/")),
        )
        with suppress(ConnectionLost, OSError):  # nobody is left to answer
            response = await self._answer(request, body)
            if response.body is not None:
                await _give_out(receive, send, response, response.body)
            elif body.unread:
                await _refuse(send, response, body)
            else:
                await _respond(send, response)

    async def _answer(self, request: Request, body: _MessageBody) -> Response:
        """What the application answers, in a task of its own, which nobody cancels.

        A server that cancels a request ends its body, as a broken line does, and waits until the application
        has made sure of the bytes: behind our own front it is never cancelled half-way either.
        """
        try:
            self.start()
        except BitsError as error:
            return respond_to_error(error, request)
        assert self._application is not None
        answering = asyncio.get_running_loop().create_task(self._application(request))
        self._answering[answering] = body
        answering.add_done_callback(self._answering.pop)
        try:
            await asyncio.wait([answering])
        except asyncio.CancelledError:
            body.end(ConnectionLost())
            with suppress(asyncio.CancelledError, ConnectionLost):
                await settled(answering)
            _let_go(answering)
            raise
        return answering.result()


def _let_go(answering: asyncio.Task[Response]) -> None:
    """Nobody hears this answer any more: close the file it may have."""
    if not answering.cancelled() and answering.exception() is None:
        file = answering.result().body
        if file is not None:
            os.close(file.descriptor)


# What a scope says


def _headers(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in pairs:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _target(scope: Scope) -> str:
    """The target as it stood on the wire, without the prefix under which the application is mounted.

    `root_path` is that prefix. `raw_path` is what the client said, except behind a proxy that cut the prefix
    off. `path` is decoded, and has the prefix or not: Starlette, for one, changed its mind about it.
    """
    raw: bytes | None = scope.get("raw_path")
    path = raw.decode("latin-1").partition("?")[0] if raw else quote(scope["path"])
    prefix = scope.get("root_path", "").rstrip("/")
    if prefix:
        parts = path.split("/")
        depth = prefix.count("/") + 1
        if len(parts) > depth and unquote("/".join(parts[:depth])) == prefix:
            path = "/" + "/".join(parts[depth:])
    query: bytes = scope.get("query_string", b"")
    return f"{path}?{query.decode('latin-1')}" if query else path


# The body, message by message


class _MessageBody(Body):
    """A body that comes in ASGI's messages; `unread` bytes of it nobody took yet."""

    __slots__ = (
        "__weakref__",
        "_deadline",
        "_end",
        "_held",
        "_on_its_way",
        "_patience",
        "_receive",
        "unread",
    )

    def __init__(self, receive: Receive, headers: dict[str, str]) -> None:
        length = headers.get("content-length", "")
        self.unread = int(length) if _LENGTH.fullmatch(length) else 0
        self._receive = receive
        self._on_its_way = "expect" not in headers  # else it comes when we ask for it
        self._patience: asyncio.Timeout | None = None  # somebody waits for a message
        self._held: asyncio.Event | None = None  # nothing is read for a while
        self._end: Exception | None = None  # why the body ends before its last byte,
        self._deadline = math.inf  # and when

    async def into(self, receiver: Receiver, pace: Pace | None = None) -> None:
        """See Body."""
        while self.unread > 0:
            if pace is not None and self._end is None and (seconds := pace.pause()) > 0:
                await self._hold(seconds)
            message = await self._next()
            if message["type"] == "http.disconnect":
                raise ConnectionLost
            block = memoryview(message.get("body", b""))[: self.unread]
            self.unread -= len(block)
            if block and (written := receiver.write(block)) is not None:
                await settled(asyncio.ensure_future(written))
            if pace is not None:
                pace.take(len(block))
            if self.unread > 0 and not message.get("more_body", False):
                missing, self.unread = self.unread, 0
                raise BodyInterrupted(f"the body ended {missing} bytes early")

    async def _next(self) -> Message:
        now = asyncio.get_running_loop().time()
        if self._end is not None and now >= self._deadline:
            raise self._end
        try:
            async with asyncio.timeout_at(min(self._deadline, now + _STALL_TIME)) as self._patience:
                return await self._receive()
        except TimeoutError:
            self._end = self._end or BodyInterrupted("no byte of the body came any more")
            raise self._end from None
        finally:
            self._patience = None

    async def _hold(self, seconds: float) -> None:
        """Read nothing for so long, or until the body has to end."""
        self._held = asyncio.Event()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._held.wait()
        self._held = None

    def stop(self) -> None:
        """See Body."""
        self.end(BodyInterrupted("a newer request of this upload took over"))

    def end(self, reason: Exception) -> None:
        """Have `into` raise `reason` at a block's edge, after a moment for what the server holds already.

        That a line broke is often seen first by a newer request, which wants the session. The bytes of the
        older one have arrived, wait in the server behind us, and count.
        """
        if self._end is None:
            self._end = reason
            self._deadline = asyncio.get_running_loop().time() + _GRACE
            if self._held is not None:
                self._held.set()
            if self._patience is not None and not self._patience.expired():
                self._patience.reschedule(self._deadline)

    @property
    def is_bearable(self) -> bool:
        """The rest is on its way, and little enough to wait for."""
        return self._on_its_way and self._end is None and self.unread <= _BEARABLE

    async def throw_away(self) -> None:
        """Read the rest for nobody."""
        self._end, self._deadline = None, math.inf
        with suppress(ConnectionLost, BodyInterrupted):
            await self.into(_Nowhere())


class _Nowhere(Receiver):
    def write(self, block: memoryview) -> None:
        pass


# The answer


async def _respond(send: Send, response: Response) -> None:
    await _send_head(send, response)
    await send({"type": "http.response.body"})


async def _refuse(send: Send, response: Response, body: _MessageBody) -> None:
    """Answer in front of a body nobody wants.

    One no larger than a fragment is read to its end first: then the client sees the answer, under every
    server, and not a reset, and its connection stays usable. A larger one is answered at once, as is one
    whose client waits for a 100 Continue. In any case somebody reads: Hypercorn would never finish sending
    the answer while the messages of the body pile up.
    """
    reading = asyncio.get_running_loop().create_task(body.throw_away())
    try:
        if body.is_bearable:
            await asyncio.wait([reading])
        await _respond(send, response)
    finally:
        reading.cancel()


async def _give_out(receive: Receive, send: Send, response: Response, body: FileBody) -> None:
    """Send a file behind the head, for as long as somebody listens.

    Raises ConnectionLost when the client went, or when the file became shorter under our hands.
    """
    with os.fdopen(body.descriptor, "rb", buffering=0) as file:
        listening = asyncio.get_running_loop().create_task(_hang_up(receive))
        try:
            await _send_head(send, response)
            for piece in body.pieces:
                rest = piece
                while rest:
                    block = rest if isinstance(rest, bytes) else await _read(file.fileno(), rest)
                    if not block or listening.done():
                        raise ConnectionLost
                    rest = rest[len(block) :]
                    await send({"type": "http.response.body", "body": block, "more_body": True})
            await send({"type": "http.response.body"})
        finally:
            listening.cancel()


async def _read(descriptor: int, piece: range) -> bytes:
    return await in_thread(os.pread, descriptor, min(_BLOCK, len(piece)), piece.start)


async def _hang_up(receive: Receive) -> None:
    """Return when the client is gone: some servers say it here only, and let us send on to nobody."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_head(send: Send, response: Response) -> None:
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in response.headers
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
