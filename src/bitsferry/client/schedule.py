"""Who goes next, and when something is due: decided from what jobs say, without a clock of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby

from bitsferry.client.job import INACTIVITY_TIMEOUT, Debt, Job, JobState, Priority

__all__ = ["Due", "Schedule", "due", "next_event"]


@dataclass(slots=True)
class Due:
    """Jobs, in the order they came, for which it is time: each list for one thing."""

    retries: list[Job] = field(default_factory=list)
    """The retry delay is over."""
    stalled: list[Job] = field(default_factory=list)
    """It waited for the network for as long as it may be without progress."""
    overdue: list[Job] = field(default_factory=list)
    """It was under way for as long as a download may be."""
    debts: list[tuple[Job, Debt]] = field(default_factory=list)
    notices: list[Job] = field(default_factory=list)
    forgotten: list[Job] = field(default_factory=list)
    """Nothing happened to it for 90 days (Learn, group policy JobInactivityTimeout)."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Who may run: all foreground jobs at once, `foreground` at most, and one of the others beside them.

    That one is of the highest priority; a higher one takes its place at once. Among equals each has
    `time_slice` seconds while others wait, and who waits longest goes next (Learn, BG_JOB_PRIORITY).
    """

    foreground: int = 20
    time_slice: float = 300.0

    def choose(self, jobs: Iterable[Job], now: float) -> set[str]:
        """The ids of the jobs that shall run now."""
        runnable = [job for job in jobs if job.is_runnable]
        runnable.sort(key=lambda job: (job.priority, self._precedence(job, now)))  # else in their order
        chosen: set[str] = set()
        for priority, equals in groupby(runnable, lambda job: job.priority):
            if priority is Priority.FOREGROUND:
                chosen.update([job.id for job in equals][: self.foreground])
            else:
                return chosen | {next(equals).id}
        return chosen

    def _precedence(self, job: Job, now: float) -> tuple[int, float]:
        if not job.is_active:
            return 1, job.turn
        return (0 if self._left(job, now) > 0 else 2), job.turn

    def _left(self, job: Job, now: float) -> float:
        """Seconds of its time slice; none after the clock was set back by more than that."""
        return job.turn + self.time_slice - now if job.turn < now + self.time_slice else 0.0

    def next_turn(self, jobs: Iterable[Job], now: float) -> float:
        """In how many seconds a time slice ends for which others wait; infinite when there is none."""
        jobs = list(jobs)
        waiting = {job.priority for job in jobs if job.state is JobState.QUEUED}
        left = [self._left(job, now) for job in jobs if job.is_active and job.priority in waiting]
        return min(left, default=math.inf)


def due(jobs: Iterable[Job], now: float) -> Due:
    """What it is time for. `jobs` are all, those that have ended too: they may owe something."""
    found = Due()
    for job in jobs:
        if _retry(job) <= now:
            found.retries.append(job)
        if _stalls(job) <= now:
            found.stalled.append(job)
        if job.is_active and job.took_too_long(now):
            found.overdue.append(job)
        found.debts += [(job, debt) for debt in job.debts if debt.due <= now]
        if job.notice is not None and job.notice.due <= now:
            found.notices.append(job)
        if _forgotten(job) <= now:
            found.forgotten.append(job)
    return found


def next_event(jobs: Iterable[Job], now: float) -> float:
    """In how many seconds something is due; infinite when nothing ever is."""
    times = [math.inf]
    for job in jobs:
        times += [_retry(job), _stalls(job), _forgotten(job), *(debt.due for debt in job.debts)]
        if job.notice is not None:
            times.append(job.notice.due)
        if job.is_active and not job.is_upload:
            times.append(job.turn + job.max_download_time - job.active_seconds)
    return max(0.0, min(times) - now)


def _retry(job: Job) -> float:
    if job.state is not JobState.TRANSIENT_ERROR or job.retry_at is None:
        return math.inf
    return job.retry_at


def _stalls(job: Job) -> float:
    """A job that is tried again finds out by itself; one that waits for the network does not."""
    if job.state is not JobState.TRANSIENT_ERROR or job.retry_at is not None or job.stalled_since is None:
        return math.inf
    return job.stalled_since + job.no_progress_timeout


def _forgotten(job: Job) -> float:
    return math.inf if job.has_ended or job.is_active else job.modified + INACTIVITY_TIMEOUT
