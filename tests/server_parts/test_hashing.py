"""Files are hashed while they come, as far as they are durable; nobody waits longer than he must."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bitsferry.protocol.errors import Busy, SessionNotFound, StoreFailed
from bitsferry.protocol.session import Session
from bitsferry.server import hashing
from bitsferry.server.hashing import Hashing
from bitsferry.server.turns import Turn
from bitsferry.store.local import LocalStore

pytestmark = pytest.mark.anyio

MIB = 1 << 20
DATA = random.Random(7).randbytes(4 * MIB + 77)
SHA_256 = hashlib.sha256(DATA).hexdigest()
GUIDS = [f"A0FF5911-0000-4000-8000-0000000000{number:02}" for number in range(20)]
GUID = GUIDS[0]
LONG = 60.0


class Slow(LocalStore):
    """A store whose bytes can be read while somebody lets them."""

    def __init__(self, root: str) -> None:
        super().__init__(root, "process")
        self.free = threading.Event()
        self.free.set()

    def open_bytes(self, guid: str) -> int:
        assert self.free.wait(20)
        return super().open_bytes(guid)

    @contextmanager
    def held_up(self) -> Iterator[None]:
        self.free.clear()
        try:
            yield
        finally:
            self.free.set()


@pytest.fixture
def store(memory: Path) -> Iterator[Slow]:
    store = Slow(str(memory / "store"))
    yield store
    store.close()


@pytest.fixture
async def files(store: Slow) -> Files:
    return Files(store)


class Files:
    """Uploads, the hashing of which is watched."""

    def __init__(self, store: Slow) -> None:
        self.store = store
        self.now = 0.0
        self.hashing = Hashing(store, lambda: self.now)

    async def receive(self, data: bytes, guid: str = GUID, *, algorithm: str = "sha-256") -> None:
        """As a fragment comes."""
        if not os.path.exists(self.store.folder_of(guid)):
            await self.store.create(Session(guid, "/file", None, 0.0))
        async with self.store.open(guid) as stored:
            before = stored.held
            stored.receiver(0).write(memoryview(data))
            self.hashing.follow(guid, [algorithm], before, await stored.sync())

    async def digest(self, size: int = len(DATA), guid: str = GUID, turn: Turn | None = None) -> str:
        return (await self.hashing.digest(guid, "sha-256", size, turn or Turn(None), LONG)).hex


class Reading:
    """Counts the bytes that are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        preadv = os.preadv
        monkeypatch.setattr(os, "preadv", lambda *told: self._count(preadv(*told)))

    def _count(self, count: int) -> int:
        self.bytes += count
        return count

    async def reaches(self, count: int) -> bool:
        for _ in range(2000):
            if self.bytes >= count:
                return True
            await asyncio.sleep(0.005)
        return False


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Reading:
    return Reading(monkeypatch)


async def test_what_came_is_hashed_before_the_rest_is_here_and_once(files: Files, reading: Reading) -> None:
    await files.receive(DATA[: 2 * MIB])
    assert await reading.reaches(2 * MIB)
    await files.receive(DATA[2 * MIB :])
    assert await files.digest() == SHA_256
    assert reading.bytes == len(DATA)
    assert await files.digest() == SHA_256
    assert reading.bytes == len(DATA)


async def test_a_few_bytes_wait_for_company(files: Files, reading: Reading) -> None:
    for _ in range(10):
        await files.receive(bytes(1000))
    await asyncio.sleep(0.05)
    assert reading.bytes == 0
    assert await files.digest(10_000) == hashlib.sha256(bytes(10_000)).hexdigest()


async def test_a_file_that_was_not_followed_is_read_when_it_is_whole(files: Files, reading: Reading) -> None:
    await files.receive(DATA)
    assert await Hashing(files.store).digest(GUID, "sha-512", len(DATA), Turn(None), LONG)
    files.hashing.forget(GUID)
    assert await files.digest() == SHA_256


async def test_no_file_is_too_short_to_have_a_digest(files: Files) -> None:
    await files.receive(b"")
    assert await files.digest(0) == hashlib.sha256().hexdigest()


async def test_a_file_that_was_cut_is_hashed_anew(files: Files) -> None:
    await files.receive(DATA[:MIB] + bytes(MIB))
    async with files.store.open(GUID) as stored:
        await stored.cut(MIB)
    await files.receive(DATA[MIB:])
    assert await files.digest() == SHA_256


async def test_a_newer_request_ends_the_wait_and_the_work_goes_on(files: Files, reading: Reading) -> None:
    older = Turn(None)
    with files.store.held_up():
        await files.receive(DATA)
        waiting = asyncio.ensure_future(files.digest(turn=older))
        await asyncio.sleep(0)
        older.want()
        with pytest.raises(Busy, match="newer request"):
            await waiting
    assert await files.digest() == SHA_256
    assert reading.bytes == len(DATA)


async def test_whoever_is_cancelled_leaves_the_work_to_the_next(files: Files, reading: Reading) -> None:
    with files.store.held_up():
        await files.receive(DATA)
        waiting = asyncio.ensure_future(files.digest())
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert await files.digest() == SHA_256
    assert reading.bytes == len(DATA)


async def test_a_wait_has_an_end_and_the_client_comes_again(files: Files) -> None:
    with files.store.held_up():
        await files.receive(DATA)
        with pytest.raises(Busy, match="0 of 4194381 bytes are hashed; ask again"):
            await files.hashing.digest(GUID, "sha-256", len(DATA), Turn(None), 0.01)
    assert await files.digest() == SHA_256


async def test_at_the_servers_end_nobody_waits(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "_STRETCH", MIB)
    with files.store.held_up():
        await files.receive(DATA)
        waiting = asyncio.ensure_future(files.digest())
        await asyncio.sleep(0.01)
        files.hashing.end()
    with pytest.raises(Busy, match="the server ends"):
        await waiting
    await files.hashing.stop()
    files.hashing.follow(GUID, ["sha-256"], 0, len(DATA))


async def test_bytes_that_cannot_be_read_are_told_and_tried_again(files: Files) -> None:
    await files.receive(DATA[:100])
    with pytest.raises(StoreFailed, match="100 bytes, 4194381 were expected"):
        await files.digest()
    await files.receive(DATA[100:])
    assert await files.digest() == SHA_256
    with pytest.raises(SessionNotFound):
        await files.digest(5, GUIDS[9])


async def test_beyond_a_number_of_files_new_ones_are_hashed_at_their_end(
    files: Files, reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "_MOST", 3)
    for guid in GUIDS[:6]:
        await files.receive(DATA, guid)
    assert await reading.reaches(3 * len(DATA))
    await asyncio.sleep(0.05)
    assert reading.bytes == 3 * len(DATA)
    for guid in GUIDS[:6]:
        assert await files.digest(guid=guid) == SHA_256
    assert reading.bytes == 6 * len(DATA)


async def test_a_file_that_is_quiet_for_long_makes_room(
    files: Files, reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "_MOST", 1)
    await files.receive(DATA, GUIDS[0])
    assert await reading.reaches(len(DATA))
    files.now += 601
    await files.receive(DATA, GUIDS[1])
    assert await reading.reaches(2 * len(DATA))
    assert await files.digest(guid=GUIDS[1]) == SHA_256
    assert reading.bytes == 2 * len(DATA)
    assert await files.digest(guid=GUIDS[0]) == SHA_256


async def test_the_loop_is_free_while_a_file_is_hashed(files: Files) -> None:
    with files.store.held_up():
        await files.receive(DATA)
        waiting = asyncio.ensure_future(files.digest())
        for _ in range(100):
            await asyncio.sleep(0)
        assert not waiting.done()
    assert await waiting == SHA_256


async def test_blake3_is_computed_as_well(files: Files) -> None:
    blake3 = pytest.importorskip("blake3")
    await files.receive(DATA, algorithm="blake3")
    digest = await files.hashing.digest(GUID, "blake3", len(DATA), Turn(None), LONG)
    assert digest.value == blake3.blake3(DATA).digest()
