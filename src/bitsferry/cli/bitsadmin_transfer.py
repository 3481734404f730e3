"""`/transfer` and `/monitor` of bitsadmin, which show jobs while they move."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from bitsferry.cli import bitsadmin_words as words
from bitsferry.cli.bitsadmin_desk import Desk, Failed
from bitsferry.cli.bitsadmin_grammar import Misused, Said
from bitsferry.cli.bitsadmin_properties import read_member, read_number
from bitsferry.cli.interrupts import Terminated, interruptible
from bitsferry.client.client import Client
from bitsferry.client.job import Job, JobState, JobType, Priority
from bitsferry.client.job_queue import JobNotFound
from bitsferry.client.runner_lock import RunnerWorking

__all__ = ["monitor", "transfer"]

LOOKING = 0.1  # seconds between two looks at the job
PARTING = 10.0  # seconds to tell a server that an upload is over; else the next runner does it


def monitor(desk: Desk, said: Said) -> None:
    """List the jobs again and again, until Ctrl-C."""
    seconds = read_number(said.switches.get("refresh", "5"))
    if seconds == 0:
        raise Misused("it needs at least a second between two looks")
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            click.clear()  # does nothing where there is no terminal
            desk.say(f"MONITORING BACKGROUND COPY MANAGER({seconds} second refresh)")
            for job in desk.client.jobs():
                desk.say(words.spell_job(job))
            desk.say("\nCTRL-C to quit.")
            time.sleep(seconds)


def transfer(desk: Desk, said: Said) -> None:
    """One job from its beginning to its end, which Ctrl-C brings at once."""
    name, *pairs = said.words
    if len(pairs) % 2:
        raise Misused("every remote URL needs a local name after it")
    kind = JobType[(said.one_of("download", "upload") or "download").upper()]
    priority: Priority = read_member(Priority)(said.switches.get("priority", "normal"))
    job = _make(desk.client, name, kind, priority, list(zip(pairs[::2], pairs[1::2], strict=True)))
    with interruptible(lambda: None), _Runner(desk.client, job) as runner:
        try:
            job = _wait(desk, runner, job)
        except (KeyboardInterrupt, Terminated):
            desk.client.cancel(job)
            print("Transfer canceled.", file=sys.stderr, flush=True)
            raise
        if job.state is JobState.TRANSFERRED:
            job = desk.client.complete(job)
        elif job.state is JobState.ERROR:
            desk.client.cancel(job)
        if job.state is not JobState.ACKNOWLEDGED:
            why = words.spell_error(job.error, job) if job.error else "Somebody else canceled the job."
            print(f"Unable to complete transfer.\n{why}", file=sys.stderr, flush=True)
            raise Failed
        desk.done("Transfer complete.")


def _make(client: Client, name: str, kind: JobType, priority: Priority, files: list[tuple[str, str]]) -> Job:
    """A job on its way; none is left when one of its files cannot be."""
    job = client.create(name, kind, priority=priority)
    try:
        for remote, local in files:
            client.add(job, remote, local)
        return client.resume(job)
    except BaseException:
        client.cancel(job)
        raise


def _wait(desk: Desk, runner: _Runner, job: Job) -> Job:
    """Show the job until it is TRANSFERRED, in ERROR or over."""
    with _display(desk) as show:
        while True:
            job = desk.client.get(job)
            show(job)
            if job.has_ended or job.state in (JobState.TRANSFERRED, JobState.ERROR):
                return job
            if job.state is not JobState.SUSPENDED:
                runner.work()
            time.sleep(LOOKING)


class _Runner:
    """Works through the queue, in a thread, whenever no other process does; for one job's sake.

    Others may be carried, too, as a runner would: so two transfers at once do not wait for each other's end.
    At the end of its `with` a server may still hear for a while that the job is over.
    """

    def __init__(self, client: Client, job: Job) -> None:
        self._client = client
        self._id = job.id
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._work: Future[None] | None = None

    def __enter__(self) -> _Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        deadline = time.monotonic() + PARTING
        try:
            while self._is_working and self._is_owing() and time.monotonic() < deadline:
                time.sleep(LOOKING)
        finally:
            self._stopped.set()
            self._pool.shutdown()

    def work(self) -> None:
        """Go on, if nobody does. Raises what ended the work before."""
        if self._is_working:
            return
        if self._work is not None:
            self._work.result()
        if not self._client.runner_is_working:
            self._work = self._pool.submit(self._run)

    @property
    def _is_working(self) -> bool:
        return self._work is not None and not self._work.done()

    def _is_owing(self) -> bool:
        """Whether the job is over, and there is something to do because of it."""
        try:
            job = self._client.get(self._id)
        except JobNotFound:
            return False
        return job.has_ended and (not job.debts or any(debt.due <= time.time() for debt in job.debts))

    def _run(self) -> None:
        with Client() as client, contextlib.suppress(RunnerWorking):
            client.run(until=self._stopped.is_set)


@contextlib.contextmanager
def _display(desk: Desk) -> Iterator[Callable[[Job], None]]:
    """What shows how far a job is: in one place on a terminal, else in lines for every tenth of it."""
    if desk.raw:
        yield lambda job: None
    elif sys.stdout.isatty():
        with Live(console=Console(), auto_refresh=False) as live:
            yield lambda job: live.update(Text(_spell(job), no_wrap=not desk.wraps), refresh=True)
    else:
        said = None

        def say(job: Job) -> None:
            nonlocal said
            tenth = 10 * job.bytes_transferred // (job.bytes_total or 1)
            if said != (job.state, tenth, job.error_count):
                said = (job.state, tenth, job.error_count)
                desk.say(_spell(job))

        yield say


def _spell(job: Job) -> str:
    lines = words.spell_progress(job)
    return f"{lines}\n{words.spell_error(job.error, job)}" if job.error else lines
