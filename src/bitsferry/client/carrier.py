"""Carries the files of one job, for as long as its turn lasts."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from bitsferry.client import events
from bitsferry.client.agent import UserAgent
from bitsferry.client.bandwidth import Limit
from bitsferry.client.courtesy import Courtesy
from bitsferry.client.credentials import Credential
from bitsferry.client.destination import Destination
from bitsferry.client.download import Download
from bitsferry.client.job import Job, JobFile, JobType, Priority
from bitsferry.client.job_queue import QueueUnusable
from bitsferry.client.local_file import LocalFile
from bitsferry.client.partial_file import SUFFIX
from bitsferry.client.patience import Patience
from bitsferry.client.stopped import Stopped
from bitsferry.client.transfer import Reply, Transfer
from bitsferry.client.transport import BLOCK_LENGTH, Transport
from bitsferry.client.trust import warnings
from bitsferry.client.version import Version
from bitsferry.protocol.errors import BitsError, Context, LocalFileChanged
from bitsferry.protocol.upload import Progress

__all__ = ["Carrier", "Keep", "terms_of"]

logger = logging.getLogger(__name__)

SHOWN_EVERY = 1.0  # seconds between two looks that others have at what is under way
_IMPATIENT = 0.0  # the queue's retry delay is what waits


class OurError(BitsError):
    """Something nobody thought of."""

    context = Context.UNKNOWN


class Keep(Protocol):
    """Makes of the job in the queue what a change makes of it, and returns what it is then.

    A power cut may undo what is not `synced`. Raises JobNotFound and QueueUnusable.
    """

    def __call__(self, change: Callable[[Job], Job], *, synced: bool = True) -> Job:
        """The change is on the disk when this returns."""


def terms_of(job: Job) -> tuple[object, ...]:
    """What a turn is begun with; when it changes, another one must be."""
    remotes = tuple(file.remote for file in job.files)
    in_foreground = job.priority is Priority.FOREGROUND
    return remotes, in_foreground, job.http, job.fragment_limit, job.reply_path


class Carrier:
    """One turn of a job: `carry` is for a thread of its own, the other methods are for any thread."""

    def __init__(
        self,
        job: Job,
        keep: Keep,
        credentials: Callable[[], Iterable[Credential]],
        *,
        limits: Sequence[Limit] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.terms = terms_of(job)
        self.is_whole = False
        """Whether everything is where it belongs, and only the server's session is left to be released."""
        self._job = job
        self._keep = keep
        self._credentials = credentials
        self._limits = limits
        self._clock = clock
        self._stopping = threading.Event()
        self._is_over = False
        self._agent: UserAgent | None = None
        self._file = job.files[0]
        self._kept = Progress()
        self._is_ahead = False  # the queue shows more bytes than the server has acknowledged
        self._shown_at = 0.0

    def end_turn(self) -> None:
        """End where it costs nothing: after the fragment under way."""
        self._is_over = True

    def cut(self) -> None:
        """End at once, whatever is under way."""
        self._stopping.set()
        if self._agent is not None:
            self._agent.abort()

    def carry(self) -> None:
        """Return when the turn is over; what became of it is kept. Raises JobNotFound and QueueUnusable."""
        try:
            with contextlib.closing(UserAgent(self._job.http, self._credentials())) as self._agent:
                if self._stopping.is_set():
                    raise Stopped
                for warning in warnings(self._job.http.tls):
                    logger.warning(warning, extra={"job": self._job.id})
                if self._job.is_upload:
                    self._upload(self._agent)
                else:
                    self._download(self._agent)
        except Stopped:
            self._keep(lambda job: job.turn_over(self._clock()))
        except BitsError as error:
            self._failed(error)
        except Exception as error:
            logger.exception("carrying failed", extra={"job": self._job.id})
            self._failed(
                OurError(f"bitsferry has an error of its own here: {type(error).__name__}; see its log")
            )

    def _failed(self, error: BitsError) -> None:
        if self.is_whole:
            logger.info("session not released", extra={"job": self._job.id, "error": error.message})
            self._keep(lambda job: job.not_paid(self._kept.session_id, self._clock()))
            return
        file = self._file.local if error.context is Context.LOCAL_FILE else self._file.remote
        self._keep(lambda job: job.failed(error, self._clock(), file=file))

    # Uploads

    def _upload(self, agent: UserAgent) -> None:
        limits = list(self._limits)
        if self._job.priority is not Priority.FOREGROUND:
            limits.append(Courtesy(agent.round_trip))
        with LocalFile(self._file.local) as file:
            job = self._keep(lambda job: self._begun(job, file))
            self._kept = job.upload or Progress()
            transport = Transport(
                Destination.parse(self._file.remote, file.name),
                agent,
                block_length=lambda: min([BLOCK_LENGTH, *(limit.block_length for limit in limits)]),
            )
            Transfer(
                file,
                transport,
                progress=replace(self._kept),
                save=self._save_progress,
                reply=self._reply(job) if job.type is JobType.UPLOAD_REPLY else None,
                fragment_limit=job.fragment_limit,
                limits=limits,
                patience=Patience(_IMPATIENT),
                tell=self._hear,
                stop=self._stopping.is_set,
                turn_over=lambda: self._is_over,
                time_of_day=self._clock,
                sleep=self._stopping.wait,
            ).run()

    def _begun(self, job: Job, file: LocalFile) -> Job:
        if job.identity == file.identity:
            return job
        if job.upload is not None and job.upload.session_id is not None:
            raise LocalFileChanged(
                f"{file.shown} changed after its upload began; resume the job to start over"
            )
        return job.begun(file.identity, self._clock())

    def _save_progress(self, progress: Progress) -> None:
        """A session is synced; an offset need not be: the server knows it better."""
        if progress == self._kept and not self._is_ahead:
            return
        self._is_ahead = False
        is_new = progress.session_id != self._kept.session_id
        self._kept = replace(progress)
        try:
            self._keep(lambda job: job.uploaded(progress, self._clock()), synced=is_new)
        except QueueUnusable:
            if is_new:
                raise

    def _reply(self, job: Job) -> Reply:
        assert job.reply_path is not None
        folder = os.path.dirname(job.reply_path)
        reply = job.reply or JobFile(remote="", local=job.reply_path)
        temporary = reply.temporary or os.path.join(folder, f"{job.id[1:9]}-reply{SUFFIX}")
        return Reply(
            job.reply_path,
            temporary=temporary,
            version=_version_of(reply),
            save=lambda version: self._save_reply(version, temporary),
        )

    def _save_reply(self, version: Version, temporary: str) -> None:
        changes = {"temporary": temporary, "remote": self._kept.reply_url or "", **_facts_of(version)}
        self._keep(lambda job: job.replying(self._clock(), **changes))

    # Downloads

    def _download(self, agent: UserAgent) -> None:
        while waiting := self._waiting():
            self._fetch(agent, *waiting[0])
        self._keep(lambda job: job.transferred(self._clock()))

    def _waiting(self) -> list[tuple[int, JobFile]]:
        """The files that are not here yet, with their numbers; more may have been added."""
        job = self._keep(lambda job: job)
        return [(number, file) for number, file in enumerate(job.files) if not file.done]

    def _fetch(self, agent: UserAgent, number: int, file: JobFile) -> None:
        self._file = file
        temporary = file.temporary or os.path.join(
            os.path.dirname(file.local), f"{self._job.id[1:9]}-{number}{SUFFIX}"
        )

        def keep(changes: dict[str, object]) -> None:
            self._keep(lambda job: job.downloaded(number, self._clock(), **changes))

        def hear(event: events.Event) -> None:
            if isinstance(event, events.Receiving) and self._is_time_to_show():
                self._show(lambda job: job.downloaded(number, self._clock(), transferred=event.received))
            self._hear(event)

        keep({"temporary": temporary})
        version = Download(
            agent,
            Destination.parse(file.remote),
            file.local,
            temporary=temporary,
            version=_version_of(file),
            save=lambda version: keep(_facts_of(version)),
            limits=self._limits,
            patience=Patience(_IMPATIENT),
            foreground=self._job.priority is Priority.FOREGROUND,
            tell=hear,
            stop=lambda: self._stopping.is_set() or self._is_over,
            sleep=self._stopping.wait,
        ).run()
        keep({"transferred": version.size, "done": True, **_facts_of(version)})

    # Both

    def _hear(self, event: events.Event) -> None:
        match event:
            case events.Connected():
                self._show(lambda job: job.transferring(self._clock()))
            case events.Progress(offset=offset) if self._is_time_to_show():
                self._is_ahead = True
                self._show(lambda job: job.sending(offset, self._clock()))
            case events.Receiving(received=received) if self._job.is_upload and self._is_time_to_show():
                self._show(lambda job: job.replying(self._clock(), transferred=received))
            case events.Replied(size=size) if self._job.type is JobType.UPLOAD_REPLY:
                self._keep(lambda job: job.replying(self._clock(), size=size, transferred=size, done=True))
            case events.Whole():
                self.is_whole = True
                self._keep(lambda job: job.transferred(self._clock()))
            case events.Done():
                self._keep(lambda job: job.paid(self._kept.session_id))
            case events.Retry(error=error):
                logger.info("trying again", extra={"job": self._job.id, "error": error.message})

    def _show(self, change: Callable[[Job], Job]) -> None:
        """Keep what is nice to know; a full disk at home is no reason not to send."""
        with contextlib.suppress(QueueUnusable):
            self._keep(change, synced=False)

    def _is_time_to_show(self) -> bool:
        now = time.monotonic()
        if now - self._shown_at < SHOWN_EVERY:
            return False
        self._shown_at = now
        return True


def _version_of(file: JobFile) -> Version | None:
    return None if file.size is None else Version(file.size, file.last_modified, file.etag)


def _facts_of(version: Version) -> dict[str, object]:
    return {"size": version.size, "last_modified": version.last_modified, "etag": version.etag}
