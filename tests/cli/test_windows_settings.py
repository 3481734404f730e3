"""What the settings say of NTLM and Negotiate, with the mistakes people make; files of NT hashes."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from passlib.hash import nthash

from bitsferry.access.nt_hashes import read_nt_hashes
from bitsferry.cli.main import main
from bitsferry.cli.settings import Settings, SettingsError, read_settings

HASHES = 'nt_hashes = "hashes"'


def read(tmp_path: Path, auth: str, *lines: str, limits: str = "") -> Settings:
    (tmp_path / "hashes").write_text(f"alice:{nthash.hash('secret')}\n")
    (tmp_path / "broken").write_text(f"alice:{nthash.hash('secret')}\nbob:secret\n")
    settings = tmp_path / "bitsferry.toml"
    told = "\n".join(lines)
    settings.write_text(f'[[directory]]\nurl = "/in/"\nfolder = "in"\nauth = {auth}\n{told}\n{limits}\n')
    return read_settings(str(settings))


def schemes(settings: Settings) -> list[str]:
    guard = settings.directories[0].guard
    assert guard is not None
    return [scheme.name for scheme in guard.schemes]


def test_one_file_serves_both_schemes(tmp_path: Path) -> None:
    settings = read(tmp_path, '["negotiate", "ntlm"]', HASHES, 'ntlm_domain = "corp"')
    assert schemes(settings) == ["negotiate", "ntlm"]


@pytest.mark.parametrize(
    ("auth", "lines", "line", "why"),
    [
        ('["ntlm"]', (), 4, 'auth: "ntlm" needs nt_hashes'),
        ('["negotiate"]', (), 4, 'auth: "negotiate" needs a keytab'),
        ('["ntlm"]', ('nt_hashes = "missing"',), 5, "nt_hashes: .*missing cannot be read: No such file"),
        ('["ntlm"]', ('nt_hashes = "broken"',), 5, "nt_hashes: .*broken, line 2: an NT hash has 32"),
        (
            '["ntlm"]',
            (HASHES, 'ntlm_domain = "corp.example"'),
            6,
            'ntlm_domain: "corp.example" is no NetBIOS',
        ),
        ('["ntlm"]', (HASHES, 'keytab = "hashes"'), 6, 'keytab: nobody is asked for it; .*"negotiate"'),
        ('["none"]', (HASHES,), 5, 'nt_hashes: nobody is asked for it; .*"ntlm" or "negotiate"'),
    ],
)
def test_a_mistake_is_told(tmp_path: Path, auth: str, lines: tuple[str, ...], line: int, why: str) -> None:
    with pytest.raises(SettingsError) as told:
        read(tmp_path, auth, *lines)
    assert re.search(rf"bitsferry\.toml, line {line}: {why}", str(told.value))


@pytest.mark.parametrize("keytab", ["missing", "hashes"])
def test_a_keytab_without_a_key_is_told(tmp_path: Path, keytab: str) -> None:
    pytest.importorskip("gssapi", reason="there is no GSSAPI here (pip install 'bitsferry[kerberos]')")
    with pytest.raises(SettingsError, match=rf"line 5: keytab: .*{keytab} (cannot be read|is no keytab)"):
        read(tmp_path, '["negotiate"]', f'keytab = "{keytab}"')


def test_without_gssapi_it_is_said_where_that_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gssapi", None)
    with pytest.raises(SettingsError, match=r"line 5: keytab: .*pip install 'bitsferry\[kerberos\]'"):
        read(tmp_path, '["negotiate"]', 'keytab = "hashes"')


def test_heads_may_be_as_large_as_a_ticket_makes_them(tmp_path: Path) -> None:
    assert read(tmp_path, '["ntlm"]', HASHES).limits.head_size == 16 * 1024
    assert read(tmp_path, '["negotiate"]', HASHES).limits.head_size == 64 * 1024
    limits = '[limits]\nhead_size = "20 KiB"'
    assert read(tmp_path, '["negotiate"]', HASHES, limits=limits).limits.head_size == 20 * 1024


def test_users_are_added_to_a_file_of_nt_hashes(tmp_path: Path) -> None:
    file = tmp_path / "hashes"

    def add(name: str, password: str) -> None:
        command = ["users", "add", "--for", "ntlm", "--password-stdin", str(file), name]
        done = CliRunner().invoke(main, command, input=password)
        assert done.exit_code == 0, done.output

    add("CORP\\alice", "secret\n")
    add("bob", "Paßwort\n")
    add("corp\\Alice", "another\n")  # the same, to Windows
    accounts = read_nt_hashes(file.read_text("utf-8"))
    assert len(accounts) == 2
    for user, domain, password in (("alice", "CORP", "another"), ("bob", "", "Paßwort")):
        account = accounts.find(user, domain)
        assert account is not None
        assert account.hash.hex() == nthash.hash(password)
