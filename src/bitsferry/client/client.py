"""The queue of one user's jobs, as programs use it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import TracebackType

from bitsferry.client import properties
from bitsferry.client.credential_store import CredentialName, CredentialStore
from bitsferry.client.credentials import Credential, Credentials, Scheme, Target, credentials_of
from bitsferry.client.destination import Destination
from bitsferry.client.download import discard, place
from bitsferry.client.job import Job, JobState, JobType, new_id
from bitsferry.client.job_queue import JobQueue, default_path
from bitsferry.client.runner import Runner
from bitsferry.client.runner_lock import runner_is_working

__all__ = ["Client"]

_FINISHED = (JobState.TRANSFERRED, JobState.ERROR, JobState.ACKNOWLEDGED, JobState.CANCELLED)


class Client:
    """Jobs that survive the program and the machine; to be used in a `with`, by one thread.

    Nothing moves until a runner works: `bitsferry jobs run`, the service, or `run` of this class. Methods
    take a job or its id and return the job as it is then. They raise BitsError as Windows would: JobNotFound,
    InvalidState, TooManyFiles, …
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """`path` is the queue's file; every user has one where the system keeps such things."""
        self._path = os.fspath(path or default_path())
        self._queue = JobQueue(self._path)
        self._credentials = CredentialStore(os.path.dirname(self._path))

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the queue."""
        self._queue.close()

    # Making jobs

    def create(self, /, name: str, type: JobType = JobType.UPLOAD, **settings: object) -> Job:
        """A new job without files, SUSPENDED; `settings` as `set` takes them."""
        now = time.time()
        job = Job(id=new_id(), name="", type=type, created=now, modified=now)
        for setting, value in {"name": name, **settings}.items():
            job = properties.changed(job, setting, value, now)
        self._queue.add(job)
        return job

    def add(self, job: Job | str, remote: str, local: str | os.PathLike[str]) -> Job:
        """Another file: `remote` is its URL, `local` its path. A URL that ends in `/` names a folder.

        Raises ValueError for a URL that is none.
        """
        path = os.path.abspath(local)
        url = str(Destination.parse(remote, os.path.basename(path)))

        def add(job: Job, now: float) -> Job:
            return job.add_file(url, path, now, size=_size(path) if job.is_upload else None)

        return self._change(job, add)

    def upload(
        self,
        /,
        path: str | os.PathLike[str],
        url: str,
        *,
        name: str | None = None,
        reply: str | os.PathLike[str] | None = None,
        credentials: Credentials = (),
        **settings: object,
    ) -> Job:
        """A job that sends `path` to `url`, on its way at once; with `reply`, an upload-reply job."""
        kind = JobType.UPLOAD if reply is None else JobType.UPLOAD_REPLY
        if reply is not None:
            settings["reply_path"] = os.fspath(reply)
        return self._make(kind, name, path, url, credentials, settings)

    def download(
        self,
        /,
        url: str,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        credentials: Credentials = (),
        **settings: object,
    ) -> Job:
        """A job that fetches `url`; the file appears at `path` when the job is completed."""
        return self._make(JobType.DOWNLOAD, name, path, url, credentials, settings)

    # Looking

    def jobs(self, *, ended: bool = False) -> list[Job]:
        """All jobs that are not over, the oldest first; with `ended` those, too, that are not forgotten."""
        return self._queue.all(ended=ended)

    def find(self, text: str) -> Job:
        """The job of this id, beginning of an id, or name. Raises JobNotFound, or when it may be several."""
        return self._queue.find(text)

    def get(self, job: Job | str) -> Job:
        """The job as it is now."""
        return self._queue.get(_id(job))

    def credentials(self, job: Job | str) -> list[CredentialName]:
        """Whom a job's server and proxy know, without the passwords."""
        return self._credentials.names(_id(job))

    # Changing

    def set(self, job: Job | str, /, **settings: object) -> Job:
        """Change properties, all or none; `properties` has their names and limits. Raises ValueError."""

        def change(job: Job, now: float) -> Job:
            for setting, value in settings.items():
                job = properties.changed(job, setting, value, now)
            return job

        return self._change(job, change)

    def replace_remote_prefix(self, job: Job | str, old: str, new: str) -> Job:
        """Files that are not carried yet and whose URL begins with `old`: `new` takes its place."""
        return self._change(job, lambda job, now: job.replace_remote_prefix(old, new, now))

    def set_credentials(self, job: Job | str, credential: Credential) -> None:
        """Say who is asking; takes the place of an earlier one for the same target and scheme."""
        self._credentials.keep(_id(job), credential)

    def remove_credentials(
        self, job: Job | str, target: Target | None = None, scheme: Scheme | None = None
    ) -> None:
        """Forget them."""
        self._credentials.remove(_id(job), target, scheme)

    def resume(self, job: Job | str) -> Job:
        """Let it run."""
        return self._change(job, Job.resume)

    def suspend(self, job: Job | str) -> Job:
        """Let it rest."""
        return self._change(job, Job.suspend)

    def complete(self, job: Job | str) -> Job:
        """Take what was carried and forget the job. What a download brought gets its name now."""
        before = self.get(job)
        before.complete(time.time())  # raises before anything is moved
        if before.type is JobType.DOWNLOAD:
            for file in before.files:
                if file.done and file.temporary:
                    place(file.temporary, file.local, file.last_modified, size=file.size)
                elif file.temporary:
                    discard(file.temporary)
        return self._end(self._change(job, Job.complete))

    def cancel(self, job: Job | str) -> Job:
        """Give it up. The runner tells the server; without one `run` does."""
        after = self._change(job, Job.cancel)
        if not self.runner_is_working:
            for file in (*after.files, *([after.reply] if after.reply else [])):
                if file.temporary:
                    discard(file.temporary)
        return self._end(after)

    # Running

    @property
    def runner_is_working(self) -> bool:
        """Whether some process works through this queue just now."""
        return runner_is_working(self._path)

    def run(
        self,
        *jobs: Job | str,
        until: Callable[[], bool] = lambda: False,
        on_change: Callable[[Job], object] = lambda job: None,
    ) -> None:
        """Work through the queue, or these jobs only, until nothing is left to do or `until` answers True.

        `on_change` hears of every new state. Raises RunnerWorking when another process does the work.
        """
        only = {_id(job) for job in jobs} or None
        Runner(self._queue, self._credentials, only=only, on_change=on_change).run_until_idle(until)

    def wait(self, job: Job | str, *, timeout: float | None = None) -> Job:
        """Until the job is TRANSFERRED, in ERROR or over; `timeout` in seconds. Raises TimeoutError."""
        deadline = None if timeout is None else time.monotonic() + timeout
        version = None
        while True:
            if version != self._queue.version():
                version = self._queue.version()
                current = self.get(job)
                if current.state in _FINISHED:
                    return current
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"the job {current.name} is still {current.state.name}")
            time.sleep(0.1)

    def _make(
        self,
        kind: JobType,
        name: str | None,
        path: str | os.PathLike[str],
        url: str,
        credentials: Credentials,
        settings: dict[str, object],
    ) -> Job:
        """A whole job, or none."""
        known = credentials_of(credentials)
        job = self.create(name or os.path.basename(os.fspath(path)), kind, **settings)
        try:
            for credential in known:
                self.set_credentials(job, credential)
            self.add(job, url, path)
            return self.resume(job)
        except BaseException:
            self.cancel(job)
            raise

    def _change(self, job: Job | str, change: Callable[[Job, float], Job]) -> Job:
        now = time.time()
        return self._queue.change(_id(job), lambda job: change(job, now))

    def _end(self, job: Job) -> Job:
        """A job that owes nobody anything need not be kept; while a runner works, that is its business."""
        if not job.debts and not self.runner_is_working:
            self._credentials.forget(job.id)
            self._queue.remove(job.id)
        return job


def _size(path: str) -> int | None:
    """What a file that is there has now; it counts when its upload begins."""
    try:
        return os.path.getsize(path)
    except OSError:
        return None


def _id(job: Job | str) -> str:
    return job if isinstance(job, str) else job.id
