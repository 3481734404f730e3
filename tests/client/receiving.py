"""A download as tests run it, again and again, with a clock that needs no sleep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bitsferry.client import events
from bitsferry.client.agent import UserAgent
from bitsferry.client.bandwidth import Limit
from bitsferry.client.credentials import Credential
from bitsferry.client.destination import Destination
from bitsferry.client.download import Download, Version
from bitsferry.client.options import HttpOptions
from bitsferry.client.partial_file import SUFFIX
from bitsferry.client.patience import Patience
from bitsferry.client.trust import TlsSettings


@dataclass
class Receiver:
    """Fetches one file, as often as a test wants; what it saved the next run knows, as after a restart."""

    url: str
    path: Path
    now: float = 0.0
    slept: list[float] = field(default_factory=list)
    told: list[events.Event] = field(default_factory=list)
    version: Version | None = None
    save: Callable[[Version], None] = lambda version: None

    def run(
        self,
        *,
        patience: float = 300.0,
        foreground: bool = False,
        ours: bool = True,
        temporary: Path | None = None,
        headers: Iterable[tuple[str, str]] = (),
        credentials: Iterable[Credential] = (),
        tls: TlsSettings | None = None,
        limits: Sequence[Limit] = (),
        stop: Callable[[], bool] = lambda: False,
        answering: float = 5.0,
    ) -> Version:
        """Another process, from its start until the file is in its place."""
        agent = UserAgent(
            HttpOptions(headers=tuple(headers), tls=tls or TlsSettings()), credentials, answering=answering
        )
        download = Download(
            agent,
            Destination.parse(self.url),
            str(self.path),
            temporary=str(temporary) if temporary else None,
            version=self.version,
            save=self._save,
            ours=ours,
            limits=limits,
            patience=Patience(patience, chance=lambda: 0.5),
            foreground=foreground,
            tell=self.told.append,
            stop=stop,
            clock=lambda: self.now,
            sleep=self._sleep,
        )
        try:
            version = download.run()
            download.place()
        finally:
            agent.close()
        return version

    @property
    def part(self) -> Path:
        """Where the file waits until all of it is there."""
        return self.path.with_name(self.path.name + SUFFIX)

    @property
    def retries(self) -> list[events.Retry]:
        return [event for event in self.told if isinstance(event, events.Retry)]

    @property
    def received(self) -> list[int]:
        return [event.received for event in self.told if isinstance(event, events.Receiving)]

    def _save(self, version: Version) -> None:
        self.save(version)
        self.version = version

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)
