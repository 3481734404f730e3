"""Rules at the door of a real server: who may come in, of those who are known."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from bitsferry.access.tokens import new_token, token_line

from . import raw
from .conftest import Serve, settings
from .ferry import Ferry

DENIED = (403, 0x80070005)
TOKENS = {user: new_token() for user in ("alice", "bob", "carol", "dora")}


@pytest.fixture
def known(tmp_path: Path) -> str:
    """Settings by which the users are known."""
    path = tmp_path / "tokens"
    path.write_text("\n".join(token_line(user, token) for user, token in TOKENS.items()))
    return f'auth = ["bearer"]\ntokens = "{path}"\n'


def verdict(ferry: Ferry, user: str | None = None) -> tuple[int, int | None]:
    said = {} if user is None else {"x_api_key": TOKENS[user]}
    with ferry.line() as line:
        return line.ask(raw.create(f"/in/{user}", **said)).verdict


def test_one_of_users_and_groups_is_enough_and_who_is_denied_may_not(
    serve: Serve, known: str, tmp_path: Path
) -> None:
    groups = tmp_path / "groups"
    groups.write_text("senders: bob carol\n")
    rules = (
        f'allow_users = ["alice"]\nallow_groups = ["senders"]\ngroups = "{groups}"\ndeny_users = ["carol"]'
    )
    ferry = serve(directory=known + rules)
    assert verdict(ferry, "alice") == (200, None)
    assert verdict(ferry, "bob") == (200, None)
    assert verdict(ferry, "carol") == DENIED
    assert verdict(ferry, "dora") == DENIED
    assert verdict(ferry) == (401, None)
    (line,) = (each for each in ferry.log.read_text().splitlines() if "dora may not come in" in each)
    assert "target=/in/dora address=127.0.0.1" in line
    groups.write_text("senders: dora\n")
    assert raw.eventually(lambda: verdict(ferry, "dora") == (200, None))
    assert verdict(ferry, "bob") == DENIED


def test_a_network_may_or_may_not_whoever_it_is(serve: Serve, known: str) -> None:
    near = serve(directory='allow_networks = ["127.0.0.0/8", "::1"]')
    assert verdict(near) == (200, None)
    far = serve(directory=known + 'allow_networks = ["10.0.0.0/8"]')
    assert verdict(far, "alice") == DENIED
    assert verdict(far) == DENIED
    near.configure(settings(directory='deny_networks = ["127.0.0.1"]'))
    near.process.send_signal(signal.SIGHUP)
    assert raw.eventually(lambda: verdict(near) == DENIED)


def test_what_is_refused_may_neither_read_nor_write_nor_ping(serve: Serve, known: str) -> None:
    ferry = serve(directory=known + 'allow_users = ["alice"]\nread_back = "everybody"')
    (ferry.folder / "in" / "a").write_bytes(b"some bytes")
    with ferry.line() as line:
        for user, status in (("alice", 200), ("bob", 403)):
            assert line.ask(raw.ping("/in/a", x_api_key=TOKENS[user])).status == status
            got = line.ask(raw.request("GET /in/a HTTP/1.1", {"X-API-Key": TOKENS[user]}))
            assert got.status == status
            assert (got.body == b"some bytes") is (user == "alice")


def test_who_needs_not_say_a_name_but_does_must_have_it_right(serve: Serve, known: str) -> None:
    ferry = serve(directory=known.replace('["bearer"]', '["none", "bearer"]'))
    assert verdict(ferry) == (200, None)
    assert verdict(ferry, "alice") == (200, None)
    with ferry.line() as line:
        assert line.ask(raw.create("/in/x", x_api_key="wrong")).status == 401


def test_another_users_session_stays_anothers(serve: Serve, known: str) -> None:
    ferry = serve(directory=known)
    with ferry.line() as line:
        session = line.ask(raw.create("/in/a", x_api_key=TOKENS["alice"])).session or ""
        assert line.ask(raw.fragment("/in/a", session, b"x", x_api_key=TOKENS["bob"])).verdict == DENIED
        assert line.ask(raw.cancel("/in/a", session, x_api_key=TOKENS["bob"])).verdict == DENIED
        assert line.ask(raw.fragment("/in/a", session, b"x", x_api_key=TOKENS["alice"])).status == 200


def test_where_nobody_can_be_asked_for_a_proof_its_lack_is_refused_for_good(serve: Serve) -> None:
    """A 401 has to say how to answer it (RFC 9110 15.5.2), and no header can bring a certificate."""
    ferry = serve(directory='auth = ["certificate"]')
    with ferry.line() as line:
        answer = line.ask(raw.create("/in/a"))
        assert answer.verdict == DENIED
        assert answer.get("WWW-Authenticate") is None
    assert "auth: certificate) says who this is, and it cannot be asked for" in ferry.log.read_text()
