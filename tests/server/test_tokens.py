"""Tokens at the door of a real server: Bearer, API keys and JWTs, sent by raw sockets, curl and ourselves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bitsferry.access.tokens import new_token, token_line

from . import raw
from .conftest import Serve
from .ferry import Ferry
from .raw import Line

TOKEN = "Ndxj162_g5BmqrymKRKH_Izv3Xy-o6B2Z0VLHbhvhvU"  # the same each time: it is in the names of tests
RIGHT = f"Bearer {TOKEN}"

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(token_line("host1", TOKEN))
    return path


@pytest.fixture
def ferry(serve: Serve, tokens: Path) -> Ferry:
    return serve(directory=f'auth = ["bearer"]\ntokens = "{tokens}"\nread_back = "everybody"')


@pytest.fixture
def line(ferry: Ferry) -> Iterator[Line]:
    with ferry.line() as line:
        yield line


def test_without_a_token_it_is_asked_for(line: Line) -> None:
    answer = line.ask(raw.create("/in/a"))
    assert answer.verdict == (401, None)
    assert answer.is_ack
    assert answer.get("WWW-Authenticate") == 'Bearer realm="bitsferry"'


@pytest.mark.parametrize("headers", [{"authorization": RIGHT}, {"x_api_key": TOKEN}])
def test_a_whole_upload_with_a_token(ferry: Ferry, line: Line, headers: dict[str, Any]) -> None:
    session = line.ask(raw.create("/in/a", **headers)).session or ""
    assert line.ask(raw.fragment("/in/a", session, b"some bytes", **headers)).verdict == (200, None)
    assert line.ask(raw.close("/in/a", session, **headers)).verdict == (200, None)
    assert (ferry.folder / "in" / "a").read_bytes() == b"some bytes"
    assert "user=host1" in ferry.log.read_text()


def test_a_wrong_one_is_told_so_and_neither_it_nor_the_right_one_is_in_the_log(
    ferry: Ferry, line: Line
) -> None:
    wrong = new_token()
    for headers in (
        {"authorization": f"Bearer {wrong}"},
        {"x_api_key": wrong},
        {"authorization": f"{RIGHT}x"},
    ):
        answer = line.ask(raw.create("/in/a", **headers))
        assert answer.verdict == (401, None)
        assert answer.get("WWW-Authenticate") == 'Bearer realm="bitsferry", error="invalid_token"'
    assert line.ask(raw.create("/in/a", authorization=RIGHT)).status == 200
    log = ferry.log.read_text()
    assert log.count("refused: nobody knows the token") == 3
    assert wrong not in log
    assert TOKEN not in log


def test_a_fragment_without_its_token_is_refused_and_the_session_lives(ferry: Ferry, line: Line) -> None:
    session = line.ask(raw.create("/in/a", authorization=RIGHT)).session or ""
    assert line.ask(raw.fragment("/in/a", session, b"some bytes")).verdict == (401, None)
    assert line.ask(raw.fragment("/in/a", session, b"some bytes", authorization=RIGHT)).received == 10


def test_what_is_given_out_needs_the_token_too(ferry: Ferry, line: Line) -> None:
    (ferry.folder / "in" / "a").write_bytes(b"some bytes")
    for method in ("GET", "HEAD"):
        assert line.ask(raw.request(f"{method} /in/a HTTP/1.1", {})).status == 401
    answer = line.ask(raw.request("GET /in/a HTTP/1.1", {"X-API-Key": TOKEN}))
    assert (answer.status, answer.body) == (200, b"some bytes")
    reply = "GET /in/.bitsferry/replies/A0FF5911-0000-4000-8000-000000000000 HTTP/1.1"
    assert line.ask(raw.request(reply, {})).status == 401
    assert line.ask(raw.request(reply, {"X-API-Key": TOKEN})).status == 404


def test_a_form_that_is_wrong_is_told_before_anybody_is_asked(line: Line) -> None:
    assert line.ask(raw.packet("Create-Session", "/in/a")).status == 400
    assert line.ask(raw.packet("Nonsense", "/in/a")).status == 400


def test_a_token_that_is_taken_out_of_the_file_is_refused_soon(tokens: Path, line: Line) -> None:
    assert line.ask(raw.ping("/in/a", authorization=RIGHT)).status == 200
    tokens.write_text("# nobody any more\n")
    assert raw.eventually(lambda: line.ask(raw.ping("/in/a", authorization=RIGHT)).status == 401)


@needs_curl
@pytest.mark.parametrize("header", [f"Authorization: {RIGHT}", f"X-API-Key: {TOKEN}"])
def test_curl_comes_in_with_a_header(ferry: Ferry, header: str) -> None:
    assert curl_status(ferry, "-H", header) == "200"
    assert curl_status(ferry, "-H", header + "x") == "401"


def curl_status(ferry: Ferry, *options: str) -> str:
    done = subprocess.run(
        [
            *(
                "curl",
                "-sS",
                "-q",
                "--noproxy",
                "*",
                "--max-time",
                "10",
                "-o",
                os.devnull,
                "-w",
                "%{http_code}",
            ),
            *("-X", "BITS_POST", "-H", "BITS-Packet-Type: Ping", "-H", "Content-Length: 0"),
            *(*options, f"http://127.0.0.1:{ferry.port}/in/a"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("how", [("--auth", "bearer"), ("--header", f"X-API-Key: {TOKEN}")])
def test_our_own_client_comes_in(ferry: Ferry, tmp_path: Path, how: tuple[str, str]) -> None:
    file = tmp_path / "report"
    file.write_bytes(b"all of it")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bitsferry", "send", str(file), f"http://127.0.0.1:{ferry.port}/in/"),
            *("--quiet", "--proxy", "none", *how),
        ],
        env=os.environ | {"BITSFERRY_TOKEN": TOKEN, "XDG_STATE_HOME": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (ferry.folder / "in" / "report").read_bytes() == b"all of it"


def test_a_jwt_comes_in_and_an_expired_one_does_not(serve: Serve, tmp_path: Path, tokens: Path) -> None:
    jose = pytest.importorskip("joserfc.jwt", reason="the extra jwt is not here")
    from joserfc.jwk import ECKey

    key = ECKey.generate_key("P-256", {"kid": "1"})
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    ferry = serve(
        directory=f"""
            auth = ["bearer"]
            tokens = "{tokens}"
            jwks = "{keys}"
            jwt_issuer = "https://id.example"
            jwt_audience = "uploads"
            jwt_groups_claim = "roles"
            allow_groups = ["sender"]
            allow_users = ["host1"]
            """
    )

    def token(seconds: float, **more: object) -> str:
        claims = {"iss": "https://id.example", "aud": "uploads", "sub": "alice", "roles": ["sender"]}
        said = claims | {"exp": int(time.time() + seconds)} | more
        return f"Bearer {jose.encode({'alg': 'ES256', 'kid': '1'}, said, key)}"

    with ferry.line() as line:
        assert line.ask(raw.create("/in/a", authorization=token(60))).status == 200
        assert line.ask(raw.create("/in/b", authorization=RIGHT)).status == 200
        assert line.ask(raw.create("/in/c", authorization=token(-120))).status == 401
        assert line.ask(raw.create("/in/d", authorization=token(60, aud="mail"))).status == 401
        assert line.ask(raw.create("/in/e", authorization=token(60, roles=[]))).verdict == (403, 0x80070005)
    log = ferry.log.read_text()
    assert "user=alice" in log
    assert "refused: the token is expired" in log
    assert "eyJ" not in log


def test_keys_that_cannot_be_fetched_are_a_reason_to_come_again(serve: Serve) -> None:
    pytest.importorskip("joserfc", reason="the extra jwt is not here")
    ferry = serve(
        directory="""
            auth = ["bearer"]
            jwks = "http://127.0.0.1:9/keys"
            jwt_issuer = "i"
            jwt_audience = "a"
            """
    )
    head, claims = "eyJhbGciOiJSUzI1NiJ9", "eyJpc3MiOiJpIiwiYXVkIjoiYSJ9"  # RS256, from i for a
    with ferry.line() as line:
        answer = line.ask(raw.create("/in/a", authorization=f"Bearer {head}.{claims}.AAAA"))
        assert answer.verdict == (503, None)
        assert int(answer.get("Retry-After") or 0) > 0
