"""A program that does single pieces of a store's work, each in a process of its own that may be killed.

It reads a JSON object per line, forks, tells the child's number, and does the work when it reads `go`.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

from bitsferry.protocol.errors import BitsError, SessionNotFound
from bitsferry.protocol.notification import Answer
from bitsferry.protocol.session import Session, State
from bitsferry.store import threads
from bitsferry.store.folder import Companion, Destination, Folder
from bitsferry.store.local import Durability, LocalStore
from bitsferry.store.threads import error_of_os

CONTENT = bytes(range(256)) * 1024
REPLY = b"what the application has to say " * 5000
SUM = b"what stands beside the file\n"
_MOST_TRIES = 3


def refuse_links() -> Callable[..., None]:
    """An os.link as it is where there are no hard links: a name that is there is noticed first."""

    def link(
        src: str,
        dst: str,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
        follow_symlinks: bool = True,
    ) -> None:
        try:
            os.stat(dst, dir_fd=dst_dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            raise PermissionError(errno.EPERM, "Operation not permitted", src) from None
        raise FileExistsError(errno.EEXIST, "File exists", dst)

    return link


class Work:
    """The pieces of work there are, for one session."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.guid: str = task["guid"]
        self._root: str = task["root"]
        self._durability: Durability = task.get("durability", "power")
        self.destination = Destination(Folder(task["folder"]), ("file.bin",), task.get("overwrite", False))
        self.companion = Companion("file.bin.sum", SUM) if task.get("companion", False) else None
        if not task.get("links", True):
            os.link = refuse_links()

    @cached_property
    def store(self) -> LocalStore:
        return LocalStore(self._root, self._durability)

    def mark(self, what: str) -> None:
        """A line in the trace, to know what was promised when."""
        os.access(f"/mark/{what}", os.F_OK)

    async def open(self) -> None:
        """Nothing but the store."""
        assert self.store

    async def make(self) -> None:
        """A session that holds all its bytes."""
        await self.store.create(Session(self.guid, "/file.bin", None, 1000.0))
        self.mark("created")
        async with self.store.open(self.guid) as stored:
            stored.session.start(len(CONTENT))
            await stored.save()
            self.mark("saved")
            receiver = stored.receiver(0)
            for start in range(0, len(CONTENT), 100_000):
                writing = receiver.write(memoryview(CONTENT)[start : start + 100_000])
                if writing is not None:
                    await writing
                await stored.sync()
                self.mark("synced")

    async def create_at_last(self) -> list[str]:
        """Make a session, again after every error; returns the errors."""
        errors: list[str] = []
        while len(errors) < _MOST_TRIES:
            try:
                await self.store.create(Session(self.guid, "/file.bin", None, 1000.0))
                break
            except BitsError as error:
                errors.append(type(error).__name__)
        return errors

    async def receive_at_last(self) -> dict[str, list[Any]]:
        """Receive all bytes in fragments, going on where the store says; returns what was told."""
        errors: list[str] = []
        offsets = [0]
        while offsets[-1] < len(CONTENT) and len(errors) < _MOST_TRIES:
            try:
                async with self.store.open(self.guid) as stored:
                    offsets.append(stored.held)
                    receiver = stored.receiver(0)
                    fragment = memoryview(CONTENT)[stored.held :][:100_000]
                    try:
                        for start in range(0, len(fragment), 30_000):
                            writing = receiver.write(fragment[start : start + 30_000])
                            if writing is not None:
                                await writing
                    finally:
                        offsets.append(await stored.sync())
            except (BitsError, OSError) as error:  # the application makes the same of both
                errors.append(type(error if isinstance(error, BitsError) else error_of_os(error)).__name__)
        return {"errors": errors, "offsets": offsets}

    async def create(self) -> None:
        await self.store.create(Session(self.guid, "/file.bin", None, 1000.0))

    async def look(self) -> int:
        """How many bytes are held."""
        async with self.store.open(self.guid) as stored:
            return stored.held

    async def write(self) -> None:
        """Bytes arrive, and nobody makes sure of them."""
        async with self.store.open(self.guid) as stored:
            writing = stored.receiver(0).write(memoryview(CONTENT))
            if writing is not None:
                await writing

    async def count(self) -> int:
        """How many bytes are held, as an Ack would say it."""
        async with self.store.open(self.guid) as stored:
            held = await stored.sync()
            self.mark("counted")
            return held

    async def finish(self) -> None:
        """What the service does after the last byte."""
        async with self.store.open(self.guid) as stored:
            if not stored.session.published:
                await stored.publish(self.destination, self.companion)
                self.mark("published")
                stored.session.publish()
                await stored.save()
                self.mark("saved")
            await stored.release(self.destination)

    async def live(self) -> None:
        """All of it."""
        await self.make()
        await self.finish()

    async def talk(self) -> None:
        """The application is told of the file, unless it has answered: it writes a reply, which is kept."""
        if (await self.store.read_dialogue(self.guid)).answer is None:
            papers = await self.store.papers(self.guid)
            with open(papers.response, "wb") as file:
                file.write(REPLY)
            await self.store.keep_answer(self.guid, Answer(copy=True))
            self.mark("answered")

    async def end(self) -> None:
        """What the service does at a Close."""
        async with self.store.open(self.guid) as stored:
            if not stored.session.over:
                stored.session.end(State.COMPLETE)
                await stored.save()
                self.mark("ended")
                await stored.release(self.destination)
            await stored.drop_reply()

    async def converse(self) -> None:
        """All of it, with an application."""
        await self.make()
        await self.talk()
        await self.finish()
        await self.end()

    async def look_for_reply(self) -> list[Any]:
        """Whether an answer is known, and what reply there is to give out."""
        known = (await self.store.read_dialogue(self.guid)).answer
        try:
            descriptor = await self.store.open_reply(self.guid)
        except SessionNotFound:
            return [known is not None, None]
        with open(descriptor, "rb") as file:
            return [known is not None, file.read().decode("ascii")]

    async def talk_at_last(self) -> list[str]:
        """Talk and finish, again after every error; returns the errors, the application's own too."""
        errors: list[str] = []
        while len(errors) < _MOST_TRIES:
            try:
                await self.talk()
                await self.finish()
                break
            except (BitsError, OSError) as error:
                errors.append(type(error if isinstance(error, BitsError) else error_of_os(error)).__name__)
        return errors

    async def end_at_last(self) -> list[str]:
        """End, again after every error; returns the errors."""
        errors: list[str] = []
        while len(errors) < _MOST_TRIES:
            try:
                await self.end()
                break
            except BitsError as error:
                errors.append(type(error).__name__)
        return errors

    async def wait_in_talk(self) -> None:
        """A talk that has no end."""
        with self.store.claim_dialogue(self.guid):
            self.mark("talking")
            os.kill(os.getpid(), signal.SIGKILL)

    async def begin_talk(self) -> bool:
        """Whether nobody else talks about the session."""
        try:
            with self.store.claim_dialogue(self.guid):
                return True
        except BitsError:
            return False

    async def finish_at_last(self) -> list[str]:
        """Finish, again after every error, as a client makes the service do; returns the errors."""
        errors: list[str] = []
        while len(errors) < _MOST_TRIES:
            try:
                await self.finish()
                break
            except BitsError as error:
                errors.append(type(error).__name__)
        return errors


def play(task: dict[str, Any]) -> None:
    """Prepare, wait for `go`, do it, tell what came of it."""
    threads._pool = ThreadPoolExecutor(1)  # so that a system call's number is the same every time
    work = Work(task)

    async def run() -> None:
        before, piece = task["before"], task["do"]
        for name in before:
            await getattr(work, name)()
        say(os.getpid())
        os.readv(0, [bytearray(3)])
        say(json.dumps(await getattr(work, piece)()))
        os._exit(0)

    asyncio.run(run())


def say(what: object) -> None:
    """A line to the test; by a system call no store makes, so that none is mistaken for it."""
    os.writev(1, [f"{what}\n".encode()])


def main() -> None:
    while task := _read_line():
        child = os.fork()
        if child == 0:
            try:
                play(json.loads(task))
            except Exception:
                traceback.print_exc()
            os._exit(1)
        _, status = os.waitpid(child, 0)
        say(f"ended {os.waitstatus_to_exitcode(status)}")


def _read_line() -> bytes:
    """A line from standard input, and not a byte more: the rest is for the child."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return b""
        line += byte
    return line


if __name__ == "__main__":
    main()
