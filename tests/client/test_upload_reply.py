"""An upload-reply from end to end: our client, our server, an application that answers."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import bitsferry

pytest.importorskip("fcntl", reason="the server needs POSIX")

QUESTION = b"how many bytes are these?"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "question.txt").write_bytes(QUESTION)
    return tmp_path


class Ferry:
    """A server whose applications count what they hear of."""

    def __init__(self, folder: Path) -> None:
        self.server = bitsferry.Server(
            directories=[
                bitsferry.Directory(f"/{name}/", str(folder / name))
                for name in ("counts", "silent", "late", "refuses", "large", "fails")
            ],
            store=folder / "store",
        )
        self.heard: list[str] = []
        server = self.server

        @server.on_upload("/counts/")
        def count(upload: bitsferry.ReceivedUpload) -> bytes:
            self.heard.append(upload.id)
            return f"{upload.size} bytes".encode()

        @server.on_upload("/silent/")
        def hear(upload: bitsferry.ReceivedUpload) -> None:
            self.heard.append(upload.id)

        @server.on_upload("/late/")
        def answer_later(upload: bitsferry.ReceivedUpload) -> bytes:
            self.heard.append(upload.id)
            if len(self.heard) < 2:
                raise bitsferry.TryLater(0.2)
            return b"at last"

        @server.on_upload("/refuses/")
        def refuse(upload: bitsferry.ReceivedUpload) -> bytes:
            self.heard.append(upload.id)
            raise bitsferry.RefuseUpload("not this one")

        @server.on_upload("/large/")
        def answer_much(upload: bitsferry.ReceivedUpload) -> bytes:
            self.heard.append(upload.id)
            return bytes(range(256)) * 40_000

        @server.on_upload("/fails/")
        def fail_once(upload: bitsferry.ReceivedUpload) -> bytes:
            self.heard.append(upload.id)
            if len(self.heard) < 2:
                raise RuntimeError("the database is away")
            return b"it is back"

    def url(self, path: str) -> str:
        return self.server.urls[0] + path


@pytest.fixture
def ferry(home: Path) -> Iterator[Ferry]:
    for name in ("counts", "silent", "late", "refuses", "large", "fails"):
        (home / name).mkdir()
    ferry = Ferry(home)
    with ferry.server.running():
        yield ferry


def send(home: Path, url: str) -> subprocess.CompletedProcess[str]:
    command = ["send", str(home / "question.txt"), url, "--reply", str(home / "answer.txt")]
    return subprocess.run(
        [sys.executable, "-m", "bitsferry", *command], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_reply_comes_home_and_the_file_is_in_its_place(home: Path, ferry: Ferry) -> None:
    done = send(home, ferry.url("counts/question.txt"))
    assert (done.returncode, done.stderr) == (0, "")
    assert (home / "answer.txt").read_bytes() == b"25 bytes"
    assert (home / "counts" / "question.txt").read_bytes() == QUESTION
    assert len(ferry.heard) == 1


def test_no_reply_is_an_empty_one(home: Path, ferry: Ferry) -> None:
    assert send(home, ferry.url("silent/question.txt")).returncode == 0
    assert (home / "answer.txt").read_bytes() == b""


def test_an_application_that_takes_its_time_is_waited_for(home: Path, ferry: Ferry) -> None:
    assert send(home, ferry.url("late/question.txt")).returncode == 0
    assert (home / "answer.txt").read_bytes() == b"at last"


def test_an_application_that_failed_is_told_again(home: Path, ferry: Ferry) -> None:
    assert send(home, ferry.url("fails/question.txt")).returncode == 0
    assert (home / "answer.txt").read_bytes() == b"it is back"
    assert len(set(ferry.heard)) == 1
    assert len(ferry.heard) == 2


def test_a_refusal_is_final_and_leaves_nothing(home: Path, ferry: Ferry) -> None:
    done = send(home, ferry.url("refuses/question.txt"))
    assert done.returncode == 1
    assert "the server's application" in done.stderr
    assert not (home / "refuses" / "question.txt").exists()
    assert not (home / "answer.txt").exists()
    assert len(ferry.heard) == 1


def test_a_job_in_the_queue_brings_its_reply(home: Path, ferry: Ferry) -> None:
    with bitsferry.Client() as client:
        job = client.upload(home / "question.txt", ferry.url("large/question.txt"), reply=home / "answer.txt")
        client.run(job)
        done = client.get(job)
        assert done.state is bitsferry.JobState.TRANSFERRED
        assert done.reply is not None
        assert done.reply.transferred == done.reply.size == 10_240_000
        client.complete(job)
    assert (home / "answer.txt").read_bytes() == bytes(range(256)) * 40_000


def test_a_client_killed_in_the_middle_of_a_reply_goes_on_there(home: Path, ferry: Ferry) -> None:
    url = ferry.url("large/question.txt")
    command = [sys.executable, "-m", "bitsferry", "send", str(home / "question.txt"), url]
    command += ["--reply", str(home / "answer.txt"), "--limit", "3 MB/s"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while not (sizes := [part.stat().st_size for part in home.glob("answer.txt.*")]) or sizes[0] < 10**6:
            assert time.monotonic() < deadline, "no byte of the reply came"
        process.kill()
    assert not (home / "answer.txt").exists()
    done = send(home, url)
    assert (done.returncode, done.stderr) == (0, "")
    assert (home / "answer.txt").read_bytes() == bytes(range(256)) * 40_000
    assert len(set(ferry.heard)) == len(ferry.heard) == 1


def test_a_reply_without_a_name_lies_beside_the_file(home: Path, ferry: Ferry) -> None:
    with bitsferry.Client() as client:
        job = client.create("question", bitsferry.JobType.UPLOAD_REPLY)
        client.add(job, ferry.url("counts/question.txt"), home / "question.txt")
        client.resume(job)
        client.run(job)
        path = client.get(job).reply_path
    assert path is not None
    assert Path(path).parent == home
    assert Path(path).read_bytes() == b"25 bytes"


def test_the_verbs_of_bitsadmin_bring_a_reply(home: Path, ferry: Ferry) -> None:
    def say(*words: str) -> str:
        command = [sys.executable, "-m", "bitsferry", "bitsadmin", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    say("/create", "/upload-reply", "question")
    say("/addfile", "question", ferry.url("counts/question.txt"), str(home / "question.txt"))
    say("/setreplyfilename", "question", str(home / "answer.txt"))
    say("/resume", "question")
    with bitsferry.Client() as client:
        client.run(client.find("question"))
    assert say("/rawreturn", "/getstate", "question") == "TRANSFERRED"
    assert bytes.fromhex(say("/rawreturn", "/getreplydata", "question")) == b"25 bytes"
    assert say("/rawreturn", "/getreplyprogress", "question").replace(" ", "") == "8/8"
    assert say("/rawreturn", "/getreplyfilename", "question") == str(home / "answer.txt")
    say("/complete", "question")
    assert (home / "answer.txt").read_bytes() == b"25 bytes"
