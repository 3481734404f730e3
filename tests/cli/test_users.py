"""`bitsferry users`: files of users, made and changed with care."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bitsferry.access.htdigest import read_htdigest
from bitsferry.access.htpasswd import read_htpasswd
from bitsferry.cli import user_file
from bitsferry.cli.main import main


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "users"


def users(*arguments: object, said: str | bytes = "") -> Result:
    return CliRunner().invoke(main, ["users", *map(str, arguments)], input=said)


def add(file: Path, name: str, *options: str, password: str | bytes = "secret\n") -> Result:
    return users("add", file, name, "--password-stdin", *options, said=password)


def lets_in(file: Path, name: str, password: str) -> bool:
    return read_htpasswd(file.read_text(encoding="utf-8")).check(name, password.encode())


def test_a_file_begins_with_its_first_user_and_is_nobody_elses(file: Path) -> None:
    done = add(file, "alice")
    assert (done.exit_code, done.output) == (0, "alice: added\n")
    assert lets_in(file, "alice", "secret")
    assert file.read_text(encoding="utf-8").startswith("alice:$2y$")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(file.parent) == ["users"]


def test_a_password_is_changed_where_it_stands_and_other_lines_stay(file: Path) -> None:
    before = "# people\r\nbob:{PLAIN}x\n\nalice:{PLAIN}old\ncarol:$apr1$NZG55Brz$GCPjk..Wmev19Gk2vhM5L1\n"
    file.write_bytes(before.encode() + b"# in Latin-1: \xe9")
    done = add(file, "alice", password="new")
    assert done.stdout == "alice: password changed\n"
    after = file.read_bytes().decode("latin-1").split("\n")
    assert [line for line in after if not line.startswith("alice:")] == [
        "# people\r",
        "bob:{PLAIN}x",
        "",
        "carol:$apr1$NZG55Brz$GCPjk..Wmev19Gk2vhM5L1",
        "# in Latin-1: é",
        "",
    ]
    assert after[3].startswith("alice:$2y$")


@pytest.mark.skipif(os.name != "posix", reason="there are no modes here")
def test_a_file_keeps_its_mode_and_one_that_all_can_read_is_told(file: Path) -> None:
    file.touch()
    file.chmod(0o640)
    assert add(file, "alice").stderr == ""
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    file.chmod(0o644)
    assert "everybody on this machine can read" in add(file, "alice").stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


@pytest.mark.skipif(os.name != "posix", reason="links are for administrators here")
def test_a_link_stays_one(file: Path) -> None:
    target = file.parent / "target"
    target.touch()
    file.symlink_to(target)
    add(file, "alice")
    assert file.is_symlink()
    assert lets_in(target, "alice", "secret")


def test_digest_has_a_line_for_each_algorithm_and_realm(file: Path) -> None:
    add(file, "alice", "--for", "digest")
    add(file, "bob", "--for", "digest")
    add(file, "alice", "--for", "digest", "--realm", "the printers")
    done = add(file, "alice", "--for", "digest", password="new")
    assert done.output == "alice: password changed\n"
    names = [line.split(":")[:2] for line in file.read_text(encoding="utf-8").splitlines()]
    ours, theirs = ["alice", "bitsferry"], ["alice", "the printers"]
    assert names == [ours, ours, *[["bob", "bitsferry"]] * 2, theirs, theirs]
    assert read_htdigest(file.read_text(encoding="utf-8"), "the printers").algorithms == ("SHA-256", "MD5")


def test_users_are_removed_and_listed(file: Path) -> None:
    for name in ("alice", "bob", "jörg"):
        add(file, name)
    add(file, "bob", "--for", "digest")
    assert users("list", file).output == "alice\nbob\njörg\n"
    assert users("remove", file, "bob").output == "bob: removed\n"
    assert users("list", file).output == "alice\njörg\n"
    done = users("remove", file, "bob")
    assert (done.exit_code, done.stderr) == (1, f"bitsferry: {file} has no user bob\n")


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("", "empty"),
        ("\n", "empty"),
        ("one\ntwo\n", "line breaks"),
        ("x" * 73, "72 bytes"),
        ("x" * 3000, "at most 1024"),
        (b"secr\xe9t", "not UTF-8"),
    ],
)
def test_a_password_that_would_not_work_is_refused_and_not_shown(
    file: Path, password: str | bytes, why: str
) -> None:
    done = add(file, "alice", password=password)
    assert done.exit_code == 1
    assert why in done.stderr
    assert "two" not in done.output
    assert not file.exists()


def test_powershell_ends_its_lines_in_its_way(file: Path) -> None:
    add(file, "alice", password="\ufeffpässword\r\n".encode())
    assert lets_in(file, "alice", "pässword")


@pytest.mark.parametrize("name", ["a:b", "", "#alice", " alice", "al\nice", "x" * 301])
def test_a_name_that_would_not_work_is_refused(file: Path, name: str) -> None:
    done = add(file, name)
    assert done.exit_code == 2
    assert "a name has" in done.stderr
    assert not file.exists()


@pytest.mark.parametrize("realm", ["a:b", 'quo"ted', "", "é"])
def test_a_realm_that_would_not_work_is_refused(file: Path, realm: str) -> None:
    assert add(file, "alice", "--for", "digest", "--realm", realm).exit_code == 2


def test_nobody_says_a_password_as_an_argument_and_nobody_is_asked_who_is_not_there(file: Path) -> None:
    assert users("add", file, "alice", "secret").exit_code == 2
    done = users("add", file, "alice", said="secret\n")
    assert done.exit_code == 2
    assert "--password-stdin" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such terminal here")
def test_a_person_is_asked_twice_and_sees_nothing_of_it(file: Path) -> None:
    import pty

    here, there = pty.openpty()
    command = [sys.executable, "-m", "bitsferry", "users", "add", str(file), "alice"]
    with subprocess.Popen(
        command, stdin=there, stdout=there, stderr=there, start_new_session=True
    ) as process:
        os.close(there)
        shown = b""
        for asked in (b"Password of alice", b"Repeat"):
            while asked not in shown or not shown.rstrip().endswith(b":"):
                shown += os.read(here, 1000)
            os.write(here, b"secret\n")
            shown += b" "
        try:
            while block := os.read(here, 1000):
                shown += block
        except OSError:
            pass  # the other end is closed
    os.close(here)
    assert process.returncode == 0, shown
    assert b"secret" not in shown
    assert lets_in(file, "alice", "secret")


def test_two_at_once_lose_nothing(file: Path) -> None:
    add(file, "alice")
    before = file.read_bytes()
    with user_file.changing(str(file)) as lines:
        done = add(file, "bob")
        assert done.exit_code == 1
        assert "somebody else is changing" in done.stderr
        assert f"delete {file}.new" in done.stderr
        assert file.read_bytes() == before
        lines.append("carol:{PLAIN}x")
    assert users("list", file).output == "alice\ncarol\n"


def test_what_goes_wrong_changes_nothing(file: Path) -> None:
    add(file, "alice")
    before = file.read_bytes()
    with pytest.raises(RuntimeError), user_file.changing(str(file)) as lines:
        lines.clear()
        raise RuntimeError
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == ["users"]


def test_what_cannot_be_is_told(tmp_path: Path) -> None:
    done = add(tmp_path / "nowhere" / "users", "alice")
    assert done.exit_code == 1
    assert "cannot be changed: No such file or directory" in done.stderr
    done = users("list", tmp_path / "users")
    assert done.exit_code == 1
    assert "cannot be read" in done.stderr
