"""A hostile server, a file to send, and a clock that needs no sleep."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bitsferry.client import events
from bitsferry.client.agent import UserAgent
from bitsferry.client.bandwidth import Limit
from bitsferry.client.credentials import Credential, Scheme, Target
from bitsferry.client.destination import Destination
from bitsferry.client.local_file import LocalFile
from bitsferry.client.options import HttpOptions
from bitsferry.client.patience import Patience
from bitsferry.client.places import Places
from bitsferry.client.sending import Remembered
from bitsferry.client.transfer import Reply, Transfer
from bitsferry.client.transport import Transport

from .hostile import HostileServer

MIB = 1024 * 1024
_RANDOM = os.urandom(8 * MIB)


def content(length: int) -> bytes:
    """Bytes that are nowhere like their neighbours, and never the same twice."""
    return (os.urandom(16) + _RANDOM)[:length]


def password(user: str, password: str, scheme: Scheme | None = None) -> Credential:
    """For the server."""
    return Credential(Target.SERVER, scheme, user, password)


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
        credentials: Sequence[Credential] = (),
        http: HttpOptions | None = None,
        limits: Sequence[Limit] = (),
        patience: float = 300.0,
        reply: Path | None = None,
        tell: Callable[[events.Event], None] = lambda event: None,
        agent: UserAgent | None = None,
        fragment_limit: int | None = MIB,
    ) -> None:
        """One run, from opening the file to the end."""

        def listen(event: events.Event) -> None:
            self.told.append(event)
            tell(event)

        destination = Destination.parse(url or self.server.url(), self.path.name)
        transport = Transport(destination, agent or UserAgent(http, credentials))
        user = credentials[0].user if credentials else None
        with (
            contextlib.closing(transport),
            LocalFile(str(self.path)) as file,
            self.places.take(file.path, str(destination)) as place,
        ):
            memory = Remembered(file, str(destination), user, place)
            progress = memory.recall(transport)
            with memory:
                Transfer(
                    file,
                    transport,
                    progress=progress,
                    save=memory.save_progress,
                    reply=None
                    if reply is None
                    else Reply(str(reply), version=memory.version, save=memory.save_version),
                    fragment_limit=fragment_limit,
                    limits=limits,
                    patience=Patience(patience, chance=lambda: 0.5),
                    tell=listen,
                    clock=self.clock,
                    time_of_day=self.clock,
                    sleep=self.clock.sleep,
                ).run()
            place.forget()

    @property
    def retries(self) -> list[events.Retry]:
        return [event for event in self.told if isinstance(event, events.Retry)]

    @property
    def arrived(self) -> bool:
        """Whether the server has the file, byte for byte."""
        return self.server.files.get("/in/file.bin") == self.path.read_bytes()


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


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
