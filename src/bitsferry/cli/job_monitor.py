"""The jobs on a screen that moves."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from bitsferry.cli.job_client import NO_RUNNER
from bitsferry.cli.job_table import EMPTY, bar, details, table
from bitsferry.cli.quantities import spell_size
from bitsferry.client.credential_store import CredentialName
from bitsferry.client.job import Job, JobState

__all__ = ["Keys", "Rates", "all_jobs", "one_job", "watch"]

_FOOT = 4  # lines at most
LOOKING = 0.1  # seconds until a screen of another size is drawn anew


class Rates:
    """How fast jobs are, in bytes a second, from looking at them again and again."""

    WINDOW = 30.0  # seconds; what is sent is acknowledged every few of them
    PATIENCE = 15.0  # seconds without news; then it becomes slower

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def look(self, jobs: Iterable[Job], now: float) -> dict[str, float]:
        """By job; none for those that do not move or are seen for the first time."""
        self._seen = {
            job.id: self._seen.get(job.id, deque()) for job in jobs if job.state is JobState.TRANSFERRING
        }
        rates = {}
        for job in jobs:
            if (seen := self._seen.get(job.id)) is not None:
                self._note(seen, job, now)
                if len(seen) > 1:
                    (first, begin), (last, count) = seen[0], seen[-1]
                    rates[job.id] = (count - begin) / (max(last, now - self.PATIENCE) - first)
        return rates

    def _note(self, seen: deque[tuple[float, int]], job: Job, now: float) -> None:
        at, count = max(job.turn, min(job.modified, now)), job.bytes_transferred
        if seen and count < seen[-1][1]:
            seen.clear()
        if not seen or (count > seen[-1][1] and at > seen[-1][0]):
            seen.append((at, count))
        while len(seen) > 2 and seen[0][0] < at - self.WINDOW:
            seen.popleft()


def all_jobs(
    jobs: Sequence[Job], rates: Mapping[str, float], *, width: int, height: int, now: float, works: bool
) -> list[Text]:
    """The screen of all jobs; where not all fit, those that move come first. `works`: a runner is at work."""
    total = sum(rates.values())
    words = f"{len(jobs)} job" + ("" if len(jobs) == 1 else "s")
    head = [Text(f"{words}, {spell_size(total)}/s" if total else words, "bold"), Text()]
    if not jobs:
        return _fitted([*head, Text(EMPTY)], width, height, works=works)
    lines = table(jobs, width=width, now=now, rates=rates, bars=True)
    if len(lines) > height - len(head) - _FOOT:
        jobs = sorted(jobs, key=lambda job: not job.is_active)
        lines = table(jobs, width=width, now=now, rates=rates, bars=True)
    return _fitted([*head, *lines], width, height, works=works)


def one_job(
    job: Job,
    credentials: Iterable[CredentialName],
    rate: float | None,
    *,
    width: int,
    height: int,
    now: float,
    works: bool,
) -> list[Text]:
    """The screen of one job."""
    lines = details(job, credentials, now=now, rate=rate)
    lines.insert(lines.index(Text()), bar(job.bytes_transferred, job.bytes_total, width))
    return _fitted(lines, width, height, works=works)


def _fitted(lines: list[Text], width: int, height: int, *, works: bool) -> list[Text]:
    """As many as there is room for above what stands at the bottom; long ones are wrapped."""
    console = Console(width=width)
    foot = [Text("q: quit", "bright_black")]
    if not works:
        foot = [*Text(NO_RUNNER, "yellow").wrap(console, width), *foot]
    lines = [part for line in lines for part in line.wrap(console, width)]
    room = max(1, height - len(foot) - 1)
    if len(lines) > room:
        lines = [*lines[: room - 1], Text(f"… {len(lines) - room + 1} more lines", "bright_black")]
    lines = [*lines, *[Text()] * (room + 1 - len(lines)), *foot][:height]
    for line in lines:
        line.truncate(width)
    return lines


def watch(picture: Callable[[int, int], list[Text] | None], *, interval: float) -> None:
    """Show what `picture` makes for a width and a height, every `interval` seconds, until `q` is pressed or
    there is no picture any more. The terminal is left as it was, by Ctrl-C too.
    """
    console = Console(highlight=False)
    with Live(console=console, screen=True, auto_refresh=False) as live, Keys() as keys:
        while True:
            size = console.size
            lines = picture(size.width, size.height)
            if lines is None:
                return
            live.update(Group(*lines), refresh=True)
            deadline = time.monotonic() + interval
            while console.size == size and (left := deadline - time.monotonic()) > 0:
                if keys.pressed(min(left, LOOKING)) in ("q", "Q"):
                    return


if sys.platform == "win32":
    import msvcrt

    class Keys:
        """What is typed, letter by letter, within a `with`."""

        def __enter__(self) -> Keys:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def pressed(self, timeout: float) -> str:
            """The next key; nothing when none was pressed for so many seconds."""
            deadline = time.monotonic() + timeout
            while not msvcrt.kbhit():
                if time.monotonic() >= deadline:
                    return ""
                time.sleep(0.02)
            return msvcrt.getwch()

else:
    import select
    import termios
    import tty

    class Keys:
        """What is typed, letter by letter, within a `with`."""

        def __init__(self) -> None:
            self._descriptor = sys.stdin.fileno() if sys.stdin.isatty() else None

        def __enter__(self) -> Keys:
            if self._descriptor is not None:
                self._before = termios.tcgetattr(self._descriptor)
                tty.setcbreak(self._descriptor)
            return self

        def __exit__(self, *_: object) -> None:
            if self._descriptor is not None:
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)

        def pressed(self, timeout: float) -> str:
            """The next key; nothing when none was pressed for so many seconds."""
            if self._descriptor is None:
                time.sleep(timeout)
                return ""
            if not select.select([self._descriptor], [], [], timeout)[0]:
                return ""
            return os.read(self._descriptor, 1).decode("ascii", "replace") or "q"  # nobody types any more
