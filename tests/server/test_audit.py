"""A real server's audit log: over restarts, workers, logrotate, kill -9 and a full disk."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from . import raw
from .conftest import Serve
from .ferry import Ferry

FINE = (200, None)
TOP = 'audit_log = "./audit.jsonl"'


def lines(ferry: Ferry, name: str = "audit.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ferry.folder / name).read_text(encoding="ascii").splitlines()]


def sent(ferry: Ferry) -> str:
    """A whole file; its session."""
    upload = ferry.begun()
    assert upload.send(b"some bytes", 4).verdict == FINE
    assert upload.close().verdict == FINE
    upload.line.hang_up()
    return upload.session.strip("{}")


def test_what_is_acknowledged_is_in_the_log(serve: Serve) -> None:
    ferry = serve(top=TOP, directory='digest = "sha-256"\nname_template = "{date}/{session}"')
    upload = ferry.begun()
    assert upload.fragment(b"bytes").verdict == FINE
    ferry.kill()
    begun, completed = lines(ferry)
    assert [begun["event"], completed["event"]] == ["begun", "completed"]
    assert completed["file"] == begun["file"]
    assert (ferry.folder / "in" / completed["file"]).read_bytes() == b"bytes"
    assert completed["address"] == "127.0.0.1"
    assert len(completed["digest"]["sha-256"]) == 64
    assert completed["size"] == 5


def test_workers_write_one_log_in_whole_lines(serve: Serve) -> None:
    ferry = serve(top=TOP + "\nworkers = 3")
    sessions: list[str] = []

    def many() -> None:
        sessions.extend([sent(ferry) for _ in range(10)])

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sessions) == 40
    for event in ("begun", "completed"):
        assert sorted(line["session"] for line in lines(ferry) if line["event"] == event) == sorted(sessions)


def test_a_log_that_was_moved_away_is_begun_anew_without_a_signal(serve: Serve) -> None:
    ferry = serve(top=TOP)
    first = sent(ferry)
    (ferry.folder / "audit.jsonl").rename(ferry.folder / "audit.jsonl.1")
    second = sent(ferry)
    assert {line["session"] for line in lines(ferry, "audit.jsonl.1")} == {first}
    assert {line["session"] for line in lines(ferry)} == {second}
    assert (ferry.folder / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_new_settings_may_put_it_elsewhere(serve: Serve) -> None:
    ferry = serve()
    sent(ferry)
    assert not (ferry.folder / "audit.jsonl").exists()
    settings = (ferry.folder / "bitsferry.toml").read_text()
    ferry.configure(settings.replace("[limits]", TOP + "\n[limits]"))
    ferry.reload()
    assert raw.eventually(lambda: "settings read again" in ferry.log.read_text())
    assert sent(ferry) in {line["session"] for line in lines(ferry)}


def test_while_it_cannot_be_written_clients_wait_and_nothing_is_lost(serve: Serve) -> None:
    ferry = serve(top=TOP)
    upload = ferry.begun()
    log = ferry.folder / "audit.jsonl"
    log.rename(ferry.folder / "before")
    log.mkdir()  # as good as a full disk
    assert ferry.upload().create().verdict == (503, None)
    answer = upload.fragment(b"bytes")
    assert answer.verdict == (503, None)
    assert answer.get("Retry-After") == "60"
    assert "audit log" in ferry.log.read_text()
    log.rmdir()
    assert upload.fragment(b"s", at=4, total=5).verdict == FINE
    assert upload.file.read_bytes() == b"bytes"
    assert [line["event"] for line in lines(ferry)] == ["completed"]


def check(tmp_path: Path, *settings: str) -> str:
    path = tmp_path / "bitsferry.toml"
    path.write_text("\n".join([*settings, "[[directory]]", 'url = "/in/"', 'folder = "in"']))
    command = [sys.executable, "-m", "bitsferry", "serve", "--config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 2
    return done.stderr


@pytest.mark.parametrize(
    ("audit_log", "why"),
    [
        ("in/audit.jsonl", "lies in the folder of /in/"),
        ("not/there/audit.jsonl", "cannot be written: No such file or directory"),
        ("in", "lies in the folder"),
    ],
)
def test_a_log_that_cannot_be_is_told_at_the_start(tmp_path: Path, audit_log: str, why: str) -> None:
    assert why in check(tmp_path, 'listen = ["127.0.0.1:0"]', f'audit_log = "{audit_log}"')
