"""Hundreds of uploads that are under way at once cost the others nothing."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from bitsferry.protocol.session import Session
from bitsferry.store.local import LocalStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_uploads_under_way_do_not_close_the_file_of_one_between_two_fragments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, loaded = LocalStore(str(tmp_path), "process"), list[str]()
    load = store._load

    def count(guid: str) -> Any:
        loaded.append(guid)
        return load(guid)

    monkeypatch.setattr(store, "_load", count)
    sessions = [Session(f"A0FF5911-0000-4000-8000-{number:012}", "/in/a", None, 0.0) for number in range(601)]
    for session in sessions:
        await store.create(session)
    async with AsyncExitStack() as stack:
        for session in sessions[1:]:
            await stack.enter_async_context(store.open(session.id))
        for _ in range(3):
            async with store.open(sessions[0].id):
                pass
    assert loaded.count(sessions[0].id) == 1
    store.close()


async def test_of_many_that_are_read_at_once_a_damaged_one_is_left_out(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path), "process")
    sessions = [Session(f"A0FF5911-0000-4000-8000-{number:012}", "/in/a", None, 0.0) for number in range(5)]
    for session in sessions:
        await store.create(session)
    first, second, *others = (session.id for session in sessions)
    Path(store.folder_of(first), "session.json").write_bytes(b'{"session":{"id":"\xff"}}')
    await store.discard(second)
    read = await store.read_many([first, second, *others, "B0FF5911-0000-4000-8000-000000000000"])
    assert read == {session.id: session for session in sessions[2:]}
    assert list(read) == others
    store.close()
