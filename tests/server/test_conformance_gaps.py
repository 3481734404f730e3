"""Requirements of the specification no other test holds; docs/reference/conformance.md names them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from bitsferry.protocol.hresult import HResult
from bitsferry.server.directory import Directory

from . import raw
from .conftest import Serve
from .ferry import Ferry, Upload
from .raw import Line

NOBODY = "{01234567-89AB-4DEF-8123-456789ABCDEF}"
FINE = (200, None)


def holders(ferry: Ferry, data: bytes) -> set[Path]:
    """The server's files, wherever they lie, in which these bytes stand."""
    found = set()
    for path in ferry.folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file() and data in path.read_bytes():
                found.add(path)
    return found


@pytest.mark.parametrize("change", [bytes.lower, bytes.upper, bytes.swapcase])
def test_the_names_of_headers_are_read_in_any_case(upload: Upload, change: type[bytes]) -> None:
    first, *lines = raw.head_of(raw.fragment(upload.url, upload.session, b"data")).split(b"\r\n")
    fields = [line.partition(b":") for line in lines]
    changed = [first, *(change(name) + colon + value for name, colon, value in fields)]
    assert upload.line.ask(b"\r\n".join(changed) + b"data").received == 4


@pytest.mark.parametrize("name", ["another.bin", "../../etc/passwd", "C:\\secret", "x" * 300, "*?<>|", ""])
def test_c19_a_content_name_decides_nothing(server: Ferry, upload: Upload, name: str) -> None:
    before = server.files
    assert upload.line.ask(raw.create(upload.url, content_name=name)).verdict == FINE
    assert upload.fragment(b"da", total=4, content_name=name).received == 2
    assert upload.fragment(b"ta", at=2, content_name="a name of its own").received == 4
    assert upload.line.ask(raw.close(upload.url, upload.session, content_name=name)).verdict == FINE
    assert server.files - before == {f"in/{upload.file.name}"}


def test_c3_a_ping_may_name_any_session(line: Line) -> None:
    assert line.ask(raw.ping("/in/a", bits_session_id=NOBODY)).verdict == FINE


def test_c4_the_ack_of_a_ping_that_names_a_known_session_names_it_too(upload: Upload) -> None:
    named = upload.ping(bits_session_id=upload.session)
    assert named.verdict == FINE
    assert named.get("BITS-Session-Id") == upload.session


def test_a_ping_in_the_middle_changes_nothing(upload: Upload) -> None:
    upload.fragment(b"half", total=8)
    answer = upload.ping()
    assert (answer.verdict, answer.received) == (FINE, None)
    assert upload.fragment(b"rest", at=4).received == 8


def test_a_refused_create_session_names_no_session_no_protocol_and_no_host(line: Line) -> None:
    refused = line.ask(raw.create("/host/a", bits_supported_protocols=NOBODY))
    assert refused.verdict == (400, HResult.E_INVALIDARG)
    for name in ("BITS-Session-Id", "BITS-Protocol", "BITS-Host-Id", "BITS-Host-Id-Fallback-Timeout"):
        assert refused.get(name) is None


def test_every_ack_to_a_fragment_of_a_known_session_says_the_next_offset(server: Ferry) -> None:
    upload, too_large = server.begun("/small/"), server.begun("/small/")
    answers = [
        too_large.fragment(b"x", total=1001),
        upload.fragment(bytes(10), total=700),
        upload.fragment(b"a gap", at=50, total=700),
        upload.fragment(bytes(601), at=10, total=700),
        upload.fragment(b"another total", at=10, total=701),
        upload.fragment(bytes(600), at=10, total=700),
        upload.fragment(bytes(90), at=610, total=700),
        upload.fragment(bytes(90), at=610, total=700),
    ]
    assert [(answer.status, answer.received) for answer in answers] == [
        (500, 0),
        (200, 10),
        (416, 10),
        (413, 10),
        (400, 10),
        (200, 610),
        (200, 700),
        (200, 700),
    ]


def test_no_ack_of_a_simple_upload_has_a_reply_url(upload: Upload) -> None:
    answers = [upload.fragment(b"half", total=8), upload.fragment(b"rest", at=4), upload.close()]
    assert [answer.get("BITS-Reply-URL") for answer in answers] == [None, None, None]


def test_when_close_or_cancel_is_acknowledged_the_sessions_bytes_are_gone(server: Ferry) -> None:
    data = b"only the file itself has these bytes"
    whole, closed_early, cancelled = server.begun(), server.begun(), server.begun()
    for upload in (closed_early, cancelled):
        upload.fragment(data, total=100)
    assert len(holders(server, data)) == 2
    assert closed_early.close().verdict == FINE
    assert len(holders(server, data)) == 1
    assert cancelled.cancel().verdict == FINE
    assert holders(server, data) == set()
    whole.fragment(data)
    assert whole.close().verdict == FINE
    assert holders(server, data) == {whole.file}


def test_of_an_upload_that_timed_out_nothing_is_left(serve: Serve) -> None:
    ferry = serve(directory="session_timeout = 0.5", top="cleanup_interval = 0.1")
    data = b"these bytes will be forgotten"
    upload = ferry.begun()
    upload.fragment(data, total=100)
    assert raw.eventually(lambda: not holders(ferry, data))
    assert upload.fragment(data, total=100).verdict == (500, HResult.BG_E_SESSION_NOT_FOUND)
    assert not upload.file.exists()


def test_a_session_lives_for_fourteen_days_unless_the_directory_says_otherwise() -> None:
    assert Directory("/in/", "in").session_timeout == 1_209_600
