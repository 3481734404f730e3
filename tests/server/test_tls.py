"""The same server over TLS: what it speaks, that nothing is lost on the way, whom it shakes hands with."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

import bitsferry
from bitsferry.server.connections import Limits
from bitsferry.server.directory import Directory
from bitsferry.server.embedding import Server
from bitsferry.server.tls import ServerTls

from . import raw
from .authority import Authority, SecureLine
from .conftest import SURPRISES
from .raw import Line

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
of_each_version = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
MIB = 1 << 20

Serve = Callable[..., int]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    caplog.set_level(logging.INFO)
    yield caplog
    assert [each for each in caplog.messages if any(words in each for words in SURPRISES)] == []


@pytest.fixture
def serve(tmp_path: Path, authority: Authority, log: pytest.LogCaptureFixture) -> Iterator[Serve]:
    """Starts a server of `in`, where files may be read back, with arguments of ServerTls; says its port."""
    with ExitStack() as stack:

        def serve(*certificates: str, limits: Limits | None = None, **tls: str) -> int:
            if not certificates:
                certificates = (authority.issue("server.pem", "localhost", "127.0.0.1"),)
            pairs = tuple((each, None) for each in certificates)
            here = Directory("/", str(tmp_path / "in"), read_back="everybody", max_upload_size=1 << 30)
            server = Server(
                directories=[here],
                durability="process",
                limits=limits,
                tls=ServerTls(pairs, **tls),  # type: ignore[arg-type]
            )
            stack.enter_context(server.running())
            (url,) = server.urls
            assert url.startswith("https://127.0.0.1:")
            return urlsplit(url).port or 0

        yield serve


def held(folder: Path) -> list[int]:
    """How many bytes of each open upload are there."""
    return [path.stat().st_size for path in folder.rglob("request.data")]


# What it speaks


@of_each_version
def test_an_upload_arrives_byte_for_byte(
    serve: Serve, authority: Authority, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    data = os.urandom(5 * MIB + 3)
    with SecureLine(serve(), authority.trust(newest=version)) as line:
        assert line.tls.version() == version.name.replace("TLSv1_", "TLSv1.")
        session = line.ask(raw.create("/file")).session or ""
        for at in range(0, len(data), MIB):
            part = data[at : at + MIB]
            ack = line.ask(raw.fragment("/file", session, part, at=at, total=len(data)))
            assert ack.received == at + len(part)
        assert line.ask(raw.close("/file", session)).status == 200
    assert (tmp_path / "in" / "file").read_bytes() == data


def test_records_of_every_size_are_put_together_again(
    serve: Serve, authority: Authority, tmp_path: Path
) -> None:
    """Heads in pieces, bodies behind heads, packets behind packets."""
    data = os.urandom(70_000)
    with SecureLine(serve(), authority.trust()) as line:
        session = line.ask(raw.create("/file")).session or ""
        request = raw.fragment("/file", session, data) + raw.close("/file", session) + raw.ping("/file")
        at = 0
        for size in [1, 2, 3, 5, 50, 100, 1000, 16_384, 20_000, 40_000]:
            line.send(request[at : at + size])
            at += size
        assert [line.answer().status for _ in range(3)] == [200, 200, 200]
    assert (tmp_path / "in" / "file").read_bytes() == data


def test_what_is_old_or_unsafe_is_not_spoken(serve: Serve, authority: Authority) -> None:
    old = authority.trust(newest=ssl.TLSVersion.TLSv1_2)
    old.set_ciphers("AES256-SHA256:AES128-GCM-SHA256")  # without forward secrecy
    with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
        SecureLine(serve(), old)


def test_tls_1_3_may_be_all_there_is(serve: Serve, authority: Authority) -> None:
    port = serve(minimum="1.3")
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        SecureLine(port, authority.trust(newest=ssl.TLSVersion.TLSv1_2))
    with SecureLine(port, authority.trust()) as line:
        assert line.tls.compression() is None


def test_an_rsa_certificate_has_a_cipher_for_windows_8_1(
    serve: Serve, authority: Authority, tmp_path: Path
) -> None:
    import trustme

    leaf = authority.ca.issue_cert("localhost", key_type=trustme.KeyType.RSA)
    leaf.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "rsa.pem"))
    its = authority.trust(newest=ssl.TLSVersion.TLSv1_2)
    its.set_ciphers("ECDHE-RSA-AES128-SHA256")
    with SecureLine(serve(str(tmp_path / "rsa.pem")), its) as line:
        assert line.ask(raw.ping("/x")).status == 200


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["h2"], None), ([], None)]
)
def test_http_1_1_is_what_is_spoken_above(
    serve: Serve, authority: Authority, offered: list[str], chosen: str | None
) -> None:
    context = authority.trust()
    if offered:
        context.set_alpn_protocols(offered)
    with SecureLine(serve(), context) as line:
        assert line.tls.selected_alpn_protocol() == chosen
        assert line.ask(raw.ping("/x")).status == 200


def test_the_name_that_is_asked_for_chooses_the_certificate(serve: Serve, authority: Authority) -> None:
    one = authority.issue("one.pem", "one.example", "localhost")
    two = authority.issue("two.pem", "two.example", "*.two.example")
    port, context = serve(one, two), authority.trust()
    for name, shown in [
        ("one.example", "one.example"),
        ("TWO.example", "two.example"),
        ("any.two.example", "two.example"),
        ("localhost", "one.example"),
    ]:
        with SecureLine(port, context, name) as line:
            assert line.certificate == shown
            assert line.ask(raw.ping("/x")).status == 200
    context.check_hostname = False
    for name in ("unknown.example", "127.0.0.1", "deeper.any.two.example"):
        with SecureLine(port, context, name) as line:
            assert line.certificate == "one.example"


def test_http_without_tls_ends_with_a_line_in_the_log(serve: Serve, log: pytest.LogCaptureFixture) -> None:
    port = serve()
    for request in (raw.ping("/x"), raw.request("GET / HTTP/1.1", {})):
        with Line(port) as line:
            line.send(request)
            while line.socket.recv(100):
                pass  # an alert, for whoever understands it
    said = "TLS refused: that is no TLS; URLs that lead here begin with https://"
    assert log.messages.count(said) == 2


@pytest.mark.parametrize(
    "noise",
    [b"\0" * 1000, b"\x16\x03\x01\xff\xff" + b"\1" * 70_000, os.urandom(100)],
    ids=["zeros", "a record too long", "random"],
)
def test_noise_ends_without_a_word_of_surprise(serve: Serve, noise: bytes) -> None:
    with Line(serve(limits=Limits(head_time=0.2, linger_time=0.2))) as line:
        line.send_what_is_taken(noise)
        assert raw.eventually(lambda: line.is_closed(0.1))


def test_hands_are_shaken_in_time_or_not_at_all(serve: Serve, authority: Authority) -> None:
    port = serve(limits=Limits(head_time=0.3))
    with Line(port) as silent, Line(port) as slow:
        slow.send(b"\x16\x03\x01")
        assert silent.is_closed()
        assert slow.is_closed()


def test_a_line_counts_before_hands_are_shaken(serve: Serve, authority: Authority) -> None:
    port = serve(limits=Limits(connections_per_address=2))
    with Line(port), SecureLine(port, authority.trust()) as line:
        with pytest.raises(OSError, match=r".*"):
            SecureLine(port, authority.trust())
        assert line.ask(raw.ping("/x")).status == 200
    assert raw.eventually(lambda: is_let_in(port, authority))


def is_let_in(port: int, authority: Authority) -> bool:
    try:
        SecureLine(port, authority.trust()).hang_up()
    except OSError:
        return False
    return True


# Nothing is lost


@pytest.mark.parametrize("farewell", ["none", "close_notify", "reset"])
def test_a_body_that_is_cut_keeps_what_arrived(
    serve: Serve, authority: Authority, tmp_path: Path, farewell: str
) -> None:
    with SecureLine(serve(), authority.trust()) as line:
        session = line.ask(raw.create("/file")).session or ""
        request = raw.fragment("/file", session, bytes(MIB), total=2 * MIB)
        line.send(request[: -MIB // 2])
        if farewell == "reset":  # which throws away what the server has not read
            assert raw.eventually(lambda: held(tmp_path) == [MIB // 2])
            line.break_off()
        elif farewell == "close_notify":
            line.tls.unwrap()
        else:
            socket.socket.shutdown(line.tls, socket.SHUT_WR)
        assert raw.eventually(lambda: held(tmp_path) == [MIB // 2])


def test_a_client_that_is_killed_leaves_what_it_sent(
    serve: Serve, authority: Authority, tmp_path: Path
) -> None:
    port = serve()
    with SecureLine(port, authority.trust()) as line:
        session = line.ask(raw.create("/file")).session or ""
    sender = f"""
import socket, ssl, sys, time
context = ssl.create_default_context(cafile={authority.file!r})
line = context.wrap_socket(socket.create_connection(("127.0.0.1", {port})), server_hostname="localhost")
line.sendall({raw.head_of(raw.fragment("/file", session, b"x" * 10, total=9 * MIB))!r}
    .replace(b"Content-Length: 10", b"Content-Length: {8 * MIB}")
    .replace(b"bytes 0-9/", b"bytes 0-{8 * MIB - 1}/"))
line.sendall(bytes({3 * MIB}))
time.sleep(60)
"""
    client = subprocess.Popen([sys.executable, "-c", sender])
    try:
        assert raw.eventually(lambda: held(tmp_path) == [3 * MIB])
    finally:
        client.send_signal(signal.SIGKILL)
        client.wait()
    with SecureLine(port, authority.trust()) as line:
        rest = bytes(6 * MIB)
        gap = line.ask(raw.fragment("/file", session, b"?", at=9 * MIB - 1))
        assert gap.received == 3 * MIB
        ack = line.ask(raw.fragment("/file", session, rest, at=3 * MIB, total=9 * MIB))
        assert ack.received == 9 * MIB


def test_who_says_goodbye_early_still_hears_the_answer(serve: Serve, authority: Authority) -> None:
    with SecureLine(serve(), authority.trust()) as line:
        line.send(raw.ping("/x"))
        socket.socket.shutdown(line.tls, socket.SHUT_WR)
        assert line.answer().status == 200
        assert line.is_closed()


def test_a_large_body_that_is_refused_early_lets_the_answer_through(
    serve: Serve, authority: Authority
) -> None:
    """Sent by a client that says all before it listens."""
    with SecureLine(serve(), authority.trust()) as line:
        body = bytes(14 * MIB)
        line.send(raw.fragment("/file", "{A0FF5911-0000-4000-8000-000000000000}", body))
        answer = line.answer()
        assert answer.verdict == (500, 0x8020001F)
        assert answer.closes
        line.hang_up()


@needs_curl
def test_curl_with_64_mib_sees_why_it_is_refused(serve: Serve, authority: Authority, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(64 * MIB)
    done = subprocess.run(
        [
            *("curl", "-sS", "-q", "--noproxy", "*", "--max-time", "20", "--cacert", authority.file),
            *("-o", os.devnull, "-w", "%{http_code}", "-X", "BITS_POST", "-H", "BITS-Packet-Type: Fragment"),
            *("-H", "BITS-Session-Id: {A0FF5911-0000-4000-8000-000000000000}", "-H", "Expect:"),
            *("-H", f"Content-Range: bytes 0-{64 * MIB - 1}/{64 * MIB}", "--data-binary", f"@{big}"),
            f"https://localhost:{serve()}/file",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "500", done.stderr


def test_files_come_back_whole_and_in_parts(serve: Serve, authority: Authority, tmp_path: Path) -> None:
    data = os.urandom(20 * MIB + 7)
    port = serve()
    (tmp_path / "in" / "file").write_bytes(data)
    with SecureLine(port, authority.trust()) as line:
        for span, expected in [
            (None, data),
            ("bytes=5-1999999", data[5:2_000_000]),
            ("bytes=-10", data[-10:]),
        ]:
            fields = {} if span is None else {"Range": span}
            line.send(raw.request("GET /file HTTP/1.1", {**fields}))
            assert line.answer().body == expected
        line.send(raw.request("GET /file HTTP/1.1", {"Range": "bytes=0-99,1000000-3000000"}))
        parts = line.answer()
        assert parts.status == 206
        assert data[:100] in parts.body
        assert data[1_000_000:3_000_001] in parts.body


def test_who_does_not_read_a_file_is_let_go(serve: Serve, authority: Authority, tmp_path: Path) -> None:
    port = serve(limits=Limits(stall_time=0.3, connections_per_address=1))
    (tmp_path / "in" / "file").write_bytes(bytes(50 * MIB))
    with SecureLine(port, authority.trust()) as line:
        line.send(raw.request("GET /file HTTP/1.1", {}))
        assert line.socket.recv(1)
        assert not is_let_in(port, authority)
        assert raw.eventually(lambda: is_let_in(port, authority))


def test_many_send_at_once(serve: Serve, authority: Authority, tmp_path: Path) -> None:
    port, files = serve(), {f"file{number}": os.urandom(3 * MIB) for number in range(8)}

    def send(name: str) -> None:
        with SecureLine(port, authority.trust()) as line:
            session = line.ask(raw.create(f"/{name}")).session or ""
            line.ask(raw.fragment(f"/{name}", session, files[name]))
            line.ask(raw.close(f"/{name}", session))

    senders = [threading.Thread(target=send, args=(name,)) for name in files]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert {name: (tmp_path / "in" / name).read_bytes() for name in files} == files


# Whom it shakes hands with


def shakes_hands(port: int, context: ssl.SSLContext) -> bool:
    """In TLS 1.3 a client is done before the server has looked at its certificate."""
    try:
        with SecureLine(port, context) as line:
            return line.ask(raw.ping("/x")).status == 200
    except (ssl.SSLError, ConnectionError):
        return False


@of_each_version
def test_a_client_certificate_is_required(
    serve: Serve, authority: Authority, log: pytest.LogCaptureFixture, version: ssl.TLSVersion
) -> None:
    port = serve(client_certificates="required", client_ca=authority.file)
    its = authority.issue("client.pem", "host1")
    assert shakes_hands(port, authority.trust(its, newest=version))
    assert not shakes_hands(port, authority.trust(newest=version))
    assert "TLS refused: no certificate was shown" in log.messages
    assert vars(log.records[-1])["address"] == "127.0.0.1"


@of_each_version
def test_an_optional_one_may_be_left_out_but_not_be_wrong(
    serve: Serve, authority: Authority, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    port = serve(client_certificates="optional", client_ca=authority.file)
    theirs = Authority(tmp_path, "other").issue("theirs.pem", "host1")
    assert shakes_hands(port, authority.trust(authority.issue("client.pem", "host1"), newest=version))
    assert shakes_hands(port, authority.trust(newest=version))
    assert not shakes_hands(port, authority.trust(theirs, newest=version))


@of_each_version
def test_the_log_says_why_a_certificate_is_refused(
    serve: Serve,
    authority: Authority,
    tmp_path: Path,
    log: pytest.LogCaptureFixture,
    version: ssl.TLSVersion,
) -> None:
    good, revoked = authority.issue("good.pem", "host1"), authority.issue("revoked-one.pem", "host2")
    port = serve(
        client_certificates="required", client_ca=authority.file, client_crl=authority.revoke(revoked)
    )
    assert shakes_hands(port, authority.trust(good, newest=version))
    for certificate, why in [
        (revoked, "certificate revoked"),
        (authority.issue("old.pem", "host3", expired=True), "certificate has expired"),
        (Authority(tmp_path, "other").issue("theirs.pem", "host4"), "unable to get local issuer certificate"),
        (authority.issue_for_servers_only("server-only.pem", "host5"), "unsuitable certificate purpose"),
    ]:
        assert not shakes_hands(port, authority.trust(certificate, newest=version))
        assert f"TLS refused: {why}" in log.messages


@of_each_version
def test_a_session_that_is_taken_up_again_is_no_way_round_an_expiry(
    serve: Serve,
    authority: Authority,
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    version: ssl.TLSVersion,
) -> None:
    port = serve(client_certificates="required", client_ca=authority.file)
    context = authority.trust(authority.issue("client.pem", "host1"), newest=version)
    with SecureLine(port, context) as line:
        assert line.ask(raw.ping("/x")).status == 200
        session = line.tls.session
    with SecureLine(port, context, session=session) as line:
        assert line.ask(raw.ping("/x")).status == 200
        assert line.tls.session_reused
    later = SimpleNamespace(time=lambda: time.time() + 200 * 86400, monotonic=time.monotonic)
    monkeypatch.setattr("bitsferry.server.tls_line.time", later)
    with pytest.raises((ssl.SSLError, ConnectionError)), SecureLine(port, context, session=session) as line:
        line.ask(raw.ping("/x"))
    assert "TLS refused: certificate has expired" in log.messages


@needs_curl
@pytest.mark.parametrize("most", ["1.2", "1.3"])
def test_curl_is_told_that_its_certificate_is_refused(serve: Serve, authority: Authority, most: str) -> None:
    port = serve(client_certificates="required", client_ca=authority.file)
    expired = authority.issue("old.pem", "host3", expired=True)
    done = subprocess.run(
        [
            *("curl", "-sS", "-q", "--noproxy", "*", "--max-time", "10", "--cacert", authority.file),
            *("--tlsv1.2", "--tls-max", most, "--cert", expired, f"https://localhost:{port}/x"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "certificate" in done.stderr


@pytest.mark.parametrize("shown", ["nothing", "an expired one", "a revoked one"])
def test_our_client_gives_up_when_its_certificate_is_refused(
    serve: Serve, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str
) -> None:
    """To try again would change nothing, and the sentence says so."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    mine = {
        "nothing": None,
        "an expired one": authority.issue("old.pem", "host3", expired=True),
        "a revoked one": authority.issue("revoked-host.pem", "host4"),
    }
    port = serve(
        client_certificates="required",
        client_ca=authority.file,
        client_crl=authority.revoke(mine["a revoked one"] or ""),
    )
    (tmp_path / "file.bin").write_bytes(os.urandom(3_000_000))
    tls = bitsferry.TlsSettings(ca_file=authority.file, client_certificate=mine[shown])
    with pytest.raises(bitsferry.BitsError, match="does not let this client in by its certificate") as error:
        bitsferry.upload(
            tmp_path / "file.bin", f"https://localhost:{port}/", http=bitsferry.HttpOptions(tls=tls)
        )
    assert not error.value.transient


# In programs


def test_a_program_cannot_mean_tls_without_a_certificate(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs a certificate: tls=ServerTls"):
        Server(tmp_path / "in", listen="https://127.0.0.1:0")


def test_a_program_may_speak_both(authority: Authority, tmp_path: Path) -> None:
    tls = ServerTls(((authority.issue("server.pem", "localhost"), None),))
    with Server(tmp_path / "in", listen=["127.0.0.1:0", "http://127.0.0.1:0"], tls=tls).running() as server:
        assert [url.partition(":")[0] for url in server.urls] == ["https", "http"]
        with Line(urlsplit(server.urls[1]).port or 0) as line:
            assert line.ask(raw.ping("/x")).status == 200


def test_a_wrong_file_is_told_when_it_starts_and_nothing_stays(tmp_path: Path) -> None:
    server = Server(tmp_path / "in", tls=ServerTls(((str(tmp_path / "none.pem"), None),)))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"none.pem cannot be read"), server.running():
            pass
