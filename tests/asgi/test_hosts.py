"""What the application promises under each ASGI server, and what this server keeps it from promising."""

from __future__ import annotations

import hashlib
import os
import sys

import pytest

from bitsferry.protocol.hresult import HResult
from server import raw
from server.raw import Line

from .conftest import Start
from .hosts import KINDS, Host, Upload

DATA = os.urandom(2_000_000)
NOBODY = "{00000000-0000-0000-0000-000000000000}"
UVICORN_BUFFERS = 1 << 16  # bytes of a body uvicorn holds before it stops reading

under_each = pytest.mark.parametrize("kind", KINDS)


def has_arrived(upload: Upload) -> bool:
    with upload.file.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest() == hashlib.sha256(DATA).digest()


def test_a_file_arrives_over_one_connection(host: Host) -> None:
    with Upload(host) as upload:
        upload.send(DATA)
        assert has_arrived(upload)
        answer = upload.close()
        assert answer.verdict == (200, None)
        assert answer.is_ack


def test_a_line_cut_in_a_body_costs_no_byte_and_the_upload_goes_on(host: Host) -> None:
    with Upload(host) as upload:
        upload.begin(DATA, sent=1_000_000)
        assert upload.has_on_disk(1)
        upload.line.hang_up()
        upload.call_again()
        held = upload.held(len(DATA))
        lost = UVICORN_BUFFERS if host.kind == "uvicorn" else 0
        assert 1_000_000 - lost <= held <= 1_000_000
        upload.send(DATA, held)
        assert has_arrived(upload)
        assert upload.close().verdict == (200, None)


def test_a_line_that_breaks_at_once_costs_bytes_under_uvicorn_only(host: Host) -> None:
    """uvicorn forgets what it read, up to its buffer's size, and did not hand over before the line broke."""
    sent = UVICORN_BUFFERS - 1
    if host.kind == "uvicorn":
        assert any(held_after_breaking_off(host, sent) < sent for _ in range(20))
    else:
        assert held_after_breaking_off(host, sent) == sent


def held_after_breaking_off(host: Host, sent: int) -> int:
    with Upload(host) as upload:
        upload.begin(DATA, sent=sent)
        upload.line.hang_up()
        assert host.kind == "uvicorn" or upload.has_on_disk(sent)
        upload.call_again()
        return upload.held(len(DATA))


def test_the_newest_request_of_an_upload_wins(host: Host) -> None:
    with Upload(host) as upload:
        upload.begin(DATA, sent=500_000)
        assert upload.has_on_disk(500_000)
        with upload.line as older:
            upload.call_again()
            assert upload.held(len(DATA)) == 500_000
            answer = older.answer()
            assert answer.status == 503
            assert answer.get("Retry-After")
            assert answer.received == 500_000
        upload.send(DATA, 500_000)
        assert has_arrived(upload)


def test_a_client_that_sends_a_refused_fragment_hears_why_and_keeps_its_connection(host: Host) -> None:
    with Line(host.port) as line:
        answer = line.ask(raw.fragment("/in/refused", NOBODY, DATA))
        assert answer.verdict == (500, HResult.BG_E_SESSION_NOT_FOUND)
        assert answer.is_ack
        assert line.ask(raw.ping("/in/refused")).verdict == (200, None)


def test_a_client_that_waits_for_100_continue_hears_a_refusal_instead(host: Host) -> None:
    with Line(host.port) as line:
        line.send(raw.head_of(raw.fragment("/in/refused", NOBODY, DATA, expect="100-continue")))
        if host.kind == "hypercorn":  # says it before anybody was asked
            assert line.answer().status == 100
        assert line.answer().verdict == (500, HResult.BG_E_SESSION_NOT_FOUND)


def test_an_accepted_fragment_is_called_for_by_100_continue(host: Host) -> None:
    with Upload(host) as upload:
        line = upload.line
        line.send(raw.head_of(raw.fragment(upload.url, upload.session, DATA, expect="100-continue")))
        assert line.answer().status == 100
        line.send(DATA)
        assert line.answer().received == len(DATA)
        assert has_arrived(upload)


def test_a_file_is_read_back(host: Host) -> None:
    with Upload(host) as upload:
        upload.send(DATA)
        line = upload.line
        whole = line.ask(raw.request(f"GET {upload.url} HTTP/1.1", {}))
        assert (whole.status, whole.body == DATA) == (200, True)
        part = line.ask(raw.request(f"GET {upload.url} HTTP/1.1", {"Range": "bytes=10-19"}))
        assert (part.status, part.body) == (206, DATA[10:20])
        line.send(raw.request(f"HEAD {upload.url} HTTP/1.1", {}))
        assert line.answer(bodiless=True).get("Content-Length") == str(len(DATA))
        assert line.ask(raw.ping(upload.url)).status == 200


END_SOON = {
    "granian": ["--workers-kill-timeout", "1"],
    "hypercorn": ["--graceful-timeout", "1"],
    "uvicorn": ["--timeout-graceful-shutdown", "1"],
}


@under_each
def test_a_server_that_ends_inside_a_body_keeps_what_had_arrived(kind: str, start: Start) -> None:
    if kind == "hypercorn" and sys.version_info >= (3, 12):
        pytest.skip(
            "since Python 3.12 Hypercorn waits for its last connection, whatever --graceful-timeout says"
        )
    host = start(kind, *END_SOON[kind])
    with Upload(host) as upload:
        upload.begin(DATA, sent=300_000)
        with upload.line:
            assert upload.has_on_disk(300_000)
            host.terminate()
        host.start()
        upload.call_again()
        assert upload.held(len(DATA)) == 300_000


@under_each
def test_several_workers_share_a_store(kind: str, start: Start) -> None:
    host = start(kind, "--workers", "2", *END_SOON[kind], BITSFERRY_TEST_SHARED="yes")
    with Upload(host) as upload:
        upload.send(DATA, size=100_000, lines=True)
        assert has_arrived(upload)


def test_a_second_worker_that_was_not_told_to_share_does_not_start(start: Start) -> None:
    host = start("uvicorn", "--workers", "2")
    assert raw.eventually(lambda: "another bitsferry server is using the store" in host.log)


def test_uvicorn_with_httptools_answers_400_itself_and_the_application_never_knows(start: Start) -> None:
    host = start("httptools")
    with Line(host.port) as line:
        answer = line.ask(raw.create("/in/file"))
        assert (answer.status, answer.get("BITS-Packet-Type")) == (400, None)
        assert line.is_closed()
    assert "Invalid HTTP request received" in host.log
    # What our own client can say instead, and Windows cannot.
    disguised = raw.create("/in/file", x_http_method_override="BITS_POST").replace(b"BITS_POST", b"POST", 1)
    with Line(host.port) as line:
        assert line.ask(disguised).verdict == (200, None)


def test_mounted_beside_another_route_and_behind_a_proxy_that_cuts_a_prefix_off(start: Start) -> None:
    host = start("uvicorn", "--root-path", "/behind/a proxy", application="mounted")
    with Upload(host, prefix="/files") as upload:
        upload.send(DATA)
        assert has_arrived(upload)
        assert upload.line.ask(raw.request("GET /hello HTTP/1.1", {})).body == b"hello"
        assert upload.line.ask(raw.ping("/files/elsewhere/x")).status == 404
        assert upload.close().verdict == (200, None)
