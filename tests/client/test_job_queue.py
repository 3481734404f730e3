"""What the queue said is so after any crash; nobody else reads it; no change of anybody is lost."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bitsferry.client.bandwidth import Span, Timetable
from bitsferry.client.job import InvalidState, Job, JobState, JobType, new_id
from bitsferry.client.job_queue import (
    FORMAT,
    AmbiguousJob,
    JobNotFound,
    JobQueue,
    QueueUnusable,
    default_path,
)
from bitsferry.client.options import HttpOptions
from bitsferry.client.runner_lock import RunnerLock, RunnerWorking, runner_is_working
from bitsferry.protocol.hresult import HResult

posix = pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
URL = "http://127.0.0.1/in/file.bin"


def new(name: str = "a", id: str | None = None) -> Job:
    job = Job(id=id or new_id(), name=name, type=JobType.UPLOAD, created=0.0, modified=0.0)
    return job.add_file(URL, "/file.bin", 0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "jobs.db"


@pytest.fixture
def queue(path: Path) -> Iterator[JobQueue]:
    with JobQueue(path) as queue:
        yield queue


def program(text: str, path: Path, *arguments: str) -> subprocess.Popen[str]:
    """A process of its own that has the queue as `queue`."""
    head = "import sys\nfrom bitsferry.client.job_queue import JobQueue\nqueue = JobQueue(sys.argv[1])\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + text, str(path), *arguments], stdout=subprocess.PIPE, text=True
    )


def test_a_job_is_what_it_was_after_a_restart(path: Path) -> None:
    job = new().resume(1.0)
    job = msgspec.structs.replace(job, http=HttpOptions(headers=(("X-Key", "secret"),)), description="ö")
    with JobQueue(path) as queue:
        queue.add(job)
    with JobQueue(path) as queue:
        assert queue.get(job.id) == job


def test_jobs_come_in_the_order_they_were_made(queue: JobQueue) -> None:
    jobs = [new() for _ in range(5)]
    for job in jobs:
        queue.add(job)
    queue.change(jobs[0].id, lambda job: job.resume(9.0))
    queue.remove(jobs[4].id)
    late = new()
    queue.add(late)
    assert [job.id for job in queue.all()] == [job.id for job in [*jobs[:4], late]]


def test_jobs_that_ended_are_not_listed(queue: JobQueue) -> None:
    job = new()
    queue.add(job)
    queue.change(job.id, lambda job: job.cancel(1.0))
    assert queue.all() == []
    assert [job.state for job in queue.all(ended=True)] == [JobState.CANCELLED]
    with pytest.raises(JobNotFound):
        queue.find(job.id)


def test_a_change_that_fails_changes_nothing(queue: JobQueue) -> None:
    job = new()
    queue.add(job)
    with pytest.raises(InvalidState):
        queue.change(job.id, lambda job: job.complete(1.0))
    assert queue.get(job.id) == job
    queue.change(job.id, lambda job: job.resume(1.0))  # and nothing is left locked


def test_what_is_not_there_is_not_found(queue: JobQueue) -> None:
    job = new()
    queue.remove(job.id)
    for ask in (queue.get, queue.find, lambda id: queue.change(id, lambda job: job)):
        with pytest.raises(JobNotFound) as caught:
            ask(job.id)
        assert caught.value.code == HResult.BG_E_NOT_FOUND


def test_a_file_whose_name_is_no_text_cannot_be_kept(queue: JobQueue) -> None:
    job = new()
    queue.add(job)
    nameless = Job(id=new_id(), name="a", type=JobType.UPLOAD, created=0.0, modified=0.0)
    with pytest.raises(ValueError, match=r"/\?\.bin is no text"):
        queue.add(nameless.add_file(URL, "/\udcff.bin", 0.0))
    assert queue.all() == [job]


# Finding one


ONE, OTHER = "{A0FF5911-0000-4000-8000-000000000001}", "{A0FF0000-0000-4000-8000-000000000002}"


@pytest.mark.parametrize(
    ("text", "id"),
    [
        (ONE, ONE),
        (ONE.lower(), ONE),
        (ONE.strip("{}"), ONE),
        ("a0ff5", ONE),
        ("{a0ff5", ONE),
        ("A0FF0", OTHER),
        ("alone", ONE),
    ],
)
def test_a_job_is_found_by_id_beginning_or_name(queue: JobQueue, text: str, id: str) -> None:
    queue.add(new("alone", ONE))
    queue.add(new("other", OTHER))
    assert queue.find(text).id == id


@pytest.mark.parametrize("text", ["", "A0F", "a0ff5911-1", "Alone", "{}"])
def test_too_little_is_nobody(queue: JobQueue, text: str) -> None:
    queue.add(new("alone", ONE))
    with pytest.raises(JobNotFound):
        queue.find(text)


@pytest.mark.parametrize("text", ["a0ff", "same"])
def test_who_may_be_meant_is_said(queue: JobQueue, text: str) -> None:
    queue.add(new("same", ONE))
    queue.add(new("same", OTHER))
    with pytest.raises(AmbiguousJob, match=f"{ONE} same\n  {OTHER} same"):
        queue.find(text)


# Settings, and news


def test_a_limit_is_for_the_whole_queue(queue: JobQueue, path: Path) -> None:
    rates = Timetable((Span(1000, days=(0, 1)), Span(None)))
    assert queue.limit is None
    queue.limit = rates
    with JobQueue(path) as other:
        assert other.limit == rates
        other.limit = None
    assert queue.limit is None


def test_the_version_tells_of_every_change_whoever_made_it(queue: JobQueue, path: Path) -> None:
    job = new()
    with JobQueue(path) as other:
        for change in (
            lambda: other.add(job),
            lambda: queue.change(job.id, lambda job: job.resume(1.0)),
            lambda: other.change(job.id, lambda job: job.suspend(1.0)),
            lambda: setattr(queue, "limit", Timetable((Span(1000),))),
            lambda: other.remove(job.id),
        ):
            before = queue.version()
            change()
            assert queue.version() > before
        assert queue.version() == queue.version()


def test_a_change_that_changes_nothing_is_no_news(queue: JobQueue) -> None:
    job = new()
    queue.add(job)
    before = queue.version()
    queue.change(job.id, lambda job: job.suspend(1.0))
    assert queue.version() == before


# Many at once


COUNT = """
from msgspec.structs import replace
for _ in range(500):
    queue.change(sys.argv[2], lambda job: replace(job, error_count=job.error_count + 1))
"""


def test_two_processes_lose_none_of_their_changes(queue: JobQueue, path: Path) -> None:
    job = new()
    queue.add(job)
    with program(COUNT, path, job.id) as one, program(COUNT, path, job.id) as other:
        assert one.wait() == other.wait() == 0
    assert queue.get(job.id).error_count == 1000


def test_threads_lose_none_either(queue: JobQueue) -> None:
    job = new()
    queue.add(job)

    def count() -> None:
        for _ in range(100):
            queue.change(
                job.id,
                lambda job: msgspec.structs.replace(job, error_count=job.error_count + 1),
                synced=False,
            )

    threads = [threading.Thread(target=count) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert queue.get(job.id).error_count == 500


def test_processes_that_make_the_queue_at_once_make_one(path: Path) -> None:
    add = """
from bitsferry.client.job import Job, JobType, new_id
queue.add(Job(id=new_id(), name="a", type=JobType.UPLOAD, created=0.0, modified=0.0))
"""
    processes = [program(add, path) for _ in range(4)]
    for process in processes:
        with process:
            assert process.wait() == 0
    with JobQueue(path) as queue:
        assert len(queue.all()) == 4


@posix
def test_a_writer_killed_in_the_middle_leaves_what_it_said(path: Path) -> None:
    job = new()
    with JobQueue(path) as queue:
        queue.add(job)
    text = """
from msgspec.structs import replace
while True:
    job = queue.change(sys.argv[2], lambda job: replace(job, error_count=job.error_count + 1))
    print(job.error_count, flush=True)
"""
    with program(text, path, job.id) as process:
        assert process.stdout is not None
        for _ in range(50):
            said = int(process.stdout.readline())
        process.kill()
        said = max([said, *map(int, process.stdout.read().splitlines())])
    with JobQueue(path) as queue:
        assert queue.get(job.id).error_count - said in (0, 1)
        queue.change(job.id, lambda job: job.resume(1.0))


# Its file


@posix
def test_nobody_else_can_read_it_not_even_for_a_moment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: set[int] = set()
    connect = sqlite3.connect

    def look_and_connect(*arguments: object, **named: object) -> object:
        modes.add(stat.S_IMODE(path.stat().st_mode))
        return connect(*arguments, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(sqlite3, "connect", look_and_connect)
    mask = os.umask(0)
    try:
        with JobQueue(path) as queue:
            queue.add(new())
            modes |= {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
            assert len(list(path.parent.iterdir())) == 3
    finally:
        os.umask(mask)
    assert modes == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_every_user_has_a_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert Path(default_path()).is_relative_to(tmp_path) or sys.platform == "win32"
    assert Path(default_path()).name == "jobs.db"


def test_a_damaged_queue_is_named_and_left_alone(path: Path) -> None:
    with JobQueue(path) as queue:
        queue.add(new())
    path.write_bytes(b"\0" * 100 + path.read_bytes()[100:])
    before = path.read_bytes()
    with pytest.raises(QueueUnusable, match=r"jobs\.db is damaged .*: move it away"):
        JobQueue(path)
    assert path.read_bytes() == before


def test_a_damaged_job_is_said_to_be_damage(path: Path) -> None:
    with JobQueue(path) as queue:
        queue.add(new())
        other = sqlite3.connect(path)
        other.execute("UPDATE job SET record = '{}'")
        other.commit()
        other.close()
        with pytest.raises(QueueUnusable, match="is damaged"):
            queue.all()


def test_a_later_version_s_queue_is_not_touched(path: Path) -> None:
    JobQueue(path).close()
    other = sqlite3.connect(path)
    other.execute(f"PRAGMA user_version = {FORMAT + 1}")
    other.close()
    with pytest.raises(QueueUnusable, match="written by a later version"):
        JobQueue(path)


def test_a_place_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(QueueUnusable, match="cannot be made"):
        JobQueue(tmp_path / "file" / "jobs.db")


# One runner


def test_a_second_runner_is_refused_in_a_sentence(path: Path, queue: JobQueue) -> None:
    assert not runner_is_working(queue.path)
    with RunnerLock(queue.path):
        assert runner_is_working(queue.path)
        with (
            pytest.raises(RunnerWorking, match=r"works through the queue .*jobs\.db"),
            RunnerLock(queue.path),
        ):
            pass
    assert not runner_is_working(queue.path)


def test_the_lock_ends_with_its_process(path: Path, queue: JobQueue) -> None:
    text = """
import time
from bitsferry.client.runner_lock import RunnerLock
with RunnerLock(queue.path):
    print("locked", flush=True)
    time.sleep(60)
"""
    with program(text, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        assert runner_is_working(queue.path)
        process.kill()
    assert not runner_is_working(queue.path)


def test_asking_keeps_no_runner_from_its_work(queue: JobQueue) -> None:
    ending = threading.Event()

    def ask() -> None:
        while not ending.is_set():
            runner_is_working(queue.path)
            ending.wait(0.001)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(50):
            with RunnerLock(queue.path):
                pass
    finally:
        ending.set()
        thread.join()
