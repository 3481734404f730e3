"""Limits hold: how many uploads a user may have open, and how many bytes a directory may hold."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bitsferry.protocol.errors import DiskFull, StoreFailed, TooManySessions
from bitsferry.protocol.session import Session
from bitsferry.server.census import Census
from bitsferry.server.directory import Directories, Directory
from bitsferry.server.service import Service
from bitsferry.store.base import Found
from bitsferry.store.local import LocalStore

from .speaking import Speaker, guid_of

pytestmark = pytest.mark.anyio


def served(store: LocalStore, *directories: Directory) -> Service:
    return Service(store, Directories(directories))


def limited(folder: Path, limit: int) -> Directory:
    return Directory("/in/", str(folder), sessions_per_user=limit)


def with_quota(folder: Path, quota: int) -> Directory:
    return Directory("/in/", str(folder), quota=quota)


# Uploads


async def test_a_user_has_as_many_uploads_as_the_directory_allows(store: LocalStore, folder: Path) -> None:
    ada = Speaker(served(store, limited(folder, 3)), "ada")
    for number in range(3):
        await ada.create(f"/in/{number}")
    with pytest.raises(TooManySessions) as refused:
        await ada.create("/in/4")
    assert refused.value.status == 503
    assert refused.value.transient
    assert refused.value.retry_after


async def test_users_and_directories_have_limits_of_their_own(store: LocalStore, folder: Path) -> None:
    service = served(store, limited(folder, 1), Directory("/free/", str(folder)))
    ada, bob, nobody = Speaker(service, "ada"), Speaker(service, "bob"), Speaker(service)
    await ada.create()
    await bob.create()
    await nobody.create()
    for one in (ada, bob, nobody):
        with pytest.raises(TooManySessions):
            await one.create()
        await one.create("/free/file.bin")


@pytest.mark.parametrize("end", ["close", "cancel", "finish"])
async def test_an_upload_that_ended_leaves_room_for_another(
    store: LocalStore, folder: Path, end: str
) -> None:
    ada = Speaker(served(store, limited(folder, 1)), "ada")
    for number in range(3):
        target = f"/in/{number}"
        session = await ada.create(target)
        if end == "finish":
            await ada.send(session, b"bytes", 0, 5, target)
        await (ada.cancel if end == "cancel" else ada.close)(session, target)


async def test_the_limit_holds_after_a_restart(store: LocalStore, folder: Path) -> None:
    ada = Speaker(served(store, limited(folder, 2)), "ada")
    sessions = [await ada.create(f"/in/{number}") for number in range(2)]
    await ada.close(sessions[0], "/in/0")
    ada = Speaker(served(store, limited(folder, 2)), "ada")
    await ada.create("/in/2")
    with pytest.raises(TooManySessions):
        await ada.create("/in/3")


async def test_many_at_once_do_not_slip_through_together(store: LocalStore, folder: Path) -> None:
    ada = Speaker(served(store, limited(folder, 3)), "ada")
    ends = await asyncio.gather(
        *(ada.create(f"/in/{number}") for number in range(20)), return_exceptions=True
    )
    assert sum(isinstance(end, str) for end in ends) == 3
    assert sum(isinstance(end, TooManySessions) for end in ends) == 17


async def test_an_upload_that_could_not_begin_does_not_count(
    store: LocalStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = Speaker(served(store, limited(folder, 1)), "ada")

    def fail(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("os.rename", fail)
        for _ in range(3):
            with pytest.raises(StoreFailed):
                await ada.create()
    await ada.create()


class SlowStore(LocalStore):
    """Stops in the middle of a walk until it is let go."""

    def __init__(self, root: str) -> None:
        super().__init__(root, "process")
        self.halfway, self.go = asyncio.Event(), asyncio.Event()
        self.walks = 0

    async def walk(self) -> AsyncIterator[Found]:
        self.walks += 1
        found = [one async for one in super().walk()]
        for one in found:
            yield one
        self.halfway.set()
        await self.go.wait()


async def test_what_happens_while_the_store_is_counted_counts(memory: Path, folder: Path) -> None:
    """With many sessions counting takes long, and nobody waits for it who need not."""
    store = SlowStore(str(memory / "store"))
    busy = Speaker(Service(store, Directories([Directory("/in/", str(folder))])), "ada")
    ending, staying = await busy.create("/in/1"), await busy.create("/in/2")
    service = served(store, limited(folder, 2))
    ada = Speaker(service, "ada")
    beginning = asyncio.ensure_future(ada.create("/in/3"))
    await store.halfway.wait()
    await ada.close(ending, "/in/1")
    store.go.set()
    third = await beginning
    with pytest.raises(TooManySessions):
        await ada.create("/in/4")
    for session, target in ((staying, "/in/2"), (third, "/in/3")):
        await ada.close(session, target)
    await ada.create("/in/5")
    await ada.create("/in/6")
    assert store.walks == 1
    store.close()


async def test_where_nothing_is_limited_nothing_is_counted(memory: Path, folder: Path) -> None:
    store = SlowStore(str(memory / "store"))
    ada = Speaker(served(store, Directory("/in/", str(folder))), "ada")
    session = await ada.create()
    await ada.send(session, b"bytes", 0, 5)
    await ada.close(session)
    assert store.walks == 0
    store.close()


async def test_processes_that_share_a_store_see_each_others_uploads_after_a_while(
    memory: Path, folder: Path
) -> None:
    store = LocalStore(str(memory / "store"), "process", shared=True)
    now = 1000.0
    census = Census(store, shared=True, clock=lambda: now)
    directories = Directories([limited(folder, 1)])
    directory = directories.all[0]

    def session() -> Session:
        return Session("0" * 8, "/in/file.bin", "ada", 0.0)

    await census.admit(directories, directory, session())
    census.ended(session().id)
    other = Speaker(served(store, Directory("/in/", str(folder))), "ada")
    theirs = await other.create()
    now += 6
    with pytest.raises(TooManySessions):
        await census.admit(directories, directory, session())
    await other.close(theirs)
    now += 6
    await census.admit(directories, directory, session())
    store.close()


# Bytes


async def test_a_file_that_would_not_fit_is_refused_at_its_first_fragment(
    store: LocalStore, folder: Path
) -> None:
    (folder / "there").write_bytes(bytes(600))
    ada = Speaker(served(store, with_quota(folder, 1000)))
    session = await ada.create()
    for _ in range(2):
        with pytest.raises(DiskFull) as refused:
            await ada.send(session, bytes(10), 0, 401)
        assert refused.value.held == 0
    assert (await ada.send(session, bytes(400), 0, 400)).received == 400
    assert (folder / "file.bin").stat().st_size == 400


async def test_bytes_on_their_way_have_their_room_kept(store: LocalStore, folder: Path) -> None:
    ada = Speaker(served(store, with_quota(folder, 1000)))
    first, second = await ada.create("/in/1"), await ada.create("/in/2")
    await ada.send(first, bytes(1), 0, 700, "/in/1")
    with pytest.raises(DiskFull):
        await ada.send(second, bytes(1), 0, 301, "/in/2")
    await ada.send(second, bytes(1), 0, 300, "/in/2")
    await ada.send(first, bytes(699), 1, 700, "/in/1")
    await ada.send(second, bytes(299), 1, 300, "/in/2")
    third = await ada.create("/in/3")
    with pytest.raises(DiskFull):
        await ada.send(third, bytes(1), 0, 1, "/in/3")


async def test_bytes_given_up_leave_their_room(store: LocalStore, folder: Path) -> None:
    ada = Speaker(served(store, with_quota(folder, 1000)))
    first, second = await ada.create("/in/1"), await ada.create("/in/2")
    await ada.send(first, bytes(1), 0, 1000, "/in/1")
    with pytest.raises(DiskFull):
        await ada.send(second, bytes(1), 0, 1000, "/in/2")
    await ada.cancel(first, "/in/1")
    await ada.send(second, bytes(1000), 0, 1000, "/in/2")


async def test_the_quota_holds_after_a_restart(store: LocalStore, folder: Path) -> None:
    ada = Speaker(served(store, with_quota(folder, 1000)))
    first = await ada.create("/in/1")
    await ada.send(first, bytes(1), 0, 700, "/in/1")
    ada = Speaker(served(store, with_quota(folder, 1000)))
    second = await ada.create("/in/2")
    with pytest.raises(DiskFull):
        await ada.send(second, bytes(1), 0, 301, "/in/2")
    await ada.send(first, bytes(699), 1, 700, "/in/1")
    await ada.send(second, bytes(300), 0, 300, "/in/2")


async def test_many_files_at_once_do_not_pass_the_quota_together(store: LocalStore, folder: Path) -> None:
    ada = Speaker(served(store, with_quota(folder, 1000)))
    sessions = [await ada.create(f"/in/{number}") for number in range(10)]
    ends = await asyncio.gather(
        *(ada.send(session, bytes(300), 0, 300, f"/in/{number}") for number, session in enumerate(sessions)),
        return_exceptions=True,
    )
    assert sum(isinstance(end, DiskFull) for end in ends) == 7
    assert sum(path.stat().st_size for path in folder.iterdir()) == 900


async def test_the_stores_own_bytes_inside_the_folder_do_not_count(folder: Path) -> None:
    """`bitsferry serve FOLDER` keeps its sessions inside, hidden."""
    store = LocalStore(str(folder / ".bitsferry"), "process")
    ada = Speaker(served(store, with_quota(folder, 1000)))
    session = await ada.create()
    assert guid_of(session)
    await ada.send(session, bytes(500), 0, 1000)
    await ada.send(session, bytes(500), 500, 1000)
    assert (folder / "file.bin").stat().st_size == 1000
    store.close()
