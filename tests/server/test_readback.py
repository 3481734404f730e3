"""Files given out again, where a directory says so."""

from __future__ import annotations

import os
from email.utils import formatdate

import pytest

from . import raw
from .conftest import Serve
from .ferry import Ferry
from .raw import Answer, Line

DATA = os.urandom(100_000)


def ask(line: Line, method: str, url: str, **headers: str) -> Answer:
    fields: dict[str, str | None] = {name.replace("_", "-"): value for name, value in headers.items()}
    line.send(raw.request(f"{method} {url} HTTP/1.1", fields))
    return line.answer(bodiless=method == "HEAD")


@pytest.fixture(scope="module")
def url(shared: Ferry) -> str:
    """A file that may be read back."""
    upload = shared.begun("/back/")
    upload.fragment(DATA)
    upload.close()
    shared.forget()
    return upload.url


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_by_default_nothing_is_given_out(server: Ferry, line: Line, method: str) -> None:
    upload = server.begun()
    upload.fragment(b"secret")
    for target in (upload.url, "/in/", "/in/never-there", "/in/../in/x"):
        refused = ask(line, method, target)
        assert refused.status == 403
        assert refused.body == b""


def test_a_file_comes_back_as_it_went(line: Line, url: str) -> None:
    answer = ask(line, "GET", url)
    assert (answer.status, answer.body) == (200, DATA)
    assert answer.get("Accept-Ranges") == "bytes"
    assert answer.get("Last-Modified")
    assert ask(line, "GET", url).body == DATA, "over the same connection"


def test_head_is_get_without_the_body(line: Line, url: str) -> None:
    got, told = ask(line, "GET", url), ask(line, "HEAD", url)
    dateless = [[header for header in answer.headers if header[0] != "Date"] for answer in (got, told)]
    assert dateless[0] == dateless[1]
    assert (told.status, told.get("Content-Length")) == (200, str(len(DATA)))


@pytest.mark.parametrize(
    ("span", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-9976", 0, 9977),
        ("bytes=9977-", 9977, 100_000),
        ("bytes=99999-", 99_999, 100_000),
        ("bytes=5-1000000", 5, 100_000),
        ("bytes=-10", 99_990, 100_000),
        ("bytes=-1000000", 0, 100_000),
    ],
)
def test_a_part_is_given_out_as_it_is_asked_for(
    line: Line, url: str, span: str, start: int, stop: int
) -> None:
    answer = ask(line, "GET", url, Range=span)
    assert (answer.status, answer.body) == (206, DATA[start:stop])
    assert answer.get("Content-Range") == f"bytes {start}-{stop - 1}/{len(DATA)}"


@pytest.mark.parametrize("span", ["bytes=100000-", "bytes=200000-300000", "bytes=-0"])
def test_a_part_behind_the_end_gets_416_with_the_size(line: Line, url: str, span: str) -> None:
    answer = ask(line, "GET", url, Range=span)
    assert (answer.status, answer.body) == (416, b"")
    assert answer.get("Content-Range") == f"bytes */{len(DATA)}"


@pytest.mark.parametrize("span", ["bytes=a-b", "lines=1-2", "bytes", "bytes=6-5", ""])
def test_a_range_that_is_not_understood_is_left_out_of_account(line: Line, url: str, span: str) -> None:
    answer = ask(line, "GET", url, Range=span)
    assert (answer.status, answer.body) == (200, DATA)


def test_parts_of_a_file_that_changed_are_not_given_out(line: Line, url: str) -> None:
    first = ask(line, "GET", url, Range="bytes=0-99")
    modified = first.get("Last-Modified") or ""
    same = ask(line, "GET", url, Range="bytes=100-199", If_Unmodified_Since=modified)
    assert (same.status, same.body) == (206, DATA[100:200])
    before = formatdate(0, usegmt=True)
    changed = ask(line, "GET", url, Range="bytes=100-199", If_Unmodified_Since=before)
    assert (changed.status, changed.body) == (412, b"")


def test_if_range_gives_the_part_of_the_same_file_and_all_of_another(line: Line, url: str) -> None:
    etag = ask(line, "HEAD", url).get("ETag") or ""
    assert ask(line, "GET", url, Range="bytes=0-9", If_Range=etag).body == DATA[:10]
    assert ask(line, "GET", url, Range="bytes=0-9", If_Range='"another"').body == DATA


@pytest.mark.parametrize("target", ["never-there", "", "folder", "folder/", "link", "link/passwd"])
def test_what_is_no_file_gets_404(server: Ferry, line: Line, target: str) -> None:
    (server.folder / "back" / "folder").mkdir(exist_ok=True)
    if not (server.folder / "back" / "link").is_symlink():
        (server.folder / "back" / "link").symlink_to("/etc")
    answer = ask(line, "GET", f"/back/{target}")
    assert answer.status in (400, 404)
    assert answer.body == b""


@pytest.mark.parametrize("target", ["../in/secret", "%2e%2e/in/secret", "..%2fin%2fsecret", "..%5cin"])
def test_nothing_outside_is_given_out(server: Ferry, line: Line, target: str) -> None:
    (server.folder / "in" / "secret").write_bytes(b"secret")
    answer = ask(line, "GET", f"/back/{target}")
    assert (answer.status, answer.body) == (400, b"")


def test_a_file_on_its_way_is_not_given_out(server: Ferry, line: Line) -> None:
    upload = server.begun("/back/")
    upload.fragment(b"half", total=8)
    assert ask(line, "GET", upload.url).status == 404
    upload.fragment(b"half", at=4)
    assert ask(line, "GET", upload.url).body == b"halfhalf"


def test_an_empty_file_comes_back_empty(server: Ferry, line: Line) -> None:
    upload = server.begun("/back/")
    upload.close()
    answer = ask(line, "GET", upload.url)
    assert (answer.status, answer.get("Content-Length"), answer.body) == (200, "0", b"")
    assert ask(line, "GET", upload.url).status == 200


def test_uploads_and_downloads_share_a_connection(server: Ferry) -> None:
    upload = server.begun("/back/")
    upload.line.send(
        raw.fragment(upload.url, upload.session, b"whole")
        + raw.request(f"GET {upload.url} HTTP/1.1", {})
        + raw.close(upload.url, upload.session)
    )
    answers = [upload.line.answer() for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert answers[1].body == b"whole"


def test_a_reader_who_leaves_in_the_middle_harms_nobody(server: Ferry, line: Line) -> None:
    upload = server.begun("/back/")
    upload.send(bytes(4 * 1024 * 1024), 1024 * 1024)
    for _ in range(3):
        leaving = raw.Line(server.port, buffer=16 * 1024)
        leaving.send(raw.request(f"GET {upload.url} HTTP/1.1", {}))
        leaving.break_off()
    assert len(ask(line, "GET", upload.url).body) == 4 * 1024 * 1024


def test_a_reader_who_does_not_listen_is_let_go_after_the_stall_time(serve: Serve) -> None:
    ferry = serve(directory='read_back = "everybody"', limits="stall_time = 0.5\nconnections = 1")
    with (ferry.folder / "in" / "large").open("wb") as file:
        file.truncate(2**30)
    before = ferry.memory
    with Line(ferry.port, buffer=16 * 1024) as deaf:
        deaf.send(raw.request("GET /in/large HTTP/1.1", {}))
        assert raw.eventually(lambda: ferry.is_welcoming)
    assert ferry.memory - before < 16 * 1024 * 1024
