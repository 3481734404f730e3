"""A job as Windows knows it: its properties, and what may happen to it."""

from __future__ import annotations

import uuid
from dataclasses import replace
from enum import IntEnum, IntFlag

import msgspec

from bitsferry.client.bandwidth import Timetable
from bitsferry.client.destination import Destination
from bitsferry.client.local_file import Identity
from bitsferry.client.options import HttpOptions
from bitsferry.protocol.errors import BitsError, Context, LocalFileChanged, NetworkDisconnected
from bitsferry.protocol.hresult import HResult
from bitsferry.protocol.upload import Progress

__all__ = [
    "Debt",
    "InvalidState",
    "Job",
    "JobError",
    "JobFile",
    "JobState",
    "JobType",
    "NoFiles",
    "Notice",
    "Notify",
    "Priority",
    "TooManyFiles",
    "TookTooLong",
    "new_id",
]

LONGEST_NAME = 256  # characters (Learn, SetDisplayName)
LONGEST_DESCRIPTION = 1024
SHORTEST_RETRY_DELAY = 5  # seconds; smaller ones are raised to it (Learn, SetMinimumRetryDelay)
RETRY_DELAY = 600
NO_PROGRESS_TIMEOUT = 14 * 86_400
MAX_DOWNLOAD_TIME = 90 * 86_400
LONGEST_DEBT = 86_400  # how long a Cancel or Close is tried (Learn, IBackgroundCopyJob::Cancel)
INACTIVITY_TIMEOUT = 90 * 86_400  # Learn, group policy JobInactivityTimeout


class JobType(IntEnum):
    """`BG_JOB_TYPE`."""

    DOWNLOAD = 0
    UPLOAD = 1
    UPLOAD_REPLY = 2


class Priority(IntEnum):
    """`BG_JOB_PRIORITY`: foreground jobs all run at once, of the others the highest, one at a time."""

    FOREGROUND = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


class JobState(IntEnum):
    """`BG_JOB_STATE`."""

    QUEUED = 0
    CONNECTING = 1
    TRANSFERRING = 2
    SUSPENDED = 3
    ERROR = 4
    TRANSIENT_ERROR = 5
    TRANSFERRED = 6
    ACKNOWLEDGED = 7
    CANCELLED = 8


_ACTIVE = (JobState.CONNECTING, JobState.TRANSFERRING)
_FINAL = (JobState.ACKNOWLEDGED, JobState.CANCELLED)


class Notify(IntFlag):
    """`BG_NOTIFY_…`: what a job's owner wants to hear of (Learn, SetNotifyFlags)."""

    TRANSFERRED = 0x1
    ERROR = 0x2
    DISABLE = 0x4
    MODIFICATION = 0x8
    FILE_TRANSFERRED = 0x10
    FILE_RANGES_TRANSFERRED = 0x20


class InvalidState(BitsError):
    """The job is in a state in which this cannot be done."""

    hresult = HResult.BG_E_INVALID_STATE
    context = Context.GENERAL_QUEUE_MANAGER


class NoFiles(BitsError):
    """The job has no file to carry: add one first."""

    hresult = HResult.BG_E_EMPTY
    context = Context.GENERAL_QUEUE_MANAGER


class TooManyFiles(BitsError):
    """An upload job carries exactly one file: make a job for each."""

    hresult = HResult.BG_E_TOO_MANY_FILES
    context = Context.GENERAL_QUEUE_MANAGER


class TookTooLong(BitsError):
    """The download was under way for longer than its owner allows."""

    hresult = HResult.BG_E_MAXDOWNLOAD_TIMEOUT
    context = Context.GENERAL_QUEUE_MANAGER


class JobFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a job; `size` is None until it is known, `transferred` counts bytes of it.

    The last fields are a download's: where its bytes wait until the job is completed, and by what the
    server's file is recognised.
    """

    remote: str
    local: str
    size: int | None = None
    transferred: int = 0
    done: bool = False
    temporary: str | None = None
    etag: str | None = None
    last_modified: str | None = None


class JobError(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong last, as `IBackgroundCopyError` says it; `file` is the URL or path it is about."""

    hresult: int
    context: Context
    message: str
    file: str | None = None
    status: int | None = None
    at: float


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """The owner is to be told `event` at the time `due`, and again until somebody heard it."""

    event: Notify
    due: float


class Debt(msgspec.Struct, frozen=True, kw_only=True):
    """A server still to be told that an upload is over, by Close or Cancel; tried since `since`."""

    cancel: bool
    url: str
    progress: Progress
    since: float
    due: float


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One job. Times are seconds since the epoch, sizes bytes, delays and time-outs seconds.

    A job never changes: what happens to it makes a new one. Methods named after what people do (`resume`,
    `suspend`, `complete`, `cancel`) raise InvalidState where Windows says BG_E_INVALID_STATE; those named
    after what happened are the runner's, and leave a job alone to which that cannot happen any more, because
    its owner was quicker.
    """

    id: str
    name: str
    type: JobType
    created: float
    modified: float
    state: JobState = JobState.SUSPENDED
    priority: Priority = Priority.NORMAL
    description: str = ""
    files: tuple[JobFile, ...] = ()

    retry_delay: int = RETRY_DELAY
    no_progress_timeout: int = NO_PROGRESS_TIMEOUT
    max_download_time: int = MAX_DOWNLOAD_TIME
    """How long its files may be under way, counting its turns only."""
    notify_flags: Notify = Notify.TRANSFERRED | Notify.ERROR
    notify_command: tuple[str, ...] = ()
    http: HttpOptions = msgspec.field(default_factory=HttpOptions)
    headers_are_write_only: bool = False
    limit: Timetable | None = None
    fragment_limit: int | None = None
    reply_path: str | None = None

    error: JobError | None = None
    """What went wrong; only in the states ERROR and TRANSIENT_ERROR."""
    error_count: int = 0
    stalled_since: float | None = None
    """When the first error came after the last headway; the no-progress time-out counts from here."""
    retry_at: float | None = None
    """When TRANSIENT_ERROR ends; None in that state: when the network is back."""
    turn: float = 0.0
    """When its turn came or, while it waits, when the last one ended: who waits longest goes next."""
    turn_bytes: int = 0
    """What was transferred when its turn came: a rate is counted from there."""
    active_seconds: float = 0.0
    """How long the turns were that it had."""
    transferred_at: float | None = None
    notice: Notice | None = None
    debts: tuple[Debt, ...] = ()

    upload: Progress | None = None
    farthest: int = 0
    """The most bytes the server ever had of it: more than these are headway, whatever it forgot since."""
    identity: Identity | None = None
    """How the file to upload looked when its upload began."""
    reply: JobFile | None = None

    @property
    def is_upload(self) -> bool:
        """Whether the job carries a file away, with a reply or without."""
        return self.type is not JobType.DOWNLOAD

    @property
    def is_active(self) -> bool:
        """Whether its turn has come."""
        return self.state in _ACTIVE

    @property
    def is_runnable(self) -> bool:
        """Whether it waits for its turn, or has it."""
        return self.state is JobState.QUEUED or self.is_active

    @property
    def has_ended(self) -> bool:
        """Whether it is in a final state; such a job is not listed any more."""
        return self.state in _FINAL

    @property
    def bytes_total(self) -> int | None:
        """None as long as the size of one of its files is unknown."""
        sizes = [file.size for file in self.files if file.size is not None]
        return sum(sizes) if len(sizes) == len(self.files) else None

    @property
    def bytes_transferred(self) -> int:
        """Of all its files, the reply not counted."""
        return sum(file.transferred for file in self.files)

    @property
    def files_transferred(self) -> int:
        """How many of its files are done."""
        return sum(file.done for file in self.files)

    def took_too_long(self, now: float) -> bool:
        """Whether it is a download that was under way for longer than it may be."""
        turn = max(0.0, now - self.turn) if self.is_active else 0.0
        return not self.is_upload and self.active_seconds + turn >= self.max_download_time

    # What its owner does

    def add_file(self, remote: str, local: str, now: float, *, size: int | None = None) -> Job:
        """Another file to carry; `local` is its whole path, `size` its bytes, if they are known.

        Where nobody said where the server's reply shall be, it will be beside the file. Raises TooManyFiles
        for a second one of an upload.
        """
        if self.has_ended or (self.is_upload and self.state is JobState.TRANSFERRED):
            raise InvalidState(f"no file can be added any more: the job is {self.state.name}")
        if self.is_upload and self.files:
            raise TooManyFiles
        added = self._with(now, files=(*self.files, JobFile(remote=remote, local=local, size=size)))
        if self.type is JobType.UPLOAD_REPLY and self.reply_path is None:
            return added._with(now, reply_path=f"{local}.{self.id[1:9]}.reply")
        return added._queued(now, transferred_at=None) if self.state is JobState.TRANSFERRED else added

    def replace_remote_prefix(self, old: str, new: str, now: float) -> Job:
        """Files that are not carried yet and whose URL begins with `old`, in any case: `new` takes its place.

        An upload that was under way elsewhere starts over. Raises ValueError when that makes no URL.
        """
        if self.has_ended or self.state is JobState.TRANSFERRED:
            raise InvalidState(f"its files are where they are: the job is {self.state.name}")
        files = tuple(_moved(file, old, new) for file in self.files)
        if files == self.files:
            return self
        if not self.is_upload:
            return self._with(now, files=files)
        start = self._forget_upload(now)
        return start._with(now, files=tuple(_moved(file, old, new) for file in start.files))

    def resume(self, now: float) -> Job:
        """Let it run. Raises NoFiles, or InvalidState when there is nothing left to run."""
        if self.state is JobState.TRANSFERRED or self.has_ended:
            raise InvalidState(f"there is nothing to resume: the job is {self.state.name}")
        if not self.files:
            raise NoFiles
        if self.is_runnable:
            return self
        return self._queued(now, stalled_since=None, active_seconds=0.0)

    def suspend(self, now: float) -> Job:
        """Let it rest until somebody resumes it."""
        if self.state is JobState.TRANSFERRED or self.has_ended:
            raise InvalidState(f"there is nothing to suspend: the job is {self.state.name}")
        if self.state is JobState.SUSPENDED:
            return self
        return self._with(now, state=JobState.SUSPENDED, error=None, retry_at=None, notice=None)

    def complete(self, now: float) -> Job:
        """Take what was carried, and forget the job. A download may be completed before all of it is here."""
        if self.has_ended or (self.is_upload and self.state is not JobState.TRANSFERRED):
            raise InvalidState(f"it cannot be completed: the job is {self.state.name}")
        return self._with(now, state=JobState.ACKNOWLEDGED, error=None, retry_at=None, notice=None)

    def cancel(self, now: float) -> Job:
        """Give it up; where the server holds a session, it is to be told."""
        if self.has_ended:
            raise InvalidState(f"it cannot be cancelled: the job is {self.state.name}")
        over = self._forget_upload(now)._with(now, reply=self.reply)
        return over._with(now, state=JobState.CANCELLED, error=None, retry_at=None, notice=None)

    # What happens to it

    def connecting(self, now: float) -> Job:
        """Its turn has come."""
        if self.state is not JobState.QUEUED:
            return self
        return self._with(now, state=JobState.CONNECTING, turn=now, turn_bytes=self.bytes_transferred)

    def transferring(self, now: float) -> Job:
        """The server has answered."""
        if self.state is not JobState.CONNECTING:
            return self
        return self._with(now, state=JobState.TRANSFERRING)

    def turn_over(self, now: float) -> Job:
        """Its time slice ended, or the runner stops."""
        return self._queued(now, turn=now) if self.is_active else self

    def interrupted(self, now: float) -> Job:
        """Its runner died, nobody knows when: the time since then does not count."""
        return self._queued(now, turn=now, active_seconds=self.active_seconds) if self.is_active else self

    def again(self, now: float) -> Job:
        """What it waited for in TRANSIENT_ERROR has come: the retry delay is over, or the network is back."""
        return self._queued(now) if self.state is JobState.TRANSIENT_ERROR else self

    def begun(self, identity: Identity, now: float) -> Job:
        """Its upload begins, of the file as it looks now."""
        return self._with(now, identity=identity, files=(self._file(size=identity.size),))

    def uploaded(self, progress: Progress, now: float) -> Job:
        """How far its upload is. More bytes are headway: what went wrong before is past.

        Of a job that was given up meanwhile, the server is to be told.
        """
        if self.state is JobState.CANCELLED:
            return self._owing(progress, now, cancel=True)
        was_forgotten = self.identity is None or self._owes(progress)
        if was_forgotten or self.state in (JobState.TRANSFERRED, JobState.ACKNOWLEDGED):
            return self
        headway = progress.sent > self.farthest
        return self._with(
            now,
            upload=replace(progress),
            farthest=max(progress.sent, self.farthest),
            files=(self._file(transferred=progress.sent),),
            stalled_since=None if headway else self.stalled_since,
        )

    def sending(self, offset: int, now: float) -> Job:
        """Its bytes up to `offset` are out on the line; the server has not said yet that it has them."""
        return self._with(now, files=(self._file(transferred=offset),)) if self.is_active else self

    def downloaded(self, number: int, now: float, **changes: object) -> Job:
        """What is new of the `number`-th of its files."""
        if self.has_ended:
            return self
        before = self.files[number]
        file = msgspec.structs.replace(before, **changes)
        headway = file.transferred > before.transferred or file.done
        files = (*self.files[:number], file, *self.files[number + 1 :])
        return self._with(now, files=files, stalled_since=None if headway else self.stalled_since)

    def replying(self, now: float, **changes: object) -> Job:
        """What is new of the server's reply."""
        if self.has_ended or self.reply_path is None:
            return self
        before = self.reply or JobFile(remote="", local=self.reply_path)
        reply = msgspec.structs.replace(before, **changes)
        headway = reply.transferred > before.transferred
        return self._with(now, reply=reply, stalled_since=None if headway else self.stalled_since)

    def transferred(self, now: float) -> Job:
        """All of it is where it belongs; what is left is to release the server's session, if there is one."""
        is_whole = self.identity is not None if self.is_upload else all(file.done for file in self.files)
        if not self.is_active or not is_whole:
            return self
        whole = self
        if self.identity is not None:
            whole = self._with(now, files=(self._file(transferred=self.identity.size, done=True),))
            if self.upload is not None:
                over = replace(self.upload, sent=self.identity.size, closing=True)
                whole = whole._owing(over, now, cancel=False)
        return whole._with(
            now,
            state=JobState.TRANSFERRED,
            upload=None,
            transferred_at=now,
            stalled_since=None,
            notice=self._notice(Notify.TRANSFERRED, now),
        )

    def failed(self, error: BitsError, now: float, *, file: str | None = None) -> Job:
        """It met `error`: TRANSIENT_ERROR when trying again may help, else ERROR.

        No headway for as long as the no-progress time-out makes any error final, as does a retry delay that
        is longer than that (Learn, SetNoProgressTimeout). A file that changed is sent anew once its job is
        resumed.
        """
        return self._failed(error, now, file) if self.is_active else self

    def disconnected(self, now: float) -> Job:
        """This machine has no network any more; it waits until there is one again, or for too long."""
        if not self.is_runnable:
            return self
        error = NetworkDisconnected("this machine has no network; the job goes on when it is back")
        return self._failed(error, now, None)._with(now, retry_at=None)

    def blocked(self, until: float, now: float) -> Job:
        """Its limit says that nothing may flow just now."""
        if not self.is_runnable:
            return self
        what = JobError(
            hresult=HResult.BG_E_BLOCKED_BY_POLICY,
            context=Context.GENERAL_QUEUE_MANAGER,
            message="the limit lets nothing through at this time of day",
            at=now,
        )
        return self._with(now, state=JobState.TRANSIENT_ERROR, error=what, turn=now, retry_at=until)

    @property
    def is_blocked(self) -> bool:
        """Whether it waits for its limit."""
        blocked = self.error is not None and self.error.hresult == HResult.BG_E_BLOCKED_BY_POLICY
        return blocked and self.state is JobState.TRANSIENT_ERROR

    def stalled(self, now: float) -> Job:
        """It waited in TRANSIENT_ERROR for as long as it may."""
        return self._given_up(now) if self.state is JobState.TRANSIENT_ERROR else self

    # What is owed because of it; this is no news of the job itself

    def paid(self, session_id: str | None) -> Job:
        """The server knows that this upload is over."""
        left = tuple(debt for debt in self.debts if debt.progress.session_id != session_id)
        return msgspec.structs.replace(self, debts=left)

    def not_paid(self, session_id: str | None, now: float) -> Job:
        """The server could not be told; after a day of trying, its own time-out does the same."""
        due = now + self.retry_delay
        longest = min(LONGEST_DEBT, self.no_progress_timeout)
        later = tuple(
            msgspec.structs.replace(debt, due=due) if debt.progress.session_id == session_id else debt
            for debt in self.debts
            if debt.progress.session_id != session_id or due <= debt.since + longest
        )
        return msgspec.structs.replace(self, debts=later)

    def noticed(self, notice: Notice, now: float, *, heard: bool) -> Job:
        """Its owner was told; he is told again later when he has not `heard`."""
        if self.notice != notice:
            return self
        later = None if heard else Notice(event=notice.event, due=now + self.retry_delay)
        return msgspec.structs.replace(self, notice=later)

    def _failed(self, error: BitsError, now: float, file: str | None) -> Job:
        failed = self._forget_upload(now) if isinstance(error, LocalFileChanged) else self
        since = now if self.stalled_since is None else self.stalled_since
        wait = max(self.retry_delay, error.retry_after or 0)
        patient = now - since < self.no_progress_timeout and self.retry_delay <= self.no_progress_timeout
        what = JobError(
            hresult=error.code,
            context=error.context,
            message=error.message,
            file=file,
            status=error.status if error.hresult is None else None,
            at=now,
        )
        failed = failed._with(now, error=what, error_count=self.error_count + 1)
        if error.transient and patient:
            state = JobState.TRANSIENT_ERROR
            return failed._with(now, state=state, turn=now, stalled_since=since, retry_at=now + wait)
        return failed._given_up(now)

    def _forget_upload(self, now: float) -> Job:
        """As if it had not begun; a session is to be cancelled."""
        if not self.is_upload or self.state is JobState.TRANSFERRED:
            return self
        forgetful = self if self.upload is None else self._owing(self.upload, now, cancel=True)
        files = tuple(JobFile(remote=file.remote, local=file.local) for file in self.files)
        return forgetful._with(now, upload=None, farthest=0, identity=None, reply=None, files=files)

    def _owing(self, progress: Progress, now: float, *, cancel: bool) -> Job:
        if progress.session_id is None or self._owes(progress):
            return self
        url = self.files[0].remote
        debt = Debt(cancel=cancel, url=url, progress=replace(progress), since=now, due=now)
        return self._with(now, debts=(*self.debts, debt))

    def _owes(self, progress: Progress) -> bool:
        """Whether this session is over, and its server to be told."""
        return any(debt.progress.session_id == progress.session_id for debt in self.debts)

    def _given_up(self, now: float) -> Job:
        notice = self._notice(Notify.ERROR, now)
        return self._with(now, state=JobState.ERROR, stalled_since=None, retry_at=None, notice=notice)

    def _notice(self, event: Notify, now: float) -> Notice | None:
        wanted = event in self.notify_flags and Notify.DISABLE not in self.notify_flags
        return Notice(event=event, due=now) if wanted else None

    def _queued(self, now: float, **changes: object) -> Job:
        return self._with(now, state=JobState.QUEUED, error=None, retry_at=None, notice=None, **changes)

    def _file(self, **changes: object) -> JobFile:
        (file,) = self.files
        return msgspec.structs.replace(file, **changes)

    def _with(self, now: float, **changes: object) -> Job:
        if self.is_active and changes.get("state", self.state) not in _ACTIVE:
            changes.setdefault("active_seconds", self.active_seconds + max(0.0, now - self.turn))
        return msgspec.structs.replace(self, modified=now, **changes)


def _moved(file: JobFile, old: str, new: str) -> JobFile:
    if file.done or not file.remote.lower().startswith(old.lower()):
        return file
    remote = str(Destination.parse(new + file.remote[len(old) :]))
    return msgspec.structs.replace(file, remote=remote)


def new_id() -> str:
    """A GUID as Windows writes it."""
    return "{" + str(uuid.uuid4()).upper() + "}"
