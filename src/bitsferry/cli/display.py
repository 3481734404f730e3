"""How a send is shown: a bar on a terminal, lines in a log, JSON to programs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as RichProgress

from bitsferry.cli.quantities import spell_duration, spell_size
from bitsferry.client import events

__all__ = ["Bar", "Display", "JsonLines", "Lines", "Quiet", "choose"]


def choose(*, as_json: bool, quiet: bool) -> Display:
    """The display that fits what was asked for and where the words go."""
    if as_json:
        return JsonLines(sys.stdout)
    if quiet:
        return Quiet(sys.stdout, sys.stderr)
    return Bar(Console()) if sys.stdout.isatty() else Lines(sys.stdout, sys.stderr)


class Display:
    """Shows the events of one send; a context manager, so that the terminal is left in order."""

    def show(self, event: events.Event) -> None:
        """Show `event`."""
        raise NotImplementedError

    def say(self, line: str) -> None:
        """Say something else between the events."""
        print(line, flush=True)

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class Quiet(Display):
    """Says only what went wrong for good."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out = out
        self._err = err

    def show(self, event: events.Event) -> None:  # noqa: D102 (as Display says)
        if isinstance(event, events.Failed | events.Interrupted):
            for line in _spell(event):
                print(line, file=self._err, flush=True)


class Lines(Quiet):
    """A line every ten per cent, for logs and pipes."""

    def __init__(self, out: TextIO, err: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(out, err)
        self._clock = clock
        self._name = ""
        self._began = 0.0
        self._first = self._tenths = 0

    def show(self, event: events.Event) -> None:  # noqa: D102
        match event:
            case events.Progress(sent=sent, size=size):
                tenths = 10 * sent // size
                if self._tenths < tenths < 10:
                    print(self._spell_progress(sent, size), file=self._out, flush=True)
                self._tenths = tenths
                return
            case events.Started(file=file, sent=sent, size=size):
                self._name = os.path.basename(file)
                self._began = self._clock()
                self._first, self._tenths = sent, 10 * sent // max(size, 1)
            case events.Failed() | events.Interrupted():
                super().show(event)
                return
        for line in _spell(event):
            print(line, file=self._out, flush=True)

    def _spell_progress(self, sent: int, size: int) -> str:
        words = f"{self._name}: {100 * sent // size} % ({spell_size(sent)} of {spell_size(size)})"
        seconds, done = self._clock() - self._began, sent - self._first
        if seconds <= 0 or done <= 0:
            return words
        rate = done / seconds
        return f"{words}, {spell_size(rate)}/s, {spell_duration((size - sent) / rate)} left"


class Bar(Display):
    """A bar that moves, with everything else above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self._task: TaskID | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, event: events.Event) -> None:  # noqa: D102
        match event:
            case events.Started(file=file, size=size, sent=sent):
                self._print(event)
                self._task = self._bar.add_task(os.path.basename(file), total=size, completed=sent)
                self._bar.start()
            case events.Progress(offset=offset) if self._task is not None:
                self._bar.update(self._task, completed=offset)
            case events.Retry():
                self._print(event)
            case _:
                self._bar.stop()
                self._print(event)

    def say(self, line: str) -> None:  # noqa: D102
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _print(self, event: events.Event) -> None:
        for line in _spell(event):
            self.say(line)


class JsonLines(Display):
    """One JSON object a line, progress at most `every` seconds."""

    def __init__(
        self, out: TextIO, *, every: float = 0.25, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._out = out
        self._every = every
        self._clock = clock
        self._next = 0.0

    def show(self, event: events.Event) -> None:  # noqa: D102 (as Display says)
        if isinstance(event, events.Progress) and event.sent < event.size:
            now = self._clock()
            if now < self._next:
                return
            self._next = now + self._every
        print(msgspec.json.encode(event).decode(), file=self._out, flush=True)


def _spell(event: events.Event) -> list[str]:
    """The event in sentences, none for one that has nothing to say."""
    match event:
        case events.Started(resumable=False):
            return ["there is nowhere to remember how far this came: interrupted, it would start over"]
        case events.Started(sent=sent, size=size) if sent:
            return [f"going on at {spell_size(sent)} of {spell_size(size)}, where it stopped before"]
        case events.Retry(error, wait) if wait:
            return [f"{error.message}; trying again in {spell_duration(wait)}"]
        case events.Retry(error):
            return [error.message]
        case events.Done(url, size, seconds, repeated):
            again = f"; {spell_size(repeated)} went over the line more than once" if repeated else ""
            return [f"stored as {url} ({spell_size(size)} in {spell_duration(seconds)}{again})"]
        case events.Interrupted():
            return ["interrupted; run the same command again to go on"]
        case events.Failed(error, advice=advice):
            return [f"{error.name} ({error.hresult}): {error.message}", advice]
    return []
