"""Who takes too much waits, is told how long, and loses nothing."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from . import raw
from .conftest import Serve
from .ferry import Ferry
from .raw import Answer

FINE = (200, None)
WAIT = (503, None)
FULL = (500, 0x80070070)
TOO_LARGE = (500, 0x80200020)

# Passwords: "pw" for both, as bcrypt of the least work.
USERS = """ada:$2b$04$Dbrxtf096Ixoc2R9bgmXk.49D5VguE9dleaQnXcYNOQycWCBAfI6i
bob:$2b$04$Dbrxtf096Ixoc2R9bgmXk.49D5VguE9dleaQnXcYNOQycWCBAfI6i
"""


def waits(answer: Answer) -> int:
    """Seconds, of an answer that says to come again; the job lives on."""
    assert answer.verdict == WAIT
    assert answer.is_ack
    return int(answer.get("Retry-After") or 0)


def test_a_user_over_the_quota_comes_again(serve: Serve) -> None:
    ferry = serve(directory="user_quota = 1000")
    first = ferry.begun()
    assert first.fragment(bytes(700)).verdict == FINE
    second = ferry.begun()
    answer = second.fragment(bytes(10), total=301)
    assert waits(answer) == 3600
    assert answer.session == second.session
    assert first.close().verdict == FINE
    ferry.restart()
    assert waits(second.fragment(bytes(10), total=301)) == 3600
    assert second.fragment(bytes(300)).verdict == FINE
    assert ferry.begun().fragment(bytes(1), total=1001).verdict == TOO_LARGE


def test_users_who_say_their_name_are_counted_by_it(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "users").write_text(USERS)
    ferry = serve(
        directory=f'auth = ["basic"]\nhtpasswd = "{tmp_path / "users"}"\n'
        'user_quota = 1000\nsessions_per_user = 2\nname_template = "{user}/{name}"'
    )
    for user in ("ada", "bob"):
        said: dict[str, Any] = {"authorization": f"Basic {base64.b64encode(f'{user}:pw'.encode()).decode()}"}
        with ferry.line() as line:
            session = line.ask(raw.create("/in/a", **said)).session or ""
            assert line.ask(raw.fragment("/in/a", session, bytes(900), **said)).verdict == FINE
            assert line.ask(raw.close("/in/a", session, **said)).verdict == FINE
            session = line.ask(raw.create("/in/b", **said)).session or ""
            assert waits(line.ask(raw.fragment("/in/b", session, bytes(1), total=101, **said))) <= 3600
            assert line.ask(raw.create("/in/c", **said)).verdict == FINE
            assert waits(line.ask(raw.create("/in/d", **said))) == 60
    assert ferry.files == {"in", "in/ada", "in/ada/a", "in/bob", "in/bob/a"}


def test_workers_count_together(serve: Serve) -> None:
    """What another one took in is known some seconds later; what this one knows, at once."""
    ferry = serve(directory="user_quota = 1000", top="workers = 2")
    assert ferry.begun().fragment(bytes(1000)).verdict == FINE

    def is_refused() -> bool:
        upload = ferry.begun()
        refused = upload.fragment(b"x", total=1000).verdict == WAIT
        upload.cancel()
        upload.line.hang_up()
        return refused

    assert raw.eventually(lambda: all(is_refused() for _ in range(5)), within=20)


# Requests


def drained(ferry: Ferry, under: str = "/in/") -> Answer:
    """The first answer that says to come again."""
    with ferry.line() as line:
        for _ in range(500):
            answer = line.ask(raw.ping(under + "x"))
            if answer.status != 200:
                return answer
    raise AssertionError("nobody was refused")


def test_who_asks_too_often_comes_again(serve: Serve) -> None:
    ferry = serve(directory="requests_per_second = 5")
    assert 1 <= waits(drained(ferry)) <= 2
    with ferry.line() as line:
        assert raw.eventually(lambda: line.ask(raw.ping("/in/x")).status == 200)


def test_a_fragment_is_refused_before_its_bytes_are_read(serve: Serve) -> None:
    ferry = serve(directory="requests_per_second = 2")
    upload = ferry.begun()
    drained(ferry)
    data = bytes(1 << 20)
    upload.line.send(raw.head_of(raw.fragment(upload.url, upload.session, data)))
    assert waits(upload.line.answer()) >= 1
    assert [path.stat().st_size for path in ferry.folder.rglob("request.data")] == [0]
    upload.call_again()

    def goes_on() -> bool:
        answer = upload.fragment(data)
        upload.call_again()
        return answer.verdict == FINE

    assert raw.eventually(goes_on)


def test_a_small_refused_fragment_leaves_the_connection_usable(serve: Serve) -> None:
    ferry = serve(directory="requests_per_second = 2")
    upload = ferry.begun()
    drained(ferry)
    assert waits(upload.fragment(bytes(1000))) >= 1
    assert raw.eventually(lambda: upload.fragment(bytes(1000)).verdict == FINE)


def test_reading_back_is_a_request_too(serve: Serve) -> None:
    ferry = serve(directory='requests_per_second = 1\nread_back = "everybody"')
    assert ferry.begun(name="a").fragment(b"bytes").verdict == FINE
    drained(ferry)
    with ferry.line() as line:
        answer = line.ask(raw.request("GET /in/a HTTP/1.1", {}))
    assert answer.status == 503
    assert answer.get("Retry-After")


def test_who_begins_too_often_comes_again_and_others_need_not(serve: Serve) -> None:
    ferry = serve(directory="sessions_per_second = 0.2")
    uploads = [ferry.begun() for _ in range(2)]
    assert 1 <= waits(ferry.upload().create()) <= 5
    for upload in uploads:  # what began goes on
        assert upload.send(bytes(100), 10).verdict == FINE
        assert upload.close().verdict == FINE


def test_our_own_client_waits_and_goes_on(serve: Serve, tmp_path: Path) -> None:
    ferry = serve(directory="requests_per_second = 2")
    (tmp_path / "a").write_bytes(b"bytes")
    drained(ferry)
    url = f"http://127.0.0.1:{ferry.port}/in/"
    command = [sys.executable, "-m", "bitsferry", "send", "--quiet", str(tmp_path / "a"), url]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
    assert (ferry.folder / "in/a").read_bytes() == b"bytes"


def test_a_flood_does_not_fill_the_log(serve: Serve) -> None:
    ferry = serve(directory="requests_per_second = 1")
    drained(ferry)
    with ferry.line() as line:
        for _ in range(300):
            line.ask(raw.ping("/in/x"))
    lines = [line for line in ferry.log.read_text().splitlines() if "per second from one user" in line]
    assert len(lines) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        "requests_per_second = 0",
        "requests_per_second = -1",
        'sessions_per_second = "5"',
        "requests_per_second = true",
        "requests_per_second = inf",
        "requests_per_second = nan",
        'bandwidth = "2 Mbit/s"',
        'bandwidth = "0 MB/s"',
        "bandwidth_per_user = 0",
        "bandwidth_per_connection = -1",
        'user_quota = "0"',
        'name_template = "{host}"',
        'name_template = "../{name}"',
        "name_template = 7",
    ],
)
def test_what_makes_no_sense_is_told_with_its_line(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "bitsferry.toml"
    path.write_text(f'[[directory]]\nurl = "/in/"\nfolder = "in"\n{wrong}\n')
    command = [sys.executable, "-m", "bitsferry", "serve", "--config", str(path), "--check-config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"bitsferry.toml, line 4: {wrong.partition(' ')[0]}: " in done.stderr
    assert done.stderr.count("\n") == 1
