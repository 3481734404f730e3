"""The same application inside somebody else's ASGI server, alone or mounted in a larger application."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote, unquote

from bitsferry.protocol.errors import BitsError
from bitsferry.protocol.wire import VALUE_LIMIT
from bitsferry.server.app import Application, respond_to_error
from bitsferry.server.directory import Directories, Directory
from bitsferry.server.janitor import Janitor
from bitsferry.server.request import Body, BodyInterrupted, ConnectionLost, FileBody, Request, Response
from bitsferry.server.service import Service
from bitsferry.store.base import Receiver
from bitsferry.store.folder import OWN_PREFIX
from bitsferry.store.local import Durability
from bitsferry.store.location import open_store
from bitsferry.store.threads import error_of_os, in_thread, settled

__all__ = ["AsgiApp", "Directory"]

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_BLOCK = 256 * 1024  # bytes of a file given out at once
_STALL_TIME = 120.0  # seconds without a byte of a body after which its client counts as gone
_LENGTH = re.compile(r"[0-9]{1,20}")


class AsgiApp:
    """An ASGI 3 application that receives uploads into `directories`.

    `store` is where unfinished uploads live; it may be left out for a single directory, whose folder then
    holds it, hidden. `shared`: several processes serve the same store. Nothing is touched before the first
    request or the lifespan's start, so that a server may import the application in one process and run it in
    others. Raises ValueError for directories or a store that cannot be meant.
    """

    def __init__(
        self,
        *directories: Directory,
        store: str | None = None,
        durability: Durability = "power",
        shared: bool = False,
        method_override: bool = True,
        header_value_limit: int = VALUE_LIMIT,
    ) -> None:
        self._directories = directories
        self._location = store or _hidden_store(directories)
        self._durability = durability
        self._shared = shared
        self._method_override = method_override
        self._header_value_limit = header_value_limit
        self._application: Application | None = None
        self._tidying: asyncio.Task[None] | None = None
        self._stories: dict[asyncio.Task[Response], _MessageBody] = {}
        for directory in directories:
            if not (directory.url.startswith("/") and directory.url.endswith("/")):
                raise ValueError(
                    f"a url begins and ends in '/', such as '/in/'; this one is {directory.url!r}"
                )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection as ASGI means the word: a request, a lifespan, or a websocket to refuse."""
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

        Does nothing a second time. Raises StoreFailed.
        """
        if self._application is None:
            self._application = self._open()
        if self._tidying is None or self._tidying.done():
            janitor = Janitor(self._application.service)
            self._tidying = asyncio.get_running_loop().create_task(janitor.run())

    async def stop(self) -> None:
        """End what still runs at a block's edge, keeping its bytes; then let go of the store."""
        for body in self._stories.values():
            body.end(BodyInterrupted("the server is being stopped"))
        if self._stories:
            await asyncio.wait(self._stories)
        if self._tidying is not None:
            self._tidying.cancel()
            await asyncio.wait([self._tidying])
            self._tidying = None
        if self._application is not None:
            self._application.service.store.close()
            self._application = None

    def _open(self) -> Application:
        try:
            for directory in self._directories:
                os.makedirs(directory.folder, exist_ok=True)
        except OSError as error:
            raise error_of_os(error) from error
        store = open_store(self._location, self._durability, shared=self._shared)
        return Application(
            Service(store, Directories(self._directories), shared=self._shared),
            method_override=self._method_override,
            header_value_limit=self._header_value_limit,
        )

    async def _live(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] == "lifespan.startup":
            try:
                self.start()
            except BitsError as error:
                await send({"type": "lifespan.startup.failed", "message": f"bitsferry: {error.message}"})
                return
            await send({"type": "lifespan.startup.complete"})
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    # A request, from head to answer

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope["headers"])
        body = _MessageBody(receive, headers)
        client = scope.get("client")
        request = Request(scope["method"], _target(scope), headers, body, client[0] if client else "")
        with suppress(ConnectionLost, OSError):  # nobody is left to answer
            response = await self._answer(request, body)
            if response.body is None:
                await _send_head(send, response)
                await send({"type": "http.response.body"})
            else:
                await _give_out(receive, send, response, response.body)

    async def _answer(self, request: Request, body: _MessageBody) -> Response:
        """What the application answers, in a task of its own, which nobody cancels.

        A server that cancels the request ends the body as a broken line does, and waits until the application
        has made sure of its bytes: behind our own front it is not cancelled half-way either.
        """
        try:
            self.start()
        except BitsError as error:
            return respond_to_error(error, request)
        assert self._application is not None
        story = asyncio.get_running_loop().create_task(_whole(self._application(request)))
        self._stories[story] = body
        story.add_done_callback(self._stories.pop)
        try:
            await asyncio.wait([story])
        except asyncio.CancelledError:
            body.end(ConnectionLost())
            with suppress(asyncio.CancelledError, ConnectionLost):
                await settled(story)
            _let_go(story)
            raise
        return story.result()


async def _whole(answer: Awaitable[Response]) -> Response:
    return await answer


def _let_go(story: asyncio.Task[Response]) -> None:
    """Nobody hears this answer any more: close the file it may have."""
    if not story.cancelled() and story.exception() is None and (file := story.result().body) is not None:
        os.close(file.descriptor)


def _hidden_store(directories: tuple[Directory, ...]) -> str:
    if len(directories) != 1:
        raise ValueError("name at least one directory, and with several the store they share")
    return "file:" + os.path.join(os.path.abspath(directories[0].folder), OWN_PREFIX)


# What a scope says


def _headers(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in pairs:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _target(scope: Scope) -> str:
    """The target as it stood on the wire, without the prefix under which the application is mounted.

    A mount's prefix stands in `root_path`. Whether `path` has it too depends on who mounts (Starlette changed
    its mind in 0.33), and `path` is decoded; `raw_path` is what the client said, prefix included, except
    behind a proxy that took it away.
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
    """A body that comes in ASGI's messages."""

    __slots__ = ("_end", "_patience", "_receive", "_remaining")

    def __init__(self, receive: Receive, headers: dict[str, str]) -> None:
        length = headers.get("content-length", "")
        self._receive = receive
        self._remaining = int(length) if _LENGTH.fullmatch(length) else 0
        self._patience: asyncio.Timeout | None = None  # somebody waits for a message
        self._end: Exception | None = None  # why the body ends before its last byte

    async def into(self, receiver: Receiver) -> None:
        """See Body."""
        while self._remaining > 0:
            message = await self._next()
            if message["type"] == "http.disconnect":
                raise ConnectionLost
            block = memoryview(message.get("body", b""))[: self._remaining]
            self._remaining -= len(block)
            if block and (written := receiver.write(block)) is not None:
                await settled(asyncio.ensure_future(written))
            if self._remaining > 0 and not message.get("more_body", False):
                raise BodyInterrupted(f"the body ended {self._remaining} bytes early")

    def stop(self) -> None:
        """See Body."""
        self.end(BodyInterrupted("a newer request of this upload took over"))

    def end(self, reason: Exception) -> None:
        """Have `into` raise `reason` at the next block's edge, which is now when it waits for a block."""
        if self._end is None:
            self._end = reason
            if self._patience is not None and not self._patience.expired():
                self._patience.reschedule(0)

    async def _next(self) -> Message:
        if self._end is not None:
            raise self._end
        try:
            async with asyncio.timeout(_STALL_TIME) as self._patience:
                return await self._receive()
        except TimeoutError:
            raise self._end or BodyInterrupted("no byte of the body came any more") from None
        finally:
            self._patience = None


# The answer


async def _send_head(send: Send, response: Response) -> None:
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in response.headers
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})


async def _give_out(receive: Receive, send: Send, response: Response, body: FileBody) -> None:
    """Send a file behind the head, for as long as somebody listens.

    Raises ConnectionLost when the client went, or when the file became shorter under our hands.
    """
    with os.fdopen(body.descriptor, "rb", buffering=0) as file:
        gone = asyncio.get_running_loop().create_task(_hang_up(receive))
        try:
            await _send_head(send, response)
            while body.length > 0:
                block = await in_thread(os.pread, file.fileno(), min(_BLOCK, body.length), body.offset)
                if not block or gone.done():
                    raise ConnectionLost
                body.offset += len(block)
                body.length -= len(block)
                await send({"type": "http.response.body", "body": block, "more_body": True})
            await send({"type": "http.response.body"})
        finally:
            gone.cancel()


async def _hang_up(receive: Receive) -> None:
    """Return when the client is gone; some servers tell it here only, and let us go on sending to nobody."""
    while (await receive())["type"] != "http.disconnect":
        pass
