"""The client is killed again and again: its files arrive whole, and next to nothing is sent twice."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitsferry.protocol.packets import Ack, CreateSession, Fragment, Packet
from client.hostile import HostileServer

pytestmark = pytest.mark.storm

KILLS = int(os.environ.get("BITSFERRY_STORM", "15"))
FRAGMENT = 64 * 1024
RATE = 2_000_000  # bytes a second, so that the end does not come before the last kill
LONGEST = 0.45  # seconds of life after the first word
PATIENCE = 30.0


class Counting(HostileServer):
    """Notes for each fragment how many of its bytes it had acknowledged before."""

    def __post_init__(self) -> None:
        self.again: list[int] = []
        self.spoke = threading.Event()
        self._acknowledged: dict[str, int] = {}
        super().__post_init__()

    def process(self, packet: Packet, target: str, body: bytes) -> Ack:
        self.spoke.set()
        if isinstance(packet, Fragment):
            before = self._acknowledged.get(packet.session_id, 0)
            self.again.append(max(0, min(before, packet.range.stop) - packet.range.start))
        ack = super().process(packet, target, body)
        if isinstance(packet, Fragment) and ack.received is not None:
            self._acknowledged[packet.session_id] = ack.received
        return ack


@pytest.fixture
def server() -> Iterator[Counting]:
    with contextlib.closing(Counting()) as server:
        yield server


def start(tmp_path: Path, *arguments: str | Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bitsferry", "send", "--quiet", *map(str, arguments)]
    return subprocess.Popen(command, env=os.environ | {"XDG_STATE_HOME": str(tmp_path / "state")})


def storm(tmp_path: Path, server: Counting, *arguments: str | Path) -> None:
    """Kill the command again and again, at any moment from its first word on; then let it come to its end."""
    chance = random.Random(KILLS)
    for _ in range(KILLS):
        server.spoke.clear()
        with start(tmp_path, *arguments, "--limit", f"{RATE} B/s", "--fragment", str(FRAGMENT)) as process:
            assert server.spoke.wait(PATIENCE)
            time.sleep(chance.uniform(0.0, LONGEST))
            assert process.poll() is None, "it came to its end before it was killed"
            process.kill()
    with start(tmp_path, *arguments, "--fragment", str(FRAGMENT)) as process:
        assert process.wait(PATIENCE + KILLS) == 0


def test_a_large_file_arrives_whole_and_hardly_a_byte_is_sent_twice(tmp_path: Path, server: Counting) -> None:
    path = tmp_path / "large.bin"
    data = random.Random(0).randbytes(int(KILLS * LONGEST * RATE) + 1_000_000)
    path.write_bytes(data)
    storm(tmp_path, server, path, server.url())
    assert server.files == {"/in/file.bin": data}
    # A kill between an Ack and the moment it is remembered costs one fragment, no more.
    assert max(server.again) <= FRAGMENT
    assert sum(server.again) <= KILLS * FRAGMENT
    assert len({fragment.session_id for fragment in server.fragments()}) == 1
    assert list((tmp_path / "state" / "bitsferry" / "sends").glob("*.json*")) == []


def test_of_a_tree_no_file_that_arrived_is_sent_again(tmp_path: Path, server: Counting) -> None:
    tree = tmp_path / "tree"
    size = 50_000
    count = int(KILLS * LONGEST * RATE / size) + 10
    for number in range(count):
        path = tree / str(number % 7) / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(number.to_bytes(4, "big") * (size // 4))
    storm(tmp_path, server, "--recursive", tree, server.url("/in/"))
    assert server.files == {
        f"/in/{path.relative_to(tree)}": path.read_bytes() for path in tree.rglob("*.bin")
    }
    created = Counter(heard.target for heard in server.heard if isinstance(heard.packet, CreateSession))
    # A kill between a session's Ack and the moment it is remembered costs a session.
    assert sum(created.values()) - count <= KILLS
    assert max(server.again) <= size
    assert sum(server.again) <= KILLS * size


def test_a_file_of_more_than_4_gib_arrives(tmp_path: Path, server: Counting) -> None:
    """One with a hole in it, to a server that only counts."""
    path = tmp_path / "hole.bin"
    path.touch()
    size = 4 * 1024**3 + 4321
    os.truncate(path, size)
    server.keeps_bytes = False
    with start(tmp_path, path, server.url(), "--fragment", "64 MiB") as process:
        assert process.wait(4 * PATIENCE) == 0
    assert list(server.lengths.values()) == [size]
    assert server.fragments()[-1].range.stop == size
