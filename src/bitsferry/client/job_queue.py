"""Jobs that survive reboots: one SQLite file for each user."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

import msgspec
from platformdirs import user_state_path

from bitsferry.client.bandwidth import Timetable
from bitsferry.client.job import Job
from bitsferry.protocol.errors import BitsError, Context
from bitsferry.protocol.hresult import HResult

__all__ = ["AmbiguousJob", "JobNotFound", "JobQueue", "QueueUnusable", "default_path"]

FORMAT = 1  # PRAGMA user_version; a program refuses a queue of a later one
BUSY = 30.0  # seconds another process may take for its change; it needs milliseconds
SHORTEST_PREFIX = 4  # letters of an id that may stand for it

_TABLES = """
CREATE TABLE job (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, record BLOB NOT NULL);
CREATE TABLE setting (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""


class JobNotFound(BitsError):
    """There is no such job."""

    hresult = HResult.BG_E_NOT_FOUND
    context = Context.GENERAL_QUEUE_MANAGER


class AmbiguousJob(BitsError):
    """More than one job is called so."""

    hresult = HResult.E_INVALIDARG
    context = Context.GENERAL_QUEUE_MANAGER


class QueueUnusable(BitsError):
    """The file of the queue cannot be read or written."""

    context = Context.GENERAL_QUEUE_MANAGER


def default_path() -> str:
    """Where a user's queue is."""
    return str(user_state_path("bitsferry", appauthor=False) / "jobs.db")


class JobQueue:
    """The jobs in the file `path`, which is made if it is not there; to be closed, or used in a `with`.

    Any number of processes, each with a JobQueue of its own, and any threads may use it at once. What a
    method has returned, or has changed when it returns, survives a crash and a power cut. Every method may
    raise QueueUnusable.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """Raises QueueUnusable when the file is damaged, or of a later version of this program."""
        self.path = os.path.abspath(path or default_path())
        self._lock = threading.RLock()
        self._seen = self._version = 0
        try:
            _make_private(self.path)
        except OSError as error:
            raise QueueUnusable(f"the queue {self.path} cannot be made: {error.strerror}") from error
        with self._explained():
            # One connection, one thread at a time: SQLite itself lets only one write.
            self._connection = sqlite3.connect(
                self.path, timeout=BUSY, isolation_level=None, check_same_thread=False
            )
        try:
            with self._explained():
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> JobQueue:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    def add(self, job: Job) -> None:
        """A new job, behind all others."""
        record = _encode(job)
        with self._transaction():
            self._connection.execute("INSERT INTO job (id, record) VALUES (?, ?)", (job.id, record))

    def get(self, id: str) -> Job:
        """The job of this id, as `Job.id` has it. Raises JobNotFound."""
        with self._explained():
            row = self._connection.execute("SELECT record FROM job WHERE id = ?", (id,)).fetchone()
            if row is None:
                raise JobNotFound(f"there is no job {id}")
            return msgspec.json.decode(row[0], type=Job)

    def find(self, text: str) -> Job:
        """The only job with this id or name, or an id that begins so; braces and case of an id do not matter.

        Raises JobNotFound, or AmbiguousJob with those it may be.
        """
        begin = "{" + text.strip("{}").upper()
        jobs = self.all()
        for job in jobs:
            if job.id == begin + "}":
                return job
        is_prefix = len(begin) > SHORTEST_PREFIX
        found = [job for job in jobs if job.name == text or (is_prefix and job.id.startswith(begin))]
        if not found:
            raise JobNotFound(f"there is no job {text}")
        if len(found) > 1:
            candidates = "".join(f"\n  {job.id} {job.name}" for job in found)
            raise AmbiguousJob(f"{text} may be any of these; say which by its id:{candidates}")
        return found[0]

    def all(self, *, ended: bool = False) -> list[Job]:
        """Every job, the oldest first; those that have `ended` only if they are asked for."""
        with self._explained():
            rows = self._connection.execute("SELECT record FROM job ORDER BY number").fetchall()
            jobs = [msgspec.json.decode(row[0], type=Job) for row in rows]
        return [job for job in jobs if ended or not job.has_ended]

    def change(self, id: str, change: Callable[[Job], Job], *, synced: bool = True) -> Job:
        """Make of the job what `change` makes of it, with nobody else between; returns what it is then.

        What `change` raises leaves everything as it was. Raises JobNotFound. A change that is not `synced`
        may be undone by a power cut, never by a crash of the program.
        """
        with self._transaction(synced=synced):
            before = self.get(id)
            after = change(before)
            if after != before:
                self._connection.execute("UPDATE job SET record = ? WHERE id = ?", (_encode(after), id))
        return after

    def remove(self, id: str) -> None:
        """Forget the job; one that is not there is forgotten already."""
        with self._transaction():
            self._connection.execute("DELETE FROM job WHERE id = ?", (id,))

    @property
    def limit(self) -> Timetable | None:
        """How fast all jobs together may be; None is as fast as can be."""
        with self._explained():
            row = self._connection.execute("SELECT value FROM setting WHERE name = 'limit'").fetchone()
            return None if row is None else msgspec.json.decode(row[0], type=Timetable)

    @limit.setter
    def limit(self, rates: Timetable | None) -> None:
        with self._transaction():
            self._connection.execute("DELETE FROM setting WHERE name = 'limit'")
            if rates is not None:
                record = msgspec.json.encode(rates)
                self._connection.execute("INSERT INTO setting VALUES ('limit', ?)", (record,))

    def version(self) -> int:
        """A number that grows when anything changed, whoever did it. Cheap: it reads no job."""
        with self._explained():
            (seen,) = self._connection.execute("PRAGMA data_version").fetchone()  # counts others' commits
            if seen != self._seen:
                self._seen = seen
                self._version += 1
            return self._version

    def _prepare(self) -> None:
        connection = self._connection
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA fullfsync = ON")  # macOS has a sync that leaves it in the disk's cache
        self._use_wal()
        with self._transaction():
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > FORMAT:
                raise QueueUnusable(
                    f"the queue {self.path} was written by a later version of bitsferry: use that one"
                )
            if version == 0:
                for statement in _TABLES.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {FORMAT}")

    def _use_wal(self) -> None:
        """Readers do not wait for writers then. Who opens a new file may find another one doing the same."""
        deadline = time.monotonic() + BUSY
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.01)

    @contextlib.contextmanager
    def _transaction(self, *, synced: bool = True) -> Iterator[None]:
        with self._explained():
            connection, before = self._connection, self._connection.total_changes
            connection.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            if connection.total_changes != before:
                self._version += 1

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """One thread at a time, and errors in sentences."""
        try:
            with self._lock:
                yield
        except (sqlite3.Error, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise QueueUnusable(_why(error, self.path)) from error


def _encode(job: Job) -> bytes:
    """Raises ValueError when something in it is no text, as the name of a file may be."""
    try:
        return msgspec.json.encode(job)
    except UnicodeEncodeError as error:
        shown = error.object.encode(errors="replace").decode()
        raise ValueError(f"{shown} is no text, so a queue cannot keep it: give it another name") from None


def _make_private(path: str) -> None:
    """The file is its owner's from its first byte: jobs may hold headers that are secret.

    SQLite gives its files beside it the same mode.
    """
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _why(error: Exception, path: str) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest says more than people need
    unreadable = isinstance(error, msgspec.DecodeError | UnicodeDecodeError)
    if unreadable or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return f"the queue {path} is damaged ({error}): move it away, and a new one is made"
    if code == sqlite3.SQLITE_FULL:
        return f"the queue {path} cannot be written: the disk is full"
    if code == sqlite3.SQLITE_BUSY:
        return f"the queue {path} has been in another process's hands for {BUSY:.0f} s: try again"
    return f"the queue {path} cannot be used: {error}"
