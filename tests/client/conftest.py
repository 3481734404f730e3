"""A hostile server, a file to send, and a clock that needs no sleep."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bitsferry.client import events
from bitsferry.client.destination import Destination
from bitsferry.client.local_file import LocalFile
from bitsferry.client.pace import Limit
from bitsferry.client.patience import Patience
from bitsferry.client.places import Places
from bitsferry.client.transfer import Transfer
from bitsferry.client.transport import Credentials, Transport

from .hostile import HostileServer

MIB = 1024 * 1024
_RANDOM = os.urandom(8 * MIB)


def content(length: int) -> bytes:
    """Bytes that are nowhere like their neighbours, and never the same twice."""
    return (os.urandom(16) + _RANDOM)[:length]


class Clock:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


@dataclass
class Sender:
    """Sends one file, as often as a test wants."""

    server: HostileServer
    path: Path
    places: Places
    clock: Clock = field(default_factory=Clock)
    told: list[events.Event] = field(default_factory=list)

    def run(
        self,
        *,
        url: str | None = None,
        user: str | None = None,
        password: str = "",
        limit: Limit | None = None,
        patience: float = 300.0,
        tell: Callable[[events.Event], None] = lambda event: None,
        override_method: bool = False,
        transport: Transport | None = None,
    ) -> None:
        """One run, from opening the file to the end."""

        def listen(event: events.Event) -> None:
            self.told.append(event)
            tell(event)

        credentials = Credentials(user, password) if user else None
        transport = transport or Transport(
            Destination.parse(url or self.server.url(), self.path.name),
            credentials=credentials,
            override_method=override_method,
        )
        try:
            with (
                LocalFile(str(self.path)) as file,
                self.places.take(file.path, str(transport.destination)) as place,
            ):
                Transfer(
                    file,
                    transport,
                    place,
                    user=user,
                    limit=limit,
                    patience=Patience(patience, chance=lambda: 0.5),
                    tell=listen,
                    clock=self.clock,
                    sleep=self.clock.sleep,
                ).run()
        finally:
            transport.close()

    @property
    def retries(self) -> list[events.Retry]:
        return [event for event in self.told if isinstance(event, events.Retry)]

    @property
    def arrived(self) -> bool:
        """Whether the server has the file, byte for byte."""
        return self.server.files.get("/in/file.bin") == self.path.read_bytes()


@pytest.fixture
def server() -> Iterator[HostileServer]:
    server = HostileServer()
    yield server
    server.close()


@pytest.fixture
def sender(server: HostileServer, tmp_path: Path) -> Sender:
    path = tmp_path / "file.bin"
    path.write_bytes(content(5 * MIB + 17))
    return Sender(server, path, Places(str(tmp_path / "sends")))
