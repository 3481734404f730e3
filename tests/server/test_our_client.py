"""Our own client before our own server: both sides of who is asking, and of what has arrived."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from passlib.hash import nthash

import bitsferry
from bitsferry import Credential, Scheme, Target
from bitsferry.client.checksum import Checksum
from bitsferry.protocol.digests import Digest

from .conftest import Serve
from .ferry import Ferry

SECRET = "correct horse"
MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("KRB5_CONFIG", os.devnull)
    (tmp_path / "file.bin").write_bytes(os.urandom(5 * MIB))
    (tmp_path / "nt-hashes").write_text(f"alice:{nthash.hash(SECRET)}\nCORP\\bob:{nthash.hash(SECRET)}\n")
    return tmp_path


def asking(serve: Serve, home: Path, auth: str) -> Ferry:
    pytest.importorskip("spnego", reason="pyspnego is not installed")
    return serve(directory=f'auth = ["{auth}"]\nnt_hashes = "{home / "nt-hashes"}"\n')


def send(ferry: Ferry, home: Path, *credentials: Credential, **options: object) -> bitsferry.Uploaded:
    return bitsferry.upload(
        home / "file.bin",
        f"http://127.0.0.1:{ferry.port}/in/",
        credentials=credentials,
        patience=0,
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("auth", ["ntlm", "negotiate"])
@pytest.mark.parametrize("user", ["alice", "ALICE", "CORP\\bob"])
@pytest.mark.parametrize("named", [True, False])
def test_a_file_arrives_from_whom_the_server_knows(
    serve: Serve, home: Path, auth: str, user: str, named: bool
) -> None:
    ferry = asking(serve, home, auth)
    scheme = Scheme(auth) if named else None
    send(ferry, home, Credential(Target.SERVER, scheme, user, SECRET), fragment_limit=MIB)
    assert (ferry.folder / "in" / "file.bin").read_bytes() == (home / "file.bin").read_bytes()


@pytest.mark.parametrize("auth", ["ntlm", "negotiate"])
@pytest.mark.parametrize(("user", "password"), [("alice", "wrong"), ("nobody", SECRET)])
def test_nothing_arrives_from_others(serve: Serve, home: Path, auth: str, user: str, password: str) -> None:
    ferry = asking(serve, home, auth)
    with pytest.raises(bitsferry.AuthenticationRequired, match=f"refuses the user name '{user}'"):
        send(ferry, home, Credential(Target.SERVER, Scheme(auth), user, password))
    assert ferry.files == {"in"}


def test_a_file_that_arrives_as_another_one_is_put_nowhere(
    serve: Serve, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ferry = serve()
    monkeypatch.setattr(Checksum, "digest", lambda self: Digest("sha-256", bytes(32)))
    with pytest.raises(bitsferry.DigestMismatch, match="arrived 3 times"):
        send(ferry, home)
    assert ferry.files == {"in"}


@pytest.mark.parametrize("digest", [None, True, False])
def test_a_file_arrives_with_its_digest_or_without(serve: Serve, home: Path, digest: bool | None) -> None:
    ferry = serve()
    send(ferry, home, http=bitsferry.HttpOptions(digest=digest))
    assert (ferry.folder / "in" / "file.bin").read_bytes() == (home / "file.bin").read_bytes()


def test_a_ticket_is_enough_and_a_password_gets_one(
    serve: Serve, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("krb5", reason="the packages of bitsferry[kerberos] are not installed")
    k5test = pytest.importorskip("k5test", reason="k5test, or gssapi, is not installed")
    if shutil.which("krb5kdc", path="/usr/sbin:/usr/local/sbin:/usr/bin") is None:
        pytest.skip("krb5kdc is not installed")
    realm = k5test.K5Realm(
        start_kadmind=False, get_creds=False, create_host=False, portbase=random.randrange(10_000, 30_000, 10)
    )
    try:
        for name, value in realm.env.items():
            if name.startswith("KRB5"):
                monkeypatch.setenv(name, value)
        realm.addprinc("inga@KRBTEST.COM", "pass-word")
        realm.addprinc("HTTP/localhost@KRBTEST.COM")
        realm.extract_keytab("HTTP/localhost@KRBTEST.COM", realm.keytab)
        ferry = serve(directory=f'auth = ["negotiate"]\nkeytab = "{realm.keytab}"\nallow_overwrites = true\n')
        url = f"http://localhost:{ferry.port}/in/"
        bitsferry.upload(home / "file.bin", url, credentials=("inga", "pass-word"), patience=0)
        with pytest.raises(bitsferry.AuthenticationRequired):
            bitsferry.upload(home / "file.bin", url, credentials=("inga", "wrong"), patience=0)
        log_on = Credential(Target.SERVER, Scheme.NEGOTIATE, "", "")
        with pytest.raises(bitsferry.AuthenticationRequired, match="has no log-on, or ticket"):
            bitsferry.upload(home / "file.bin", url, credentials=[log_on], patience=0)
        realm.kinit("inga@KRBTEST.COM", "pass-word")
        bitsferry.upload(home / "file.bin", url, credentials=[log_on], patience=0)
        assert (ferry.folder / "in" / "file.bin").read_bytes() == (home / "file.bin").read_bytes()
    finally:
        realm.stop()
