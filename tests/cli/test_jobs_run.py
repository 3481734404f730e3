"""Runners as processes: they carry jobs to a real server, are stopped, and watched."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bitsferry.cli.jobs import jobs
from bitsferry.client.client import Client
from bitsferry.client.job import Job, JobState
from server.raw import eventually

from .conftest import Configure, Start
from .serving import Served

JOBS = [sys.executable, "-m", "bitsferry", "jobs"]
MIB = 1 << 20

Begin = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with a file to send."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "big.bin").write_bytes(os.urandom(4 * MIB))
    (tmp_path / "small.bin").write_bytes(b"all of it")
    return tmp_path


@pytest.fixture
def url(start: Start, configure: Configure) -> str:
    """A server's directory."""
    return url_of(start("--config", configure(directory='read_back = "everybody"')).ready())


def url_of(served: Served) -> str:
    return f"http://127.0.0.1:{served.port}/in/"


@pytest.fixture
def begin(home: Path) -> Iterator[Begin]:
    """Starts a command of `bitsferry jobs` as a process."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*JOBS, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(jobs, arguments)
    assert result.exit_code == code, result.output
    return result


def the_job() -> Job:
    with Client() as client:
        (job,) = client.jobs()
        return job


def reaches(state: JobState) -> bool:
    return eventually(lambda: the_job().state is state, 20)


def test_a_runner_carries_what_is_queued_and_says_what_happens(home: Path, url: str, begin: Begin) -> None:
    run("send", "small.bin", url)
    run("send", "big.bin", url, "--priority", "foreground")
    run("send", "small.bin", f"{url}no/x", "--name", "lost")
    out, err = begin("run", "--until-idle").communicate(timeout=30)
    first, *lines = out.splitlines()
    assert first == f"working through the queue {home}/state/bitsferry/jobs.db"
    said = [line.split(" ", 3)[3] for line in lines]
    for words in (
        *("small.bin: queued", "small.bin: transferring", "small.bin: transferred, 9 bytes"),
        *("big.bin: transferred, 4.2 MB", "lost: queued"),
    ):
        assert words in said
    assert any(line.startswith("lost: ERROR_PATH_NOT_FOUND (0x80070003): ") for line in said)
    assert err == ""
    assert (home / "in" / "big.bin").read_bytes() == (home / "big.bin").read_bytes()
    assert (home / "in" / "small.bin").read_bytes() == b"all of it"


def test_quiet_says_only_what_fails(url: str, begin: Begin) -> None:
    run("send", "small.bin", url)
    run("send", "small.bin", f"{url}no/x", "--name", "lost")
    out, err = begin("run", "--until-idle", "--quiet").communicate(timeout=30)
    assert out == ""
    assert " lost: ERROR_PATH_NOT_FOUND (0x80070003): " in err
    assert err.count("\n") == 1


def test_json_is_the_object_of_a_job_for_each_change(url: str, begin: Begin) -> None:
    run("send", "small.bin", url)
    out, _ = begin("run", "--until-idle", "--json").communicate(timeout=30)
    told = [json.loads(line) for line in out.splitlines()]
    assert [each["state"] for each in told] == ["QUEUED", "CONNECTING", "TRANSFERRING", "TRANSFERRED"]
    assert told[-1]["bytes_transferred"] == told[-1]["bytes_total"] == 9


def test_once_tries_what_is_due_and_waits_for_nothing(url: str, begin: Begin) -> None:
    run("send", "small.bin", "http://127.0.0.1:1/x", "--name", "far")
    run("send", "small.bin", url)
    out, _ = begin("run", "--once").communicate(timeout=30)
    assert "far: ERROR_WINHTTP_CANNOT_CONNECT (0x80072EFD): " in out
    assert re.search(r"; trying again (in [0-9]+ s|at ..:..)", out)
    assert "small.bin: transferred, 9 bytes" in out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_stopped_it_ends_within_seconds_and_another_goes_on(
    home: Path, url: str, begin: Begin, number: signal.Signals, code: int
) -> None:
    run("send", "big.bin", url, "--limit", "1 MB/s")
    runner = begin("run")
    assert reaches(JobState.TRANSFERRING)
    assert eventually(lambda: the_job().bytes_transferred > 0, 20)
    runner.send_signal(number)
    assert runner.wait(10) == code
    assert the_job().state is JobState.QUEUED
    run("set", "big.bin", "--limit", "none")
    assert begin("run", "--until-idle").wait(30) == 0
    assert (home / "in" / "big.bin").read_bytes() == (home / "big.bin").read_bytes()


def test_only_one_runner_works_through_a_queue(begin: Begin) -> None:
    first = begin("run")
    assert first.stdout is not None
    first.stdout.readline()
    assert "another process works through the queue" in run("run", code=75).stderr
    first.terminate()
    assert first.wait(10) == 0


def test_wait_ends_with_what_came_of_the_job(url: str, begin: Begin) -> None:
    run("send", "small.bin", url)
    run("send", "small.bin", f"{url}no/x", "--name", "lost")
    begin("run")
    assert run("wait", "small.bin", "--timeout", "20 s").stdout == "small.bin: transferred\n"
    result = run("wait", "lost", "--timeout", "20 s", code=1)
    assert result.stdout == "lost: error\n"
    error, advice = result.stderr.splitlines()[-2:]
    assert error.startswith("ERROR_PATH_NOT_FOUND (0x80070003): ")
    assert advice.startswith("Check the URL: ")


def test_what_was_fetched_appears_when_it_is_completed(home: Path, url: str, begin: Begin) -> None:
    (home / "in" / "tool.exe").write_bytes(b"a tool")
    run("fetch", f"{url}tool.exe", "tool.exe")
    assert begin("run", "--until-idle").wait(30) == 0
    assert "to have it: bitsferry jobs complete" in run("list").stdout
    assert not (home / "tool.exe").exists()
    assert run("complete", "tool.exe").stdout == f"tool.exe: fetched {home}/tool.exe\n"
    assert (home / "tool.exe").read_bytes() == b"a tool"
    assert "the queue is empty" in run("list", "--all").stdout


def test_what_a_server_is_still_to_be_told_the_next_runner_tells_it(
    home: Path, url: str, begin: Begin
) -> None:
    run("send", "big.bin", url, "--limit", "500 KB/s")
    runner = begin("run")
    assert eventually(lambda: the_job().bytes_transferred > 0, 20)
    runner.terminate()
    runner.wait(10)
    assert list(home.rglob("request.data"))
    assert run("cancel", "big.bin").stdout == "big.bin: cancelled; the next runner will tell the server\n"
    assert begin("run", "--once").wait(30) == 0
    assert not list(home.rglob("request.data"))
    assert "the queue is empty" in run("list", "--all").stdout


def test_without_a_terminal_the_monitor_prints_lines_until_the_job_is_through(url: str, begin: Begin) -> None:
    run("send", "big.bin", url, "--limit", "3 MB/s")
    monitor = begin("monitor", "big.bin", "--interval", "0.1")
    assert monitor.stdout is not None
    assert monitor.stdout.readline().endswith(" big.bin: queued\n")
    begin("run")
    out, _ = monitor.communicate(timeout=30)
    assert monitor.returncode == 0
    said = [line.partition("big.bin: ")[2] for line in out.splitlines()]
    assert "transferring" in said
    assert any(words.endswith("/4.2 MB") for words in said)
    assert said[-1] == "transferred, 4.2 MB"
