"""NTLM and NTLM inside Negotiate, spoken by programs that are not ours."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from passlib.hash import nthash

from . import raw
from .conftest import Serve
from .ferry import Ferry
from .handshakes import Step, authorization, first_leg, handshake, pyspnego, samba
from .raw import GUID, Line

pytest.importorskip("spnego", reason="the client's side of NTLM is pyspnego's")

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
needs_samba = pytest.mark.skipif(
    shutil.which("ntlm_auth") is None, reason="there is no ntlm_auth here (Samba)"
)
PLUGIN = next(Path("/usr/lib").glob("*/gssntlmssp/gssntlmssp.so"), None)
needs_plugin = pytest.mark.skipif(PLUGIN is None, reason="there is no gss-ntlmssp here")

SECRET, OTHER = "correct horse", "battery staple"


@pytest.fixture
def nt_hashes(tmp_path: Path) -> Path:
    path = tmp_path / "nt-hashes"
    path.write_text(f"alice:{nthash.hash(SECRET)}\nCORP\\bob:1001::{nthash.hash(OTHER)}:::\n")
    return path


@pytest.fixture
def server(serve: Serve, nt_hashes: Path) -> Ferry:
    return serve(directory=f'auth = ["ntlm"]\nnt_hashes = "{nt_hashes}"\nread_back = "everybody"\n')


@pytest.fixture
def negotiating(serve: Serve, nt_hashes: Path) -> Ferry:
    return serve(directory=f'auth = ["negotiate"]\nnt_hashes = "{nt_hashes}"\n')


@pytest.fixture
def line(server: Ferry) -> Iterator[Line]:
    with server.line() as line:
        yield line


def alice() -> Step:
    return pyspnego("alice", SECRET)


def bob() -> Step:
    return pyspnego("CORP\\bob", OTHER)


def ping(said: str | None) -> bytes:
    return raw.ping("/in/a", authorization=said)


def create(said: str | None) -> bytes:
    return raw.create("/in/a", authorization=said)


def upload(line: Line, title: str, step: Step, url: str, data: bytes) -> None:
    """All of a file over one line, with the one handshake of its Create-Session."""
    begun = handshake(line, title, step, lambda said: raw.create(url, authorization=said))
    assert begun.status == 200
    session = begun.session or ""
    half = len(data) // 2
    assert line.ask(raw.fragment(url, session, data[:half], total=len(data))).received == half
    assert line.ask(raw.fragment(url, session, data[half:], at=half)).received == len(data)
    assert line.ask(raw.close(url, session)).status == 200


# Peers


@pytest.mark.parametrize(
    ("title", "helper"),
    [
        pytest.param("NTLM", "", id="pyspnego"),
        pytest.param("Negotiate", "", id="pyspnego-spnego"),
        pytest.param("NTLM", "ntlmssp-client-1", id="samba", marks=needs_samba),
        pytest.param("Negotiate", "ntlmssp-client-1", id="samba-bare", marks=needs_samba),
        pytest.param("Negotiate", "gss-spnego-client", id="samba-spnego", marks=needs_samba),
    ],
)
def test_a_file_is_uploaded_with_one_handshake(
    request: pytest.FixtureRequest, title: str, helper: str
) -> None:
    ferry: Ferry = request.getfixturevalue("server" if title == "NTLM" else "negotiating")
    data = os.urandom(200_000)
    with ExitStack() as stack:
        if helper:
            step = stack.enter_context(samba("alice", SECRET, helper))
        else:
            step = pyspnego("alice", SECRET, title.lower())
        upload(stack.enter_context(ferry.line()), title, step, "/in/file", data)
    assert (ferry.folder / "in" / "file").read_bytes() == data
    assert "user=alice" in ferry.log.read_text()


def curl(ferry: Ferry, *options: str, body: bytes = b"", **environment: str) -> str:
    """The status and the head of the last answer."""
    always = ["-sS", "-q", "--noproxy", "*", "--max-time", "10", "-i", "-X", "BITS_POST"]
    done = subprocess.run(
        ["curl", *always, *options, "--data-binary", "@-", f"http://127.0.0.1:{ferry.port}/in/file"],
        input=body,
        capture_output=True,
        timeout=20,
        check=False,
        env={"PATH": os.defpath} | environment,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().rstrip("\r\n").rpartition("\r\n\r\n")[2]


def uploads(ferry: Ferry, *who: str, **environment: str) -> None:
    """A file by curl, that makes a handshake for each of its packets, first legs without their body."""
    data = os.urandom(3_000_000)

    def say(kind: str, body: bytes, *headers: str) -> str:
        told = [option for each in headers for option in ("-H", each)]
        return curl(ferry, *who, "-H", f"BITS-Packet-Type: {kind}", *told, body=body, **environment)

    begun = say("Create-Session", b"", f"BITS-Supported-Protocols: {GUID}")
    assert begun.startswith("HTTP/1.1 200 ")
    session = "BITS-Session-Id: " + begun.partition("BITS-Session-Id: ")[2].partition("\r\n")[0]
    size = len(data)
    sent = say("Fragment", data[:2_000_000], session, f"Content-Range: bytes 0-1999999/{size}")
    assert "BITS-Received-Content-Range: 2000000\r\n" in sent + "\r\n"
    last = say("Fragment", data[2_000_000:], session, f"Content-Range: bytes 2000000-{size - 1}/{size}")
    assert last.startswith("HTTP/1.1 200 ")
    assert say("Close-Session", b"", session).startswith("HTTP/1.1 200 ")
    assert (ferry.folder / "in" / "file").read_bytes() == data


@needs_curl
def test_curl_uploads_by_ntlm(server: Ferry) -> None:
    uploads(server, "--ntlm", "-u", f"alice:{SECRET}")


@needs_curl
def test_curl_finds_out_by_itself_that_ntlm_is_wanted(server: Ferry) -> None:
    uploads(server, "--anyauth", "-u", f"CORP\\bob:{OTHER}")


@needs_curl
@needs_plugin
def test_curl_uploads_by_ntlm_inside_negotiate(negotiating: Ferry, tmp_path: Path) -> None:
    (tmp_path / "mechanisms").write_text(f"ntlmssp 1.3.6.1.4.1.311.2.2.10 {PLUGIN}\n")
    (tmp_path / "passwords").write_text(f"CORP:alice:{SECRET}\n")
    uploads(
        negotiating,
        *("--negotiate", "-u", ":"),
        GSS_MECH_CONFIG=str(tmp_path / "mechanisms"),
        NTLM_USER_FILE=str(tmp_path / "passwords"),
    )


@needs_curl
def test_curl_with_a_wrong_password_is_refused(server: Ferry) -> None:
    said = curl(server, "--ntlm", "-u", "alice:guess", "-H", "BITS-Packet-Type: Ping")
    assert said.startswith("HTTP/1.1 401 ")
    log = server.log.read_text()
    assert "refused: wrong user or password scheme=ntlm user=ALICE address=127.0.0.1 refused=1" in log
    assert "guess" not in log


@pytest.mark.parametrize("kind", ["server", "negotiating"])
def test_requests_ntlm_uploads(request: pytest.FixtureRequest, kind: str) -> None:
    requests = pytest.importorskip("requests")
    requests_ntlm = pytest.importorskip("requests_ntlm")
    ferry: Ferry = request.getfixturevalue(kind)
    data = os.urandom(100_000)
    with requests.Session() as session:
        session.trust_env = False
        session.auth = requests_ntlm.HttpNtlmAuth("CORP\\bob", OTHER)

        def say(kind: str, body: bytes = b"", **headers: str) -> str:
            fields = {"BITS-Packet-Type": kind, "Content-Length": str(len(body))}
            fields |= {name.replace("_", "-"): value for name, value in headers.items()}
            answer = session.request(
                "BITS_POST", f"http://127.0.0.1:{ferry.port}/in/file", data=body, headers=fields, timeout=10
            )
            assert answer.status_code == 200
            return str(answer.headers.get("BITS-Session-Id", ""))

        begun = say("Create-Session", BITS_Supported_Protocols=GUID)
        say("Fragment", data, BITS_Session_Id=begun, Content_Range=f"bytes 0-{len(data) - 1}/{len(data)}")
        say("Close-Session", BITS_Session_Id=begun)
    assert (ferry.folder / "in" / "file").read_bytes() == data


# What is said with which leg


def test_the_empty_first_leg_of_a_fragment_is_no_fragment(server: Ferry, line: Line) -> None:
    session = handshake(line, "NTLM", alice(), create).session or ""
    whole = raw.fragment("/in/a", session, b"all of it")

    def empty(said: str) -> bytes:
        fields = {"BITS-Session-Id": session, "Content-Range": "bytes 0-8/9", "Authorization": said}
        return raw.packet("Fragment", "/in/a", dict(fields))

    with server.line() as other:
        answer = handshake(
            other,
            "NTLM",
            alice(),
            empty,
            lambda said: whole.replace(b"\r\n\r\n", f"\r\nAuthorization: {said}\r\n\r\n".encode(), 1),
        )
    assert (answer.status, answer.received) == (200, 9)
    assert (server.folder / "in" / "a").read_bytes() == b"all of it"


@pytest.mark.parametrize("size", [10_000, 1_000_000, 12_000_000])
def test_a_first_leg_may_bring_the_whole_fragment(server: Ferry, size: int) -> None:
    """It is read away, so that the handshake goes on over the same line; up to what Windows sends at once."""
    data = os.urandom(size)
    with server.line() as line:
        session = handshake(line, "NTLM", alice(), create).session or ""

        def fragment(said: str) -> bytes:
            return raw.fragment("/in/a", session, data, authorization=said)

        answer = handshake(line, "NTLM", alice(), fragment)
    assert (answer.status, answer.received) == (200, size)
    assert (server.folder / "in" / "a").read_bytes() == data


def test_a_fragment_of_nobody_is_asked_who_it_is(server: Ferry, line: Line) -> None:
    session = handshake(line, "NTLM", alice(), create).session or ""
    with server.line() as other:
        answer = other.ask(raw.fragment("/in/a", session, b"all of it"))
        assert (answer.status, answer.all("WWW-Authenticate")) == (401, ["NTLM"])
        assert answer.error is None
    assert not (server.folder / "in" / "a").exists()


# How far it reaches


def test_a_ping_may_prove_it_for_the_upload_behind_it(line: Line) -> None:
    assert handshake(line, "NTLM", alice(), ping).status == 200
    begun = line.ask(create(None))
    assert begun.status == 200
    assert line.ask(raw.fragment("/in/a", begun.session or "", b"all of it")).status == 200
    assert line.ask(raw.close("/in/a", begun.session or "")).status == 200


def test_an_upload_that_was_proved_says_nothing_of_the_next(line: Line) -> None:
    assert handshake(line, "NTLM", alice(), create).status == 200
    assert line.ask(create(None)).status == 401
    assert handshake(line, "NTLM", bob(), create).status == 200


def test_reading_a_file_back_is_proved_each_time(server: Ferry, line: Line) -> None:
    upload(line, "NTLM", alice(), "/in/file", b"all of it")

    def get(said: str | None) -> bytes:
        return raw.request("GET /in/file HTTP/1.1", {"Authorization": said})

    assert line.ask(get(None)).status == 401
    assert handshake(line, "NTLM", bob(), get).body == b"all of it"
    assert line.ask(get(None)).status == 401


def test_an_upload_belongs_to_its_user(server: Ferry, line: Line) -> None:
    session = handshake(line, "NTLM", alice(), create).session or ""
    with server.line() as other:

        def cancel(said: str) -> bytes:
            return raw.cancel("/in/a", session, authorization=said)

        assert handshake(other, "NTLM", bob(), cancel).verdict == (403, 0x80070005)
        assert handshake(other, "NTLM", alice(), cancel).verdict == (200, None)


# What is refused


def test_a_last_leg_is_good_for_one_line_and_once(server: Ferry, line: Line) -> None:
    said = authorization("NTLM", first_leg(line, "NTLM", alice(), ping))
    with server.line() as other:
        assert other.ask(ping(said)).status == 401
        first_leg(other, "NTLM", alice(), ping)
        assert other.ask(ping(said)).status == 401
    assert line.ask(ping(said)).status == 200
    assert line.ask(ping(said)).status == 401
    assert line.ask(ping(None)).status == 401
    log = server.log.read_text()
    assert log.count("refused: no handshake is under way on this connection") == 2
    assert log.count("refused: wrong user or password") == 1


@pytest.mark.parametrize("sign", ["Via", "Forwarded", "X-Forwarded-For"])
def test_where_a_proxy_may_share_connections_nothing_is_proved(line: Line, sign: str) -> None:
    def through(said: str | None) -> bytes:
        return raw.packet("Ping", "/in/a", {sign: "for=192.0.2.1", "Authorization": said})

    answer = line.ask(through(None))
    assert (answer.status, answer.all("WWW-Authenticate")) == (403, [])
    said = authorization("NTLM", first_leg(line, "NTLM", alice(), ping))
    assert line.ask(through(said)).status == 403
    assert handshake(line, "NTLM", alice(), ping).status == 200
    assert line.ask(through(None)).status == 403


def test_it_may_be_said_that_each_client_has_its_own(serve: Serve, nt_hashes: Path) -> None:
    settings = f'auth = ["ntlm"]\nnt_hashes = "{nt_hashes}"\none_client_per_connection = true\n'
    with serve(directory=settings).line() as line:

        def through(said: str | None) -> bytes:
            return raw.ping("/in/a", x_forwarded_for="192.0.2.1", authorization=said)

        assert handshake(line, "NTLM", alice(), through).status == 200
        assert line.ask(through(None)).status == 200


def test_who_is_struck_from_the_file_is_refused_after_a_reload(
    server: Ferry, line: Line, nt_hashes: Path
) -> None:
    session = handshake(line, "NTLM", alice(), create).session or ""
    nt_hashes.write_text(f"bob:{nthash.hash(OTHER)}\n")
    server.reload()
    assert raw.eventually(lambda: "settings read again" in server.log.read_text())
    assert line.ask(raw.fragment("/in/a", session, b"all of it")).status == 401
    assert handshake(line, "NTLM", alice(), ping).status == 401


def test_none_beside_it_lets_strangers_in_as_strangers(serve: Serve, nt_hashes: Path) -> None:
    server = serve(directory=f'auth = ["none", "ntlm"]\nnt_hashes = "{nt_hashes}"\n')
    with server.line() as line:
        assert handshake(line, "NTLM", alice(), create).status == 200
        begun = line.ask(raw.create("/in/b"))  # a stranger over the same line
        assert begun.status == 200
        assert line.ask(raw.fragment("/in/b", begun.session or "", b"all of it")).status == 200
