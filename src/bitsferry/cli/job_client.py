"""The queue as commands open it: what goes wrong becomes a sentence, and an exit code."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import click

from bitsferry.cli.job_words import as_object, printable
from bitsferry.client.client import Client
from bitsferry.client.job import Job, JobState
from bitsferry.client.job_queue import AmbiguousJob, JobNotFound
from bitsferry.protocol.errors import BitsError

__all__ = [
    "GONE",
    "INTERRUPTED",
    "NO_RUNNER",
    "REFUSED",
    "TRY_AGAIN_LATER",
    "USAGE",
    "each",
    "opened",
    "say",
    "say_objects",
    "say_that_nobody_works",
]

REFUSED, USAGE, TRY_AGAIN_LATER, INTERRUPTED = 1, 2, 75, 130

GONE = "gone; somebody has completed or cancelled it"
NO_RUNNER = (
    "no runner is working: start one with 'bitsferry jobs run', or for good with "
    "'bitsferry jobs install-service'"
)

_WAITING = (JobState.QUEUED, JobState.CONNECTING, JobState.TRANSFERRING, JobState.TRANSIENT_ERROR)


@contextmanager
def opened() -> Iterator[Client]:
    """The user's queue. What cannot be done ends the process as `send` would."""
    try:
        with Client() as client:
            yield client
    except BrokenPipeError:
        raise  # whoever read our words
    except (BitsError, ValueError, OSError) as error:
        complain(error)
        sys.exit(exit_code(error))


def each(client: Client, names: Iterable[str], act: Callable[[Job], None]) -> None:
    """Do it to every job; what cannot be done to one does not keep it from the others."""
    worst = 0
    for name in names:
        try:
            act(client.find(name))
        except BrokenPipeError:
            raise
        except (BitsError, OSError) as error:
            complain(error, name)
            worst = max(worst, exit_code(error))
    if worst:
        sys.exit(worst)


def complain(error: Exception, name: str | None = None) -> None:
    """Say what went wrong; with a name, to which job."""
    about = "" if name is None or isinstance(error, JobNotFound | AmbiguousJob) else f"{name}: "
    said = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        said = f"{error.filename} cannot be used: {error.strerror}"
    said = "\n".join(printable(line) for line in said.split("\n"))  # several jobs stand in several lines
    click.echo(f"bitsferry: {about}{said}", err=True)


def exit_code(error: Exception) -> int:
    """2 for what was typed wrong, 75 for what may go better later, else 1."""
    if isinstance(error, JobNotFound | AmbiguousJob | ValueError):
        return USAGE
    return TRY_AGAIN_LATER if isinstance(error, BitsError) and error.transient else REFUSED


def say(text: str) -> None:
    """A line for a person."""
    click.echo(printable(text))


def say_objects(client: Client, jobs: Iterable[Job]) -> None:
    """A line for each job, for programs."""
    now = time.time()
    for job in jobs:
        click.echo(json.dumps(as_object(job, client.credentials(job), now)))


def say_that_nobody_works(client: Client, jobs: Iterable[Job]) -> None:
    """If so, and one of these jobs waits for it. It answers no question, so it stands on standard error."""
    if any(job.state in _WAITING for job in jobs) and not client.runner_is_working:
        click.echo(NO_RUNNER, err=True)
