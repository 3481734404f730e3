"""Commands that are run for each whole upload."""

from __future__ import annotations

import asyncio
import difflib
import logging
import os
import re
import secrets
import shutil
import signal
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Self
from weakref import WeakKeyDictionary

from bitsferry.protocol.hresult import HResult, http_error
from bitsferry.protocol.notification import Answer, ApplicationFailed, Later, Refusal, broken
from bitsferry.server.backend import Backend, WholeUpload
from bitsferry.server.names import escaped
from bitsferry.store.threads import in_thread, settled

__all__ = ["CommandBackend"]

logger = logging.getLogger(__name__)

LARGEST_REPLY = 1 << 30
HOUR = 3600.0
EX_TEMPFAIL, EX_NOPERM = 75, 77  # as sysexits.h has them
_SAID = 4096  # bytes of what a command says last go to the log
_LOOK = 0.5  # seconds between two looks at the size of a reply in the making
_LAST_MOMENT = 2.0  # seconds between asking a command to end and ending it
_AT_ONCE = 8
_PIPE = 1 << 20  # bytes, at least as many as a pipe holds

_PLACEHOLDERS = ("request", "reply", "url", "user", "name", "size", "id", "address")
_PLACEHOLDER = re.compile(r"\{(" + "|".join(_PLACEHOLDERS) + r")\}")
_OF_CLIENTS = re.compile(r"\{(url|user|name)\}")
_LIKE_ONE = re.compile(r"\{([a-z]+)\}")
_CODE_FOLLOWS = re.compile(r"-[a-z]*[ce]")  # as in sh -c, perl -e


@dataclass(frozen=True)
class CommandBackend(Backend):
    """A program with its arguments, started anew for each upload, as the application of a directory.

    `{request}` in an argument is the path of the uploaded file, `{reply}` that of the reply, a file the
    command may make; `{url}`, `{user}`, `{name}`, `{size}`, `{id}` and `{address}` are the upload's. The
    environment has all of them, as BITSFERRY_REQUEST and so on. What the command writes to standard output or
    standard error goes to the log, the last 4 KiB of it.

    Exit status 0 is a success, after which the file appears at its destination, if `keep`. 75 means that the
    command is run again later, one of `refusals` that nobody wants this upload; any other is a failure that
    may pass. There is no shell and no standard input; the folder is `/`. After `time_limit` seconds, or with
    a reply of more than `largest_reply` bytes, it is ended, with all of its process group.

    Raises ValueError for arguments that cannot be meant, or would let clients write code.
    """

    arguments: tuple[str, ...]
    keep: bool = True
    time_limit: float = HOUR
    refusals: frozenset[int] = frozenset({EX_NOPERM})
    largest_reply: int = LARGEST_REPLY
    at_once: int = _AT_ONCE
    _rooms: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        _check(self.arguments)

    async def tell(self, upload: WholeUpload) -> Answer | Later:
        """See Backend."""
        # Its own each time: a command that outlived the server that started it may write still.
        reply = f"{upload.reply}.{secrets.token_hex(4)}"
        values = _values(upload, reply)
        arguments = self._filled(values)
        room = self._rooms.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self.at_once))
        async with room:
            try:
                status = await self._run(arguments, values, upload, reply)
                return await self._understand(status, upload, reply)
            finally:
                await in_thread(_remove, reply)

    @property
    def _who(self) -> str:
        return f"the command {self.arguments[0]}"

    def _filled(self, values: dict[str, str]) -> list[str]:
        """The arguments for an upload. Raises ApplicationFailed where a client's word would be an option."""
        filled = []
        for argument in self.arguments:
            meant = _PLACEHOLDER.sub(lambda match: values[match[1]], argument)
            if meant.startswith("-") and not argument.startswith("-") and "--" not in filled:
                raise ApplicationFailed(
                    f"{self._who} was not run: {meant!r} in the place of {argument} would be an option to it;"
                    " write '--' in front of that, or let the command read the environment instead",
                    status=503,
                )
            filled.append(meant)
        return filled

    async def _run(
        self, arguments: list[str], values: dict[str, str], upload: WholeUpload, reply: str
    ) -> int:
        """The exit status; of a command that was killed, minus the signal's number."""
        status: int | None = None
        with _Output() as said:
            # Cancelled while it starts, asyncio would end the command alone, and none of its group.
            starting = asyncio.ensure_future(self._start(arguments, values, said.writer))
            try:
                process = await settled(starting)
                status = await self._wait(process, reply)
            finally:
                if starting.exception() is None:
                    await settled(asyncio.ensure_future(_end(starting.result())))
                if last := said.last():
                    level = logging.WARNING if status else logging.INFO
                    about = {"session": upload.id, "exit_status": status}
                    logger.log(level, "%s said: %s", self._who, last, extra=about)
            return status

    async def _start(
        self, arguments: list[str], values: dict[str, str], output: int
    ) -> asyncio.subprocess.Process:
        """Raises ApplicationFailed."""
        environment = os.environ | {f"BITSFERRY_{name.upper()}": value for name, value in values.items()}
        try:
            return await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise ApplicationFailed(f"{self._who} cannot be run: {error.strerror}", status=503) from error

    async def _wait(self, process: asyncio.subprocess.Process, reply: str) -> int:
        """The exit status. Raises ApplicationFailed when that takes too long, or the reply is too large."""
        ending = asyncio.ensure_future(process.wait())
        try:
            async with asyncio.timeout(self.time_limit):
                while not ending.done():
                    await asyncio.wait({ending}, timeout=_LOOK)
                    if await in_thread(_size_of, reply) > self.largest_reply:
                        raise broken(self._who, f"its reply has more than {self.largest_reply} bytes")
            return ending.result()
        except TimeoutError:
            raise ApplicationFailed(
                f"{self._who} did not end within {self.time_limit:g} s",
                status=408,
                hresult=HResult.ERROR_DISK_FULL_AS_PRINTED,
            ) from None
        finally:
            ending.cancel()

    async def _understand(self, status: int, upload: WholeUpload, reply: str) -> Answer | Later:
        if status == 0:
            await in_thread(_keep, reply, upload.reply, self._who)
            return Answer(copy=self.keep)
        if status == EX_TEMPFAIL:
            return Later()
        if status in self.refusals:
            message = f"{self._who} refuses this upload, by exit status {status}"
            return Answer(refusal=Refusal(403, http_error(403), message))
        how = f"ended with exit status {status}" if status > 0 else f"was killed by signal {-status}"
        raise ApplicationFailed(f"{self._who} {how}", status=503)


def _check(arguments: tuple[str, ...]) -> None:
    if not arguments or not arguments[0]:
        raise ValueError("name the program, and its arguments behind it")
    if _PLACEHOLDER.search(arguments[0]):
        raise ValueError("which program is run must not depend on the upload")
    if any("\0" in argument for argument in arguments):
        raise ValueError("an argument has no NUL")
    for before, argument in pairwise(arguments):
        for word in _LIKE_ONE.findall(argument):
            near = difflib.get_close_matches(word, _PLACEHOLDERS, 1, 0.75)
            if near and near != [word]:
                raise ValueError(f"there is no {{{word}}}; did you mean {{{near[0]}}}?")
        if _CODE_FOLLOWS.fullmatch(before) and (found := _OF_CLIENTS.search(argument)):
            variable = f"BITSFERRY_{found[1].upper()}"
            raise ValueError(
                f"what follows {before} may be run as code, and {found[0]} is what a client says: let the"
                f" command read the environment variable {variable} instead"
            )


def _values(upload: WholeUpload, reply: str) -> dict[str, str]:
    said = (
        upload.file,
        reply,
        escaped(upload.url),
        upload.user or "",
        upload.name,
        str(upload.size),
        upload.id,
        upload.address,
    )
    return dict(zip(_PLACEHOLDERS, said, strict=True))


class _Output:
    """What a command says into `writer`, of which the end is kept."""

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._end = b""

    def __enter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._reader, self._read)
        return self

    def __exit__(self, *error: object) -> None:
        asyncio.get_running_loop().remove_reader(self._reader)
        os.close(self._reader)
        os.close(self.writer)

    def _read(self) -> None:
        with suppress(BlockingIOError):
            self._end = (self._end + os.read(self._reader, _PIPE))[-_SAID:]

    def last(self) -> str:
        """The last 4 KiB of it."""
        self._read()
        return self._end.decode(errors="replace").strip()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Return when the command ended; one that has not by itself is ended with its whole process group."""
    if process.returncode is None:
        _tell(process.pid, signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_MOMENT):
                await process.wait()
        _tell(process.pid, signal.SIGKILL)
        await process.wait()


def _tell(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # some systems say the latter of zombies
        os.killpg(group, number)


# The reply, under the name it has while the command works


def _size_of(path: str) -> int:
    with suppress(FileNotFoundError):
        return os.lstat(path).st_size
    return 0


def _keep(path: str, reply: str, who: str) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise broken(who, "what it made as its reply is no file")
        os.rename(path, reply)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    with suppress(FileNotFoundError):
        os.unlink(path)
