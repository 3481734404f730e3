"""`bitsferry users add --for token`: a token is shown once, and its hash is kept."""

from __future__ import annotations

import datetime
from pathlib import Path

from click.testing import CliRunner, Result

from bitsferry.access.tokens import KnownToken, parse_tokens
from bitsferry.cli.users import users


def add(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(users, ["add", "--for", "token", str(path), *arguments])


def test_a_new_token_is_all_there_is_on_standard_output_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    done = add(path, "host1", "--until", "2027-01-31")
    assert done.exit_code == 0
    token = done.stdout.removesuffix("\n")
    assert token not in done.stderr + path.read_text()
    assert parse_tokens(path.read_text()).find(token) == KnownToken("host1", datetime.date(2027, 1, 31))
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_second_one_stands_beside_the_first_until_the_user_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    both = [add(path, "host1").stdout.strip() for _ in range(2)]
    known = parse_tokens(path.read_text())
    assert [known.find(token) for token in both] == [KnownToken("host1"), KnownToken("host1")]
    assert CliRunner().invoke(users, ["remove", str(path), "host1"]).exit_code == 0
    assert path.read_text() == ""


def test_what_cannot_be_meant_is_told(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    assert "write a day as 2027-01-31" in add(path, "host1", "--until", "soon").stderr
    wrong = CliRunner().invoke(users, ["add", str(path), "host1", "--until", "2027-01-31"])
    assert (wrong.exit_code, "--until is for tokens" in wrong.stderr) == (2, True)
    assert not path.exists()
