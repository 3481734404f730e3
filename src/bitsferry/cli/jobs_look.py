"""The commands of `bitsferry jobs` that show jobs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

import click
from rich.console import Console
from rich.text import Text

from bitsferry.cli.interrupts import Terminated, exit_code_of, interruptible
from bitsferry.cli.job_client import GONE, opened, say, say_objects, say_that_nobody_works
from bitsferry.cli.job_monitor import Rates, all_jobs, one_job, watch
from bitsferry.cli.job_news import News
from bitsferry.cli.job_options import parsed
from bitsferry.cli.job_table import EMPTY, details, table
from bitsferry.cli.quantities import parse_duration
from bitsferry.client.client import Client
from bitsferry.client.job import Job, JobState
from bitsferry.client.job_queue import JobNotFound

__all__ = ["list_", "monitor", "show"]

_THROUGH = (JobState.TRANSFERRED, JobState.ERROR)


@click.command("list")
@click.option("--all", "everything", is_flag=True, help="Those, too, that are over but not yet forgotten.")
@click.option("--json", "as_json", is_flag=True, help="Print the jobs as JSON, an object a line.")
def list_(*, everything: bool, as_json: bool) -> None:
    """Show the jobs in the queue, a line each."""
    with opened() as client:
        jobs = client.jobs(ended=everything)
        if as_json:
            say_objects(client, jobs)
        elif jobs:
            console = Console(highlight=False)
            width = console.width if console.is_terminal else None
            _print(table(jobs, width=width, now=time.time()))
        else:
            click.echo(EMPTY)
        say_that_nobody_works(client, jobs)


@click.command()
@click.argument("job")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def show(*, job: str, as_json: bool) -> None:
    """Show all there is to know about JOB, without its secrets."""
    with opened() as client:
        found = client.find(job)
        if as_json:
            say_objects(client, [found])
        else:
            _print(details(found, client.credentials(found), now=time.time()))
        say_that_nobody_works(client, [found])


@click.command()
@click.argument("job", required=False)
@click.option(
    "--interval",
    metavar="TIME",
    default="1 s",
    callback=parsed(parse_duration),
    help="How long between two looks.",
    show_default=True,
)
def monitor(*, job: str | None, interval: float) -> None:
    """Show jobs while they move, or one JOB until it is through.

    q quits.

    Where there is no terminal, it prints a line whenever something happens.
    """
    if interval < 0.1:
        raise click.BadParameter("look every 0.1 s at most", param_hint="'--interval'")
    try:
        with opened() as client, interruptible(lambda: None):
            found = None if job is None else client.find(job)
            console = Console()
            if not console.is_terminal or console.is_dumb_terminal:
                _print_news(client, found, interval)
            elif found is None:
                _watch_all(client, interval)
            else:
                _watch_one(client, found, interval)
    except (KeyboardInterrupt, Terminated) as end:
        sys.exit(exit_code_of(end))


def _watch_all(client: Client, interval: float) -> None:
    rates = Rates()

    def picture(width: int, height: int) -> list[Text]:
        jobs, now = client.jobs(), time.time()
        works = client.runner_is_working
        return all_jobs(jobs, rates.look(jobs, now), width=width, height=height, now=now, works=works)

    watch(picture, interval=interval)


def _watch_one(client: Client, job: Job, interval: float) -> None:
    """Until it is through; what is seen last stays on the screen."""
    rates = Rates()
    current: Job | None = job

    def picture(width: int, height: int) -> list[Text] | None:
        nonlocal job, current
        current, now = _look(client, job), time.time()
        if current is None or _is_through(current):
            return None
        job = current
        works = client.runner_is_working
        rate = rates.look([job], now).get(job.id)
        credentials = client.credentials(job)
        return one_job(job, credentials, rate, width=width, height=height, now=now, works=works)

    watch(picture, interval=interval)
    if current is None:
        say(f"{job.name}: {GONE}")
    else:
        _print(details(current, client.credentials(current), now=time.time()))


def _print_news(client: Client, job: Job | None, interval: float) -> None:
    news = News()
    while True:
        jobs = client.jobs() if job is None else [each for each in [_look(client, job)] if each is not None]
        for line in news.of_all(jobs, time.time()):
            click.echo(line)
        if job is not None and all(_is_through(each) for each in jobs):
            return
        time.sleep(interval)


def _look(client: Client, job: Job) -> Job | None:
    """The job as it is, unless it is forgotten."""
    try:
        return client.get(job)
    except JobNotFound:
        return None


def _is_through(job: Job) -> bool:
    return job.state in _THROUGH or job.has_ended


def _print(lines: Iterable[Text]) -> None:
    console = Console(highlight=False)
    for line in lines:
        console.print(line, soft_wrap=True)
