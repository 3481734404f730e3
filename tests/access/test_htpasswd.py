"""Every way htpasswd files hash a password is understood, and nothing else is taken for one."""

from __future__ import annotations

import logging
import shutil
import subprocess
from pathlib import Path

import pytest

from bitsferry.access.htpasswd import htpasswd_line, kind_of_hash, read_htpasswd

# Made by htpasswd of apache2-utils 2.4.67 and, where that cannot, by libpass 1.9 and cryptography 50.
HASHES = {
    "bcrypt": "$2y$05$2RNRGtmeH6YEFfnDydSW/uLe8NVS5WXpJQ6TKWdNFOeNYS8zY7yNa",
    "apr1": "$apr1$NZG55Brz$GCPjk..Wmev19Gk2vhM5L1",
    "{SHA}": "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
    "sha256-crypt": "$5$yogQyEnbI9nple4n$fqNEEzxTd/MtgmO/znVAnoZwfIwp818eZbRvr1YBYK4",
    "sha512-crypt": "$6$G697dKaIgDI/U/3t$WiOhIOceNhIkzwEiFhFpYBGLEw8nQVHG54p5wKUAW1ekcPlWw6abVspoYDglkLxZs4"
    "VULdq5lNOtHVdl90S1.0",
    "md5-crypt": "$1$jTZl1EQS$3IARJsCVseJ/RhfIsG9qU/",
    "{SSHA}": "{SSHA}gVK8WC9YyFT1gMsQHTGCgT3sSv5zYWx0",
    "DES crypt": "cbpR0hd9yw55M",
    "argon2id": "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0$Sm3MnLdCFk0Af+croKgebRoqqmhbKd88iiW3yUOXn78",
    "{PLAIN}": "{PLAIN}secret",
}


@pytest.mark.parametrize("kind", HASHES)
def test_a_password_is_right_by_every_kind_of_hash_and_another_is_wrong(kind: str) -> None:
    password = b"secret123456" if kind == "DES crypt" else b"secret"
    users = read_htpasswd(f"alice:{HASHES[kind]}\n")
    assert users.check("alice", password)
    for wrong in (b"Secret", b"", b"secre", b"\xff\xfe", "é".encode() * 500, b"x" * 1024):
        assert not users.check("alice", wrong), wrong
    assert not users.check("bob", password)
    assert kind_of_hash(HASHES[kind]) == kind


def test_a_long_password_ends_for_bcrypt_where_it_ends_for_apache() -> None:
    users = read_htpasswd(htpasswd_line("alice", b"x" * 72))
    assert users.check("alice", b"x" * 72 + b"whatever")
    assert not users.check("alice", b"x" * 71)


def test_a_new_password_that_bcrypt_would_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="72 bytes"):
        htpasswd_line("alice", b"x" * 73)


def test_des_crypt_sees_eight_characters_and_a_warning_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        users = read_htpasswd(f"alice:{HASHES['DES crypt']}\n")
    assert users.check("alice", b"secret12 and more")
    assert ["8 characters" in record.getMessage() for record in caplog.records] == [True]


def test_plain_text_is_taken_where_it_says_that_it_is_and_a_warning_says_where(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        users = read_htpasswd("# people\nalice:{PLAIN}with: a colon\n")
    assert users.check("alice", b"with: a colon")
    assert [vars(record)["lines"] for record in caplog.records] == ["2"]
    assert "colon" not in caplog.text


@pytest.mark.parametrize(
    "hashed", ["secret", "{MD5}abc", "$2y$05$short", "$5$rounds=1$a$" + "x" * 43, "{SHA}AAAA"]
)
def test_what_is_no_hash_is_told_by_its_line_and_not_shown(hashed: str) -> None:
    with pytest.raises(ValueError, match=r"^line 3: ") as raised:
        read_htpasswd(f"# people\n\nalice:{hashed}\n")
    assert hashed not in str(raised.value)
    assert "alice" not in str(raised.value)


@pytest.mark.parametrize("line", ["alice", ":hash", "alice:"])
def test_a_line_that_is_none_is_told(line: str) -> None:
    with pytest.raises(ValueError, match=r"^line 1: "):
        read_htpasswd(line)


def test_a_user_with_two_lines_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"^line 2: this user has a line already"):
        read_htpasswd(f"alice:{HASHES['apr1']}\nalice:{HASHES['{SHA}']}\n")


def test_names_are_as_in_the_file_and_the_file_may_come_from_windows() -> None:
    users = read_htpasswd(
        f"\ufeffJörg:{HASHES['apr1']}\r\n# remark\r\n\r\nbob:{HASHES['{SHA}']}:a remark\r\n"
    )
    assert users.check("Jörg", b"secret")
    assert users.check("bob", b"secret")
    assert not users.check("jörg", b"secret")
    assert not users.check("Bob", b"secret")


def test_a_stranger_is_asked_as_slowly_as_somebody_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    import bcrypt

    asked: list[bytes] = []

    def check(password: bytes, hashed: bytes) -> bool:
        asked.append(hashed)
        return True

    monkeypatch.setattr(bcrypt, "checkpw", check)
    users = read_htpasswd(f"alice:{HASHES['bcrypt']}\n")
    assert users.check("alice", b"right")
    assert not users.check("nobody", b"right")
    assert asked == [HASHES["bcrypt"].encode()] * 2


def test_an_empty_file_has_nobody() -> None:
    assert not read_htpasswd("").check("alice", b"secret")


def test_a_token_says_which_password_and_which_reading_of_the_file() -> None:
    text = f"alice:{HASHES['apr1']}\n"
    users, again = read_htpasswd(text), read_htpasswd(text)
    assert users.token("alice", b"secret") == users.token("alice", b"secret")
    others = {
        users.token("alice", b"secrets"),
        users.token("alices", b"ecret"),
        users.token("", b"alicesecret"),
        again.token("alice", b"secret"),
    }
    assert len(others | {users.token("alice", b"secret")}) == 5


def test_no_hash_appears_in_what_is_printed() -> None:
    users = read_htpasswd(f"alice:{HASHES['apr1']}\n")
    assert "GCPjk" not in repr(users) + repr(vars(users))


@pytest.mark.skipif(shutil.which("htpasswd") is None, reason="htpasswd (apache2-utils) is not installed")
@pytest.mark.parametrize("how", ["-B", "-m", "-s", "-d", "-2", "-5"])
def test_what_htpasswd_writes_is_read(tmp_path: Path, how: str) -> None:
    file = tmp_path / "users"
    said = subprocess.run(
        ["htpasswd", "-ci", how, str(file), "jörg"],
        input="pässwö\n",
        text=True,
        capture_output=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    users = read_htpasswd(file.read_text(encoding="utf-8"))
    assert users.check("jörg", "pässwö".encode())
    assert not users.check("jörg", "passwö".encode())


@pytest.mark.skipif(shutil.which("htpasswd") is None, reason="htpasswd (apache2-utils) is not installed")
def test_htpasswd_believes_what_we_write(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text(htpasswd_line("alice", "pässword".encode()) + "\n", encoding="utf-8")
    for password, code in (("pässword", 0), ("password", 3)):
        done = subprocess.run(
            ["htpasswd", "-vi", str(file), "alice"],
            input=password,
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
