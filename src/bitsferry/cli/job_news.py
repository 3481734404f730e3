"""What happened to jobs, as lines for a log."""

from __future__ import annotations

import time
from collections.abc import Iterable

from bitsferry.cli.job_client import GONE
from bitsferry.cli.job_words import (
    advise,
    short_id,
    spell_amount,
    spell_error,
    spell_percent,
    spell_retry,
    spell_state,
)
from bitsferry.cli.quantities import spell_size
from bitsferry.client.job import Job, JobState

__all__ = ["News"]


class News:
    """Told how jobs are, it says what is new about them."""

    def __init__(self) -> None:
        self._known: dict[str, Job] = {}

    def of(self, job: Job, now: float) -> list[str]:
        """Lines that say what became of one job, none when that is known."""
        before = self._known.get(job.id)
        self._known[job.id] = job
        if job.has_ended:
            del self._known[job.id]
        if before is not None and (before.state, before.error) == (job.state, job.error):
            if _tenths(before) >= _tenths(job):
                return []
            words = f"{spell_percent(job.bytes_transferred, job.bytes_total)}, " + spell_amount(
                job.bytes_transferred, job.bytes_total
            )
        elif job.state is JobState.CONNECTING:
            return []  # what comes of it is news
        else:
            words = _spell(job, now)
        return [f"{_when(now)} {short_id(job)} {job.name}: {words}"]

    def of_all(self, jobs: Iterable[Job], now: float) -> list[str]:
        """The same when `jobs` are all there are: one that is missing is over."""
        jobs = list(jobs)
        gone = self._known.keys() - {job.id for job in jobs}
        lines = [f"{_when(now)} {short_id(job)} {job.name}: {GONE}" for job in map(self._known.pop, gone)]
        return lines + [line for job in jobs for line in self.of(job, now)]


def _spell(job: Job, now: float) -> str:
    match job.state:
        case JobState.TRANSIENT_ERROR if job.error is not None:
            return f"{spell_error(job.error)}; trying again {spell_retry(job, now)}"
        case JobState.ERROR if job.error is not None:
            return f"{spell_error(job.error)}. {advise(job, now)}"
        case JobState.TRANSFERRED:
            return f"transferred, {spell_size(job.bytes_transferred)}"
    return spell_state(job.state)


def _tenths(job: Job) -> int:
    return 10 * job.bytes_transferred // job.bytes_total if job.bytes_total else 0


def _when(now: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
