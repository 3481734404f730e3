"""`bitsferry jobs`: what its commands do to the queue, what they say, how they end."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from bitsferry.cli.jobs import jobs
from bitsferry.client.client import Client
from bitsferry.client.credentials import Credential, Target
from bitsferry.client.job import Job, JobState, JobType, Notify, Priority
from bitsferry.client.job_queue import JobQueue
from bitsferry.client.proxies import ProxySettings, ProxyUsage
from bitsferry.client.runner_lock import RunnerLock
from bitsferry.client.trust import Ignore, TlsSettings

URL = "http://receiver/in/"
NO_RUNNER = (
    "no runner is working: start one with 'bitsferry jobs run', or for good with "
    "'bitsferry jobs install-service'\n"
)


@pytest.fixture(autouse=True)
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where this user's queue is."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "backup.tar").write_bytes(b"all of it")
    return str(tmp_path / "state" / "bitsferry" / "jobs.db")


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(jobs, arguments)
    assert result.exit_code == code, result.output
    return result


def in_queue() -> list[Job]:
    with Client() as client:
        return client.jobs()


def the_job() -> Job:
    (job,) = in_queue()
    return job


def told(*arguments: str) -> dict[str, Any]:
    (line,) = run(*arguments, "--json").stdout.splitlines()
    answer: dict[str, Any] = json.loads(line)
    return answer


# Making jobs


def test_send_puts_a_file_on_its_way_and_says_what_is_missing(tmp_path: Path) -> None:
    result = run("send", "backup.tar", URL)
    job = the_job()
    assert result.stdout == f"{job.id[1:9]} backup.tar: queued\n"
    assert result.stderr == NO_RUNNER
    assert (job.type, job.state) == (JobType.UPLOAD, JobState.QUEUED)
    (file,) = job.files
    assert (file.remote, file.local) == (f"{URL}backup.tar", str(tmp_path / "backup.tar"))


def test_a_file_may_have_any_name_that_is_text(tmp_path: Path) -> None:
    (tmp_path / "two\nlines").write_bytes(b"x")
    run("send", "two\nlines", URL)
    assert (the_job().name, the_job().files[0].remote) == (
        "two\N{REPLACEMENT CHARACTER}lines",
        f"{URL}two%0Alines",
    )


def test_with_a_runner_there_is_nothing_to_add(queue: str) -> None:
    run("list")
    with RunnerLock(queue):
        assert run("send", "backup.tar", URL).stderr == ""
        assert run("list").stderr == ""


def test_send_with_a_reply_is_an_upload_reply_job(tmp_path: Path) -> None:
    run("send", "backup.tar", URL, "--reply", "answer.xml")
    assert (the_job().type, the_job().reply_path) == (JobType.UPLOAD_REPLY, str(tmp_path / "answer.xml"))


def test_an_upload_reply_job_can_be_made_step_by_step(tmp_path: Path) -> None:
    run("create", "x", "--upload-reply", "--reply", "answer.xml")
    run("add", "x", "backup.tar", URL)
    assert (the_job().type, the_job().reply_path) == (JobType.UPLOAD_REPLY, str(tmp_path / "answer.xml"))


def test_fetch_puts_a_download_on_its_way(tmp_path: Path) -> None:
    run("fetch", f"{URL}tool.exe", "tool.exe", "--name", "the tool")
    job = the_job()
    assert (job.name, job.type, job.state) == ("the tool", JobType.DOWNLOAD, JobState.QUEUED)
    assert job.files[0].local == str(tmp_path / "tool.exe")


def test_create_add_resume_are_the_same_step_by_step() -> None:
    created = run("create", "weekly", "--priority", "low")
    job = the_job()
    assert created.stdout == f"{job.id} weekly: suspended\n"
    assert created.stderr == ""
    added = run("add", "weekly", "backup.tar", URL).stdout
    assert added.endswith(f"; start it with: bitsferry jobs resume {job.id[1:9]}\n")
    assert run("resume", "weekly").stdout == "weekly: queued\n"
    assert (the_job().state, the_job().priority) == (JobState.QUEUED, Priority.LOW)


def test_add_knows_the_url_from_the_file_and_a_download_takes_several() -> None:
    run("create", "tools", "--download")
    run("add", "tools", "a.exe", f"{URL}a.exe")
    run("add", "tools", f"{URL}b.exe", "b.exe")
    assert [file.remote for file in the_job().files] == [f"{URL}a.exe", f"{URL}b.exe"]


def test_nothing_is_left_of_a_job_that_cannot_be_made() -> None:
    assert "is no URL" in run("send", "backup.tar", "receiver/in/", code=2).stderr
    assert in_queue() == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["send", "not-there", URL],
        ["send", "backup.tar"],
        ["send", "backup.tar", URL, "--limit", "fast"],
        ["send", "backup.tar", URL, "--limit", "0"],
        ["send", "backup.tar", URL, "--header", "no colon"],
        ["send", "backup.tar", URL, "--header", "none", "--header", "A: b"],
        ["send", "backup.tar", URL, "--user", "inga"],
        ["send", "backup.tar", URL, "--priority", "highest"],
        ["send", "backup.tar", URL, "--retry-delay", "soon"],
        ["send", "backup.tar", URL, "--fragment", "1 KB"],
        ["send", "backup.tar", URL, "--notify-flags", "everything"],
        ["send", "backup.tar", URL, "--notify-command", "no-such-program --really"],
        ["send", "backup.tar", URL, "--proxy", "socks://host"],
        ["send", "backup.tar", URL, "--no-proxy", "*.example.com"],
        ["send", "backup.tar", URL, "--ignore-tls", "usage"],
        ["send", "backup.tar", URL, "--key", "key.pem"],
        ["send", "backup.tar", URL, "--name", "two\nlines"],
        ["fetch", f"{URL}x", "x", "--reply", "answer"],
        ["create", "x", "--reply", "answer"],
        ["create", "x" * 257],
        ["run", "--once", "--until-idle"],
        ["monitor", "--interval", "0"],
        ["resume"],
        ["cancel", "x", "--all"],
        ["limit", "fast"],
        ["credentials", "set", "x"],
        ["resume", "nobody"],
        ["show", "nobody"],
        ["wait", "nobody"],
    ],
)
def test_wrong_usage_ends_with_2_and_changes_nothing(arguments: list[str]) -> None:
    result = run(*arguments, code=2)
    assert result.stderr
    assert in_queue() == []


# What jobs are like

CHANGES: list[tuple[list[str], str, object]] = [
    (["--name", "other"], "name", "other"),
    (["--description", "weekly"], "description", "weekly"),
    (["--priority", "foreground"], "priority", Priority.FOREGROUND),
    (["--retry-delay", "2 minutes"], "retry_delay", 120),
    (["--no-progress-timeout", "0"], "no_progress_timeout", 0),
    (["--max-download-time", "1 day"], "max_download_time", 86_400),
    (["--notify-flags", "error"], "notify_flags", Notify.ERROR),
    (["--notify-flags", "3"], "notify_flags", Notify.TRANSFERRED | Notify.ERROR),
    (["--notify-flags", "none"], "notify_flags", Notify.DISABLE),
    (["--fragment", "1 MiB"], "fragment_limit", 1 << 20),
]


@pytest.mark.parametrize(("options", "name", "value"), CHANGES)
def test_set_changes_what_is_said_and_nothing_else(options: list[str], name: str, value: object) -> None:
    run("create", "x", "--description", "was there")
    before = the_job()
    assert run("set", "x", *options).exit_code == 0
    after = the_job()
    assert getattr(after, name) == value
    for field in {"description", "priority", "retry_delay", "http", "limit", "name"} - {name}:
        assert getattr(after, field) == getattr(before, field)


@pytest.mark.parametrize(("options", "name", "value"), CHANGES[1:])
def test_a_new_job_can_be_like_that_at_once(options: list[str], name: str, value: object) -> None:
    run("send", "backup.tar", URL, *options)
    assert getattr(the_job(), name) == value


def test_the_word_none_takes_things_away() -> None:
    run(
        *("create", "x", "--limit", "2 MB/s", "--fragment", "1 MiB", "--header", "A: b", "--cacert", "ca.pem")
    )
    run("set", "x", "--ignore-tls", "cn", "--notify-command", "true now")
    job = the_job()
    assert job.limit is not None
    assert job.notify_command[0].startswith("/")
    run("set", "x", *("--limit", "none", "--fragment", "none", "--header", "none", "--cacert", "none"))
    run("set", "x", "--ignore-tls", "none", "--notify-command", "none")
    job = the_job()
    assert (job.limit, job.fragment_limit, job.notify_command) == (None, None, ())
    assert (job.http.headers, job.http.tls) == ((), TlsSettings())


def test_parts_of_tls_and_proxy_are_set_one_by_one(tmp_path: Path) -> None:
    run(
        "create",
        "x",
        "--cacert",
        "ca.pem",
        "--proxy",
        "http://proxy:3128",
        "--no-proxy",
        "*.example.com,<local>",
    )
    run("set", "x", "--cert", "me.pem", "--key", "key.pem", "--ignore-tls", "cn", "--ignore-tls", "date")
    run("set", "x", "--proxy-tunnel", "--post")
    http = the_job().http
    assert http.tls == TlsSettings(
        str(tmp_path / "ca.pem"),
        str(tmp_path / "me.pem"),
        str(tmp_path / "key.pem"),
        None,
        Ignore.CN | Ignore.DATE,
    )
    assert http.proxy == ProxySettings(
        ProxyUsage.OVERRIDE, ("http://proxy:3128",), ("*.example.com", "<local>"), True
    )
    assert http.override_method
    run("set", "x", "--proxy", "none", "--no-post", "--cert", "none")
    http = the_job().http
    assert http.proxy == ProxySettings(ProxyUsage.NO_PROXY, tunnel=True)
    assert (http.tls.client_certificate, http.tls.client_key) == (None, None)
    assert not http.override_method
    run("set", "x", "--proxy", "system", "--no-proxy-tunnel")
    assert the_job().http.proxy == ProxySettings()


def test_set_wants_something_to_change() -> None:
    run("create", "x")
    assert "say what to change" in run("set", "x", code=2).stderr


def test_headers_once_write_only_are_shown_to_nobody() -> None:
    run("create", "x", "--header", "X-Key: hush")
    assert "X-Key: hush" in run("show", "x").stdout
    run("set", "x", "--write-only-headers")
    assert "hush" not in run("show", "x").stdout + run("show", "x", "--json").stdout
    assert the_job().http.headers == (("X-Key", "hush"),)


def test_passwords_come_from_the_environment_and_are_shown_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITSFERRY_PASSWORD", "hush")
    monkeypatch.setenv("BITSFERRY_PROXY_PASSWORD", "shush")
    run("create", "x", "--user", "inga", "--auth", "digest")
    run("credentials", "set", "x", "--proxy-user", "otto")
    said = run("show", "x").stdout + run("show", "x", "--json").stdout
    assert "inga (server, digest)" in said
    assert "otto (proxy, as it asks)" in said
    assert "hush" not in said
    with Client() as client:
        kept = client._credentials.of(the_job().id)
    assert kept[1] == Credential(Target.PROXY, None, "otto", "shush")
    run("credentials", "remove", "x", "--proxy")
    assert "otto" not in run("show", "x").stdout


def test_a_log_on_needs_neither_a_name_nor_a_password() -> None:
    pytest.importorskip("krb5", reason="the packages of bitsferry[kerberos] are not installed")
    run("create", "x", "--auth", "negotiate")
    assert "whoever runs the jobs" in run("credentials", "set", "x", "--proxy-auth", "ntlm").stdout
    said = run("show", "x").stdout
    assert "whoever runs it (server, negotiate)" in said
    assert "whoever runs it (proxy, ntlm)" in said


def test_whether_a_digest_is_said_is_up_to_the_job() -> None:
    run("create", "x", "--digest")
    assert the_job().http.digest is True
    run("set", "x", "--no-digest")
    assert the_job().http.digest is False
    run("credentials", "remove", "x")
    assert told("show", "x")["credentials"] == []


def test_the_limit_of_the_whole_queue_is_kept_shown_and_taken_away() -> None:
    assert run("limit").stdout == "none\n"
    assert run("limit", "500 KB/s 08:00-18:00, 2 MB/s").stdout == "500 KB/s 08:00-18:00, 2 MB/s\n"
    assert run("limit").stdout == "500 KB/s 08:00-18:00, 2 MB/s\n"
    assert run("limit", "none").stdout == "none\n"
    with JobQueue() as queue:
        assert queue.limit is None


# Looking


def test_an_empty_queue_says_how_to_begin() -> None:
    assert run("list").stdout == "the queue is empty: 'bitsferry jobs send FILE URL' puts a file into it\n"
    assert run("list", "--json").stdout == ""


def test_list_has_a_line_for_each_job_and_so_has_its_json() -> None:
    run("send", "backup.tar", URL)
    run("create", "empty")
    lines = run("list").stdout.splitlines()
    assert lines[0].split() == ["ID", "JOB", "STATE", "DONE"]
    assert re.fullmatch(r"[0-9A-F]{8}  ↑ backup\.tar  queued  +0/[0-9]+ bytes +0 %", lines[1].rstrip())
    objects = [json.loads(line) for line in run("list", "--json").stdout.splitlines()]
    assert [each["name"] for each in objects] == ["backup.tar", "empty"]
    assert objects[0]["files"][0]["remote"] == f"{URL}backup.tar"


def test_list_all_shows_what_is_over_but_not_forgotten(queue: str) -> None:
    run("create", "x")
    with RunnerLock(queue):
        run("cancel", "x")
        assert "the queue is empty" in run("list").stdout
        assert "cancelled" in run("list", "--all").stdout


def test_a_job_is_named_by_its_id_its_beginning_or_its_name() -> None:
    run("create", "weekly")
    id_ = the_job().id
    for name in (id_, id_.strip("{}"), id_.lower(), id_[1:9], id_[1:5].lower(), "weekly"):
        assert told("show", name)["id"] == id_
    run("show", id_[1:4], code=2)


def test_a_name_of_several_lists_them() -> None:
    run("create", "weekly")
    run("create", "weekly")
    result = run("suspend", "weekly", code=2)
    for job in in_queue():
        assert f"{job.id} weekly" in result.stderr


# Steering


def test_suspend_and_resume() -> None:
    run("send", "backup.tar", URL)
    assert run("suspend", "backup.tar").stdout == "backup.tar: suspended\n"
    assert told("resume", "backup.tar")["state"] == "QUEUED"


def test_what_cannot_be_done_to_one_job_does_not_keep_it_from_the_others() -> None:
    run("create", "a")
    run("send", "backup.tar", URL)
    run("suspend", "backup.tar")
    result = run("resume", "a", "nobody", "backup.tar", code=2)
    assert "bitsferry: a: BG_E_EMPTY (0x80200003): the job has no file" in result.stderr.replace("The", "the")
    assert "there is no job nobody" in result.stderr
    assert result.stdout == "backup.tar: queued\n"


def test_a_refusal_has_its_name_and_number() -> None:
    run("send", "backup.tar", URL)
    result = run("complete", "backup.tar", code=1)
    assert "bitsferry: backup.tar: BG_E_INVALID_STATE (0x80200002): it cannot be completed" in result.stderr


def test_all_means_those_for_which_it_makes_sense() -> None:
    run("send", "backup.tar", URL)
    run("create", "empty")
    run("fetch", f"{URL}tool.exe", "tool.exe")
    assert run("complete", "--all").stdout == ""  # a download that is half done is not given up by this
    assert run("suspend", "--all").stdout == "backup.tar: suspended\ntool.exe: suspended\n"
    assert run("resume", "--all").stdout == "backup.tar: queued\ntool.exe: queued\n"
    assert run("cancel", "--all").stdout == "backup.tar: cancelled\nempty: cancelled\ntool.exe: cancelled\n"
    assert in_queue() == []


def test_a_damaged_queue_is_told_in_a_sentence(queue: str) -> None:
    run("list")
    Path(queue).write_bytes(b"no database at all" * 100)
    result = run("list", code=1)
    assert "is damaged" in result.stderr


# Waiting


def test_wait_ends_with_75_when_the_time_is_over() -> None:
    run("send", "backup.tar", URL)
    result = run("wait", "backup.tar", "--timeout", "0", code=75)
    assert result.stdout == "backup.tar: queued\n"
    assert result.stderr == NO_RUNNER


def test_wait_says_that_a_suspended_job_does_not_move() -> None:
    run("create", "x")
    assert "it moves when it is resumed" in run("wait", "x", "--timeout", "0", code=75).stderr


# Help


def commands(group: click.Command, *names: str) -> list[tuple[str, ...]]:
    if not isinstance(group, click.Group):
        return [names]
    inside = [each for name in group.commands for each in commands(group.commands[name], *names, name)]
    return [names, *inside]


@pytest.mark.parametrize("names", commands(jobs))
def test_help_fits_into_80_columns(names: tuple[str, ...]) -> None:
    result = run(*names, "--help")
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "..." not in result.stdout.replace("COMMAND [ARGS]...", "").replace("JOB...", "")
