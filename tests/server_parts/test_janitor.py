"""What went quiet is removed in its time, and nothing of a live session is touched."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bitsferry.protocol.errors import SessionNotFound, StoreFailed
from bitsferry.protocol.session import State
from bitsferry.server.directory import Directories, Directory
from bitsferry.server.janitor import Janitor
from bitsferry.server.service import Service
from bitsferry.store.base import Found
from bitsferry.store.local import LocalStore

from .speaking import Speaker, guid_of

pytestmark = pytest.mark.anyio

HOUR, DAY = 3600.0, 86400.0


class Office:
    """A server whose clock we turn."""

    def __init__(self, store: LocalStore, *directories: Directory) -> None:
        self.store = store
        self.service = Service(store, Directories(directories))
        self.speaker = Speaker(self.service)
        self._later = 0.0

    def pass_time(self, seconds: float) -> None:
        self._later += seconds

    async def sweep(self) -> int:
        return await Janitor(self.service, clock=lambda: time.time() + self._later).sweep()

    async def knows(self, session_id: str) -> bool:
        try:
            await self.store.read(guid_of(session_id))
        except SessionNotFound:
            return False
        return True

    def has_bytes(self, session_id: str) -> bool:
        return (self.folder_of(session_id) / "request.data").exists()

    def folder_of(self, session_id: str) -> Path:
        return Path(self.store.folder_of(guid_of(session_id)))


@pytest.fixture
def office(store: LocalStore, folder: Path) -> Office:
    return Office(store, Directory("/in/", str(folder), session_timeout=14 * DAY))


async def test_a_quiet_upload_is_removed_after_the_session_timeout_and_not_before(office: Office) -> None:
    session = await office.speaker.create()
    await office.speaker.send(session, b"by", 0, 5)
    office.pass_time(14 * DAY - 60)
    assert await office.sweep() == 0
    assert await office.knows(session)
    assert (await office.speaker.send(session, b"", 2, 5)).received == 2
    office.pass_time(120)
    assert await office.sweep() == 1
    assert not await office.knows(session)
    assert not office.folder_of(session).exists()
    assert await office.sweep() == 0


@pytest.mark.parametrize("spoken", ["new bytes", "old bytes", "first bytes"])
async def test_whoever_speaks_of_a_session_keeps_it(office: Office, spoken: str) -> None:
    session = await office.speaker.create()
    if spoken != "first bytes":
        await office.speaker.send(session, b"by", 0, 5)
    for name in ("session.json", "request.data"):
        long_ago = time.time() - 13 * DAY
        os.utime(office.folder_of(session) / name, (long_ago, long_ago))
    await office.speaker.send(session, *((b"te", 2, 5) if spoken == "new bytes" else (b"by", 0, 5)))
    office.pass_time(2 * DAY)
    assert await office.sweep() == 0
    office.pass_time(12 * DAY + 60)
    assert await office.sweep() == 1


async def test_each_directory_has_its_own_patience(store: LocalStore, folder: Path) -> None:
    office = Office(
        store,
        Directory("/in/", str(folder), session_timeout=HOUR),
        Directory("/slow/", str(folder), session_timeout=30 * DAY),
    )
    quick, slow = await office.speaker.create("/in/1"), await office.speaker.create("/slow/2")
    office.pass_time(2 * HOUR)
    assert await office.sweep() == 1
    assert (await office.knows(quick), await office.knows(slow)) == (False, True)
    office.pass_time(29 * DAY)
    assert await office.sweep() == 0
    office.pass_time(1 * DAY)
    assert await office.sweep() == 1


async def test_a_session_whose_directory_is_gone_waits_fourteen_days(store: LocalStore, folder: Path) -> None:
    directory = Directory("/in/", str(folder), session_timeout=HOUR)
    office = Office(store, directory)
    session = await office.speaker.create()
    office.service.directories = Directories([replace(directory, url="/new/")])
    office.pass_time(13 * DAY)
    assert await office.sweep() == 0
    office.pass_time(1 * DAY + 60)
    assert await office.sweep() == 1
    assert not await office.knows(session)


@pytest.mark.parametrize(("timeout", "remembered"), [(14 * DAY, 24 * HOUR), (2 * HOUR, 2 * HOUR)])
@pytest.mark.parametrize("end", ["close", "cancel"])
async def test_an_ended_session_is_remembered_for_a_day_or_the_timeout_if_that_is_shorter(
    store: LocalStore, folder: Path, end: str, timeout: float, remembered: float
) -> None:
    office = Office(store, Directory("/in/", str(folder), session_timeout=timeout))
    session = await office.speaker.create()
    await office.speaker.send(session, b"bytes", 0, 5)
    say = office.speaker.close if end == "close" else office.speaker.cancel
    await say(session)
    assert not office.has_bytes(session)
    office.pass_time(remembered - 60)
    assert await office.sweep() == 0
    assert (await say(session)).status == 200
    office.pass_time(120)
    assert await office.sweep() == 1
    with pytest.raises(SessionNotFound):
        await say(session)
    assert (folder / "file.bin").read_bytes() == b"bytes"


async def test_a_finished_upload_nobody_closes_is_remembered_for_the_session_timeout(
    office: Office, folder: Path
) -> None:
    session = await office.speaker.create()
    await office.speaker.send(session, b"bytes", 0, 5)
    office.pass_time(13 * DAY)
    assert await office.sweep() == 0
    assert (await office.speaker.send(session, b"s", 4, 5)).received == 5
    office.pass_time(2 * DAY)
    assert await office.sweep() == 1
    assert (folder / "file.bin").read_bytes() == b"bytes"


async def test_what_a_refused_file_left_beside_its_place_goes_with_the_session(
    office: Office, folder: Path
) -> None:
    session = await office.speaker.create()
    await office.speaker.send(session, b"by", 0, 5)
    (folder / f".bitsferry-{guid_of(session)}.copy").write_bytes(b"half a")
    (folder / ".bitsferry-ANOTHER.copy").write_bytes(b"somebody else's")
    office.pass_time(15 * DAY)
    assert await office.sweep() == 1
    assert [path.name for path in folder.iterdir()] == [".bitsferry-ANOTHER.copy"]


# Live sessions


async def test_a_session_somebody_is_at_work_with_is_never_touched(office: Office) -> None:
    session = await office.speaker.create()
    office.pass_time(100 * DAY)
    async with office.service.turns.take(guid_of(session)) as turn:
        assert await office.sweep() == 0
        assert not turn.wanted
    assert await office.knows(session)
    assert await office.sweep() == 1


class Forgetful(LocalStore):
    """Saw every session long ago, and tells so."""

    async def walk(self) -> AsyncIterator[Found]:
        async for found in super().walk():
            yield replace(found, quiet_since=0.0)


async def test_what_was_spoken_of_while_the_janitor_came_is_kept(memory: Path, folder: Path) -> None:
    store = Forgetful(str(memory / "store"), "process")
    office = Office(store, Directory("/in/", str(folder)))
    session = await office.speaker.create()
    assert await office.sweep() == 0
    assert await office.knows(session)
    store.close()


async def test_a_body_that_another_process_receives_is_not_disturbed(memory: Path, folder: Path) -> None:
    directory = Directory("/in/", str(folder))
    ours, theirs = (
        Office(LocalStore(str(memory / "store"), "process", shared=True), directory) for _ in range(2)
    )
    session = await theirs.speaker.create()
    stopped: list[bool] = []
    async with theirs.store.claim(guid_of(session), lambda: stopped.append(True), 5.0):
        assert await ours.sweep() == 0
        await asyncio.sleep(0.05)  # the other process looks that often whether it is wanted
    assert not stopped
    ours.store.close()
    theirs.store.close()


# What cannot be opened


@pytest.mark.parametrize("lost", ["state", "bytes"])
async def test_a_session_that_cannot_be_opened_goes_when_the_most_patient_one_would(
    store: LocalStore, folder: Path, lost: str
) -> None:
    office = Office(store, Directory("/in/", str(folder), session_timeout=HOUR))
    session = await office.speaker.create()
    store.forget(guid_of(session))
    if lost == "state":
        (office.folder_of(session) / "session.json").write_bytes(b"{")
    else:
        (office.folder_of(session) / "request.data").unlink()
    office.pass_time(13 * DAY)
    assert await office.sweep() == 0
    assert office.folder_of(session).exists()
    office.pass_time(2 * DAY)
    assert await office.sweep() == 1
    assert not office.folder_of(session).exists()


# At start


class RoundOverError(Exception):
    """The janitor would rest now."""


class OneRound(Janitor):
    def _pause(self) -> float:
        raise RoundOverError


async def tidy_up_at_start(office: Office) -> None:
    with pytest.raises(RoundOverError):
        await OneRound(office.service).run()


@pytest.mark.parametrize("ended", [False, True])
async def test_bytes_of_a_published_file_that_a_crash_left_are_released_at_start(
    office: Office, folder: Path, ended: bool
) -> None:
    session, other = await office.speaker.create(), await office.speaker.create("/in/other.bin")
    await office.speaker.send(other, b"by", 0, 5, "/in/other.bin")
    async with office.store.open(guid_of(session)) as stored:
        if ended:
            stored.session.end(State.CANCEL)
        else:
            stored.session.start(0)
            await stored.publish(office.service.directories.place("/in/file.bin").destination)
            stored.session.publish()
        await stored.save()
    (folder / f".bitsferry-{guid_of(session)}.copy").write_bytes(b"")
    assert office.has_bytes(session)
    await tidy_up_at_start(office)
    assert not office.has_bytes(session)
    assert await office.knows(session)
    assert office.has_bytes(other)
    assert {path.name for path in folder.iterdir()} == (set() if ended else {"file.bin"})


async def test_at_start_nothing_of_a_session_somebody_is_at_work_with_is_touched(office: Office) -> None:
    session = await office.speaker.create()
    async with office.store.open(guid_of(session)) as stored:
        stored.session.start(0)
        stored.session.publish()
        await stored.save()
    async with office.service.turns.take(guid_of(session)) as turn:
        await tidy_up_at_start(office)
        assert not turn.wanted
    assert office.has_bytes(session)


class Flaky(LocalStore):
    """Fails once for each of its walks that shall fail."""

    failures = 2

    def __init__(self, root: str, seen: Callable[[], None]) -> None:
        super().__init__(root, "process")
        self._seen = seen

    async def walk(self) -> AsyncIterator[Found]:
        if self.failures:
            self.failures -= 1
            raise StoreFailed
        self._seen()
        async for found in super().walk():
            yield found


async def test_a_sweep_that_failed_is_followed_by_the_next(memory: Path, folder: Path) -> None:
    swept = asyncio.Event()
    store = Flaky(str(memory / "store"), swept.set)
    office = Office(store, Directory("/in/", str(folder)))
    janitor = asyncio.ensure_future(Janitor(office.service, interval=0.0).run())
    async with asyncio.timeout(5):
        await swept.wait()
    janitor.cancel()
    await asyncio.wait([janitor])
    store.close()
