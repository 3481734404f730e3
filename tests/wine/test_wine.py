"""A reply comes home with the BITS that Wine has: not ours, and not written with our server in mind."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest

import bitsferry
from server import raw
from server.raw import Line

pytest.importorskip("fcntl", reason="the server needs POSIX")

WINE = shutil.which("wine") or shutil.which("wine64")
WINESERVER = shutil.which("wineserver")
COMPILER = shutil.which("x86_64-w64-mingw32-gcc")

pytestmark = [
    pytest.mark.wine,
    pytest.mark.skipif(WINE is None or WINESERVER is None, reason="there is no Wine here"),
    pytest.mark.skipif(COMPILER is None, reason="there is no x86_64-w64-mingw32-gcc here (MinGW-w64)"),
]

SOURCE = Path(__file__).with_name("download.c")
UPLOAD = "/inbox/question"
REPLY = os.urandom(5_000_000)
FILE = os.urandom(100_000)


@dataclass(frozen=True)
class Windows:
    """A Windows of its own, with a program that lets BITS download."""

    program: Path
    environment: dict[str, str]

    def download(self, url: str, to: Path) -> None:
        """Return when the file is there; the first call also sets this Windows up, which takes seconds."""
        assert WINE is not None
        target = "Z:" + str(to).replace("/", "\\")
        done = subprocess.run(
            [WINE, str(self.program), url, target],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "state 6\n"), done.stderr


@pytest.fixture
def windows(tmp_path: Path) -> Iterator[Windows]:
    assert COMPILER is not None
    assert WINESERVER is not None
    program = tmp_path / "download.exe"
    build = [COMPILER, "-municode", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(SOURCE), "-lole32"]
    subprocess.run(build, check=True, timeout=60)
    # Not in tmp_path: pytest would keep its hundreds of MB. Of this machine's settings only PATH
    # goes in: no proxy, no screen.
    with tempfile.TemporaryDirectory() as home:
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": home,
            "WINEPREFIX": f"{home}/prefix",
            "WINEDEBUG": "-all",
            "WINEDLLOVERRIDES": "mscoree,mshtml,winemenubuilder.exe=",  # no questions, no menus
        }
        try:
            yield Windows(program, environment)
        finally:
            for step in ("-k", "-w"):  # end every program of this Windows, wait until it is gone
                subprocess.run([WINESERVER, step], env=environment, check=False, timeout=60)


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
    windows.download(urljoin(url, reply_url), tmp_path / "reply")
    assert (tmp_path / "reply").read_bytes() == REPLY
    with Line(port) as line:
        assert line.ask(raw.close(UPLOAD, session)).verdict == (200, None)
    assert (tmp_path / "inbox" / "question").read_bytes() == FILE
