"""An interrupted send is remembered, by its owner alone, and one process at a time goes on with it."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bitsferry.client.local_file import Identity
from bitsferry.client.places import AlreadyBeingSent, Memory, Places
from bitsferry.protocol.upload import Progress

URL = "http://127.0.0.1/in/file.bin"
MEMORY = Memory("/file.bin", URL, None, Identity(5, 6, 7), Progress("{session}", 3, host_id="node"))


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(str(tmp_path / "state" / "sends"))


def test_what_was_remembered_is_recalled(places: Places) -> None:
    with places.take("/file.bin", URL) as place:
        assert place.recall() is None
        place.remember(MEMORY)
    with places.take("/file.bin", URL) as place:
        assert place.recall() == MEMORY


def test_another_file_or_url_is_another_place(places: Places) -> None:
    with places.take("/file.bin", URL) as place:
        place.remember(MEMORY)
        with places.take("/other.bin", URL) as other:
            assert other.recall() is None
        with places.take("/file.bin", URL + "2") as other:
            assert other.recall() is None


def test_what_is_forgotten_leaves_nothing(places: Places, tmp_path: Path) -> None:
    with places.take("/file.bin", URL) as place:
        place.remember(MEMORY)
        place.forget()
        assert place.recall() is None
    assert os.listdir(tmp_path / "state" / "sends") == []


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_nobody_else_can_read_it(places: Places, tmp_path: Path) -> None:
    with places.take("/file.bin", URL) as place:
        place.remember(MEMORY)
    folder = tmp_path / "state" / "sends"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()] == [0o600]


@pytest.mark.parametrize("damage", [b"", b"{", b'{"file": 1}', b"\xff\xfe"])
def test_a_damaged_memory_is_none(places: Places, tmp_path: Path, damage: bytes) -> None:
    with places.take("/file.bin", URL) as place:
        place.remember(MEMORY)
        (path,) = (tmp_path / "state" / "sends").glob("*.json")
        path.write_bytes(damage)
        assert place.recall() is None


def test_a_second_send_of_the_same_is_refused_in_a_sentence(places: Places) -> None:
    with (
        places.take("/file.bin", URL),
        pytest.raises(AlreadyBeingSent, match=r"another process is sending file\.bin to http://"),
        places.take("/file.bin", URL),
    ):
        pass
    with places.take("/file.bin", URL):
        pass


def test_a_lock_ends_with_its_process(places: Places, tmp_path: Path) -> None:
    program = (
        "import sys, time; from bitsferry.client.places import Places\n"
        "with Places(sys.argv[1]).take('/file.bin', sys.argv[2]): print('locked', flush=True); time.sleep(60)"
    )
    folder = str(tmp_path / "state" / "sends")
    with subprocess.Popen(
        [sys.executable, "-c", program, folder, URL], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(AlreadyBeingSent), places.take("/file.bin", URL):
            pass
        process.kill()
    with places.take("/file.bin", URL):
        pass
