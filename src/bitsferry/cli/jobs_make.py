"""The commands of `bitsferry jobs` that make jobs, and say what they are like."""

from __future__ import annotations

import os
from typing import Any

import click

from bitsferry.cli.job_client import opened, say, say_objects, say_that_nobody_works
from bitsferry.cli.job_options import (
    changes,
    credentials_of,
    parsed,
    property_options,
    read_limit,
    user_options,
)
from bitsferry.cli.job_words import printable, short_id, spell_rates, spell_state
from bitsferry.client.bandwidth import Timetable
from bitsferry.client.client import Client
from bitsferry.client.credentials import Credential, Scheme, Target
from bitsferry.client.job import Job, JobType
from bitsferry.client.job_queue import JobQueue

__all__ = ["add", "create", "credentials", "fetch", "limit", "send", "set_"]

as_json = click.option("--json", "as_json", is_flag=True, help="Print the job as JSON.")
named = click.option("--name", metavar="NAME", help="What to call it, instead of what the file is called.")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.argument("url")
@named
@user_options
@property_options
@as_json
def send(*, file: str, url: str, name: str | None, **options: Any) -> None:
    """Put FILE into the queue, to be sent to URL.

    A URL that ends in / names a folder. It returns at once; a runner sends the file.
    """
    json, who, settings = _read(options)
    reply = settings.pop("reply_path", None)
    with opened() as client:
        name = name or printable(os.path.basename(file))
        job = client.upload(file, url, name=name, reply=reply, credentials=who, **settings)
        _tell_queued(client, job, json=json)


@click.command()
@click.argument("url")
@click.argument("file", type=click.Path(dir_okay=False))
@named
@user_options
@property_options
@as_json
def fetch(*, url: str, file: str, name: str | None, **options: Any) -> None:
    """Put URL into the queue, to be fetched into FILE.

    It returns at once; a runner fetches it. FILE appears when 'bitsferry jobs complete'
    takes what was fetched.
    """
    _refuse_reply(JobType.DOWNLOAD, options)
    json, who, settings = _read(options)
    with opened() as client:
        name = name or printable(os.path.basename(file))
        job = client.download(url, file, name=name, credentials=who, **settings)
        _tell_queued(client, job, json=json)


def _tell_queued(client: Client, job: Job, *, json: bool) -> None:
    _tell(client, job, f"{short_id(job)} {job.name}: {spell_state(job.state)}", json=json)
    say_that_nobody_works(client, [job])


@click.command()
@click.argument("name")
@click.option("--upload", "kind", flag_value="upload", default=True, help="It sends a file (the default).")
@click.option("--upload-reply", "kind", flag_value="upload_reply", help="It fetches the answer, too.")
@click.option("--download", "kind", flag_value="download", help="It fetches files.")
@user_options
@property_options
@as_json
def create(*, name: str, kind: str, **options: Any) -> None:
    """Make a job called NAME that waits for its files."""
    type_ = JobType[kind.upper()]
    _refuse_reply(type_, options)
    json, who, settings = _read(options)
    with opened() as client:
        job = client.create(name, type_, **settings)
        for credential in who:
            client.set_credentials(job, credential)
        _tell(client, job, f"{job.id} {job.name}: {spell_state(job.state)}", json=json)


@click.command()
@click.argument("job")
@click.argument("first", metavar="FILE")
@click.argument("second", metavar="URL")
@as_json
def add(*, job: str, first: str, second: str, as_json: bool) -> None:
    """Give JOB a file: FILE here, URL there.

    An upload has one file, a download any number. URL FILE is understood, too.
    """
    url, file = (first, second) if _is_url(first) else (second, first)
    with opened() as client:
        found = client.find(job)
        if found.is_upload and not os.path.isfile(file):
            raise click.BadParameter(f"there is no file {file}", param_hint="'FILE'")
        after = client.add(found, url, file)
        added = after.files[-1]
        pair = (added.local, added.remote) if after.is_upload else (added.remote, added.local)
        resume = f"; start it with: bitsferry jobs resume {short_id(after)}"
        hint = resume if after.state.name == "SUSPENDED" else ""
        _tell(client, after, f"{after.name}: {pair[0]} -> {pair[1]}{hint}", json=as_json)


@click.command("set")
@click.argument("job")
@click.option("--name", metavar="NAME", help="What it is called.")
@property_options
@as_json
def set_(*, job: str, as_json: bool, **options: Any) -> None:
    """Change what JOB is like; what is not said stays as it is.

    The word none takes a limit, a header, a command or a file away.
    """
    with opened() as client:
        found = client.find(job)
        settings = changes(options, found)
        if not settings:
            raise click.UsageError("say what to change; --help lists what there is")
        after = client.set(found, **settings)
        _tell(client, after, f"{after.name}: set", json=as_json)


@click.group()
def credentials() -> None:
    """Say whom a job's server, or proxy, shall take it for."""


@credentials.command("set")
@click.argument("job")
@user_options
def set_credentials(*, job: str, **options: Any) -> None:
    """Say who is asking when JOB runs.

    Passwords are kept in the system's keyring, or in a file that only you can read.
    """
    new = credentials_of(options)
    if not new:
        raise click.UsageError(
            "say who is asking: --user NAME, --auth bearer, --auth negotiate or --proxy-user NAME"
        )
    with opened() as client:
        found = client.find(job)
        for credential in new:
            client.set_credentials(found, credential)
            say(f"{found.name}: asks the {credential.target} as {_name_of(credential)}")


def _name_of(credential: Credential) -> str:
    if credential.user:
        return credential.user
    return "the owner of a token" if credential.scheme is Scheme.BEARER else "whoever runs the jobs"


@credentials.command("remove")
@click.argument("job")
@click.option("--proxy", is_flag=True, help="Only what the proxy is told.")
@click.option("--server", is_flag=True, help="Only what the server is told.")
def remove_credentials(*, job: str, proxy: bool, server: bool) -> None:
    """Forget who is asking when JOB runs."""
    target = None if proxy == server else Target.PROXY if proxy else Target.SERVER
    with opened() as client:
        found = client.find(job)
        client.remove_credentials(found, target)
        say(f"{found.name}: forgotten")


@click.command()
@click.argument("rate", required=False, callback=parsed(read_limit))
def limit(*, rate: Timetable | str | None) -> None:
    """Say how fast all jobs together may be, or show it.

    RATE is one such as '2 MB/s', several by the time of day such as
    '08:00-18:00 500 KB/s', or none.
    """
    with opened(), JobQueue() as queue:
        if rate is not None:
            queue.limit = rate if isinstance(rate, Timetable) else None
        say("none" if queue.limit is None else spell_rates(queue.limit))


def _read(options: dict[str, Any]) -> tuple[bool, list[Credential], dict[str, Any]]:
    """Whether JSON is wanted, who is asking, and all other settings."""
    json = options.pop("as_json")
    return json, credentials_of(options), changes(options)


def _refuse_reply(kind: JobType, options: dict[str, Any]) -> None:
    if kind is not JobType.UPLOAD_REPLY and options["reply_path"] is not None:
        raise click.UsageError("only an upload can have a reply: add --upload-reply")


def _is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def _tell(client: Client, job: Job, words: str, *, json: bool) -> None:
    if json:
        say_objects(client, [job])
    else:
        say(words)
