"""Works through a queue, job by job, until it is told to stop."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue

from bitsferry.client import schedule
from bitsferry.client.agent import UserAgent
from bitsferry.client.bandwidth import Limit, Timetable
from bitsferry.client.carrier import Carrier, terms_of
from bitsferry.client.credential_store import CredentialStore, PasswordUnreadable
from bitsferry.client.credentials import Credential
from bitsferry.client.debts import pay
from bitsferry.client.destination import Destination
from bitsferry.client.job import Debt, Job, JobState, TookTooLong
from bitsferry.client.job_queue import JobNotFound, JobQueue, QueueUnusable
from bitsferry.client.network import Network
from bitsferry.client.notify import TIME_LIMIT, Callback, tell_owner
from bitsferry.client.partial_file import discard
from bitsferry.client.proxies import proxy_for
from bitsferry.client.runner_lock import RunnerLock
from bitsferry.client.schedule import Schedule
from bitsferry.protocol.errors import BitsError

__all__ = ["Runner"]

logger = logging.getLogger(__name__)

POLL = 0.25  # seconds between two looks at what others did to the queue
NETWORK_EVERY = 2.0  # seconds between two looks at the network
PATIENCE = 30.0  # seconds for the fragment of a job whose turn is over
PARTING = 5.0  # seconds for what is under way when the runner stops
ERRANDS = 20  # debts at once, and as many notices
A_DAY = 86_400.0


@dataclass(slots=True)
class _Work:
    """What a thread does; `cut` makes it end soon."""

    thread: threading.Thread
    cut: Callable[[], None]


@dataclass(slots=True)
class _Turn(_Work):
    """A job's turn; `over_since` is when it should have ended, by the monotonic clock."""

    carrier: Carrier
    over_since: float = math.inf


class Runner:
    """Carries the jobs of one queue, tries again what failed, pays debts, tells owners; for one `run`.

    What happens is decided by the thread that called `run`, out of what stands in the queue: so every process
    can steer it, and whatever kills it, another one goes on. Other threads do the work.
    """

    def __init__(
        self,
        queue: JobQueue,
        credentials: CredentialStore,
        *,
        only: Container[str] | None = None,
        on_change: Callable[[Job], object] | None = None,
        notify: Callback | None = None,
        notify_time_limit: float = TIME_LIMIT,
        turns: Schedule | None = None,
        network: Network | None = None,
        clock: Callable[[], float] = time.time,
        poll: float = POLL,
    ) -> None:
        """`only` has the ids of the jobs to care for; others are left alone. `on_change` hears of every state
        of a job, of one after the other, from any thread. `notify` tells owners, in place of their commands.
        `clock` is the time of day in seconds; every `poll` seconds it is looked what others did.
        """
        self._queue = queue
        self._credentials = credentials
        self._only = only
        self._on_change = on_change
        self._notify = notify
        self._notify_time_limit = notify_time_limit
        self._schedule = turns or Schedule()
        self._network = network or Network()
        self._clock = clock
        self._poll = poll
        self._limit = Limit(Timetable(()))
        self._limits: dict[str, Limit] = {}  # by the id of the job
        self._turns: dict[str, _Turn] = {}  # by the id of the job
        self._errands: dict[tuple[str, str], _Work] = {}  # by what it is and whom it concerns
        self._told: dict[str, JobState] = {}
        self._telling = threading.RLock()
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._is_stopping = self._is_over = False
        self._read: list[Job] = []
        self._read_version = self._seen = -1
        self._next = self._next_look = -math.inf

    def stop(self) -> None:
        """End `run` within seconds; from any thread, and from a signal's handler."""
        self._is_stopping = True
        self._wakes.put(None)

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Work until `stop` is called or `until` answers True; jobs under way are QUEUED then.

        Raises RunnerWorking when another runner works through this queue, and QueueUnusable.
        """
        with RunnerLock(self._queue.path):
            try:
                while not self._is_stopping and not until():
                    self._pass()
                    self._rest()
            finally:
                self._end()

    def run_until_idle(self, until: Callable[[], bool] = lambda: False) -> None:
        """Work until nothing is left to do, or as `run`.

        Left to do are jobs that run, or wait for their turn or to be tried again, and debts and notices that
        are due: one that was tried in vain is for a later runner.
        """
        self.run(lambda: until() or self._is_idle())

    # One look at the queue, and what follows from it

    def _pass(self) -> None:
        ended = self._collect()
        version, now = self._queue.version(), self._clock()
        if version == self._seen and now < self._next and not ended and not self._is_time_to_look():
            self._hurry()
            return
        self._limit.rates = self._queue.limit or Timetable(())
        self._repair()
        self._do_what_is_due(now)
        self._heed_limits(now)
        self._look_at_the_network(now)
        self._give_turns(now)
        self._run_errands(now)
        self._tidy()
        jobs = self._jobs()
        self._seen = version
        self._next = now + min(schedule.next_event(jobs, now), self._schedule.next_turn(jobs, now))

    def _jobs(self) -> list[Job]:
        """Those to care for as they are now, ended ones too; their news is told."""
        with self._telling:
            version = self._queue.version()
            if version != self._read_version:
                jobs = self._queue.all(ended=True)
                self._read = [job for job in jobs if self._only is None or job.id in self._only]
                self._read_version = version
                for job in self._read:
                    self._tell(job)
            return self._read

    def _collect(self) -> bool:
        """Forget what ended by itself; whether there was any."""
        works = len(self._turns) + len(self._errands)
        self._turns = {id: turn for id, turn in self._turns.items() if turn.thread.is_alive()}
        self._errands = {key: errand for key, errand in self._errands.items() if errand.thread.is_alive()}
        return len(self._turns) + len(self._errands) < works

    def _repair(self) -> None:
        """A job has its turn, and nobody carries it: its runner was killed."""
        for job in self._jobs():
            if job.is_active and job.id not in self._turns:
                self._change(job.id, lambda job: job.interrupted(self._clock()))

    def _do_what_is_due(self, now: float) -> None:
        due = schedule.due(self._jobs(), now)
        for job in due.retries:
            self._change(job.id, lambda job: job.again(now))
        for job in due.stalled:
            self._change(job.id, lambda job: job.stalled(now))
        for job in due.overdue:
            self._change(job.id, lambda job: job.failed(TookTooLong(), now))
        for job in due.forgotten:
            self._change(job.id, lambda job: job if job.has_ended else job.cancel(now))

    def _heed_limits(self, now: float) -> None:
        """What may send nothing just now waits until it may."""
        for job in self._jobs():
            closed_for = max(limit.closed_for() for limit in self._limits_of(job))
            if closed_for > 0 and job.is_runnable:
                until = now + min(closed_for, A_DAY)
                self._change(job.id, partial(Job.blocked, until=until, now=now))
            elif closed_for == 0 and job.is_blocked:
                self._change(job.id, lambda job: job.again(now))

    def _is_time_to_look(self) -> bool:
        return time.monotonic() >= self._next_look

    def _look_at_the_network(self, now: float) -> None:
        """Learn, users-and-network-connections: what waits goes on when the network is back."""
        if not self._is_time_to_look():
            return
        self._next_look = time.monotonic() + NETWORK_EVERY
        hosts = {job.id: host for job in self._jobs() if (host := _host_of(job)) is not None}
        seen = self._network.look(hosts.values())
        for job in self._jobs():
            if hosts.get(job.id) in seen.lost:
                if job.is_runnable:
                    self._change(job.id, lambda job: job.disconnected(now))
            elif job.state is JobState.TRANSIENT_ERROR and (seen.changed or job.retry_at is None):
                self._change(job.id, lambda job: job.again(now))

    def _give_turns(self, now: float) -> None:
        jobs = {job.id: job for job in self._jobs()}
        chosen = self._schedule.choose(jobs.values(), now)
        for id, turn in self._turns.items():
            job = jobs.get(id)
            if turn.carrier.is_whole:
                continue  # what is left is to say so to the server
            if job is None or not job.is_active:
                turn.cut()
            elif id not in chosen or terms_of(job) != turn.carrier.terms:
                turn.carrier.end_turn()
                turn.over_since = min(turn.over_since, time.monotonic())
        self._hurry()
        for id in chosen - self._turns.keys():
            job = self._change(id, lambda job: job.connecting(self._clock()))
            if job is not None and job.is_active:
                self._carry(job)

    def _hurry(self) -> None:
        """A fragment of a job whose turn is over may not take for ever."""
        for turn in self._turns.values():
            if time.monotonic() - turn.over_since > PATIENCE:
                turn.cut()

    def _run_errands(self, now: float) -> None:
        due = schedule.due(self._jobs(), now)
        for job, debt in due.debts:
            if job.id not in self._turns or debt.since < job.turn:  # else it may be of the upload under way
                self._pay(job, debt)
        for job in due.notices:
            self._notify_owner(job)

    def _tidy(self) -> None:
        """Forget jobs that ended, once they owe nobody anything."""
        busy = {id for _, id in self._errands} | self._turns.keys()
        for job in self._jobs():
            if job.has_ended and not job.debts and job.id not in busy:
                for file in (*job.files, *([job.reply] if job.reply else [])):
                    # What is done has its name by now; what is not, nobody wants any more.
                    if file.temporary and (not file.done or job.state is JobState.CANCELLED):
                        with contextlib.suppress(BitsError):
                            discard(file.temporary)
                with contextlib.suppress(BitsError, OSError):
                    self._credentials.forget(job.id)
                self._queue.remove(job.id)
                self._told.pop(job.id, None)
                self._limits.pop(job.id, None)

    def _rest(self) -> None:
        with contextlib.suppress(Empty):
            self._wakes.get(timeout=self._poll)

    def _is_idle(self) -> bool:
        if self._turns or self._errands or self._seen != self._queue.version():
            return False
        return not any(job.is_runnable or job.state is JobState.TRANSIENT_ERROR for job in self._jobs())

    def _end(self) -> None:
        works = [*self._turns.values(), *self._errands.values()]
        for work in works:
            work.cut()
        deadline = time.monotonic() + PARTING
        for work in works:
            work.thread.join(max(0.0, deadline - time.monotonic()))
        self._collect()
        with self._telling, contextlib.suppress(QueueUnusable):
            for id in self._turns:  # one that waits for a name, say; nobody hears of it any more
                self._change(id, lambda job: job.turn_over(self._clock()))
            self._is_over = True

    # The queue

    def _change(self, id: str, change: Callable[[Job], Job]) -> Job | None:
        """As `_keep`; None when somebody removed the job."""
        try:
            return self._keep(id, change)
        except JobNotFound:
            return None

    def _keep(self, id: str, change: Callable[[Job], Job], *, synced: bool = True) -> Job:
        with self._telling:
            if self._is_over:
                raise JobNotFound("nobody works through the queue any more")
            job = self._queue.change(id, change, synced=synced)
            self._tell(job)
        return job

    def _tell(self, job: Job) -> None:
        if self._told.get(job.id) is job.state:
            return
        self._told[job.id] = job.state
        error = None if job.error is None else job.error.message
        logger.info(
            "job", extra={"job": job.id, "job_name": job.name, "state": job.state.name, "error": error}
        )
        if self._on_change is not None:
            try:
                self._on_change(job)
            except Exception:
                logger.exception("on_change failed", extra={"job": job.id})

    def _limits_of(self, job: Job) -> list[Limit]:
        """The one all jobs share, and its own; both follow what is set while they are used."""
        own = self._limits.setdefault(job.id, Limit(Timetable(())))
        own.rates = job.limit or Timetable(())
        return [self._limit, own]

    def _credentials_of(self, job: Job) -> list[Credential]:
        try:
            return self._credentials.of(job.id)
        except OSError as error:
            raise PasswordUnreadable(f"the credentials of {job.name} cannot be read: {error}") from error

    # Threads

    def _carry(self, job: Job) -> None:
        carrier = Carrier(
            job,
            partial(self._keep, job.id),
            partial(self._credentials_of, job),
            limits=self._limits_of(job),
            clock=self._clock,
        )
        thread = self._thread(carrier.carry, f"carrier of {job.id}")
        self._turns[job.id] = _Turn(thread, carrier.cut, carrier)
        thread.start()

    def _pay(self, job: Job, debt: Debt) -> None:
        session_id = debt.progress.session_id
        ending = threading.Event()
        agents: list[UserAgent] = []

        def work() -> None:
            try:
                agents.append(UserAgent(job.http, self._credentials_of(job)))
                if not ending.is_set():
                    pay(debt, agents[0], self._clock())
                    self._change(job.id, lambda job: job.paid(session_id))
            except BitsError as error:
                if not ending.is_set():
                    logger.info("server not told", extra={"job": job.id, "error": error.message})
                    self._change(job.id, lambda job: job.not_paid(session_id, self._clock()))

        def cut() -> None:
            ending.set()
            for agent in agents:
                agent.abort()

        self._run_errand("debt", job.id, work, cut)

    def _notify_owner(self, job: Job) -> None:
        notice = job.notice
        assert notice is not None
        if self._notify is None and not job.notify_command:
            self._change(job.id, lambda job: job.noticed(notice, self._clock(), heard=True))
            return
        ending = threading.Event()

        def work() -> None:
            heard = tell_owner(job, self._notify, time_limit=self._notify_time_limit, stop=ending.is_set)
            if heard or not ending.is_set():
                self._change(job.id, lambda job: job.noticed(notice, self._clock(), heard=heard))

        self._run_errand("notice", job.id, work, ending.set)

    def _run_errand(self, what: str, id: str, work: Callable[[], None], cut: Callable[[], None]) -> None:
        if (what, id) in self._errands or sum(kind == what for kind, _ in self._errands) >= ERRANDS:
            return
        thread = self._thread(work, f"{what} of {id}")
        self._errands[what, id] = _Work(thread, cut)
        thread.start()

    def _thread(self, work: Callable[[], None], name: str) -> threading.Thread:
        """One that wakes the runner when it ends, and keeps no process from ending."""

        def whole() -> None:
            try:
                work()
            except (JobNotFound, QueueUnusable) as error:
                logger.warning("work ended", extra={"error": error.message})
            except Exception:
                logger.exception("work failed")
            finally:
                self._wakes.put(None)

        return threading.Thread(target=whole, name=name, daemon=True)


def _host_of(job: Job) -> str | None:
    """The host it connects to next, of a server or a proxy; None when there is none, or nobody knows."""
    file = next((file for file in job.files if not file.done), None)
    if file is None or not (job.is_runnable or job.state is JobState.TRANSIENT_ERROR):
        return None
    try:
        where = Destination.parse(file.remote)
        proxy = proxy_for(job.http.proxy, where.scheme, where.host, where.port)
    except (ValueError, BitsError):
        return None
    return where.host if proxy is None else proxy.host
