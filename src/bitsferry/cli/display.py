"""How a send is shown: a bar on a terminal, lines in a log, JSON to programs."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, TextIO, cast

import msgspec
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from bitsferry.cli.quantities import spell_duration, spell_size
from bitsferry.client import events

__all__ = [
    "Bar",
    "Display",
    "Gauge",
    "JsonLines",
    "LeftOut",
    "Lines",
    "Listed",
    "Quiet",
    "Shown",
    "Skipped",
    "Spooling",
    "Summary",
    "choose",
]


class _Told(msgspec.Struct, frozen=True, tag_field="event", tag=str.lower):
    """What the command tells between the events of its files; sizes are in bytes, times in seconds."""


class Spooling(_Told, frozen=True):
    """`read` bytes came on standard input so far."""

    read: int


class Listed(_Told, frozen=True):
    """There are several files to send."""

    files: int
    size: int


class LeftOut(_Told, frozen=True):
    """What is no file, so it is not sent."""

    file: str
    message: str


class Skipped(_Told, frozen=True):
    """The file arrived when the same command ran before."""

    file: str
    size: int


class Summary(_Told, frozen=True):
    """How several files fared; `failed` for good, `left` for another run."""

    sent: int
    skipped: int
    failed: int
    left: int
    size: int
    seconds: float


Shown = events.Event | Spooling | Listed | LeftOut | Skipped | Summary


def choose(*, as_json: bool, quiet: bool) -> Display:
    """The display that fits what was asked for and where the words go."""
    if as_json:
        return JsonLines(sys.stdout)
    if quiet:
        return Quiet(sys.stdout, sys.stderr)
    console = Console(file=cast(TextIO, _Patient(sys.stdout)), highlight=False, emoji=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return Bar(console, sys.stderr)
    return Lines(sys.stdout, sys.stderr)


class Display:
    """Shows the events of a send; a context manager, so that the terminal is left in order.

    Nobody who stops listening stops the send: what can no longer be written is not.
    """

    file: str | None = None
    """Which file the events are about, where there are several."""

    def show(self, event: Shown) -> None:
        """Show `event`."""
        raise NotImplementedError

    def say(self, line: str) -> None:
        """Say something else between the events."""
        _write(sys.stdout, line)

    def leave(self) -> None:
        """Leave the terminal in order when there is no time for anything else."""

    def __enter__(self) -> Self:
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
        self._advice = ""

    def show(self, event: Shown) -> None:  # noqa: D102 (as Display says)
        if isinstance(event, events.Failed | events.Interrupted):
            self.complain(event)

    def complain(self, event: Shown) -> None:
        """Write it to standard error; what to do is not said twice in a row."""
        for line in self.spell(event):
            if line != self._advice:
                self.write_error(line)
        if isinstance(event, events.Failed):
            self._advice = _printable(event.advice)

    def write_error(self, line: str) -> None:
        """Write one of its lines."""
        _write(self._err, line)

    def spell(self, event: Shown) -> list[str]:
        """The event in sentences, none for one that has nothing to say."""
        lines = [_printable(line) for line in _spell(event)]
        if self.file is not None and isinstance(event, events.Failed):
            lines[0] = _printable(f"{self.file}: {lines[0]}")
        return lines


class Lines(Quiet):
    """A line every ten per cent, for logs and pipes."""

    def __init__(self, out: TextIO, err: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(out, err)
        self._clock = clock
        self._name = ""
        self._began = 0.0
        self._first = self._tenths = 0

    def show(self, event: Shown) -> None:  # noqa: D102
        match event:
            case events.Progress(sent=sent, size=size):
                tenths = 10 * sent // size
                if self._tenths < tenths < 10:
                    _write(self._out, self._spell_progress(sent, size))
                self._tenths = tenths
            case events.Failed() | events.Interrupted() | events.Warned():
                self.complain(event)
            case _:
                if isinstance(event, events.Started):
                    self._name = _printable(self.file or os.path.basename(event.file))
                    self._began = self._clock()
                    self._first, self._tenths = event.sent, 10 * event.sent // max(event.size, 1)
                for line in self.spell(event):
                    _write(self._out, line)

    def _spell_progress(self, sent: int, size: int) -> str:
        words = f"{self._name}: {100 * sent // size} % ({spell_size(sent)} of {spell_size(size)})"
        seconds, done = self._clock() - self._began, sent - self._first
        if seconds <= 0 or done <= 0:
            return words
        rate = done / seconds
        return f"{words}, {spell_size(rate)}/s, {spell_duration((size - sent) / rate)} left"


class Bar(Quiet):
    """A bar that moves, with everything else above it."""

    def __init__(self, console: Console, err: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(sys.stdout, err)
        self._console = console
        self._gauge = Gauge(clock)
        self._trouble = ""  # that was told and is not over
        self._live = Live(self._gauge, console=console, refresh_per_second=8)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        self.leave()

    def leave(self) -> None:  # noqa: D102
        self._console.show_cursor(True)

    def show(self, event: Shown) -> None:  # noqa: D102
        self._gauge.follow(event, self.file)
        match event:
            case events.Progress() | events.Receiving():
                self._trouble = ""
            case events.Retry(error):
                if error.message != self._trouble:  # the gauge counts the seconds
                    self._console.print(self.spell(event)[0], markup=False)
                self._trouble = error.message
            case events.Failed() | events.Interrupted() | events.Warned():
                if isinstance(event, events.Interrupted) or self._is_end(event):
                    self._live.stop()
                self.complain(event)
            case _:
                if isinstance(event, events.Started | Spooling):
                    self._live.start()
                elif self._is_end(event):
                    self._live.stop()
                for line in self.spell(event):
                    self.say(line)

    def _is_end(self, event: Shown) -> bool:
        if self.file is None:
            return isinstance(event, events.Done | events.Failed | Summary)
        return False

    def write_error(self, line: str) -> None:  # noqa: D102
        if self._err.isatty():
            self.say(line)  # it is the same terminal, and the bar must stay below
        else:
            super().write_error(line)

    def say(self, line: str) -> None:  # noqa: D102
        self._console.print(line, markup=False, soft_wrap=True)


class Gauge:
    """What moves on a terminal: a line for the file, another one for all when there are several.

    A bar has what the server acknowledged, what is out on the line, and the rest. It fits in any width: the
    narrower, the less is said. `render` is for any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._name = ""
        self._sent = self._offset = self._size = 0
        self._files = self._number = 0  # none: there is one file only
        self._total = self._past = 0  # bytes of all files, and of those that are over
        self._speed = _Speed(clock)
        self._again_at: float | None = None

    def follow(self, event: Shown, file: str | None = None) -> None:
        """Take what `event` says."""
        match event:
            case Listed(files, size):
                self._files, self._total = files, size
            case events.Started(path, _, size, sent):
                self._name = file or os.path.basename(path)
                self._sent, self._offset, self._size = sent, sent, size
                self._number += 1
                self._speed.starts_at(self._past + sent)
            case events.Progress(sent, offset):
                self._sent, self._offset = sent, offset
                self._again_at = None
                self._speed.is_at(self._past + offset)
            case events.Receiving(_, received, size):
                self._name, self._again_at = "the reply", None
                self._sent, self._offset, self._size = received, received, size
                self._speed.is_at(received)
            case Spooling(read):
                self._name, self._offset = "standard input", read
                self._speed.is_at(read)
            case events.Retry(_, wait):
                self._again_at = self._clock() + wait
            case events.Done(_, size):
                self._sent = self._offset = self._size = size
                self._past += size
            case Skipped(_, size):
                self._number += 1
                self._past += size
            case events.Failed():
                self._again_at = None
                if self._files:
                    self._past += self._size

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width - len("^C")  # which terminals write where the cursor stands
        yield from self.render(width, ascii_only=options.ascii_only)

    def render(self, width: int, *, ascii_only: bool = False) -> Iterator[Text]:
        """The lines, each at most `width` cells wide."""
        glyphs = "#=-" if ascii_only else "━╍─"
        if not self._size:
            words = [self._amount(self._offset, None), self._spell_rate()] if self._offset else []
            yield _line(width, self._name, words)
        else:
            parts = (self._sent / self._size, self._offset / self._size)
            words = [self._percent(self._offset, self._size), *self._pace()]
            yield _line(width, self._name, [*words, self._amount(self._offset, self._size)], parts, glyphs)
        if self._files:
            done = min(self._past + (self._offset if self._again_at is None else self._sent), self._total)
            part = done / max(self._total, 1)
            words = [self._percent(done, self._total), self._left(self._total - done)]
            name = f"{min(self._number, self._files)} of {self._files} files"
            yield _line(width, name, [*words, self._amount(done, self._total)], (part, part), glyphs)

    def _pace(self) -> list[str]:
        if self._again_at is not None:
            return [f"again in {max(0, self._again_at - self._clock()):.0f} s"]
        if self._sent < self._offset == self._size:
            return ["the server writes"]
        rest = [] if self._files else [self._left(self._size - self._offset)]
        return [*rest, self._spell_rate()]

    def _percent(self, done: int, size: int) -> str:
        return f"{100 * done // max(size, 1):>3} %"

    def _left(self, rest: int) -> str:
        rate = self._speed.rate
        if not rest or not rate or rest / rate >= 360_000:
            return ""
        minutes, seconds = divmod(round(rest / rate), 60)
        hours, minutes = divmod(minutes, 60)
        return (f"{hours}:{minutes:02}" if hours else f"{minutes}") + f":{seconds:02} left"

    def _spell_rate(self) -> str:
        return f"{spell_size(self._speed.rate)}/s" if self._speed.rate else ""

    def _amount(self, done: int, size: int | None) -> str:
        said = spell_size(done)
        if size is None:
            return said
        whole = spell_size(size)
        number, _, unit = said.partition(" ")
        return f"{number if whole.endswith(' ' + unit) else said} of {whole}"


class _Speed:
    """Bytes a second over the last few seconds."""

    WINDOW = 8.0

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def starts_at(self, offset: int) -> None:
        """What was there before this run says nothing."""
        if not self._seen or offset != self._seen[-1][1]:
            self._seen.clear()
        self.is_at(offset)

    def is_at(self, offset: int) -> None:
        now = self._clock()
        if self._seen and offset < self._seen[-1][1]:
            self._seen.clear()
        if len(self._seen) > 1 and now - self._seen[-2][0] < 0.2:
            self._seen.pop()
        self._seen.append((now, offset))
        while self._seen[0][0] < now - self.WINDOW and len(self._seen) > 2:
            self._seen.popleft()

    @property
    def rate(self) -> float:
        """0 while there is nothing to tell."""
        seen = list(self._seen)
        if len(seen) < 2:
            return 0.0
        seconds = max(self._clock(), seen[-1][0]) - seen[0][0]
        return (seen[-1][1] - seen[0][1]) / seconds if seconds >= 0.2 else 0.0


_NAME, _SHORT_NAME, _BAR, _SHORT_BAR = 24, 8, 40, 8  # cells, at most or at least


def _line(
    width: int, name: str, words: list[str], parts: tuple[float, float] | None = None, glyphs: str = ""
) -> Text:
    """A name, a bar if there are `parts`, and as many of the words as there is room for, the first first.

    The first word is worth more than the bar.
    """
    name = _printable(name)
    words = [word for word in words if word]
    shortest = min(cell_len(name), _SHORT_NAME) + (1 + _SHORT_BAR if parts else 0)
    while words[1:] and shortest + _length(words) > width:
        words.pop()
    if _length(words) >= width:
        words.clear()
    room = width - _length(words)
    bar = 0
    if parts and room >= shortest:
        named = min(cell_len(name), _NAME, max(_SHORT_NAME, room // 2))
        bar = min(_BAR, room - 1 - named)
    line = Text(name, no_wrap=True)
    line.truncate(room - 1 - bar if bar else room, overflow="ellipsis")
    if parts and bar:
        acknowledged, out = (int(bar * part) for part in parts)
        line.append(" ")
        line.append(glyphs[0] * acknowledged, "bold green" if acknowledged == bar else "green")
        line.append(glyphs[1] * (out - acknowledged), "yellow")
        line.append(glyphs[2] * (bar - out), "bright_black")
    line.append("".join("  " + word for word in words))
    return line


def _length(words: list[str]) -> int:
    return sum(2 + len(word) for word in words)


class JsonLines(Display):
    """One JSON object a line, in ASCII; what comes often at most every so many seconds."""

    def __init__(
        self, out: TextIO, *, every: float = 0.25, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._out = out
        self._every = every
        self._clock = clock
        self._next = 0.0

    def show(self, event: Shown) -> None:  # noqa: D102 (as Display says)
        if _is_one_of_many(event):
            now = self._clock()
            if now < self._next:
                return
            self._next = now + self._every
        told = msgspec.to_builtins(event)
        if self.file is not None and "file" not in told:
            told["file"] = self.file
        _write(self._out, json.dumps(told))


def _is_one_of_many(event: Shown) -> bool:
    """Whether another event that says more will come soon."""
    match event:
        case events.Progress(sent, _, size):
            return sent < size
        case events.Receiving(_, received, size):
            return received < size
        case Spooling():
            return True
    return False


class _Patient:
    """A terminal that may be gone."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __getattr__(self, name: str) -> object:
        return getattr(self._out, name)

    def write(self, text: str) -> int:
        with _whoever_listens(self._out):
            self._out.write(text)
        return len(text)

    def flush(self) -> None:
        with _whoever_listens(self._out):
            self._out.flush()


def _write(out: TextIO, line: str) -> None:
    with _whoever_listens(out):
        print(line, file=out, flush=True)


@contextlib.contextmanager
def _whoever_listens(out: TextIO) -> Iterator[None]:
    """A closed pipe, a full disk, a closed file do not stop a send: from then on nobody listens there.

    What is still in the buffer must find a way out, or Python fails at its end and says so by exit code 120.
    """
    try:
        yield
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            nobody = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nobody, out.fileno())
            os.close(nobody)


def _printable(text: str) -> str:
    """Names of files and words of servers may hold what moves a terminal's cursor, or begins a line."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def _spell(event: Shown) -> list[str]:
    match event:
        case events.Started(resumable=False):
            return ["there is nowhere to remember how far this came: interrupted, it would start over"]
        case events.Started(sent=sent, size=size) if sent:
            return [f"going on at {spell_size(sent)} of {spell_size(size)}, where it stopped before"]
        case events.Warned(message):
            return [f"warning: {message}"]
        case events.Retry(error, wait):
            again = f"; trying again in {spell_duration(wait)}" if wait else ""
            return [_spell_error(error) + again]
        case events.Replied(path, size):
            return [f"the reply is {path} ({spell_size(size)})"]
        case events.Done(url, size, seconds, repeated):
            again = f"; {spell_size(repeated)} went over the line more than once" if repeated else ""
            where = url.partition("?")[0]  # there may be a key in the query
            return [f"stored as {where} ({spell_size(size)} in {spell_duration(seconds)}{again})"]
        case events.Interrupted(advice):
            return [f"interrupted; {advice}"]
        case events.Failed(error, advice=advice):
            return [_spell_error(error), advice]
        case LeftOut(file, message):
            return [f"{file} is left out: {message}"]
        case Summary():
            return [_spell_summary(event)]
    return []


def _spell_error(error: events.Error) -> str:
    return f"{error.name} ({error.hresult}): {error.message}"


def _spell_summary(summary: Summary) -> str:
    time_ = spell_duration(summary.seconds)
    said = f"{_files(summary.sent)} stored ({spell_size(summary.size)} in {time_})"
    for count, fate in (
        (summary.skipped, "stored by an earlier run (--all sends them again)"),
        (summary.failed, "failed"),
        (summary.left, "left for later: run the same command again"),
    ):
        if count:
            said += f"; {_files(count)} {fate}"
    return said


def _files(count: int) -> str:
    return f"{count:,} file" + ("" if count == 1 else "s")
