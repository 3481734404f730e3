"""The commands of `bitsferry jobs` that work through the queue, or wait for what comes of it."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import click

from bitsferry.cli.interrupts import Terminated, exit_code_of, interruptible
from bitsferry.cli.job_client import (
    GONE,
    INTERRUPTED,
    REFUSED,
    TRY_AGAIN_LATER,
    opened,
    say,
    say_objects,
    say_that_nobody_works,
)
from bitsferry.cli.job_news import News
from bitsferry.cli.job_options import parsed
from bitsferry.cli.job_words import advise, as_object, spell_error, spell_state
from bitsferry.cli.logs import start_logging
from bitsferry.cli.quantities import parse_duration
from bitsferry.client.credential_store import CredentialStore
from bitsferry.client.job import Job, JobState
from bitsferry.client.job_queue import JobNotFound, JobQueue
from bitsferry.client.runner import Runner
from bitsferry.client.schedule import due

__all__ = ["run", "wait"]


@click.command()
@click.option("--once", is_flag=True, help="Try each job that is due once; wait for none to be tried again.")
@click.option("--until-idle", is_flag=True, help="End when nothing is left to do.")
@click.option("--json", "as_json", is_flag=True, help="Tell what happens as JSON, a job a line.")
@click.option("--quiet", is_flag=True, help="Say only what fails.")
def run(*, once: bool, until_idle: bool, as_json: bool, quiet: bool) -> None:
    """Work through the queue, until Ctrl-C.

    Only one runner works through a queue. Whatever ends it, jobs go on where
    they were when there is one again.
    """
    if once and until_idle:
        raise click.UsageError("say either --once or --until-idle")
    start_logging("json" if as_json else "text")
    logging.getLogger().setLevel(logging.WARNING)  # what happens to jobs is told by what follows
    with opened(), JobQueue() as queue:
        credentials = CredentialStore(os.path.dirname(queue.path))
        runner = Runner(queue, credentials, on_change=_teller(credentials, as_json=as_json, quiet=quiet))

        def begun() -> bool:
            if not (as_json or quiet):
                say(f"working through the queue {queue.path}")
            return False

        with _stopped_by_signals(runner) as exit_code:
            if until_idle:
                runner.run_until_idle(_first(begun, lambda: False))
            else:
                runner.run(_first(begun, _tried_once(queue) if once else lambda: False))
    sys.exit(exit_code[0])


def _first(first: Callable[[], bool], then: Callable[[], bool]) -> Callable[[], bool]:
    """Answers as `first` when it is called first, and as `then` from then on."""
    answers = iter([first])
    return lambda: next(answers, then)()


def _tried_once(queue: JobQueue) -> Callable[[], bool]:
    """Whether nothing is under way or due any more; to be asked after a first look at the queue."""

    def tried() -> bool:
        jobs = queue.all(ended=True)
        left = due(jobs, time.time())
        runs = any(job.is_active or job.state is JobState.QUEUED for job in jobs)
        forgets = any(job.has_ended and not job.debts for job in jobs)
        return not (runs or forgets or left.retries or left.debts or left.notices)

    return tried


def _teller(credentials: CredentialStore, *, as_json: bool, quiet: bool) -> Callable[[Job], None]:
    """Tells what became of a job, to whoever still listens."""
    news = News()

    def tell(job: Job) -> None:
        now = time.time()
        with suppress(OSError):
            if quiet and job.state is not JobState.ERROR:
                return
            if as_json:
                click.echo(json.dumps(as_object(job, credentials.names(job.id), now)))
                return
            for line in news.of(job, now):
                click.echo(line, err=quiet)

    return tell


@contextmanager
def _stopped_by_signals(runner: Runner) -> Iterator[list[int]]:
    """SIGTERM stops the runner, which is all right (0); Ctrl-C, too (130). A second one waits no longer."""
    exit_code = [0]

    def stop(number: int, frame: FrameType | None) -> None:
        exit_code[0] = INTERRUPTED if number == signal.SIGINT else 0
        signal.signal(number, give_up)
        runner.stop()

    def give_up(number: int, frame: FrameType | None) -> None:
        os._exit(exit_code[0])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # a shell's background job: its Ctrl-C is somebody else's
            signal.signal(number, stop)
    try:
        yield exit_code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@click.command()
@click.argument("job")
@click.option("--timeout", metavar="TIME", callback=parsed(parse_duration), help="Wait no longer than this.")
@click.option("--json", "as_json", is_flag=True, help="Print the job as JSON at the end.")
def wait(*, job: str, timeout: float | None, as_json: bool) -> None:
    """Wait until JOB is transferred.

    Exit codes: 0 it is transferred, 1 it is in error or cancelled, 75 the time is over.
    """
    try:
        with opened() as client, interruptible(lambda: None):
            found = client.find(job)
            say_that_nobody_works(client, [found])
            if found.state is JobState.SUSPENDED:
                click.echo(f"{found.name}: suspended; it moves when it is resumed", err=True)
            try:
                after = client.wait(found, timeout=timeout)
            except TimeoutError:
                after = client.get(found)
            except JobNotFound:
                click.echo(f"{found.name}: {GONE}", err=True)
                sys.exit(REFUSED)
            if as_json:
                say_objects(client, [after])
            else:
                _say_how_it_is(after)
            sys.exit(_outcome(after))
    except (KeyboardInterrupt, Terminated) as end:
        sys.exit(exit_code_of(end))


def _say_how_it_is(job: Job) -> None:
    say(f"{job.name}: {spell_state(job.state)}")
    if job.error is not None:
        click.echo(spell_error(job.error), err=True)
        click.echo(advise(job, time.time()), err=True)


def _outcome(job: Job) -> int:
    match job.state:
        case JobState.TRANSFERRED | JobState.ACKNOWLEDGED:
            return 0
        case JobState.ERROR | JobState.CANCELLED:
            return REFUSED
    return TRY_AGAIN_LATER
