"""Programs that know nothing of us, upload a file of several fragments: curl, Python's own, nginx between."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import raw
from .ferry import Ferry
from .raw import GUID, Line

SIZE = 300_000
FRAGMENT = 100_001

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="there is no nginx here")


@pytest.fixture
def data() -> bytes:
    return os.urandom(SIZE)


def parts(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Content-Range and bytes of every fragment."""
    for at in range(0, len(data), FRAGMENT):
        part = data[at : at + FRAGMENT]
        yield f"bytes {at}-{at + len(part) - 1}/{len(data)}", part


# curl


def curl(url: str, headers: dict[str, str], body: bytes = b"", *options: str) -> raw.Answer:
    told = [option for name, value in headers.items() for option in ("-H", f"{name}: {value}")]
    always = ["-sS", "-q", "-i", "--noproxy", "*", "--max-time", "10", "-X", "BITS_POST"]
    done = subprocess.run(
        ["curl", *always, *options, *told, "--data-binary", "@-", url],
        input=body,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    *continues, head, rest = done.stdout.split(raw.END)
    assert rest == b""
    assert all(b" 100 " in one for one in continues)
    first, *lines = head.decode().split("\r\n")
    fields = tuple((line.partition(": ")[0], line.partition(": ")[2]) for line in lines)
    return raw.Answer(first.split()[0], int(first.split()[1]), fields)


@needs_curl
@pytest.mark.parametrize("options", [(), ("-H", "Expect: 100-continue"), ("--http1.0",), ("-H", "Expect:")])
def test_curl(server: Ferry, data: bytes, options: tuple[str, ...]) -> None:
    upload = server.upload()
    url = f"http://127.0.0.1:{server.port}{upload.url}"
    create = {"BITS-Packet-Type": "Create-Session", "BITS-Supported-Protocols": GUID}
    session = curl(url, create).session
    assert session
    for content_range, part in parts(data):
        headers = {
            "BITS-Packet-Type": "Fragment",
            "BITS-Session-Id": session,
            "Content-Range": content_range,
        }
        assert curl(url, headers, part, *options).status == 200
    assert curl(url, {"BITS-Packet-Type": "Close-Session", "BITS-Session-Id": session}).status == 200
    assert upload.file.read_bytes() == data


@needs_curl
def test_curl_hears_at_once_that_a_body_is_unwanted(server: Ferry, data: bytes) -> None:
    upload = server.begun()
    url = f"http://127.0.0.1:{server.port}{upload.url}"
    headers = {
        "BITS-Packet-Type": "Fragment",
        "BITS-Session-Id": upload.session,
        "Content-Range": f"bytes 7-{SIZE + 6}/{SIZE + 7}",
        "Expect": "100-continue",
    }
    refused = curl(url, headers, data)
    assert (refused.status, refused.received) == (416, 0)


@needs_curl
def test_curl_by_post_with_the_method_in_a_header(server: Ferry) -> None:
    url = f"http://127.0.0.1:{server.port}{server.upload().url}"
    headers = {"X-HTTP-Method-Override": "BITS_POST", "BITS-Packet-Type": "Ping"}
    assert curl(url, headers, b"", "-X", "POST").is_ack


# Python's own client


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=raw.PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(raw.PATIENCE)
        self.sock.connect(self._path)


def send_by_http_client(connection: http.client.HTTPConnection, url: str, data: bytes) -> None:
    def ask(kind: str, headers: dict[str, str], body: bytes = b"") -> http.client.HTTPResponse:
        always = {"BITS-Packet-Type": kind, "Content-Length": str(len(body))}
        connection.request("BITS_POST", url, body, always | headers)
        response = connection.getresponse()
        assert response.read() == b""
        assert (response.status, response.headers["BITS-Packet-Type"]) == (200, "Ack")
        return response

    try:
        created = ask("Create-Session", {"BITS-Supported-Protocols": GUID})
        session = {"BITS-Session-Id": created.headers["BITS-Session-Id"]}
        ask("Ping", {})
        for content_range, part in parts(data):
            ask("Fragment", session | {"Content-Range": content_range}, part)
        ask("Close-Session", session)
    finally:
        connection.close()


def test_http_client_of_python(server: Ferry, data: bytes) -> None:
    upload = server.upload()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=raw.PATIENCE)
    send_by_http_client(connection, upload.url, data)
    assert upload.file.read_bytes() == data


# nginx in front


@pytest.fixture
def nginx(server: Ferry) -> Iterator[str]:
    """The path of the Unix socket where nginx listens for our server."""
    with tempfile.TemporaryDirectory(prefix="bitsferry-") as short:
        folder = Path(short)
        listen = folder / "listen"
        config = folder / "nginx.conf"
        temporary = "".join(
            f"{name}_temp_path {folder}/{name};\n"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config.write_text(f"""
daemon off;
master_process off;
worker_processes 1;
pid {folder}/pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    {temporary}
    upstream ferry {{ server 127.0.0.1:{server.port}; keepalive 8; }}
    server {{
        listen unix:{listen};
        location / {{
            proxy_pass http://ferry;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_request_buffering off;
            client_max_body_size 0;
        }}
    }}
}}
""")
        assert NGINX is not None
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([NGINX, "-p", short, "-e", "stderr", "-c", str(config)], stderr=log)
        try:
            assert raw.eventually(listen.exists), (folder / "log").read_text()
            yield str(listen)
        finally:
            process.terminate()
            process.wait(raw.PATIENCE)


@needs_nginx
def test_nginx_in_front(server: Ferry, nginx: str, data: bytes) -> None:
    upload = server.upload()
    send_by_http_client(_UnixConnection(nginx), upload.url, data)
    assert upload.file.read_bytes() == data


@needs_nginx
def test_through_nginx_a_gap_is_told_and_every_byte_of_a_cut_body_counts(
    server: Ferry, nginx: str, data: bytes
) -> None:
    upload = server.begun()
    with Line(nginx) as line:
        gap = line.ask(raw.fragment(upload.url, upload.session, data[7:], at=7, total=SIZE))
        assert (gap.verdict, gap.received) == ((416, None), 0)
    with Line(nginx) as line:
        line.send(raw.fragment(upload.url, upload.session, data)[:-200_000])
        assert line.is_silent()
    server.catch_up()
    assert upload.held(SIZE) == 100_000
    upload.fragment(data[100_000:], at=100_000)
    assert upload.file.read_bytes() == data


@needs_nginx
@needs_curl
def test_curl_through_nginx(server: Ferry, nginx: str, data: bytes) -> None:
    upload = server.begun()
    for content_range, part in parts(data):
        headers = {
            "BITS-Packet-Type": "Fragment",
            "BITS-Session-Id": upload.session,
            "Content-Range": content_range,
        }
        answer = curl(f"http://ferry{upload.url}", headers, part, "--unix-socket", nginx)
        assert answer.status == 200
    assert upload.file.read_bytes() == data
