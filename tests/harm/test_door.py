"""Who wants in waits for a turn like everybody else, and a machine without room says so once and goes on."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from bitsferry.server import door
from bitsferry.server.door import Door
from bitsferry.server.turnstile import Turnstile


class Guest(asyncio.Protocol):
    """Somebody who came in."""

    came = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Guest.came += 1
        transport.close()


def story(tell: Callable[[Door, socket.socket, Turnstile], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        Guest.came = 0
        turnstile = Turnstile()
        turnstile.loop = asyncio.get_running_loop()
        listening = socket.create_server(("127.0.0.1", 0))
        there = Door(listening, Guest, turnstile)
        there.open()
        try:
            await tell(there, listening, turnstile)
        finally:
            there.close()

    asyncio.run(told())


async def eventually(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0.01)


def knock(listening: socket.socket, count: int) -> None:
    for _ in range(count):
        socket.create_connection(listening.getsockname()).close()


def test_everybody_comes_in_a_few_at_a_time() -> None:
    async def tell(there: Door, listening: socket.socket, turnstile: Turnstile) -> None:
        knock(listening, 50)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert Guest.came <= 8
        await eventually(lambda: Guest.came == 50)

    story(tell)


def test_a_crowd_inside_goes_on_in_turns_with_those_at_the_door() -> None:
    async def tell(there: Door, listening: socket.socket, turnstile: Turnstile) -> None:
        went = 0

        def ask() -> None:
            nonlocal went
            went += 1
            turnstile.wait("203.0.113.9", ask)

        for _ in range(100):
            turnstile.wait("203.0.113.9", ask)
        knock(listening, 20)
        await eventually(lambda: Guest.came == 20)
        assert went

    story(tell)


def test_a_system_without_room_is_told_once_and_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(door, "_PAUSE", 0.05)

    async def tell(there: Door, listening: socket.socket, turnstile: Turnstile) -> None:
        class Full:
            """The listening socket of a process that has no descriptor left."""

            def __init__(self) -> None:
                self.tries = 0

            def fileno(self) -> int:
                return listening.fileno()

            def accept(self) -> tuple[socket.socket, Any]:
                self.tries += 1
                if self.tries <= 2:
                    raise OSError(errno.EMFILE, "Too many open files")
                return listening.accept()

            def close(self) -> None:
                listening.close()

        monkeypatch.setattr(there, "_socket", Full())
        knock(listening, 3)
        await eventually(lambda: Guest.came == 3)
        assert caplog.text.count("Too many open files") == 2

    story(tell)


def test_behind_a_closed_door_nobody_waits() -> None:
    async def tell(there: Door, listening: socket.socket, turnstile: Turnstile) -> None:
        address = listening.getsockname()
        there.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)

    story(tell)
