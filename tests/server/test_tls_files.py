"""The files of a server's certificates: what is wrong with them is told, what changes is noticed."""

from __future__ import annotations

import asyncio
import logging
import shutil
import subprocess
from pathlib import Path

import pytest

from bitsferry.server.tls import ServerTls, Tls, UnusableTls

from .authority import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def look(tls: Tls, times: int = 1) -> bool:
    """Whether it uses something else now."""
    before = tls.context
    for _ in range(times):
        asyncio.run(tls.look())
    return tls.context is not before


def served(authority: Authority, **others: str) -> Tls:
    pair = (
        authority.issue("server.pem", "localhost", key="server.key"),
        str(authority.folder / "server.key"),
    )
    return Tls(ServerTls((pair,), **others))  # type: ignore[arg-type]


# Renewed


def test_files_that_stay_are_not_read_again(authority: Authority) -> None:
    assert not look(served(authority), times=3)


def test_a_pair_that_was_replaced_is_used(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tls = served(authority)
    authority.issue("server.pem", "localhost", key="server.key")
    assert look(tls)
    assert caplog.messages == ["the files for TLS changed; new connections get what is in them now"]
    assert not look(tls)


def test_nothing_is_said_of_a_pair_that_is_half_replaced_for_a_moment(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    tls = served(authority)
    old = (authority.folder / "server.key").read_bytes()
    authority.issue("server.pem", "localhost", key="server.key")
    new = (authority.folder / "server.key").read_bytes()
    (authority.folder / "server.key").write_bytes(old)
    assert not look(tls)
    (authority.folder / "server.key").write_bytes(new)
    assert look(tls)
    assert caplog.messages == []


@pytest.mark.parametrize("wrong", ["mismatch", "half", "gone"])
def test_what_stays_wrong_is_told_once_and_the_old_one_stays(
    authority: Authority, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    caplog.set_level(logging.WARNING)
    tls = served(authority)
    key = authority.folder / "server.key"
    if wrong == "mismatch":
        authority.issue("server.pem", "localhost")
    elif wrong == "half":
        key.write_bytes(key.read_bytes()[:100])
    else:
        key.unlink()
    assert not look(tls, times=5)
    (message,) = caplog.messages
    assert message.startswith("TLS stays as it was: ")
    assert str(key) in message
    authority.issue("server.pem", "localhost", key="server.key")
    assert look(tls)


def test_authorities_and_lists_of_revoked_ones_are_looked_at_as_well(authority: Authority) -> None:
    one = authority.issue("one.pem", "host1")
    crl = authority.revoke()
    tls = served(authority, client_certificates="required", client_ca=authority.file, client_crl=crl)
    authority.revoke(one)
    assert look(tls)
    Path(authority.file).write_bytes(Authority(authority.folder, "other").ca.cert_pem.bytes())
    assert look(tls)


# Wrong from the beginning


def wrong(**settings: object) -> UnusableTls:
    with pytest.raises(UnusableTls) as caught:
        Tls(ServerTls(**settings))  # type: ignore[arg-type]
    return caught.value


def test_a_file_that_cannot_be_used_is_named_with_the_reason(authority: Authority) -> None:
    good = authority.issue("good.pem", "localhost")
    apart = authority.issue("apart.pem", "localhost", key="apart.key")
    empty = authority.folder / "empty.pem"
    empty.touch()
    for pair, key, why in [
        ((str(authority.folder / "none.pem"), None), "certificate", "none.pem cannot be read: No such file"),
        ((good, str(authority.folder / "none.key")), "key", "none.key cannot be read: No such file"),
        ((apart, None), "certificate", "what is needed is not in it, in PEM form"),
        ((str(empty), None), "certificate", "what is needed is not in it, in PEM form"),
        ((good, str(authority.folder / "apart.key")), "key", "the key belongs to another certificate"),
    ]:
        error = wrong(certificates=(pair,))
        assert error.key == key
        assert why in str(error)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here")
def test_a_key_behind_a_password_is_an_error_and_no_question(authority: Authority) -> None:
    authority.issue("server.pem", "localhost", key="server.key")
    locked = authority.folder / "locked.key"
    command = ["openssl", "pkey", "-in", str(authority.folder / "server.key"), "-aes128", "-out", str(locked)]
    subprocess.run([*command, "-passout", "pass:secret"], check=True, capture_output=True)
    error = wrong(certificates=((str(authority.folder / "server.pem"), str(locked)),))
    assert error.key == "key"
    assert f"the key in {locked} is locked by a password" in str(error)


def test_a_list_of_revoked_ones_must_not_be_an_authority(authority: Authority) -> None:
    """OpenSSL reads both from one file, and would trust it from then on."""
    pair = (authority.issue("server.pem", "localhost"), None)
    asked = {"certificates": (pair,), "client_certificates": "required", "client_ca": authority.file}
    other = Authority(authority.folder, "other").file
    assert wrong(**asked, client_crl=other).key == "client_crl"
    both = authority.folder / "both.pem"
    both.write_bytes(Path(authority.revoke()).read_bytes() + Path(other).read_bytes())
    assert wrong(**asked, client_crl=str(both)).key == "client_crl"
    assert wrong(**{**asked, "client_ca": authority.revoke()}).key == "client_ca"


def test_whose_certificates_are_taken_has_to_be_said(authority: Authority) -> None:
    pair = (authority.issue("server.pem", "localhost"), None)
    assert wrong(certificates=()).key == "certificate"
    assert wrong(certificates=(pair,), client_certificates="optional").key == "client_certificates"
    assert wrong(certificates=(pair,), client_ca=authority.file).key == "client_ca"
    assert wrong(certificates=(pair,), client_crl="x").key == "client_crl"
