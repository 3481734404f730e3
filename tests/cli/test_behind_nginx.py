"""nginx in front, with the very lines our page on it recommends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server import raw
from server.raw import Line

from .conftest import Configure, Start
from .serving import arrived, put

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "run-as-a-service.md"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx here")

AROUND = """
daemon off;
master_process off;
error_log stderr;
pid {folder}/pid;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {site}
}}
"""


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Starts nginx in front of the server on this Unix socket; returns where it listens itself."""
    assert NGINX
    processes = []

    def start(path: str) -> str:
        folder = tmp_path / "nginx"
        folder.mkdir()
        (block,) = re.findall(r"^```nginx\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
        front = str(folder / "front")
        site = re.sub(r"^ *ssl_.*\n", "", block, flags=re.M)
        site = site.replace("listen 443 ssl", f"listen unix:{front}")
        site = site.replace("/run/bitsferry/socket", path)
        config = folder / "nginx.conf"
        config.write_text(AROUND.format(folder=folder, site=site))
        with (folder / "log").open("wb") as log:
            processes.append(
                subprocess.Popen([NGINX, "-p", str(folder), "-c", str(config)], stdout=log, stderr=log)
            )
        assert raw.eventually(lambda: answers(front)), (folder / "log").read_text()
        return front

    yield start
    for process in processes:
        process.kill()
        process.wait()


def answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def test_an_upload_goes_through_and_what_arrived_of_a_broken_fragment_is_kept(
    start: Start, configure: Configure, nginx: Callable[[str], str], tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    served = start("--config", configure(), "--listen", f"unix:{path}").ready()
    front = nginx(str(path))
    with Line(front) as line:
        data = os.urandom(3_000_000)  # more than nginx takes without being told
        ack = put(line, "/in/large", data)
        assert (ack.status, ack.received) == (200, len(data))
        assert line.ask(raw.ping("/in/x")).status == 200  # on the same connection
        assert put(line, "/in/large", data).verdict == (403, 0x80070005)
    assert (tmp_path / "in" / "large").read_bytes() == data

    with Line(front) as line:
        session = line.ask(raw.create("/in/broken")).session or ""
        request = raw.fragment("/in/broken", session, data)
        line.send(request[:-1_000_000])
        assert arrived(tmp_path / "store", 2_000_000)
        line.break_off()
    with Line(front) as line:
        rest = raw.fragment("/in/broken", session, data[2_000_000:], at=2_000_000)
        assert line.ask(rest).received == len(data)
    assert (tmp_path / "in" / "broken").read_bytes() == data
    served.tell(signal.SIGTERM)
    assert served.ended() == 0
