"""`bitsferry jobs`: the background queue."""

from __future__ import annotations

import click

from bitsferry.cli.install_service import install_service
from bitsferry.cli.jobs_look import list_, monitor, show
from bitsferry.cli.jobs_make import add, create, credentials, fetch, limit, send, set_
from bitsferry.cli.jobs_run import run, wait
from bitsferry.cli.jobs_steer import cancel, complete, resume, suspend

__all__ = ["jobs"]


class _InOrder(click.Group):
    """Its commands stand in the order in which they are wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder)
def jobs() -> None:
    """Send and fetch in the background, through reboots.

    Jobs live in a queue of yours. A runner works through it: 'jobs run', or the
    service that 'jobs install-service' makes. A JOB is named by its id, the first
    four or more letters of it, or its name.

    Exit codes: 0 done, 1 refused, 2 wrong usage, 75 try again later,
    130 interrupted.
    """


for _command in (
    *(send, fetch, list_, show, monitor, run, wait, install_service),
    *(resume, suspend, complete, cancel),
    *(create, add, set_, credentials, limit),
):
    jobs.add_command(_command)
