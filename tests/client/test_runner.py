"""Jobs arrive, whatever happens to servers, lines, machines and runners, and do what their owners say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest

from bitsferry.client.bandwidth import Span, Timetable
from bitsferry.client.credential_store import CredentialStore
from bitsferry.client.job import (
    INACTIVITY_TIMEOUT,
    RETRY_DELAY,
    Job,
    JobState,
    JobType,
    Priority,
    new_id,
)
from bitsferry.client.job_queue import JobNotFound, JobQueue, QueueUnusable
from bitsferry.client.network import Network, Seen
from bitsferry.client.runner import Runner
from bitsferry.client.runner_lock import RunnerLock, RunnerWorking
from bitsferry.client.schedule import Schedule
from bitsferry.protocol.errors import AccessDenied, Context
from bitsferry.protocol.hresult import HResult
from bitsferry.protocol.packets import CancelSession, CloseSession, CreateSession, Fragment, Packet
from cli.serving import Served
from server.raw import eventually

from .conftest import MIB, content, password
from .hostile import Exchange, Get, HostileServer

PATIENCE = 20.0  # seconds a test waits for what must come
NOW = 1_000_000.0

Change = Callable[[Job], Job]


class StillNetwork(Network):
    """One of which a test says what becomes of it."""

    seen = Seen(changed=False, lost=frozenset())

    def look(self, hosts: object) -> Seen:
        seen, self.seen = self.seen, Seen(changed=False, lost=self.seen.lost)
        return seen


@dataclass
class Scene:
    """A queue, a server, and a clock that stands still; what is told is kept."""

    folder: Path
    server: HostileServer
    now: float = NOW
    states: dict[str, list[str]] = field(default_factory=dict)
    network: StillNetwork = field(default_factory=StillNetwork)

    def __post_init__(self) -> None:
        self.queue = JobQueue(self.folder / "state" / "jobs.db")
        self.credentials = CredentialStore(str(self.folder / "state"))

    def job(self, name: str = "file.bin", type: JobType = JobType.UPLOAD, **properties: object) -> Job:
        """A job for the file `name`, which is made for uploads."""
        path = self.folder / name
        if type is not JobType.DOWNLOAD and not path.exists():
            path.write_bytes(content(3 * MIB + 17))
        job = Job(id=new_id(), name=name, type=type, created=self.now, modified=self.now, fragment_limit=MIB)
        job = job.add_file(self.server.url(f"/in/{name}"), str(path), self.now).resume(self.now)
        job = msgspec.structs.replace(job, **properties)
        self.queue.add(job)
        return job

    def runner(self, **options: object) -> Runner:
        defaults = {"on_change": self.told, "network": self.network, "clock": lambda: self.now, "poll": 0.01}
        return Runner(self.queue, self.credentials, **(defaults | options))  # type: ignore[arg-type]

    def run(self, until: Callable[[], object] = lambda: False, **options: object) -> None:
        """Until nothing is left to do, or `until`."""
        deadline = time.monotonic() + PATIENCE

        def ended() -> bool:
            assert time.monotonic() < deadline, f"it did not come: {self.states}"
            return bool(until())

        self.runner(**options).run_until_idle(ended)

    def told(self, job: Job) -> None:
        self.states.setdefault(job.id, []).append(job.state.name)

    def is_told(self, job: Job, state: str, times: int = 1) -> bool:
        return self.states.get(job.id, []).count(state) >= times

    def get(self, job: Job) -> Job:
        return self.queue.get(job.id)

    def change(self, job: Job, change: Change) -> Job:
        return self.queue.change(job.id, change)

    def arrived(self, name: str = "file.bin") -> bool:
        return self.server.files.get(f"/in/{name}") == (self.folder / name).read_bytes()

    def after_fragment(self, number: int, do: Callable[[], object], *, pause: float = 10.0) -> None:
        """Do something after so many fragments, and be silent for so many seconds before the Ack."""

        @self.server.on(Fragment)
        def count(exchange: Exchange) -> None:
            ack = exchange.process()
            if len(self.server.fragments()) == number:
                do()
                exchange.stay_silent(pause)
            exchange.say(ack)


@pytest.fixture
def scene(tmp_path: Path, server: HostileServer) -> Iterator[Scene]:
    scene = Scene(tmp_path, server)
    yield scene
    scene.queue.close()


USUAL = ["QUEUED", "CONNECTING", "TRANSFERRING", "TRANSFERRED"]


# What arrives


def test_an_upload_goes_the_way_windows_shows(scene: Scene) -> None:
    job = scene.job()
    scene.run()
    assert scene.states[job.id] == USUAL
    assert scene.arrived()
    assert scene.server.kinds()[-1] == "CloseSession"
    done = scene.get(job)
    assert (done.bytes_transferred, done.bytes_total, done.files_transferred) == (
        3 * MIB + 17,
        3 * MIB + 17,
        1,
    )
    assert (done.debts, done.upload, done.error, done.notice) == ((), None, None, None)


def test_an_empty_file_arrives_too(scene: Scene) -> None:
    (scene.folder / "file.bin").write_bytes(b"")
    job = scene.job()
    scene.run()
    assert scene.states[job.id] == USUAL
    assert scene.arrived()
    assert scene.get(job).debts == ()


def test_a_reply_is_where_it_was_wanted(scene: Scene) -> None:
    scene.server.replies["/reply"] = b"thank you"
    wanted = scene.folder / "reply"

    @scene.server.on(Fragment)
    def reply(exchange: Exchange) -> None:
        ack = exchange.process()
        exchange.say(replace(ack, reply_url="/reply") if scene.server.files else ack)

    job = scene.job(type=JobType.UPLOAD_REPLY, reply_path=str(wanted))
    scene.run()
    assert scene.states[job.id] == USUAL
    assert wanted.read_bytes() == b"thank you"
    reply_of = scene.get(job).reply
    assert reply_of is not None
    assert (reply_of.size, reply_of.transferred, reply_of.done) == (9, 9, True)
    assert sorted(path.name for path in scene.folder.iterdir()) == ["file.bin", "reply", "state"]


def test_a_download_waits_beside_its_place(scene: Scene) -> None:
    for name in ("a", "b"):
        scene.server.replies[f"/in/{name}"] = content(MIB) + name.encode()
    job = scene.job("a", JobType.DOWNLOAD)
    scene.change(job, lambda job: job.add_file(scene.server.url("/in/b"), str(scene.folder / "b"), NOW))
    scene.run()
    assert scene.states[job.id] == USUAL
    for file in scene.get(job).files:
        assert file.temporary is not None
        assert (
            Path(file.temporary).read_bytes() == scene.server.replies[f"/in/{os.path.basename(file.local)}"]
        )
        assert not os.path.exists(file.local)
        assert file.done
        assert file.transferred == file.size == MIB + 1


def test_a_file_added_to_a_finished_download_is_fetched_too(scene: Scene) -> None:
    for name in ("a", "b"):
        scene.server.replies[f"/in/{name}"] = b"x"
    job = scene.job("a", JobType.DOWNLOAD)
    scene.run()
    scene.change(job, lambda job: job.add_file(scene.server.url("/in/b"), str(scene.folder / "b"), NOW))
    scene.run()
    assert scene.get(job).state is JobState.TRANSFERRED
    assert scene.get(job).files_transferred == 2


def test_a_server_that_asks_gets_the_job_s_credentials(scene: Scene) -> None:
    job = scene.job()
    scene.credentials.keep(job.id, password("me", "secret"))
    said = []

    @scene.server.on(CreateSession)
    def ask(exchange: Exchange) -> None:
        said.append(exchange.headers.get("authorization"))
        if said[-1] is None:
            headers = [("WWW-Authenticate", 'Basic realm="x"'), ("Content-Length", "0")]
            exchange.say_plainly(401, headers)
        else:
            exchange.say(exchange.process())

    scene.run()
    assert scene.get(job).state is JobState.TRANSFERRED
    assert said == [None, "Basic bWU6c2VjcmV0"]


# What goes wrong


def away(scene: Scene) -> None:
    @scene.server.on(Packet)
    def hang_up(exchange: Exchange) -> None:
        exchange.hang_up(reset=True)


def test_a_server_that_is_away_for_a_while_is_tried_again_after_the_retry_delay(scene: Scene) -> None:
    job = scene.job()
    away(scene)
    scene.run(lambda: scene.is_told(job, "TRANSIENT_ERROR"))
    waiting = scene.get(job)
    assert waiting.error is not None
    assert waiting.error.context is Context.GENERAL_TRANSPORT
    assert waiting.error.file == scene.server.url()
    scene.server.behave()
    scene.now += RETRY_DELAY - 1
    heard = len(scene.server.heard)
    runner = scene.runner()
    threading.Timer(0.2, runner.stop).start()
    runner.run()
    assert len(scene.server.heard) == heard
    scene.now += 1
    scene.run()
    assert scene.states[job.id] == [
        *("QUEUED", "CONNECTING", "TRANSIENT_ERROR"),
        *("TRANSIENT_ERROR",),  # as the later runners see it first
        *("TRANSIENT_ERROR", "QUEUED", "CONNECTING", "TRANSFERRING", "TRANSFERRED"),
    ]
    assert scene.get(job).error_count == 1


def test_a_line_that_breaks_in_the_middle_costs_the_retry_delay_and_few_bytes(scene: Scene) -> None:
    job = scene.job()

    @scene.server.on(Fragment)
    def cut(exchange: Exchange) -> None:
        if len(scene.server.fragments()) > 1 and not scene.is_told(job, "TRANSIENT_ERROR"):
            exchange.process(1000)
            exchange.hang_up(reset=True)
        exchange.say(exchange.process())

    scene.run(lambda: advance_when(scene, job))
    assert scene.states[job.id] == [
        *USUAL[:3],
        *("TRANSIENT_ERROR", "QUEUED", "CONNECTING", "TRANSFERRING", "TRANSFERRED"),
    ]
    assert scene.arrived()
    assert "CreateSession" not in scene.server.kinds()[1:]


def advance_when(scene: Scene, job: Job, state: str = "TRANSIENT_ERROR") -> None:
    """Let the retry delay pass."""
    if scene.get(job).state.name == state:
        scene.now += RETRY_DELAY


def test_a_refusal_is_final(scene: Scene) -> None:
    job = scene.job()

    @scene.server.on(CreateSession)
    def refuse(exchange: Exchange) -> None:
        exchange.refuse(AccessDenied())

    scene.run()
    assert scene.states[job.id] == [*USUAL[:3], "ERROR"]
    failed = scene.get(job)
    assert failed.error is not None
    assert failed.error.hresult == HResult.E_ACCESSDENIED


def test_a_file_that_is_not_there_is_an_error_of_its_own(scene: Scene) -> None:
    job = scene.job()
    (scene.folder / "file.bin").unlink()
    scene.run()
    error = scene.get(job).error
    assert error is not None
    assert (error.context, error.file) == (Context.LOCAL_FILE, str(scene.folder / "file.bin"))


def test_a_file_that_changes_is_given_up_and_sent_anew_once_resumed(scene: Scene) -> None:
    job = scene.job()
    path = scene.folder / "file.bin"
    scene.after_fragment(2, lambda: path.write_bytes(content(MIB)), pause=0)
    scene.run()
    failed = scene.get(job)
    assert failed.error is not None
    assert failed.error.hresult == HResult.BG_E_LOCAL_FILE_CHANGED
    assert (failed.state, failed.debts) == (JobState.ERROR, ())
    assert scene.server.kinds()[-1] == "CancelSession"
    scene.server.behave()
    scene.change(job, lambda job: job.resume(scene.now))
    scene.run()
    assert scene.get(job).state is JobState.TRANSFERRED
    assert scene.arrived()


def test_a_file_that_changed_while_nobody_looked_is_noticed(scene: Scene) -> None:
    job = scene.job()
    runner = scene.runner()
    scene.after_fragment(2, runner.stop)
    runner.run()
    assert scene.get(job).state is JobState.QUEUED
    path = scene.folder / "file.bin"
    path.write_bytes(content(3 * MIB + 17))
    scene.run()
    error = scene.get(job).error
    assert error is not None
    assert error.hresult == HResult.BG_E_LOCAL_FILE_CHANGED
    assert scene.server.files == {}


def test_a_session_that_cannot_be_closed_is_closed_later(scene: Scene) -> None:
    job = scene.job()

    @scene.server.on(CloseSession, first=2)  # on a kept connection it is said again at once
    def lose(exchange: Exchange) -> None:
        exchange.hang_up()

    scene.run()
    assert scene.states[job.id] == USUAL
    assert scene.server.sessions
    assert len(scene.get(job).debts) == 1
    scene.now += RETRY_DELAY
    scene.run()
    assert scene.get(job).debts == ()
    assert scene.server.sessions == {}
    assert scene.server.kinds().count("CreateSession") == 1


def test_a_job_completed_before_its_session_is_closed_stays_until_then(scene: Scene) -> None:
    job = scene.job()

    @scene.server.on(CloseSession, first=2)
    def complete(exchange: Exchange) -> None:
        scene.change(job, lambda job: job if job.has_ended else job.complete(scene.now))
        exchange.hang_up()

    scene.run()
    assert [each.id for each in scene.queue.all(ended=True)] == [job.id]
    scene.now += RETRY_DELAY
    scene.run()
    assert scene.server.sessions == {}
    assert scene.queue.all(ended=True) == []


# What owners do


def test_a_suspended_job_s_line_is_cut_and_a_resumed_one_goes_on(scene: Scene) -> None:
    job = scene.job()
    cut_after = []

    @scene.server.on(Fragment)
    def suspend(exchange: Exchange) -> None:
        if len(scene.server.fragments()) == 2:
            body = exchange.read_body(100_000)
            scene.change(job, lambda job: job.suspend(scene.now))
            began = time.monotonic()
            body += exchange.read_body(int(exchange.headers["content-length"]) - len(body))
            cut_after.append(time.monotonic() - began)
            exchange.server.process(exchange.packet, exchange.target, body)  # type: ignore[arg-type]
            exchange.hang_up()
        exchange.say(exchange.process())

    slow = Timetable((Span(400_000),))
    scene.change(job, lambda job: msgspec.structs.replace(job, limit=slow))
    scene.run(lambda: scene.is_told(job, "SUSPENDED"))
    assert eventually(lambda: cut_after)
    assert cut_after[0] < 2
    assert scene.get(job).state is JobState.SUSPENDED
    scene.server.behave()
    scene.change(job, lambda job: msgspec.structs.replace(job, limit=None).resume(scene.now))
    scene.run()
    assert scene.arrived()
    assert scene.server.kinds().count("CreateSession") == 1


def test_a_cancelled_job_s_server_is_told(scene: Scene) -> None:
    job = scene.job()
    scene.after_fragment(2, lambda: scene.change(job, lambda job: job.cancel(scene.now)))
    scene.run()
    assert scene.server.kinds()[-1] == "CancelSession"
    assert scene.server.sessions == {}
    assert scene.server.files == {}
    assert scene.queue.all(ended=True) == []


def test_a_server_that_is_away_hears_of_it_when_it_is_back(scene: Scene) -> None:
    job = scene.job()
    scene.after_fragment(2, lambda: scene.change(job, lambda job: job.cancel(scene.now)))

    @scene.server.on(CancelSession, first=2)
    def hang_up(exchange: Exchange) -> None:
        exchange.hang_up()

    for count in (1, 2, 3):
        scene.run()
        assert scene.server.kinds().count("CancelSession") == count
        scene.now += RETRY_DELAY
    assert scene.server.sessions == {}
    assert scene.queue.all(ended=True) == []


def test_a_session_made_while_its_job_is_cancelled_is_cancelled(scene: Scene) -> None:
    job = scene.job()

    @scene.server.on(CreateSession)
    def cancel(exchange: Exchange) -> None:
        ack = exchange.process()
        scene.change(job, lambda job: job.cancel(scene.now))
        exchange.say(ack)
        exchange.stay_silent(0.1)

    scene.run()
    assert scene.server.sessions == {}
    assert scene.queue.all(ended=True) == []


def test_what_a_cancelled_download_has_brought_is_deleted(scene: Scene) -> None:
    scene.server.replies["/in/a"] = content(MIB)
    job = scene.job("a", JobType.DOWNLOAD)

    @scene.server.on(Get)
    def cancel(exchange: Exchange) -> None:
        if exchange.method == "GET":
            scene.change(job, lambda job: job.cancel(scene.now))
        exchange.give(most=1000)

    scene.run()
    assert [path.name for path in scene.folder.iterdir()] == ["state"]
    assert scene.queue.all(ended=True) == []


def test_what_a_completed_download_has_brought_is_not(scene: Scene) -> None:
    scene.server.replies["/in/a"] = b"x"
    job = scene.job("a", JobType.DOWNLOAD)
    scene.run()
    scene.change(job, lambda job: job.complete(scene.now))
    scene.run()
    (temporary,) = (path for path in scene.folder.iterdir() if path.name != "state")
    assert temporary.read_bytes() == b"x"


def test_credentials_go_with_their_job(scene: Scene) -> None:
    job = scene.job()
    scene.credentials.keep(job.id, password("me", "secret"))
    scene.run()
    scene.change(job, lambda job: job.complete(scene.now))
    assert scene.credentials.names(job.id) != []
    scene.run(lambda: scene.queue.all(ended=True) == [])
    assert scene.credentials.names(job.id) == []


def test_another_url_takes_the_upload_there(scene: Scene) -> None:
    job = scene.job()
    old, new = scene.server.url("/in/"), scene.server.url("/new/")
    scene.after_fragment(
        2, lambda: scene.change(job, lambda job: job.replace_remote_prefix(old, new, scene.now)), pause=0.5
    )
    scene.run()
    assert list(scene.server.files) == ["/new/file.bin"]
    assert scene.server.sessions == {}
    assert scene.get(job).state is JobState.TRANSFERRED


def test_a_removed_job_is_no_more_work(scene: Scene) -> None:
    job = scene.job()
    scene.after_fragment(2, lambda: scene.queue.remove(job.id), pause=0)
    scene.run()
    assert scene.queue.all(ended=True) == []
    assert scene.server.files == {}


# Who goes next


def order(scene: Scene) -> list[str]:
    """The names of the files whose fragments came, one after the other."""
    names = [
        heard.target.removeprefix("/in/")
        for heard in scene.server.heard
        if isinstance(heard.packet, Fragment)
    ]
    return [name for number, name in enumerate(names) if names[number - 1 : number] != [name]]


def test_background_jobs_run_one_after_the_other_by_priority(scene: Scene) -> None:
    scene.job("low", priority=Priority.LOW)
    scene.job("normal")
    scene.job("high", priority=Priority.HIGH)
    scene.run()
    assert order(scene) == ["high", "normal", "low"]


def test_foreground_jobs_run_at_once_beside_one_in_the_background(scene: Scene) -> None:
    together = threading.Barrier(3, timeout=10)
    for name in ("one", "two"):
        scene.job(name, priority=Priority.FOREGROUND)
    scene.job("high", priority=Priority.HIGH)
    scene.job("low", priority=Priority.LOW)

    @scene.server.on(CreateSession, first=3)
    def meet(exchange: Exchange) -> None:
        together.wait()
        exchange.say(exchange.process())

    scene.run()
    assert not together.broken
    assert all(job.state is JobState.TRANSFERRED for job in scene.queue.all())


def test_a_higher_job_takes_the_line_at_the_end_of_a_fragment(scene: Scene) -> None:
    low = scene.job("low", priority=Priority.LOW)
    scene.after_fragment(1, lambda: scene.job("high", priority=Priority.HIGH), pause=0.5)
    scene.run()
    assert order(scene)[0] == "low"
    assert order(scene)[-1] == "low"
    assert "high" in order(scene)
    assert scene.arrived("low")
    assert scene.arrived("high")
    assert scene.server.kinds().count("CreateSession") == 2
    assert "QUEUED" in scene.states[low.id][2:]


def test_equals_take_turns(scene: Scene) -> None:
    scene.job("a")
    scene.job("b")

    @scene.server.on(Fragment)
    def take_long(exchange: Exchange) -> None:
        ack = exchange.process()
        scene.now += 10
        time.sleep(0.05)  # for the runner to look
        exchange.say(ack)

    scene.run(turns=Schedule(time_slice=10))
    assert order(scene)[:3] == ["a", "b", "a"]
    assert scene.arrived("a")
    assert scene.arrived("b")


def test_other_jobs_are_left_alone_when_only_one_is_asked_for(scene: Scene) -> None:
    other, wanted = scene.job("a"), scene.job("b")
    cancelled = scene.job("c")
    scene.change(cancelled, lambda job: job.cancel(scene.now))
    scene.run(only={wanted.id})
    assert scene.get(wanted).state is JobState.TRANSFERRED
    assert scene.get(other) == other
    assert scene.get(cancelled).state is JobState.CANCELLED
    assert set(scene.states) == {wanted.id}


def test_a_fragment_of_a_job_whose_turn_is_over_may_not_take_for_ever(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitsferry.client.runner.PATIENCE", 0.1)
    low = scene.job("low", priority=Priority.LOW)
    scene.after_fragment(1, lambda: scene.job("high", priority=Priority.HIGH))
    scene.run(lambda: scene.is_told(low, "QUEUED", 2))
    assert scene.server.kinds()[:2] == ["CreateSession", "Fragment"]


# Limits


def test_a_limit_of_nothing_is_waited_for(scene: Scene) -> None:
    scene.queue.limit = Timetable((Span(0),))
    job = scene.job()
    scene.run(lambda: scene.is_told(job, "TRANSIENT_ERROR"))
    blocked = scene.get(job)
    assert blocked.error is not None
    assert blocked.error.hresult == HResult.BG_E_BLOCKED_BY_POLICY
    assert scene.server.heard == []
    scene.queue.limit = None
    scene.run()
    assert scene.get(job).state is JobState.TRANSFERRED


def test_a_job_gets_its_new_limit_at_once(scene: Scene) -> None:
    job = scene.job(limit=Timetable((Span(20_000),)))

    def loosen() -> None:
        if scene.is_told(job, "TRANSFERRING"):
            scene.change(job, lambda job: msgspec.structs.replace(job, limit=None))

    began = time.monotonic()
    scene.run(loosen)
    assert scene.arrived()
    assert time.monotonic() - began < 10


# The network


def test_without_a_network_jobs_wait_and_go_on_when_it_is_back(scene: Scene) -> None:
    job = scene.job()
    scene.network.seen = Seen(changed=False, lost=frozenset({"127.0.0.1"}))
    scene.run(lambda: scene.is_told(job, "TRANSIENT_ERROR"))
    waiting = scene.get(job)
    assert waiting.error is not None
    assert waiting.error.hresult == HResult.BG_E_NETWORK_DISCONNECTED
    assert scene.server.heard == []
    scene.network.seen = Seen(changed=True, lost=frozenset())
    scene.run()
    assert scene.get(job).state is JobState.TRANSFERRED


def test_a_network_that_changes_ends_every_wait(scene: Scene) -> None:
    job = scene.job()
    away(scene)
    scene.run(lambda: scene.is_told(job, "TRANSIENT_ERROR"))
    scene.server.behave()
    scene.network.seen = Seen(changed=True, lost=frozenset())
    scene.run()
    assert scene.get(job).state is JobState.TRANSFERRED


# Time


def test_a_download_that_takes_too_long_is_an_error(scene: Scene) -> None:
    job = scene.job("a", JobType.DOWNLOAD, max_download_time=60)

    @scene.server.on(Get)
    def dawdle(exchange: Exchange) -> None:
        scene.now += 61
        exchange.stay_silent()

    scene.run()
    error = scene.get(job).error
    assert error is not None
    assert error.hresult == HResult.BG_E_MAXDOWNLOAD_TIMEOUT


def test_a_job_nobody_cares_for_is_cancelled(scene: Scene) -> None:
    job = scene.job()
    scene.change(job, lambda job: job.suspend(scene.now))
    scene.now += INACTIVITY_TIMEOUT - 1
    scene.run(lambda: job.id in scene.states)
    assert scene.get(job).state is JobState.SUSPENDED
    scene.now += 1
    scene.run(lambda: scene.queue.all(ended=True) == [])
    with pytest.raises(JobNotFound):
        scene.get(job)


# Owners are told


def test_an_owner_s_program_is_told_and_again_until_it_has_heard(scene: Scene) -> None:
    heard = scene.folder / "heard"
    program = "import sys; open(sys.argv[1], 'a').write('x'); sys.exit(len(open(sys.argv[1]).read()) < 2)"
    job = scene.job(notify_command=(sys.executable, "-c", program, str(heard)))
    scene.run()
    assert heard.read_text() == "x"
    scene.run()
    assert heard.read_text() == "x"
    scene.now += RETRY_DELAY
    scene.run()
    assert heard.read_text() == "xx"
    assert scene.get(job).notice is None


def test_a_callback_takes_the_program_s_place(scene: Scene) -> None:
    told = []
    job = scene.job(notify_command=(sys.executable, "-c", "raise SystemExit(1)"))
    scene.run(notify=lambda job: told.append((job.id, job.state)))
    assert told == [(job.id, JobState.TRANSFERRED)]
    assert scene.get(job).notice is None


def test_a_program_that_takes_long_keeps_nobody_waiting(scene: Scene) -> None:
    sleeper = (sys.executable, "-c", "import time; time.sleep(60)")
    job = scene.job("a", notify_command=sleeper)
    scene.job("b")
    began = time.monotonic()
    scene.run(lambda: scene.arrived("a") and "/in/b" in scene.server.files)
    assert time.monotonic() - began < 10
    assert scene.get(job).notice is not None  # it will be told again


# This machine


def test_a_disk_that_is_full_at_home_keeps_no_file_from_being_sent(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, change = scene.job(), scene.queue.change

    def fail_unless_it_matters(id: str, do: Change, *, synced: bool = True) -> Job:
        if not synced:
            raise QueueUnusable
        return change(id, do)

    monkeypatch.setattr(scene.queue, "change", fail_unless_it_matters)
    scene.run()
    assert scene.arrived()
    assert scene.get(job).state is JobState.TRANSFERRED


def test_an_error_nobody_thought_of_ends_the_job_and_nothing_else(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("bitsferry.client.carrier.Courtesy", fail)
    background, foreground = scene.job("a"), scene.job("b", priority=Priority.FOREGROUND)
    scene.run()
    error = scene.get(background).error
    assert error is not None
    assert (error.context, "ZeroDivisionError" in error.message) == (Context.UNKNOWN, True)
    assert "secret" not in error.message
    assert "Traceback" in caplog.text
    assert scene.get(foreground).state is JobState.TRANSFERRED


# Runners


def test_a_second_runner_is_refused(scene: Scene) -> None:
    with RunnerLock(scene.queue.path), pytest.raises(RunnerWorking):
        scene.runner().run()


def test_a_runner_that_stops_leaves_its_jobs_queued_soon(scene: Scene) -> None:
    job = scene.job()
    runner = scene.runner()

    @scene.server.on(Fragment)
    def stay_silent(exchange: Exchange) -> None:
        runner.stop()
        exchange.stay_silent()

    began = time.monotonic()
    runner.run()
    assert time.monotonic() - began < 3
    assert scene.states[job.id] == [*USUAL[:3], "QUEUED"]
    scene.server.behave()
    scene.run()
    assert scene.arrived()
    assert scene.server.kinds().count("CreateSession") == 1


def test_who_listens_badly_stops_nothing(scene: Scene) -> None:
    job = scene.job()

    def fail(job: Job) -> None:
        raise ValueError("not listening")

    scene.run(on_change=fail)
    assert scene.get(job).state is JobState.TRANSFERRED


# Killed for real, against the real server

HASTE = 100.0  # a clock this much quicker than ours

RUN = """
import signal, sys, time
from bitsferry.client.credential_store import CredentialStore
from bitsferry.client.job_queue import JobQueue
from bitsferry.client.runner import Runner

with JobQueue(sys.argv[1]) as queue:
    runner = Runner(
        queue,
        CredentialStore(sys.argv[1] + ".d"),
        on_change=lambda job: print(job.state.name, flush=True),
        clock=lambda: time.time() * float(sys.argv[2]),
    )
    signal.signal(signal.SIGTERM, lambda *_: runner.stop())
    runner.run()
"""


class Running:
    """A runner in a process of its own, with the states it told."""

    def __init__(self, queue: JobQueue) -> None:
        command = [sys.executable, "-c", RUN, queue.path, str(HASTE)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.states: list[str] = []

    def until(self, state: str) -> list[str]:
        """All states that were told up to this one."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.states.append(line.strip())
            if self.states[-1] == state:
                return self.states
        raise AssertionError(f"{state} did not come: {self.states}")

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        with self.process as process:
            return process.wait(PATIENCE)

    def stop(self) -> None:
        self.process.kill()
        self.end(0)


@pytest.fixture
def kept() -> Iterator[list[Running | Served]]:
    """Processes that end with the test."""
    kept: list[Running | Served] = []
    yield kept
    for process in kept:
        process.stop()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_in_the_middle_and_the_server_away_for_a_while_it_arrives_all_the_same(
    tmp_path: Path, kept: list[Running | Served]
) -> None:
    path, inbox = tmp_path / "file.bin", tmp_path / "in"
    path.write_bytes(content(2 * MIB + 17))

    def serve(port: int) -> Served:
        where = ["--listen", f"127.0.0.1:{port}", "--store", f"file:{tmp_path}/store"]
        kept.append(served := Served(tmp_path, [str(inbox), *where]))
        return served.ready()

    def run() -> Running:
        kept.append(running := Running(queue))
        return running

    now, server = time.time() * HASTE, serve(0)
    port = server.port
    with JobQueue(tmp_path / "jobs.db") as queue:
        job = Job(id=new_id(), name="a", type=JobType.UPLOAD, created=now, modified=now)
        job = job.add_file(f"http://127.0.0.1:{port}/file.bin", str(path), now).resume(now)
        slow = Timetable((Span(500_000),))
        queue.add(msgspec.structs.replace(job, limit=slow, fragment_limit=100_000, retry_delay=100))

        runner = run()
        assert runner.until("TRANSFERRING") == USUAL[:3]
        assert eventually(lambda: (upload := queue.get(job.id).upload) is not None and upload.sent > 0)
        runner.end(signal.SIGKILL)
        killed = queue.get(job.id)
        assert killed.state is JobState.TRANSFERRING
        server.stop()

        runner = run()
        assert runner.until("TRANSIENT_ERROR") == [
            *("TRANSFERRING", "QUEUED"),  # what it found, and what it made of it
            *("CONNECTING", "TRANSIENT_ERROR"),
        ]
        serve(port)
        queue.change(job.id, lambda job: msgspec.structs.replace(job, limit=None))
        later = runner.until("TRANSFERRED")[4:]
        assert later[-4:] == USUAL
        assert set(later[:-4]) <= {"QUEUED", "CONNECTING", "TRANSIENT_ERROR"}
        assert runner.end(signal.SIGTERM) == 0
        assert (inbox / "file.bin").read_bytes() == path.read_bytes()
        assert killed.upload is not None
        (session,) = (tmp_path / "store" / "sessions").glob("*/*")
        assert f"{{{session.name}}}" == killed.upload.session_id
