"""The settings of a directory's digests."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitsferry.cli import digests
from bitsferry.cli.settings import SettingsError, read_settings
from bitsferry.server.directory import Directory
from server.conftest import settings


def read(tmp_path: Path, directory: str) -> Directory:
    path = tmp_path / "bitsferry.toml"
    path.write_text(settings(directory=directory), encoding="utf-8")
    return read_settings(str(path)).directories[0]


@pytest.mark.parametrize(
    ("told", "digest", "file"),
    [
        ("", None, False),
        ('digest = "none"\ndigest_file = false', None, False),
        ('digest = "sha-256"', "sha-256", False),
        ('digest_file = true\ndigest = "sha-256"', "sha-256", True),
    ],
)
def test_digests_are_computed_where_that_is_said(
    tmp_path: Path, told: str, digest: str | None, file: bool
) -> None:
    directory = read(tmp_path, told)
    assert (directory.digest, directory.digest_file) == (digest, file)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ('digest = "md5"', 'digest: "md5" is none of "none", "sha-256", "blake3"'),
        ("digest = true", "digest: true is none of"),
        (
            "digest_file = true",
            'digest_file: there is no digest to put into it; say which one: digest = "sha-256"',
        ),
        ('digest = "none"\ndigest_file = true', "digest_file: there is no digest"),
        ('digest_file = "yes"', "digest_file: "),
    ],
)
def test_what_makes_no_sense_is_told(tmp_path: Path, told: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, told)
    assert said in str(caught.value)


def test_what_is_not_installed_is_told_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "lacks", lambda algorithm: "blake3" if algorithm == "blake3" else None)
    with pytest.raises(SettingsError, match=r"digest: blake3 needs more: pip install 'bitsferry\[blake3\]'"):
        read(tmp_path, 'digest = "blake3"')
    assert read(tmp_path, 'digest = "sha-256"').digest == "sha-256"


def test_blake3_is_known_where_it_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("blake3")
    assert read(tmp_path, 'digest = "blake3"').digest == "blake3"
