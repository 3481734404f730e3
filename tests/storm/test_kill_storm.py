"""The server is killed again and again while files arrive, and nobody who heard an Ack was lied to."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from bitsferry.store.local import LocalStore
from store.disks import other_file_system

from .line import Line, Uploader
from .serving import Serving

pytestmark = pytest.mark.storm

KILLS = int(os.environ.get("BITSFERRY_STORM", "6"))
UPLOADERS = 4


@dataclass
class Weather:
    """A server, the folder it serves, and the store it may lose nothing of."""

    server: Serving
    folder: Path
    store: Path
    log: Path


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def weather(stack: ExitStack, tmp_path: Path, *options: str, near: bool = True) -> Weather:
    folder, log = tmp_path / "in", tmp_path / "log"
    folder.mkdir()
    store = folder / ".bitsferry"
    if not near:
        store = stack.enter_context(other_file_system(tmp_path)) / "store"
        options = (*options, "--store", f"file:{store}")
    server = Serving(folder, log, *options)
    stack.callback(server.kill)
    return Weather(server, folder, store, log)


def test_nothing_acknowledged_is_lost(stack: ExitStack, tmp_path: Path) -> None:
    ride_out(weather(stack, tmp_path), kill_all)


def test_nothing_acknowledged_is_lost_where_files_are_on_another_file_system(
    stack: ExitStack, tmp_path: Path
) -> None:
    ride_out(weather(stack, tmp_path, near=False), kill_all)


def test_nothing_acknowledged_is_lost_by_several_processes(stack: ExitStack, tmp_path: Path) -> None:
    ride_out(weather(stack, tmp_path, "--workers", "2"), kill_one_or_all)


def kill_all(server: Serving, chance: random.Random) -> None:
    server.kill()
    server.start()


def kill_one_or_all(server: Serving, chance: random.Random) -> None:
    """The supervisor starts another worker, while the second one serves."""
    workers = server.workers()
    if len(workers) < 2 or chance.random() < 0.5:
        kill_all(server, chance)
    else:
        os.kill(chance.choice(workers), signal.SIGKILL)


def test_a_server_all_of_whose_workers_were_killed_comes_back(stack: ExitStack, tmp_path: Path) -> None:
    here = weather(stack, tmp_path, "--workers", "2")
    here.server.start()
    for worker in here.server.workers():
        os.kill(worker, signal.SIGKILL)
    line = Line(here.server.port)
    stack.callback(line.close)
    assert line.create("/file.bin").status == 200


def ride_out(here: Weather, kill: Callable[[Serving, random.Random], None]) -> None:
    chance, storm_is_over = random.Random(KILLS), threading.Event()
    here.server.start()
    uploaders = [
        Uploader(number, here.server.port, here.folder, storm_is_over) for number in range(UPLOADERS)
    ]
    for uploader in uploaders:
        uploader.start()
    try:
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.0, 0.4))
            kill(here.server, chance)
            if any(uploader.failure for uploader in uploaders):
                break
    finally:
        storm_is_over.set()
        for uploader in uploaders:
            uploader.join(30)
    for uploader in uploaders:
        if uploader.failure is not None:
            raise uploader.failure
        assert not uploader.is_alive()
    assert sum(uploader.broken_lines for uploader in uploaders) > 0, "the storm passed by"
    assert here.server.stop() == 0
    here.server.start()  # tidies up what the last kill left
    check_folder(here, uploaders)
    wait_until_tidy(here)
    assert here.server.stop() == 0
    asyncio.run(check_store(here.store))
    assert "Traceback" not in here.log.read_text()


def check_folder(here: Weather, uploaders: list[Uploader]) -> None:
    """Every file is there, byte for byte and put there once."""
    for uploader in uploaders:
        for name, (data, inode) in uploader.arrived.items():
            path = here.folder / name
            assert path.read_bytes() == data
            assert path.stat().st_ino == inode, "it was put there twice"


def wait_until_tidy(here: Weather) -> None:
    """Nothing else stays in the folder, and no bytes of files that are in their place."""
    deadline = time.monotonic() + 10
    while strays := list(here.folder.glob(".bitsferry-*")):
        assert time.monotonic() < deadline, strays
        time.sleep(0.02)


async def check_store(root: Path) -> None:
    """What is left are tombstones, and sessions whose Create-Session nobody heard the Ack of."""
    store = LocalStore(str(root), shared=True)
    async for found in store.walk():
        session = await store.read(found.guid)
        if session.total is None:
            continue
        assert session.over
        assert session.published
        assert not found.has_bytes
    store.close()
