"""What a bitsferry.toml says about passwords, and what it hears when that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitsferry.access.htdigest import digest_lines
from bitsferry.cli.settings import SettingsError, read_settings


def read(folder: Path, directory: str, limits: str = "") -> tuple[str, ...]:
    """The schemes of the settings' only directory. Raises SettingsError."""
    path = folder / "bitsferry.toml"
    path.write_text(
        f'[[directory]]\nurl = "/in/"\nfolder = "in"\n{directory}\n[limits]\n{limits}\n', encoding="utf-8"
    )
    guard = read_settings(str(path)).directories[0].guard
    assert guard is not None
    return tuple(scheme.name for scheme in guard.schemes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "users").write_text("alice:{PLAIN}secret\n", encoding="utf-8")
    lines = digest_lines("alice", "the office", b"secret")
    (tmp_path / "users.digest").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def test_what_is_right_arrives(folder: Path) -> None:
    both = 'auth = ["digest", "basic"]\nhtpasswd = "users"\nhtdigest = "users.digest"\nrealm = "the office"'
    assert read(folder, both, 'wrong_passwords = 3\nwrong_password_delay = "2 s"') == ("digest", "basic")


@pytest.mark.parametrize(
    ("directory", "line", "why"),
    [
        (
            'auth = ["basic"]',
            4,
            '"basic" needs a file of users: htpasswd = FILE; make one with: bitsferry users add',
        ),
        ('auth = ["digest"]', 4, '"digest" needs a file of users: htdigest = FILE'),
        ('auth = ["basic"]\nhtpasswd = "nowhere"', 5, "nowhere cannot be read: No such file or directory"),
        ('htpasswd = "users"', 4, 'nobody is asked for it; auth = [...] needs "basic"'),
        ('auth = ["basic"]\nhtpasswd = "bitsferry.toml"', 5, "bitsferry.toml, line 1: "),
        ('auth = ["basic"]\nhtpasswd = "latin"', 5, "latin is not UTF-8 (byte 1): save it as UTF-8"),
        ('auth = ["digest"]\nhtdigest = "users.digest"', 5, 'realm = "the office" would fit'),
        ('auth = ["digest"]\nhtdigest = "users"', 5, "users, line 1: "),
        ('auth = ["basic"]\nhtpasswd = "users"\nrealm = "a:b"', 6, "is no realm"),
        ('auth = ["basic"]\nhtpasswd = "users"\nrealm = ""', 6, "is no realm"),
        ('auth = ["basicc"]', 4, '"basicc" is none of "none", "basic", "digest"'),
    ],
)
def test_a_mistake_is_told_with_its_line_and_what_would_be_right(
    folder: Path, directory: str, line: int, why: str
) -> None:
    (folder / "latin").write_bytes(b"j\xf6rg:{PLAIN}x")
    with pytest.raises(SettingsError) as told:
        read(folder, directory)
    assert f"bitsferry.toml, line {line}: " in str(told.value)
    assert why in str(told.value)
    assert "secret" not in str(told.value)
