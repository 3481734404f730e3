"""Functions of a Python program that answer uploads."""

from __future__ import annotations

import asyncio
import errno
import functools
import inspect
import logging
import math
import os
import shutil
import stat
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from bitsferry.protocol.hresult import http_error
from bitsferry.protocol.notification import Answer, ApplicationFailed, Later, Refusal, read_answer
from bitsferry.server.backend import Backend, WholeUpload
from bitsferry.server.names import escaped
from bitsferry.store.threads import in_thread

__all__ = ["CallableBackend", "Function", "ReceivedUpload", "RefuseUpload", "Reply", "TryLater"]

logger = logging.getLogger(__name__)

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class ReceivedUpload:
    """An upload of which every byte is here, as a function hears of it.

    `path` is where its `size` bytes are while the function works: to be read, not changed. `name` is the last
    part of `url_path`, which is the path of its URL with escapes undone. `url` is what the client calls it.
    `user` is None where nobody had to say a name; `address` is the client's. `id` is the same each time a
    function hears of the same upload. `digest` has what is known of the file's digests, in hexadecimal by
    algorithm, "sha-256" for example: where the directory computes one, or the client said one.
    """

    path: Path
    name: str
    size: int
    url: str
    url_path: str
    user: str | None
    address: str
    id: str
    digest: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, where bytes, a path or None do not say enough.

    `content` is the reply: bytes, or the path of a file, which is copied, or moved with `move`. `url` is said
    instead where the reply is at a URL, absolute, for everybody. `keep` says whether the uploaded file
    appears at its destination; None: as it was said when the function was named.
    """

    content: bytes | os.PathLike[str] | None = None
    keep: bool | None = None
    move: bool = False
    url: str | None = None


class RefuseUpload(Exception):
    """Raised by a function that does not want an upload: the client gets 403 and gives up.

    What it says stands in the server's log; clients do not see it.
    """


class TryLater(Exception):
    """Raised by a function that cannot answer yet: it is called again after `seconds`, ten if not said.

    That goes on for the directory's patience, a day if nothing else is set. Clients are told to come back.
    """

    def __init__(self, seconds: float | None = None) -> None:
        if seconds is not None and not 0 <= seconds < math.inf:
            raise ValueError(f"{seconds} is no number of seconds to wait")
        super().__init__(seconds)
        self.seconds = seconds


Returned = bytes | os.PathLike[str] | Reply | None
Function = Callable[[ReceivedUpload], Returned | Awaitable[Returned]]
"""Called with an upload; what it returns is its answer, None a success without a reply."""


class CallableBackend(Backend):
    """A function as the application of a directory.

    A plain function is called in a thread, `at_once` of them side by side; an async one in the event loop.
    After a success the uploaded file appears at its destination, if `keep`. An exception other than
    RefuseUpload and TryLater is a failure that may pass.

    A thread cannot be stopped: of a plain function whose upload was cancelled, or whose server ended, nobody
    hears any more, but it works until it returns.
    """

    def __init__(self, function: Function, *, keep: bool = True, at_once: int = 32) -> None:
        self._function = function
        self._name = _name_of(function)
        self._keep = keep
        self._is_async = any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="function")

    async def tell(self, upload: WholeUpload) -> Answer | Later:
        """See Backend."""
        try:
            reply = _read(await self._call(_received(upload)))
        except RefuseUpload as error:
            message = str(error) or f"the function {self._name} refuses this upload"
            return Answer(refusal=Refusal(403, http_error(403), message))
        except TryLater as later:
            return Later(later.seconds)
        except asyncio.CancelledError:
            if cast("asyncio.Task[object]", asyncio.current_task()).cancelling():
                raise
            raise self._failed(upload) from None
        except (Exception, SystemExit):
            raise self._failed(upload) from None
        if reply.content is not None:
            try:
                await in_thread(_write, reply, upload)
            except _UnusableError:
                raise self._failed(upload) from None
        headers = {} if reply.url is None else {"bits-static-response-url": reply.url}
        if self._keep if reply.keep is None else reply.keep:
            headers["bits-copy-file-to-destination"] = "yes"
        return read_answer(200, headers, f"the function {self._name}")

    async def _call(self, received: ReceivedUpload) -> object:
        if self._is_async:
            said: object = self._function(received)
        else:
            said = await asyncio.get_running_loop().run_in_executor(self._pool, self._run, received)
            if isinstance(said, _Raised):
                raise said.error
        return await said if inspect.isawaitable(said) else said

    def _run(self, received: ReceivedUpload) -> object:
        try:
            return self._function(received)
        except BaseException as error:
            return _Raised(error)  # some are lost on the way through a future, or their tracebacks are

    def _failed(self, upload: WholeUpload) -> ApplicationFailed:
        """The error of a function that raised what is being handled, which the log shows and no client."""
        about = {"session": upload.id, "path": upload.path}
        logger.error("the function %s failed", self._name, exc_info=True, extra=about)
        return ApplicationFailed(f"the function {self._name} failed; the log says how", status=503)


@dataclass(frozen=True, slots=True)
class _Raised:
    error: BaseException


class _UnusableError(Exception):
    """A function returned what cannot be a reply."""


def _name_of(function: Any) -> str:
    """For the log; not what it would print of itself, which may be secret."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _received(upload: WholeUpload) -> ReceivedUpload:
    return ReceivedUpload(
        path=Path(upload.file),
        name=upload.name,
        size=upload.size,
        url=escaped(upload.url),
        url_path=upload.path,
        user=upload.user,
        address=upload.address,
        id=upload.id,
        digest=upload.digest,
    )


def _read(said: object) -> Reply:
    """What a function returned. Raises TypeError, ValueError."""
    reply = said if isinstance(said, Reply) else Reply(cast("bytes", said))
    if isinstance(reply.content, str):
        raise TypeError("a reply is bytes or a pathlib.Path: a str could be meant as either")
    if not isinstance(reply.content, (bytes, bytearray, memoryview, os.PathLike, type(None))):
        raise TypeError(
            f"a {type(reply.content).__name__} is no reply: return bytes, a Path, a Reply or None"
        )
    if reply.url is not None and (reply.content is not None or not reply.url.strip()):
        raise ValueError("a reply is at a URL, or has content, or there is none")
    return reply


def _write(reply: Reply, upload: WholeUpload) -> None:
    """Put the reply where it belongs. Raises _UnusableError, or OSError for the server's own disk."""
    with suppress(FileNotFoundError):
        os.unlink(upload.reply)
    if not isinstance(reply.content, os.PathLike):
        with open(upload.reply, "xb", opener=_for_us_alone) as file:
            file.write(reply.content or b"")
        return
    path = os.fspath(reply.content)
    try:
        source = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    except OSError as error:
        raise _UnusableError(f"the reply {path!r} cannot be read: {error.strerror}") from error
    with source:
        figures = os.fstat(source.fileno())
        if not stat.S_ISREG(figures.st_mode):
            raise _UnusableError(f"the reply {path!r} is no file")
        move = reply.move and not os.path.samestat(figures, os.stat(upload.file))
        if move and _renamed(path, upload.reply):
            return
        with open(upload.reply, "xb", opener=_for_us_alone) as file:
            shutil.copyfileobj(source, file, _BLOCK)
    if move:
        try:
            os.unlink(path)
        except OSError as error:
            raise _UnusableError(f"the reply {path!r} cannot be moved: {error.strerror}") from error


def _for_us_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _renamed(path: str, reply: str) -> bool:
    """False where a file has to be copied instead: from another file system, or through a link."""
    if os.path.islink(path):
        return False
    try:
        os.rename(path, reply)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EACCES, errno.EPERM):
            return False
        raise
    return True
