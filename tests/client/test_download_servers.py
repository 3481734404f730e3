"""Downloads from real servers, and in processes that are killed."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from bitsferry.client.partial_file import SUFFIX
from bitsferry.client.stopped import Stopped
from bitsferry.protocol.errors import InsufficientRangeSupport
from cli.serving import Served
from server.raw import eventually

from .receiving import Receiver
from .web import Exchange, WebFile, WebServer

SIZE = 3_000_001
KILLS = int(os.environ.get("BITSFERRY_STORM", "6"))
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a server gives out: `file.bin`, which was modified long ago."""
    folder = tmp_path / "out"
    folder.mkdir()
    renew(folder)
    return folder


def renew(folder: Path) -> None:
    """Another version, of the same size."""
    path = folder / "file.bin"
    path.write_bytes(os.urandom(SIZE))
    moment = random.randrange(1_000_000_000, 1_500_000_000)
    os.utime(path, (moment, moment))


@pytest.fixture
def pythons(folder: Path) -> Iterator[str]:
    """Python's own server: HTTP/1.0, no ETag, no ranges. The URL of the file."""
    server = QuietServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/file.bin"
    server.shutdown()
    thread.join()
    server.server_close()


class QuietServer(http.server.ThreadingHTTPServer):
    daemon_threads = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are the rule here."""


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def nginx(folder: Path, tmp_path: Path) -> Iterator[str]:
    """The URL of the file at an nginx."""
    if NGINX is None:
        pytest.skip("no nginx here")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    own = tmp_path / "nginx"
    own.mkdir()
    temporary = "".join(
        f"{name}_temp_path {own}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (own / "nginx.conf").write_text(
        f"daemon off; master_process off; error_log stderr; pid {own}/pid; events {{}}"
        f"http {{ access_log off; {temporary} server {{ listen 127.0.0.1:{port}; root {folder}; }} }}"
    )
    with (own / "log").open("wb") as log:
        process = subprocess.Popen(
            [NGINX, "-p", str(own), "-c", str(own / "nginx.conf")], stdout=log, stderr=log
        )
    try:
        assert eventually(lambda: answers(port)), (own / "log").read_text()
        yield f"http://127.0.0.1:{port}/file.bin"
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def bitsferrys(folder: Path, tmp_path: Path) -> Iterator[str]:
    """The URL of the file at our own server."""
    own = tmp_path / "bitsferry"
    own.mkdir()
    (own / "bitsferry.toml").write_text(
        'listen = ["127.0.0.1:0"]\nstore = "file:store"\n'
        f'[[directory]]\nurl = "/"\nfolder = "{folder}"\nread_back = "everybody"\n'
    )
    served = Served(own, ["--config", str(own / "bitsferry.toml")])
    try:
        yield f"http://127.0.0.1:{served.ready().port}/file.bin"
    finally:
        served.stop()


@pytest.fixture(params=["pythons", "nginx", "bitsferrys"])
def url(request: pytest.FixtureRequest) -> str:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, str)
    return found


def stop_in_the_middle(receiver: Receiver) -> None:
    with pytest.raises(Stopped):
        receiver.run(stop=lambda: bool(receiver.received) and receiver.received[-1] > SIZE // 3)
    assert SIZE // 3 < receiver.part.stat().st_size < SIZE


def test_a_file_is_fetched(url: str, folder: Path, tmp_path: Path) -> None:
    receiver = Receiver(url, tmp_path / "file.bin")
    receiver.run()
    assert receiver.path.read_bytes() == (folder / "file.bin").read_bytes()
    assert receiver.path.stat().st_mtime == (folder / "file.bin").stat().st_mtime


@pytest.mark.parametrize("server", ["nginx", "bitsferrys"])
def test_an_interrupted_download_goes_on(
    request: pytest.FixtureRequest, server: str, folder: Path, tmp_path: Path
) -> None:
    receiver = Receiver(request.getfixturevalue(server), tmp_path / "file.bin")
    stop_in_the_middle(receiver)
    held = receiver.received[-1]
    receiver.told.clear()
    receiver.run()
    assert receiver.received[0] > held
    assert receiver.path.read_bytes() == (folder / "file.bin").read_bytes()


def test_where_there_are_no_ranges_only_the_foreground_begins_anew(
    pythons: str, folder: Path, tmp_path: Path
) -> None:
    receiver = Receiver(pythons, tmp_path / "file.bin")
    stop_in_the_middle(receiver)
    with pytest.raises(InsufficientRangeSupport):
        receiver.run()
    receiver.run(foreground=True)
    assert receiver.path.read_bytes() == (folder / "file.bin").read_bytes()


def test_a_file_that_changed_meanwhile_is_fetched_anew(url: str, folder: Path, tmp_path: Path) -> None:
    receiver = Receiver(url, tmp_path / "file.bin")
    stop_in_the_middle(receiver)
    renew(folder)
    receiver.run()
    assert receiver.path.read_bytes() == (folder / "file.bin").read_bytes()


# Processes that are killed

FETCH = """
import os, sys
from pathlib import Path
import msgspec
from bitsferry.client.agent import UserAgent
from bitsferry.client.destination import Destination
from bitsferry.client.download import Download, Version

url, path, memory = sys.argv[1], sys.argv[2], Path(sys.argv[3])

def save(version):
    beside = memory.with_suffix(".new")
    beside.write_bytes(msgspec.json.encode(version))
    beside.replace(memory)

version = msgspec.json.decode(memory.read_bytes(), type=Version) if memory.exists() else None
download = Download(UserAgent(), Destination.parse(url), path, version=version, save=save)
download.run()
download.place()
"""


@pytest.mark.storm
@pytest.mark.skipif(sys.platform == "win32", reason="Windows kills otherwise")
def test_a_process_that_is_killed_again_and_again_ends_with_the_whole_file(tmp_path: Path) -> None:
    data = os.urandom(20_000_000)
    path, memory = tmp_path / "file.bin", tmp_path / "memory"
    server = WebServer({"/out/file.bin": WebFile(data, etag='"one"')})

    @server.on("GET")
    def serve_slowly(exchange: Exchange) -> None:
        start = int(exchange.asked.headers.get("range", "bytes=0-").removeprefix("bytes=")[:-1])
        said = [("Content-Length", str(len(data) - start)), ("ETag", '"one"')]
        if start:
            said.append(("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}"))
        exchange.say(206 if start else 200, said)
        for offset in range(start, len(data), 50_000):
            exchange.say_raw(data[offset : offset + 50_000])
            exchange.stay_silent(0.1 * KILLS / len(data) * 50_000)

    def run() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", FETCH, server.url(), str(path), str(memory)])

    part = path.with_name(path.name + SUFFIX)
    chance, held = random.Random(), [0]
    with contextlib.closing(server):
        while len(held) <= KILLS and not path.exists():
            process, asked = run(), len(server.asked)
            eventually(lambda: len(server.asked) > asked or process.poll() is not None)  # noqa: B023
            time.sleep(chance.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
            process.wait()
            if part.exists():
                held.append(part.stat().st_size)
                assert held[-1] >= held[-2], "what had arrived was lost"
        assert path.exists() or run().wait(60) == 0
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(data).digest()
