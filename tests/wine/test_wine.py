"""A reply comes home with the BITS that Wine has: not ours, and not written with our server in mind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest

import bitsferry
from server import raw
from server.raw import Line

from .conftest import NEEDED, Windows, path_of

pytest.importorskip("fcntl", reason="the server needs POSIX")

pytestmark = NEEDED

UPLOAD = "/inbox/question"
REPLY = os.urandom(5_000_000)
FILE = os.urandom(100_000)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[bitsferry.Server]:
    (tmp_path / "inbox").mkdir()
    server = bitsferry.Server(
        directories=[bitsferry.Directory("/inbox/", str(tmp_path / "inbox"))], store=tmp_path / "store"
    )

    @server.on_upload("/inbox/")
    def answer(upload: bitsferry.ReceivedUpload) -> bytes:
        return REPLY

    with server.running():
        yield server


def test_bits_of_wine_downloads_the_reply_before_the_close(
    tmp_path: Path, server: bitsferry.Server, windows: Windows
) -> None:
    url = urljoin(server.urls[0], UPLOAD)
    port = urlsplit(url).port
    assert port is not None
    with Line(port) as line:
        session = line.ask(raw.create(UPLOAD)).session
        assert session
        last = line.ask(raw.fragment(UPLOAD, session, FILE))
        assert last.verdict == (200, None)
        reply_url = last.get("BITS-Reply-URL")
        assert reply_url
    program = windows.compile("download.c", "ole32")
    said = windows.run(program, urljoin(url, reply_url), path_of(tmp_path / "reply"))
    assert said == (0, "state 6\n")
    assert (tmp_path / "reply").read_bytes() == REPLY
    with Line(port) as line:
        assert line.ask(raw.close(UPLOAD, session)).verdict == (200, None)
    assert (tmp_path / "inbox" / "question").read_bytes() == FILE
