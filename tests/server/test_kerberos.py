"""Negotiate with Kerberos: a real KDC, tickets by kinit, clients that are not ours."""

from __future__ import annotations

import base64
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from . import raw
from .conftest import Serve
from .ferry import Ferry
from .handshakes import authorization
from .raw import GUID, Answer, Line

gssapi = pytest.importorskip("gssapi", reason="there is no GSSAPI here (pip install 'bitsferry[kerberos]')")
k5test = pytest.importorskip("k5test", reason="there is no k5test here")

PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
pytestmark = pytest.mark.skipif(
    any(shutil.which(program, path=PATH) is None for program in ("krb5kdc", "kadmin.local")),
    reason="there is no KDC here (krb5-kdc and krb5-admin-server)",
)
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")

# A client in a process of its own, for it finds realm and ticket in its environment.
CLIENT = """
import base64, sys, gssapi
name = gssapi.Name(sys.argv[1], gssapi.NameType.kerberos_principal)
mechanism = gssapi.OID.from_int_seq(sys.argv[2])
flags = gssapi.RequirementFlag.mutual_authentication
context = gssapi.SecurityContext(name=name, mech=mechanism, flags=flags, usage="initiate")
said = context.step()
while True:
    print(base64.b64encode(said or b"").decode(), context.complete, flush=True)
    heard = sys.stdin.readline().strip()
    if not heard:
        break
    said = context.step(base64.b64decode(heard))
"""
KERBEROS, SPNEGO = "1.2.840.113554.1.2.2", "1.3.6.1.5.5.2"


class Realm:
    """A realm with its KDC; `user` is somebody with a ticket."""

    def __init__(self, clockskew: int = 300) -> None:
        """`clockskew` is for how many seconds clocks that differ are forgiven."""
        self.realm: Any = k5test.K5Realm(
            create_host=False,
            portbase=random.randrange(10_000, 30_000, 10),
            krb5_conf={"libdefaults": {"clockskew": str(clockskew)}},
        )
        self.folder = Path(self.realm.tmpdir)
        self.user: str = self.realm.user_princ
        self.environment: dict[str, str] = {
            "PATH": os.defpath,
            **{name: value for name, value in self.realm.env.items() if name.startswith("KRB5")},
        }

    def principal(self, service: str) -> str:
        return f"{service}@{self.realm.realm}"

    def keytab(self, *services: str) -> Path:
        """One with keys for these, which the KDC then knows, too."""
        path = self.folder / f"{'-'.join(services).replace('/', '-')}.keytab"
        if not path.exists():
            for service in services:
                self.realm.addprinc(self.principal(service))
                self.realm.extract_keytab(self.principal(service), str(path))
        return path

    def ticket(self, name: str, *options: str) -> dict[str, str]:
        """The environment of somebody with a ticket of their own."""
        cache = str(self.folder / name)
        self.realm.kinit(self.user, self.realm.password("user"), flags=["-c", cache, *options])
        return self.environment | {"KRB5CCNAME": cache}


class Client:
    """A client of GSSAPI's."""

    def __init__(
        self, realm: Realm, service: str = "HTTP/localhost", mechanism: str = SPNEGO, **env: str
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, realm.principal(service), mechanism],
            env=realm.environment | env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.token, self.is_complete = self._hear()

    def step(self, token: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(base64.b64encode(token).decode() + "\n")
        self._process.stdin.flush()
        self.token, self.is_complete = self._hear()

    def _hear(self) -> tuple[bytes, bool]:
        assert self._process.stdout is not None
        token, complete = self._process.stdout.readline().split(" ")
        return base64.b64decode(token), complete.strip() == "True"

    def end(self) -> None:
        self._process.communicate(timeout=raw.PATIENCE)


@pytest.fixture(scope="module")
def realm() -> Iterator[Realm]:
    realm = Realm()
    yield realm
    realm.realm.stop()


@pytest.fixture
def server(realm: Realm, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Ferry:
    return negotiating(realm, serve, monkeypatch, realm.keytab("HTTP/localhost"))


def negotiating(
    realm: Realm, serve: Serve, monkeypatch: pytest.MonkeyPatch, keytab: Path, settings: str = ""
) -> Ferry:
    """A server that knows the realm, and no keytab but this one."""
    for name in ("KRB5_CONFIG", "KRB5RCACHEDIR"):
        monkeypatch.setenv(name, realm.environment[name])
    for name in ("KRB5_KTNAME", "KRB5CCNAME", "KRB5_CLIENT_KTNAME"):
        monkeypatch.setenv(name, "FILE:/nonexistent")
    return serve(directory=f'auth = ["negotiate"]\nkeytab = "{keytab}"\n{settings}')


def ask(line: Line, token: bytes, request: bytes | None = None) -> Answer:
    said = authorization("Negotiate", token)
    whole = request or raw.ping("/in/a")
    return line.ask(whole.replace(b"\r\n\r\n", f"\r\nAuthorization: {said}\r\n\r\n".encode(), 1))


@needs_curl
def test_curl_uploads_with_a_ticket(realm: Realm, server: Ferry) -> None:
    data = os.urandom(3_000_000)

    def say(kind: str, body: bytes, *headers: str) -> str:
        told = [option for each in headers for option in ("-H", each)]
        always = ["-sS", "-q", "--noproxy", "*", "--max-time", "10", "-i", "-X", "BITS_POST"]
        who = ["--negotiate", "-u", ":", "-H", f"BITS-Packet-Type: {kind}"]
        url = f"http://localhost:{server.port}/in/file"
        done = subprocess.run(
            ["curl", "-4", *always, *who, *told, "--data-binary", "@-", url],
            env=realm.environment,
            input=body,
            capture_output=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().rstrip("\r\n").rpartition("\r\n\r\n")[2]

    begun = say("Create-Session", b"", f"BITS-Supported-Protocols: {GUID}")
    session = "BITS-Session-Id: " + begun.partition("BITS-Session-Id: ")[2].partition("\r\n")[0]
    sent = say("Fragment", data, session, f"Content-Range: bytes 0-{len(data) - 1}/{len(data)}")
    assert sent.startswith("HTTP/1.1 200 ")
    assert say("Close-Session", b"", session).startswith("HTTP/1.1 200 ")
    assert (server.folder / "in" / "file").read_bytes() == data
    assert f"user={realm.user}" in server.log.read_text()


@pytest.mark.parametrize("mechanism", [KERBEROS, SPNEGO], ids=["bare", "spnego"])
def test_one_ticket_carries_an_upload_and_the_server_proves_itself(
    realm: Realm, server: Ferry, mechanism: str
) -> None:
    client = Client(realm, mechanism=mechanism)
    with server.line() as line:
        begun = ask(line, client.token, raw.create("/in/a"))
        assert begun.status == 200
        title, _, token = (begun.get("WWW-Authenticate") or "").partition(" ")
        assert title == "Negotiate"
        client.step(base64.b64decode(token))
        assert client.is_complete
        session = begun.session or ""
        assert line.ask(raw.fragment("/in/a", session, b"all of it")).status == 200
        assert line.ask(raw.close("/in/a", session)).status == 200
        assert line.ask(raw.create("/in/b")).status == 401
    client.end()
    assert (server.folder / "in" / "a").read_bytes() == b"all of it"


def test_without_a_ticket_one_is_asked_for(server: Ferry) -> None:
    with server.line() as line:
        answer = line.ask(raw.create("/in/a"))
        assert (answer.status, answer.all("WWW-Authenticate")) == (401, ["Negotiate"])


def test_a_replayed_ticket_is_refused(realm: Realm, server: Ferry) -> None:
    client = Client(realm)
    with server.line() as line, server.line() as other:
        assert ask(line, client.token).status == 200
        assert ask(other, client.token).status == 401
        assert ask(line, client.token).status == 401
        assert line.ask(raw.ping("/in/a")).status == 401
    client.end()
    assert "refused: the ticket was replayed scheme=negotiate address=127.0.0.1" in server.log.read_text()


def test_a_ticket_for_another_service_is_refused(
    realm: Realm, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not the keytab has a key for it."""
    keytab = realm.keytab("host/localhost", "HTTP/elsewhere")
    server = negotiating(realm, serve, monkeypatch, keytab)
    realm.keytab("HTTP/localhost")
    for number, service in enumerate(("host/localhost", "HTTP/localhost"), 1):
        client = Client(realm, service)
        with server.line() as line:
            assert ask(line, client.token).status == 401
            assert line.ask(raw.ping("/in/a")).status == 401
        client.end()
        refused = "refused: the ticket is for another service scheme=negotiate address=127.0.0.1"
        assert f"{refused} refused={number}" in server.log.read_text()


def test_any_name_of_the_service_is_taken(
    realm: Realm, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    keytab = realm.keytab("HTTP/one", "HTTP/two")
    server = negotiating(realm, serve, monkeypatch, keytab)
    for service in ("HTTP/one", "HTTP/two"):
        client = Client(realm, service)
        with server.line() as line:
            assert ask(line, client.token).status == 200
        client.end()


@pytest.fixture
def impatient() -> Iterator[Realm]:
    realm = Realm(clockskew=2)
    yield realm
    realm.realm.stop()


def test_an_expired_ticket_is_refused_and_what_it_proved_ends_with_it(
    impatient: Realm, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    realm = impatient
    server = negotiating(realm, serve, monkeypatch, realm.keytab("HTTP/localhost"))
    environment = realm.ticket("short", "-l", "3s")
    honest = Client(realm, **environment)
    with server.line() as line:
        assert ask(line, honest.token).status == 200
        assert line.ask(raw.ping("/in/a")).status == 200
        assert raw.eventually(lambda: line.ask(raw.ping("/in/a")).status == 401)
    honest.end()
    last_for_long(Path(environment["KRB5CCNAME"]))
    forger = Client(realm, **environment)
    with server.line() as line:
        assert ask(line, forger.token).status == 401
    forger.end()
    assert "refused: the ticket has expired" in server.log.read_text()


def last_for_long(cache: Path) -> None:
    """Let a client believe that its tickets are still good: it only knows from its own file when they end."""
    listed = subprocess.run(
        ["klist", "-c", str(cache)],
        capture_output=True,
        text=True,
        check=True,
        env={"TZ": "UTC", "PATH": PATH, "LC_ALL": "C"},
    )
    ends = {
        int(datetime.strptime(" ".join(words[2:4]), "%m/%d/%y %H:%M:%S").replace(tzinfo=UTC).timestamp())
        for line in listed.stdout.splitlines()
        if (words := line.split()) and "/" in words[0] and words[0][0].isdigit()
    }
    content = cache.read_bytes()
    for end in ends:
        content = content.replace(end.to_bytes(4), (end + 3600).to_bytes(4))
    cache.write_bytes(content)


def test_a_ticket_that_was_changed_is_refused(realm: Realm, server: Ferry) -> None:
    client = Client(realm)
    broken = bytearray(client.token)
    broken[len(broken) // 2] ^= 0xFF
    with server.line() as line:
        assert ask(line, bytes(broken)).status == 401
        for token in (b"", client.token[:100], b"\x60\x03\x06\x01\x2a"):
            assert ask(line, token).status == 401
    client.end()


def test_a_large_ticket_fits(realm: Realm, server: Ferry) -> None:
    """Of somebody in a thousand groups; its bytes mean nothing here, that they are read does."""
    with server.line() as line:
        assert ask(line, b"\x60" * 30_000).status == 401
    with server.line() as line:
        assert ask(line, b"\x60" * 60_000).status == 400
