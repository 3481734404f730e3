"""`bitsferry jobs install-service`: the background queue from log-on to log-off."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass

import click
from platformdirs import user_config_path, user_state_path

from bitsferry.cli.job_words import spell_command
from bitsferry.cli.services import launch_agent, scheduled_task, systemd_unit

__all__ = ["install_service"]

SYSTEMS = {"linux": "linux", "darwin": "macos", "win32": "windows"}
UNIT, LABEL, TASK = "bitsferry-jobs.service", "bitsferry.jobs", "Bitsferry jobs"

FAILED = 1


@dataclass(frozen=True, slots=True)
class _Service:
    """A service file, the commands by which the system takes it up and lets go of it, and a last word."""

    path: str
    content: bytes
    start: tuple[tuple[str, ...], ...]
    stop: tuple[tuple[str, ...], ...]
    hint: str = ""


@click.command("install-service")
@click.option("--now", is_flag=True, help="Start it, too, instead of saying how.")
@click.option("--remove", is_flag=True, help="Stop the service and remove its file.")
@click.option("--print", "show", is_flag=True, help="Print the file and do nothing else.")
@click.option(
    "--system",
    type=click.Choice(list(SYSTEMS.values())),
    default=SYSTEMS.get(sys.platform),
    help="With --print: for which system.",
)
def install_service(*, now: bool, remove: bool, show: bool, system: str | None) -> None:
    """Work through the queue whenever you are logged on.

    Writes a file for systemd (Linux), launchd (macOS) or Task Scheduler (Windows)
    that runs 'bitsferry jobs run' as you. It needs no administrator.
    """
    if now + remove + show > 1:
        raise click.UsageError("use only one of --now, --remove and --print")
    if system is None:
        raise click.UsageError(
            "there is no service file for this system: let cron (@reboot) or what it has start "
            "'bitsferry jobs run'"
        )
    if not show and system != SYSTEMS.get(sys.platform):
        raise click.UsageError(f"a service file for {system} can only be printed here: add --print")
    try:
        service = _SERVICES[system]()
    except ValueError as error:
        _fail(str(error))
    if show:
        # A program gets the bytes that belong into the file, a person the text.
        text = service.content.decode("utf-16" if system == "windows" else "utf-8")
        click.echo(text if sys.stdout.isatty() else service.content, nl=False)
    elif remove:
        _remove(service)
    else:
        _install(service, now=now)


def _install(service: _Service, *, now: bool) -> None:
    try:
        os.makedirs(os.path.dirname(service.path), exist_ok=True)
        with open(service.path + ".new", "wb") as file:
            file.write(service.content)
        os.replace(service.path + ".new", service.path)
    except OSError as error:
        _fail(f"{service.path} cannot be written: {error.strerror}")
    click.echo(f"wrote {service.path}")
    if now:
        for command in service.start:
            if why := _run(command):
                _fail(f"{spell_command(command)}: {why}")
        click.echo("started: it works through the queue now and after every log-on")
    else:
        click.echo("To start it, now and at every log-on:")
        for command in service.start:
            click.echo(f"    {spell_command(command)}")
    if service.hint:
        click.echo(service.hint)


def _remove(service: _Service) -> None:
    """What cannot be stopped, because it does not run or was never taken up, is removed all the same."""
    for command in service.stop:
        if why := _run(command):
            click.echo(f"{spell_command(command)}: {why}", err=True)
    try:
        with suppress(FileNotFoundError):
            os.unlink(service.path)
    except OSError as error:
        _fail(f"{service.path} cannot be removed: {error.strerror}")
    click.echo(f"removed {service.path}; the jobs are where they were")


def _run(command: tuple[str, ...]) -> str:
    """Why the command failed; nothing when it did not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        return error.strerror or str(error)
    if done.returncode == 0:
        return ""
    return (done.stderr or done.stdout).strip() or f"it ended with {done.returncode}"


def _fail(why: str) -> None:
    click.echo(f"bitsferry: {why}", err=True)
    sys.exit(FAILED)


def _command(python: str) -> list[str]:
    """Safe from what lies in the folder where it happens to start: -P."""
    return [python, "-P", "-m", "bitsferry", "jobs", "run"]


def _environment() -> dict[str, str]:
    """Without it the service would look for the queue elsewhere."""
    return {name: os.environ[name] for name in ("XDG_STATE_HOME",) if name in os.environ}


def _systemd() -> _Service:
    return _Service(
        path=str(user_config_path("systemd", appauthor=False) / "user" / UNIT),
        content=systemd_unit(_command(sys.executable), _environment()),
        start=(("systemctl", "--user", "daemon-reload"), ("systemctl", "--user", "enable", "--now", UNIT)),
        stop=(("systemctl", "--user", "disable", "--now", UNIT),),
        hint="To let it work while you are logged off, too:\n    loginctl enable-linger",
    )


def _launchd() -> _Service:
    home = os.path.expanduser("~")
    path = os.path.join(home, "Library", "LaunchAgents", f"{LABEL}.plist")
    domain = f"gui/{getattr(os, 'getuid', int)()}"  # Windows only prints the file
    return _Service(
        path=path,
        content=launch_agent(
            LABEL,
            _command(sys.executable),
            _environment(),
            log=os.path.join(home, "Library", "Logs", "bitsferry-jobs.log"),
        ),
        start=(("launchctl", "bootstrap", domain, path),),
        stop=(("launchctl", "bootout", f"{domain}/{LABEL}"),),
    )


def _task_scheduler() -> _Service:
    path = str(user_state_path("bitsferry", appauthor=False) / "jobs-task.xml")
    windowless = os.path.join(os.path.dirname(sys.executable), "pythonw.exe")
    python = windowless if os.path.exists(windowless) else sys.executable
    user = "\\".join(filter(None, (os.environ.get("USERDOMAIN"), os.environ.get("USERNAME"))))
    return _Service(
        path=path,
        content=scheduled_task(_command(python), user),
        start=(
            ("schtasks", "/create", "/tn", TASK, "/xml", path, "/f"),
            ("schtasks", "/run", "/tn", TASK),
        ),
        stop=(("schtasks", "/end", "/tn", TASK), ("schtasks", "/delete", "/tn", TASK, "/f")),
    )


_SERVICES = {"linux": _systemd, "macos": _launchd, "windows": _task_scheduler}
