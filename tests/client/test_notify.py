"""A job's owner hears what became of it, by his callback or his program."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

import msgspec
import pytest

from bitsferry.client.job import Job, JobType, new_id
from bitsferry.client.local_file import Identity
from bitsferry.client.notify import tell_owner
from bitsferry.protocol.errors import AccessDenied

URL = "http://127.0.0.1/in/file.bin"


def program(text: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text, *arguments)


@pytest.fixture
def job() -> Job:
    job = Job(id=new_id(), name="näme", type=JobType.UPLOAD, created=0.0, modified=0.0)
    job = job.add_file(URL, "/file.bin", 0.0).resume(0.0).connecting(0.0)
    return job.begun(Identity(5, 6, 7), 0.0).transferred(0.0)


def with_command(job: Job, *command: str) -> Job:
    return msgspec.structs.replace(job, notify_command=command)


WRITE = """
import os, sys
names = ["JOB_ID", "JOB_NAME", "JOB_STATE", "JOB_TYPE", "HRESULT", "URL", "FILE"]
with open(sys.argv[1], "w", encoding="utf-8") as file:
    file.write("\\n".join(os.environ["BITSFERRY_" + name] for name in names))
    file.write("\\n" + sys.argv[2] + "\\n" + repr(sys.stdin.read()))
"""


def test_a_program_hears_which_job_it_is_and_how_it_ended(job: Job, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    assert tell_owner(with_command(job, *program(WRITE, str(heard), "$HOME; *")))
    said = heard.read_text(encoding="utf-8").splitlines()
    assert said == [
        *(job.id, "näme", "TRANSFERRED", "UPLOAD", "0x00000000", URL, "/file.bin"),
        *("$HOME; *", "''"),  # no shell has touched it, and nobody can type into it
    ]


def test_a_program_hears_what_went_wrong(tmp_path: Path) -> None:
    failed = Job(id=new_id(), name="a", type=JobType.DOWNLOAD, created=0.0, modified=0.0)
    failed = failed.add_file(URL, "/file.bin", 0.0).resume(0.0).connecting(0.0).failed(AccessDenied(), 0.0)
    heard = tmp_path / "heard"
    assert tell_owner(with_command(failed, *program(WRITE, str(heard), "")))
    assert heard.read_text(encoding="utf-8").splitlines()[2:5] == ["ERROR", "DOWNLOAD", "0x80070005"]


@pytest.mark.skipif(sys.platform == "win32", reason="sh")
def test_a_program_is_found_as_a_shell_would(job: Job) -> None:
    assert tell_owner(with_command(job, "sh", "-c", "exit 0"))


def test_a_program_that_fails_has_not_heard(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    command = with_command(job, *program("print('out of paper'); raise SystemExit(3)", "--key=secret"))
    assert not tell_owner(command)
    facts = vars(caplog.records[-1])
    assert (facts["exit_code"], facts["said"], facts["job"]) == (3, "out of paper", job.id)
    assert "secret" not in str(facts)


@pytest.mark.parametrize("name", ["/nowhere/program", "", "a\0b", os.path.dirname(__file__)])
def test_a_program_that_cannot_be_run_has_not_heard(
    job: Job, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert not tell_owner(with_command(job, name))
    assert "cannot be run" in caplog.text


def test_a_program_that_takes_too_long_is_ended(job: Job) -> None:
    began = time.monotonic()
    assert not tell_owner(with_command(job, *program("import time; time.sleep(60)")), time_limit=0.1)
    assert time.monotonic() - began < 20


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_program_that_does_not_want_to_end_is_ended_too(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitsferry.client.notify.LAST_MOMENT", 0.1)
    stubborn = (
        "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open(sys.argv[1], 'w').close(); signal.pause()"
    )
    ready = tmp_path / "ready"
    assert not tell_owner(with_command(job, *program(stubborn, str(ready))), stop=ready.exists)


# Callbacks


def test_a_callback_that_heard_leaves_nothing_to_the_program(job: Job, tmp_path: Path) -> None:
    told: list[Job] = []
    command = with_command(job, *program("open('told', 'w')"))
    assert tell_owner(command, told.append)
    assert told == [command]
    assert not (tmp_path / "told").exists()


def test_where_the_callback_fails_the_program_is_run(job: Job, tmp_path: Path) -> None:
    def fail(job: Job) -> None:
        raise ValueError("nobody home")

    heard = tmp_path / "heard"
    assert tell_owner(with_command(job, *program(WRITE, str(heard), "")), fail)
    assert heard.exists()
    assert not tell_owner(job, fail)


def test_where_nobody_wants_to_hear_nobody_is_told(job: Job) -> None:
    assert tell_owner(job)
