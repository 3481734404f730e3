"""The commands of `bitsferry jobs` that let jobs run, rest and end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import click

from bitsferry.cli.job_client import each, opened, say, say_objects, say_that_nobody_works
from bitsferry.cli.job_words import spell_state
from bitsferry.client.client import Client
from bitsferry.client.job import Job, JobState, JobType

__all__ = ["cancel", "complete", "resume", "suspend"]

_RESTING = (JobState.SUSPENDED, JobState.ERROR, JobState.TRANSIENT_ERROR)
_RUNNING = (JobState.QUEUED, JobState.CONNECTING, JobState.TRANSFERRING, JobState.TRANSIENT_ERROR)


@dataclass(frozen=True, slots=True)
class _Verb:
    """What is done to a job, which jobs `--all` means, and what is said afterwards."""

    act: Callable[[Client, Job], Job]
    fits: Callable[[Job], bool]
    tell: Callable[[Client, Job], str]


def _command(name: str, verb: _Verb, help_: str) -> click.Command:
    @click.command(name, help=help_)
    @click.argument("jobs", metavar="JOB...", nargs=-1)
    @click.option("--all", "everything", is_flag=True, help="All jobs for which it makes sense.")
    @click.option("--json", "as_json", is_flag=True, help="Print the jobs as JSON, an object a line.")
    def command(*, jobs: tuple[str, ...], everything: bool, as_json: bool) -> None:
        if bool(jobs) == everything:
            raise click.UsageError("name at least one JOB, or say --all")

        with opened() as client:

            def act(job: Job) -> None:
                after = verb.act(client, job)
                if as_json:
                    say_objects(client, [after])
                else:
                    say(f"{after.name}: {verb.tell(client, after)}")

            each(client, jobs or [job.id for job in client.jobs() if verb.fits(job)], act)
            if name == "resume":
                say_that_nobody_works(client, client.jobs())

    return command


def _tell_state(client: Client, job: Job) -> str:
    return spell_state(job.state)


def _tell_completed(client: Client, job: Job) -> str:
    if job.type is JobType.DOWNLOAD:
        done = [file.local for file in job.files if file.done]
        return "fetched " + ", ".join(done) if done else "completed; nothing was fetched"
    return "completed"


def _tell_cancelled(client: Client, job: Job) -> str:
    if job.debts and not client.runner_is_working:
        return "cancelled; the next runner will tell the server"
    return "cancelled"


resume = _command(
    "resume",
    _Verb(Client.resume, lambda job: job.state in _RESTING and bool(job.files), _tell_state),
    "Let each JOB run, or try again at once.",
)
suspend = _command(
    "suspend",
    _Verb(Client.suspend, lambda job: job.state in _RUNNING, _tell_state),
    "Let each JOB rest until it is resumed.",
)
complete = _command(
    "complete",
    _Verb(Client.complete, lambda job: job.state is JobState.TRANSFERRED, _tell_completed),
    "Take what each JOB has carried, and forget the job.\n\n"
    "A download's files appear in their places now; of one that is not through, those that are.",
)
cancel = _command(
    "cancel",
    _Verb(Client.cancel, lambda job: True, _tell_cancelled),
    "Give each JOB up, and forget it.",
)
