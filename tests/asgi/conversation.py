"""The other side of an ASGI application, played in memory: what a server receives for it and sends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

from bitsferry.protocol import wire
from bitsferry.protocol.packets import Ack, Packet
from bitsferry.server.asgi import AsgiApp

Message = MutableMapping[str, Any]
PATIENCE = 5.0  # seconds until a test gives up waiting
LOST: Message = {"type": "http.disconnect"}


def block(data: bytes, *, more: bool = True) -> Message:
    """A piece of a body."""
    return {"type": "http.request", "body": data, "more_body": more}


@dataclass
class Exchange:
    """One request to `app`: what comes in is said with `bring`, what went out is in `sent`."""

    app: Any
    target: str = "/in/file"
    method: str = wire.METHOD
    headers: list[tuple[str, str]] = field(default_factory=list)
    scope: dict[str, Any] = field(default_factory=dict)
    sent: list[Message] = field(default_factory=list)
    asked: int = 0  # how often the application wanted a message
    deaf: bool = False  # sending fails: the client is gone

    def __post_init__(self) -> None:
        self._coming: asyncio.Queue[Message] = asyncio.Queue()
        self.waits = asyncio.Event()  # the application wants a message and none is there

    def bring(self, *messages: Message) -> None:
        for message in messages:
            self._coming.put_nowait(message)
        self.waits.clear()

    async def receive(self) -> Message:
        self.asked += 1
        if self._coming.empty():
            self.waits.set()
        return await self._coming.get()

    async def send(self, message: Message) -> None:
        await asyncio.sleep(0)
        if self.deaf:
            raise OSError("the client is gone")
        self.sent.append(message)

    async def run(self) -> None:
        """The whole exchange; answers are waited for, not for long."""
        raw, _, query = self.target.partition("?")
        whole = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": raw,
            "raw_path": raw.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in self.headers],
            "client": ("192.0.2.1", 4711),
            "server": ("127.0.0.1", 80),
        } | self.scope
        scope = {name: value for name, value in whole.items() if value is not None}
        async with asyncio.timeout(PATIENCE):
            await self.app(scope, self.receive, self.send)

    def go(self) -> asyncio.Task[None]:
        """The same, in the background."""
        return asyncio.get_running_loop().create_task(self.run())

    @property
    def status(self) -> int:
        assert self.sent[0]["type"] == "http.response.start"
        return int(self.sent[0]["status"])

    @property
    def told(self) -> dict[str, str]:
        """The headers of the answer, which have lower-case names."""
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def ack(self) -> Ack:
        return wire.read_ack(self.status, self.told)

    @property
    def body(self) -> bytes:
        """The whole body of the answer."""
        assert not self.sent[-1].get("more_body", False)
        return b"".join(message.get("body", b"") for message in self.sent[1:])


def speaking(app: Any, packet: Packet, target: str = "/in/file", **scope: Any) -> Exchange:
    """An exchange about a packet, whose body has still to be brought."""
    return Exchange(app, target, headers=wire.write_packet(packet), scope=scope)


async def say(app: Any, packet: Packet, target: str = "/in/file", body: bytes = b"", **scope: Any) -> Ack:
    """Say a packet with all of its body; the Ack."""
    exchange = speaking(app, packet, target, **scope)
    exchange.bring(block(body, more=False))
    await exchange.run()
    assert exchange.told["content-length"] == "0"
    assert exchange.body == b""
    return exchange.ack


class Life:
    """The lifespan of an application: `async with` it, or look at what it says to `start`."""

    def __init__(self, app: AsgiApp) -> None:
        self._exchange = Exchange(app, scope={"type": "lifespan"})

    async def start(self) -> Message:
        self._task = self._exchange.go()
        return await self._ask("lifespan.startup")

    async def stop(self) -> Message:
        said = await self._ask("lifespan.shutdown")
        await self._task
        return said

    async def _ask(self, what: str) -> Message:
        said = len(self._exchange.sent)
        self._exchange.bring({"type": what})
        async with asyncio.timeout(PATIENCE):
            while len(self._exchange.sent) == said:
                await asyncio.sleep(0.001)
        return self._exchange.sent[-1]

    async def __aenter__(self) -> None:
        assert (await self.start())["type"] == "lifespan.startup.complete"

    async def __aexit__(self, *error: object) -> None:
        assert (await self.stop())["type"] == "lifespan.shutdown.complete"


def open_files(path: object) -> int:
    """How many descriptors of this process are open on `path`."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}") == str(path)
        except OSError:
            continue
    return count
