"""SIGHUP: new settings while uploads go on."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from server import raw

from .conftest import Configure, Start
from .serving import Sending, arrived, put

SECOND = '[[directory]]\nurl = "/second/"\nfolder = "second"'


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_new_directory_appears_and_an_open_upload_goes_on(
    start: Start, configure: Configure, tmp_path: Path, workers: str
) -> None:
    served = start("--config", configure(), "--workers", workers).ready()
    sending = Sending(served)
    assert arrived(tmp_path / "store", 1 << 19)
    configure(directory=SECOND)
    served.tell(signal.SIGHUP)
    with served.line() as line:
        assert raw.eventually(lambda: line.ask(raw.ping("/second/x")).status == 200)
        assert put(line, "/second/file", b"new").status == 200
    assert served.log.count("settings read again directories=2") == 1
    assert (tmp_path / "second" / "file").read_bytes() == b"new"
    assert sending.finish().received == 1 << 20
    sending.line.hang_up()
    assert (tmp_path / "in" / "file").read_bytes() == sending.data


def test_a_directory_gets_other_settings_and_connections_stay(start: Start, configure: Configure) -> None:
    served = start("--config", configure()).ready()
    with served.line() as line:
        assert put(line, "/in/first", bytes(2000)).status == 200
        configure(directory='max_upload_size = "1 KB"', limits="header_value_size = 50")
        served.tell(signal.SIGHUP)
        assert served.says("settings read again")
        assert put(line, "/in/second", bytes(2000)).verdict == (500, 0x80200020)
        assert line.ask(raw.ping("/in/x", x_long="a" * 51)).status == 400


def test_a_directory_that_is_gone_takes_nothing_more(start: Start, configure: Configure) -> None:
    served = start("--config", configure(directory=SECOND)).ready()
    with served.line() as line:
        session = line.ask(raw.create("/second/file")).session or ""
        configure()
        served.tell(signal.SIGHUP)
        assert served.says("settings read again directories=1")
        assert line.ask(raw.fragment("/second/file", session, b"late")).status == 404
        configure(directory=SECOND)
        served.tell(signal.SIGHUP)
        assert served.says("settings read again directories=2", times=1)
        assert line.ask(raw.fragment("/second/file", session, b"late")).status == 200


@pytest.mark.parametrize(
    ("mistake", "reason"),
    [
        ("quoata = 1", 'the key "quoata" is unknown in a [[directory]]; did you mean quota?'),
        ("quota", "Expected '=' after a key in a key/value pair"),
        ('[[directory]]\nurl = "/x/"\nfolder = "/dev/null/x"', "cannot be used: Not a directory"),
    ],
)
def test_a_mistake_changes_nothing_and_the_log_says_why(
    start: Start, configure: Configure, mistake: str, reason: str
) -> None:
    served = start("--config", configure(directory="allow_overwrites = true")).ready()
    with served.line() as line:
        assert put(line, "/in/file", b"old").status == 200
        configure(directory=mistake)
        served.tell(signal.SIGHUP)
        assert served.says("ERROR the settings stay as they were: ")
        assert reason in served.log
        assert put(line, "/in/file", b"new").status == 200
        configure()
        served.tell(signal.SIGHUP)
        assert served.says("settings read again")
        assert put(line, "/in/file", b"again").status == 403


def test_options_still_count(start: Start, configure: Configure) -> None:
    served = start("--config", configure(), "--max-upload-size", "1 KB").ready()
    configure(directory="max_upload_size = 5000")
    served.tell(signal.SIGHUP)
    assert served.says("settings read again")
    with served.line() as line:
        assert put(line, "/in/file", bytes(2000)).verdict == (500, 0x80200020)


def test_it_says_what_needs_a_restart(start: Start, configure: Configure) -> None:
    served = start("--config", configure()).ready()
    configure(top='listen = ["127.0.0.1:1"]\nstore = "elsewhere"'.replace("listen", "#"))
    served.tell(signal.SIGHUP)
    assert served.says("these change with a restart only: store")
    with served.line() as line:
        assert put(line, "/in/file", b"here").status == 200


def test_without_a_file_there_is_nothing_new_and_nothing_breaks(start: Start, tmp_path: Path) -> None:
    served = start(str(tmp_path / "in"), "--listen", "127.0.0.1:0").ready()
    served.tell(signal.SIGHUP)
    assert served.says("settings read again")
    with served.line() as line:
        assert put(line, "/file", b"here").status == 200
