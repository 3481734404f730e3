"""Who goes next: foreground at once, of the others one, the highest, in turns."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsferry.client.job import (
    INACTIVITY_TIMEOUT,
    NO_PROGRESS_TIMEOUT,
    RETRY_DELAY,
    Job,
    JobState,
    JobType,
    Priority,
)
from bitsferry.client.local_file import Identity
from bitsferry.client.schedule import Schedule, due, next_event
from bitsferry.protocol.errors import AccessDenied, Busy
from bitsferry.protocol.upload import Progress

NOW = 10_000.0
FOREGROUND, HIGH, NORMAL, LOW = Priority
SCHEDULE = Schedule(foreground=3)


def job(text: str) -> Job:
    """`a HIGH TRANSFERRING 300`: an id, a priority, a state, and how long ago its `turn` was."""
    name, priority, state, ago = text.split()
    return Job(
        id=name,
        name=name,
        type=JobType.UPLOAD,
        created=0.0,
        modified=NOW,
        priority=Priority[priority],
        state=JobState[state],
        turn=NOW - float(ago),
    )


@pytest.mark.parametrize(
    ("jobs", "chosen"),
    [
        ([], ""),
        (["a NORMAL QUEUED 1", "b NORMAL QUEUED 2"], "b"),
        (["a NORMAL QUEUED 1", "b NORMAL QUEUED 1"], "a"),
        (["a NORMAL QUEUED 9", "b HIGH QUEUED 1", "c LOW QUEUED 9"], "b"),
        # what rests does not run
        (["a HIGH SUSPENDED 9", "b HIGH ERROR 9", "c HIGH TRANSIENT_ERROR 9", "d LOW QUEUED 1"], "d"),
        (["a HIGH TRANSFERRED 9", "b HIGH CANCELLED 9", "c HIGH ACKNOWLEDGED 9"], ""),
        # time slices
        (["a NORMAL TRANSFERRING 299", "b NORMAL QUEUED 9999"], "a"),
        (["a NORMAL CONNECTING 299", "b NORMAL QUEUED 9999"], "a"),
        (["a NORMAL TRANSFERRING 300", "b NORMAL QUEUED 1"], "b"),
        (["a NORMAL TRANSFERRING 300", "b NORMAL QUEUED 1", "c NORMAL QUEUED 2"], "c"),
        (["a NORMAL TRANSFERRING 300", "b LOW QUEUED 1"], "a"),
        (["a NORMAL TRANSFERRING 299", "b HIGH QUEUED 1"], "b"),
        (["a NORMAL TRANSFERRING -5", "b NORMAL QUEUED 1"], "a"),  # the clock was set back
        (["a NORMAL TRANSFERRING -5000", "b NORMAL QUEUED 1"], "b"),
        # foreground
        (["a FOREGROUND QUEUED 1", "b FOREGROUND TRANSFERRING 1", "c NORMAL QUEUED 1"], "abc"),
        (["a FOREGROUND QUEUED 1", "b NORMAL TRANSFERRING 1", "c NORMAL QUEUED 1"], "ab"),
        ([f"{name} FOREGROUND QUEUED 1" for name in "abcd"], "abc"),
        (
            [
                "a FOREGROUND TRANSFERRING 300",
                "b FOREGROUND TRANSFERRING 299",
                "c FOREGROUND QUEUED 1",
                "d FOREGROUND QUEUED 2",
            ],
            "bcd",
        ),
    ],
)
def test_who_runs(jobs: list[str], chosen: str) -> None:
    assert SCHEDULE.choose(map(job, jobs), NOW) == set(chosen)


def a_job(number: int) -> st.SearchStrategy[Job]:
    return st.builds(
        lambda priority, state, ago: job(f"{number} {priority.name} {state.name} {ago}"),
        st.sampled_from(Priority),
        st.sampled_from(JobState),
        st.integers(-1000, 1000),
    )


@st.composite
def many_jobs(draw: st.DrawFn) -> list[Job]:
    return [draw(a_job(number)) for number in range(draw(st.integers(0, 8)))]


@given(many_jobs())
def test_never_two_in_the_background_and_never_a_lower_one(jobs: list[Job]) -> None:
    chosen = SCHEDULE.choose(jobs, NOW)
    runnable = [job for job in jobs if job.is_runnable]
    background = [job for job in runnable if job.priority is not FOREGROUND]
    foreground = [job for job in runnable if job.priority is FOREGROUND]
    running = [job for job in background if job.id in chosen]
    assert chosen <= {job.id for job in runnable}
    assert len(running) == min(1, len(background))
    assert all(job.priority == min(each.priority for each in background) for job in running)
    assert len([job for job in foreground if job.id in chosen]) == min(SCHEDULE.foreground, len(foreground))


@given(many_jobs())
def test_nothing_is_begun_only_to_be_stopped(jobs: list[Job]) -> None:
    jobs = [job.turn_over(NOW) for job in jobs]
    chosen = SCHEDULE.choose(jobs, NOW)
    jobs = [job.connecting(NOW) if job.id in chosen else job for job in jobs]
    assert SCHEDULE.choose(jobs, NOW) == SCHEDULE.choose(jobs, NOW + 299) == chosen


@given(many_jobs(), st.integers(10, 1000))
def test_nobody_starves(jobs: list[Job], pace: int) -> None:
    """Everyone of the highest background priority, and every foreground job, has a turn within a round."""
    now, turns = NOW, set[str]()
    for _ in range((len(jobs) + 2) * (300 // pace + 2)):
        chosen = SCHEDULE.choose(jobs, now)
        turns |= chosen
        jobs = [job.connecting(now) if job.id in chosen else job.turn_over(now) for job in jobs]
        now += pace
    runnable = [job for job in jobs if job.is_runnable]
    background = [job for job in runnable if job.priority is not FOREGROUND]
    highest = min((job.priority for job in background), default=LOW)
    served = {job.id for job in runnable if job.priority in (FOREGROUND, highest)}
    assert turns == served


def test_the_next_turn_comes_when_a_slice_ends_for_which_somebody_waits() -> None:
    jobs = [job("a NORMAL TRANSFERRING 100"), job("b HIGH QUEUED 0")]
    assert SCHEDULE.next_turn(jobs, NOW) == math.inf
    assert SCHEDULE.next_turn([*jobs, job("c NORMAL QUEUED 0")], NOW) == 200
    assert SCHEDULE.next_turn([*jobs, job("c NORMAL QUEUED 0")], NOW + 500) == -300


# What is due


def carried(type: JobType = JobType.UPLOAD) -> Job:
    empty = Job(id="a", name="a", type=type, created=NOW, modified=NOW)
    active = empty.add_file("http://127.0.0.1/f", "/f", NOW).resume(NOW).connecting(NOW)
    if active.is_upload:
        active = active.begun(Identity(5, 6, 7), NOW).uploaded(Progress("{session}", 3), NOW)
    return msgspec.structs.replace(active, notify_command=("true",))


CASES = [
    ("retries", carried().failed(Busy(), NOW), RETRY_DELAY),
    ("stalled", carried().disconnected(NOW), NO_PROGRESS_TIMEOUT),
    ("overdue", msgspec.structs.replace(carried(JobType.DOWNLOAD), max_download_time=50), 50),
    ("debts", msgspec.structs.replace(carried().transferred(NOW), notice=None), 0),
    ("notices", carried(JobType.DOWNLOAD).failed(AccessDenied(), NOW), 0),
    ("forgotten", carried().suspend(NOW), INACTIVITY_TIMEOUT),
]


@pytest.mark.parametrize(("what", "job", "after"), CASES, ids=[what for what, _, _ in CASES])
def test_what_is_due(what: str, job: Job, after: float) -> None:
    assert next_event([job], NOW) == after
    assert next_event([job], NOW + after + 5) == 0
    assert all(not getattr(due([job], NOW + after - 1), name) for name in due([], NOW).__slots__)
    now_due = due([job], NOW + after)
    assert [name for name in now_due.__slots__ if getattr(now_due, name)] == [what]


def test_a_debt_that_failed_waits_for_its_next_time() -> None:
    job = carried().cancel(NOW)
    (debt,) = job.debts
    assert due([job], NOW).debts == [(job, debt)]
    later = job.not_paid("{session}", NOW)
    assert due([later], NOW).debts == []
    assert next_event([later], NOW) == RETRY_DELAY


def test_what_has_ended_or_works_is_never_forgotten() -> None:
    much_later = NOW + 2 * INACTIVITY_TIMEOUT
    assert due([carried(), carried().cancel(NOW)], much_later).forgotten == []


def test_nothing_is_ever_due_of_nothing() -> None:
    assert next_event([], NOW) == math.inf
