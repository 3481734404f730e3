"""A store in a folder lives on when its folder is damaged or crowded, its disk full, failing or read-only."""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from bitsferry.protocol.errors import BitsError, Busy, DiskFull, SessionNotFound, StoreFailed, WriteProtected
from bitsferry.protocol.notification import Answer, Dialogue
from bitsferry.store.base import Store
from bitsferry.store.folder import Destination, Folder
from bitsferry.store.local import LocalStore

from .disks import MIB, failing_disk, folder_in_memory, small_disk
from .promises import answer, new_session, receive, reply_to, some_bytes, upload, walked
from .scene import Scene, scene
from .tracing import EVERYTHING, Stage
from .worker import CONTENT

pytestmark = pytest.mark.anyio


@pytest.fixture
def root() -> Iterator[Path]:
    with folder_in_memory() as folder:
        yield folder / "store"


@pytest.fixture
def store(root: Path) -> Iterator[LocalStore]:
    store = LocalStore(str(root))
    yield store
    store.close()


def folder_of(root: Path, guid: str) -> Path:
    return next(root.glob(f"sessions/*/{guid}"))


async def is_lost(store: Store, guid: str) -> bool:
    try:
        async with store.open(guid):
            return False
    except SessionNotFound:
        return True


# Who may use it


def test_two_servers_never_use_one_store_unless_both_share_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitsferry.store.local._LAST_BREATH", 0.0)  # nobody is dying here
    first = LocalStore(str(root))
    for shared in (False, True):
        with pytest.raises(StoreFailed, match="another bitsferry server"):
            LocalStore(str(root), shared=shared)
    first.close()
    second, third = LocalStore(str(root), shared=True), LocalStore(str(root), shared=True)
    with pytest.raises(StoreFailed, match="another bitsferry server"):
        LocalStore(str(root))
    second.close()
    third.close()
    LocalStore(str(root)).close()


def test_a_store_that_cannot_be_made_says_where(root: Path) -> None:
    root.write_bytes(b"a file")
    with pytest.raises(StoreFailed, match=str(root)):
        LocalStore(str(root))


# Damage


@pytest.mark.parametrize(
    "state",
    [b"", b"{", b"null", b"[]", b"\x00" * 200, b"\xff\xfe", b'{"session": {}}', b'{"session": {"id": 1}}'],
    ids=lambda state: repr(state[:20]),
)
async def test_a_session_whose_state_is_damaged_is_unknown_and_the_others_live(
    store: LocalStore, root: Path, state: bytes
) -> None:
    damaged, whole = await upload(store, b"bytes"), await upload(store, b"bytes")
    store.close()
    (folder_of(root, damaged) / "session.json").write_bytes(state)
    store.__init__(str(root))  # type: ignore[misc]
    with pytest.raises(SessionNotFound):
        await store.read(damaged)
    assert await is_lost(store, damaged)
    assert await receive(store, whole, b"more") == 9
    assert set(await walked(store)) == {damaged, whole}
    await store.sweep_orphans()
    assert folder_of(root, damaged).exists(), "nobody deletes what a newer version may be able to read"
    await store.discard(damaged)
    assert set(await walked(store)) == {whole}


async def test_a_state_that_was_half_written_leaves_the_one_before(store: LocalStore, root: Path) -> None:
    guid = await upload(store, b"bytes")
    (folder_of(root, guid) / "session.json.new").write_bytes(b'{"session": {"id"')
    store.forget(guid)
    assert (await store.read(guid)).total == 5
    async with store.open(guid) as stored:
        stored.session.reply_url = "new"
        await stored.save()
    assert (await store.read(guid)).reply_url == "new"


async def test_a_session_whose_bytes_are_gone_is_unknown(store: LocalStore, root: Path) -> None:
    guid = await upload(store, b"bytes")
    store.forget(guid)
    (folder_of(root, guid) / "request.data").unlink()
    assert await is_lost(store, guid)
    found = await walked(store)
    assert not found[guid].has_bytes


async def test_a_link_in_the_place_of_bytes_is_never_followed(
    store: LocalStore, root: Path, tmp_path: Path
) -> None:
    guid = await upload(store, b"bytes")
    store.forget(guid)
    (tmp_path / "secret").write_bytes(b"secret")
    data = folder_of(root, guid) / "request.data"
    data.unlink()
    data.symlink_to(tmp_path / "secret")
    with pytest.raises(BitsError):
        await receive(store, guid, b"more")
    assert (tmp_path / "secret").read_bytes() == b"secret"


async def test_what_strangers_put_among_the_sessions_harms_nobody(store: LocalStore, root: Path) -> None:
    guid = await upload(store, b"bytes")
    (root / "sessions" / ".DS_Store").write_bytes(b"")
    (root / "sessions" / guid[:2] / "Thumbs.db").write_bytes(b"")
    (root / "sessions" / guid[:2] / "New folder").mkdir()
    assert set(await walked(store)) == {guid}
    assert await store.sweep_orphans() == 0


# Orphans


def make_orphan(root: Path, age: float) -> Path:
    """What a crash in the middle of Create-Session leaves."""
    guid = str(uuid.uuid4()).upper()
    folder = root / "sessions" / guid[:2] / guid
    folder.mkdir()
    (folder / "request.data").write_bytes(b"")
    (folder / "session.json.new").write_bytes(b"{")
    os.utime(folder, (time.time() - age, time.time() - age))
    return folder


@pytest.mark.parametrize(("shared", "age", "swept"), [(False, 5, True), (True, 5, False), (True, 4000, True)])
async def test_what_a_crash_left_half_made_is_swept_and_what_is_being_made_is_not(
    root: Path, shared: bool, age: float, swept: bool
) -> None:
    store = LocalStore(str(root), shared=shared)
    guid = await upload(store, b"bytes")
    orphan, young = make_orphan(root, age), make_orphan(root, -5)
    assert await store.sweep_orphans() == int(swept)
    assert orphan.exists() != swept
    assert young.exists()
    assert set(await walked(store)) == {guid}
    store.close()


# A failing disk


@pytest.mark.parametrize("cut", [True, False], ids=["cut off", "not even cut off"])
@pytest.mark.parametrize("threads", [True, False], ids=["in threads", "in place"])
async def test_bytes_that_failed_to_reach_the_disk_are_not_counted_even_if_a_later_sync_succeeds(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, threads: bool, cut: bool
) -> None:
    store.disk.in_memory = not threads
    data = some_bytes(10_000)
    guid = await upload(store, data[:4000])

    def fail(*args: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("os.fdatasync", fail)
        if not cut:
            patch.setattr("os.ftruncate", fail)
        for _ in range(2):
            with pytest.raises(StoreFailed):
                await receive(store, guid, bytes(3000))
            async with store.open(guid) as stored:
                assert stored.held == 4000
    async with store.open(guid) as stored:
        assert stored.held == 4000
    assert await receive(store, guid, data[4000:]) == 10_000
    async with store.open(guid) as stored:
        stored.session.start(10_000)
    assert (folder_of(Path(store.root), guid) / "request.data").read_bytes() == data


async def test_bytes_acknowledged_without_a_sync_that_fail_to_reach_the_disk_are_wanted_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system forgets which pages it could not write: at the next try the file would be damaged."""
    store = LocalStore(str(root), "process")
    data, destination = some_bytes(10_000), Destination(Folder(str(tmp_path)), ("file.bin",))
    guid = await upload(store, data)

    def fail(*args: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async with store.open(guid) as stored:
        with monkeypatch.context() as patch, pytest.raises(StoreFailed):
            patch.setattr("os.fsync", fail)
            await stored.publish(destination)
        assert stored.held == 0
    assert await receive(store, guid, data) == 10_000
    async with store.open(guid) as stored:
        await stored.publish(destination)
    assert (tmp_path / "file.bin").read_bytes() == data
    store.close()


async def test_a_state_that_cannot_be_saved_is_as_if_nobody_had_tried(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    guid = await upload(store, b"bytes")

    def fail(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("os.rename", fail)
        with pytest.raises(StoreFailed):
            async with store.open(guid) as stored:
                stored.session.publish("reply")
                await stored.save()
    async with store.open(guid) as stored:
        assert not stored.session.published
        assert stored.session.reply_url is None


def test_whatever_fails_while_a_session_is_made_it_is_made_whole_or_not_at_all(
    stage: Stage, tmp_path: Path
) -> None:
    with scene(tmp_path, "same file system", overwrite=False) as here:
        clean = stage.play(here.prepare() | {"before": ["open"], "do": "create_at_last"}, trace=EVERYTHING)
        steps = [call for call in clean.calls if here.concerns(call)]
        assert len(steps) > 8
        for step in steps:
            for failure in ("EIO", "ENOSPC"):
                task = here.prepare() | {"before": ["open"], "do": "create_at_last"}
                inject = f"{step.name}:error={failure}:when={step.nth}"
                errors = stage.play(task, trace=EVERYTHING, inject=inject).answer
                assert errors in ([], ["StoreFailed"], ["DiskFull"]), str(step)
                assert stage.play(task | {"do": "look"}).answer == 0, str(step)


def test_killed_anywhere_while_a_session_is_made_it_is_whole_or_an_orphan(
    stage: Stage, tmp_path: Path
) -> None:
    with scene(tmp_path, "same file system", overwrite=False) as here:
        clean = stage.play(here.prepare() | {"before": ["open"], "do": "create"})
        steps = [call for call in clean.calls if here.concerns(call)]
        for step in steps:
            task = here.prepare() | {"before": ["open"], "do": "create"}
            assert stage.play(task, inject=f"{step.name}:signal=KILL:when={step.nth}").killed
            guid = task["guid"]
            session = here.root / "sessions" / guid[:2] / guid
            if (session / "session.json").exists():
                assert stage.play(task | {"do": "look"}).answer == 0, str(step)


@pytest.mark.parametrize("failure", ["EIO", "ENOSPC"])
def test_whatever_fails_while_bytes_arrive_no_offset_is_taken_back_and_every_byte_is_right(
    stage: Stage, tmp_path: Path, failure: str
) -> None:
    with scene(tmp_path, "same file system", overwrite=False) as here:
        work = {"before": ["create"], "do": "receive_at_last"}
        clean = stage.play(here.prepare() | work, trace=EVERYTHING)
        assert clean.answer["errors"] == []
        steps = [call for call in clean.calls if here.concerns(call)]
        assert len(steps) > 8
        for step in steps:
            task = here.prepare() | work
            inject = f"{step.name}:error={failure}:when={step.nth}"
            told = stage.play(task, trace=EVERYTHING, inject=inject).answer
            assert set(told["errors"]) <= {"StoreFailed", "DiskFull"}, str(step)
            assert told["offsets"] == sorted(told["offsets"]), str(step)
            assert told["offsets"][-1] == len(CONTENT)
            guid = task["guid"]
            data = here.root / "sessions" / guid[:2] / guid / "request.data"
            assert data.read_bytes() == CONTENT, str(step)


async def test_a_full_disk_keeps_what_fits_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2 * MIB) as disk:
        folder, store = disk / "in", LocalStore(str(disk / "store"))
        folder.mkdir()
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(MIB))
        data = some_bytes(int(1.5 * MIB))
        guid = await upload(store, data[:100_000])
        with pytest.raises(DiskFull):
            await receive(store, guid, data[100_000:])
        async with store.open(guid) as stored:
            held = stored.held
            assert await stored.sync() == held
        assert 100_000 < held < MIB
        with pytest.raises(DiskFull):
            await receive(store, guid, data[held:])
        with pytest.raises(DiskFull):
            await store.create(new_session())
        assert set(await walked(store)) == {guid}
        ballast.unlink()
        async with store.open(guid) as stored:
            held = stored.held
        assert await receive(store, guid, data[held:]) == len(data)
        async with store.open(guid) as stored:
            await stored.publish(Destination(Folder(str(folder)), ("file.bin",)))
        assert (folder / "file.bin").read_bytes() == data
        store.close()


async def test_a_destination_that_is_full_keeps_the_session_whole(tmp_path: Path, store: LocalStore) -> None:
    with small_disk(tmp_path / "disk", MIB) as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(MIB // 2))
        data = some_bytes(int(0.75 * MIB))
        guid = await upload(store, data)
        destination = Destination(Folder(str(disk)), ("file.bin",))
        for _ in range(2):
            async with store.open(guid) as stored:
                with pytest.raises(DiskFull):
                    await stored.publish(destination)
            assert {path.name for path in disk.iterdir()} == {"ballast"}
        ballast.unlink()
        async with store.open(guid) as stored:
            await stored.publish(destination)
            await stored.release(destination)
        assert {path.name for path in disk.iterdir()} == {"file.bin"}
        assert (disk / "file.bin").read_bytes() == data


async def test_a_disk_that_turned_read_only_is_said_to_be_and_what_is_there_can_be_read(
    tmp_path: Path,
) -> None:
    with failing_disk(tmp_path / "disk") as disk:
        store = LocalStore(str(disk.folder / "store"))
        data = some_bytes(50_000)
        guid = await upload(store, data)
        disk.fail()
        with pytest.raises(WriteProtected):
            await receive(store, guid, data)
        with pytest.raises(WriteProtected):
            await store.create(new_session())
        with pytest.raises(WriteProtected):
            async with store.open(guid) as stored:
                await stored.save()
        with pytest.raises(WriteProtected):
            await receive(store, guid, b"")
        assert (await store.read(guid)).total == 50_000
        assert set(await walked(store)) == {guid}
        store.close()


async def test_a_destination_that_turned_read_only_keeps_the_session_whole(
    tmp_path: Path, store: LocalStore
) -> None:
    with failing_disk(tmp_path / "disk") as disk:
        guid = await upload(store, b"bytes")
        disk.fail()
        async with store.open(guid) as stored:
            with pytest.raises(WriteProtected):
                await stored.publish(Destination(Folder(str(disk.folder)), ("file.bin",)))
        async with store.open(guid) as stored:
            assert stored.held == 5
            await stored.publish(Destination(Folder(str(tmp_path)), ("file.bin",)))
            await stored.remove(Destination(Folder(str(disk.folder)), ("file.bin",)))
        assert await is_lost(store, guid)


# Many


async def test_more_sessions_at_work_than_files_may_be_open(root: Path) -> None:
    store = LocalStore(str(root), "process")
    sessions = [new_session() for _ in range(700)]
    for session in sessions:
        await store.create(session)
    for number in range(3):
        for session in sessions:
            assert await receive(store, session.id, b"12345") == 5 * (number + 1)
    assert len(os.listdir("/dev/fd")) < 650
    store.close()


HUNDRED_THOUSAND = 100_000


def test_a_session_among_a_hundred_thousand_costs_no_more_than_alone(stage: Stage, tmp_path: Path) -> None:
    with quick_to_forget(tmp_path / "disk") as disk:
        here = Scene(disk / "store", disk / "in", links=True, overwrite=False)
        here.folder.mkdir()
        alone = {work: cost(stage, here.prepare(), work) for work in ("create", "look")}
        crowd(here.root)
        crowded = {work: cost(stage, here.prepare(), work) for work in ("create", "look")}
        assert alone == crowded
        assert all(count["getdents64"] == 0 for count in crowded.values())


def quick_to_forget(where: Path) -> AbstractContextManager[Path]:
    """Memory; a mount of its own where we may, for deleting so many files takes longer than making them."""
    return small_disk(where, 1024 * MIB) if os.geteuid() == 0 else folder_in_memory()


def cost(stage: Stage, task: dict[str, object], work: str) -> Counter[str]:
    """How many system calls of each kind a piece of work takes."""
    before = ["open"] if work == "create" else ["create"]
    played = stage.play(task | {"before": before, "do": work}, trace=EVERYTHING)
    return Counter(call.name for call in played.calls)


def crowd(root: Path) -> None:
    """As many sessions as a large place has, made without waiting for the disk."""
    state = next(root.glob("sessions/*/*/session.json"))
    for number in range(HUNDRED_THOUSAND):
        guid = f"{number * 2654435761 % 2**32:08X}-0000-4000-8000-{number:012X}"
        folder = f"{root}/sessions/{guid[:2]}/{guid}"
        os.mkdir(folder)
        os.link(state, f"{folder}/session.json")


# The talk with an application


async def test_where_the_disk_is_not_mounted_an_application_is_not_told_and_the_upload_not_lost(
    root: Path, store: LocalStore
) -> None:
    guid = await upload(store, b"bytes")
    (root / "sessions").rename(root / "elsewhere")
    with pytest.raises(Busy), store.claim_dialogue(guid):
        pass
    (root / "elsewhere").rename(root / "sessions")
    with store.claim_dialogue(guid):
        pass


@pytest.mark.parametrize("damaged", [b"", b"{", b'{"answer": 1}', b"\xff"])
async def test_an_answer_that_cannot_be_read_any_more_is_none(
    root: Path, store: LocalStore, damaged: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    guid = await upload(store, b"bytes")
    await answer(store, guid, b"reply")
    (folder_of(root, guid) / "dialogue.json").write_bytes(damaged)
    assert await store.read_dialogue(guid) == Dialogue()
    assert f"what an application said of {guid} cannot be read" in caplog.text
    assert await answer(store, guid, b"another") == Answer(has_reply=True)
    assert await reply_to(store, guid) == b"another"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is hidden from root")
async def test_a_reply_the_server_may_not_read_is_told_as_such(store: LocalStore) -> None:
    guid = await upload(store, b"bytes")
    place = Path((await store.papers(guid)).response)
    place.write_bytes(b"reply")
    place.chmod(0)
    with pytest.raises(StoreFailed, match="may not be read by the server's account"):
        await store.keep_answer(guid, Answer())
    assert await answer(store, guid, b"reply") == Answer(has_reply=True)
