"""Proxies in front of a real server: ours are believed when they say who asks from where, others never."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from bitsferry import ReceivedUpload, Server
from bitsferry.access.guard import Guard
from bitsferry.access.proxied import Proxied
from bitsferry.access.tokens import new_token, token_line
from bitsferry.server.asgi import AsgiApp, Directory

from . import raw
from .ferry import Ferry
from .raw import GUID, Line

DENIED = (403, 0x80070005)
NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="there is no nginx here")

Serve = Callable[..., Ferry]


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a path that is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="bitsferry-") as folder:
        yield Path(folder)


@pytest.fixture
def serve(short: Path) -> Iterator[Serve]:
    """Starts a server at a port and at the Unix socket `short/socket`, which trusts these proxies."""
    started: list[Ferry] = []

    def serve(
        trusted: str, directory: str = 'auth = ["proxy"]\nuser_header = "X-Remote-User"', top: str = ""
    ) -> Ferry:
        folder = short / f"ferry{len(started)}"
        folder.mkdir()
        started.append(Ferry(folder, settings(short, trusted, directory, top)))
        return started[-1]

    yield serve
    for ferry in started:
        ferry.stop()


def settings(short: Path, trusted: str, directory: str, top: str = "") -> str:
    return f"""
listen = ["127.0.0.1:0", "unix:{short}/socket"]
store = "file:./store"
trusted_proxies = {trusted}
{top}

[[directory]]
url = "/in/"
folder = "./in"
{directory}
"""


def ask(where: int | str, request: bytes) -> raw.Answer:
    with Line(where) as line:
        return line.ask(request)


# Who is asking


@pytest.mark.parametrize(
    ("trusted", "tcp", "unix"),
    [
        ('["127.0.0.1"]', 200, 403),
        ('["127.0.0.0/8", "::1"]', 200, 403),
        ('["unix"]', 403, 200),
        ('["10.0.0.0/8", "unix"]', 403, 200),
    ],
)
def test_a_proxys_word_counts_from_where_it_may_come_and_nowhere_else(
    serve: Serve, short: Path, trusted: str, tcp: int, unix: int
) -> None:
    ferry = serve(trusted)
    for where, status in ((ferry.port, tcp), (str(short / "socket"), unix)):
        answer = ask(where, raw.create("/in/a", x_remote_user="alice"))
        assert answer.verdict == ((200, None) if status == 200 else DENIED)
        assert answer.get("WWW-Authenticate") is None
    assert ferry.log.read_text().count("user=alice") == 1


def test_a_forged_header_does_not_help_a_stranger_where_others_prove_who_they_are(
    serve: Serve, short: Path
) -> None:
    token = new_token()
    (short / "tokens").write_text(token_line("bob", token))
    ferry = serve(
        '["unix"]',
        f'auth = ["proxy", "bearer"]\nuser_header = "X-Remote-User"\ntokens = "{short}/tokens"',
    )
    assert ask(ferry.port, raw.create("/in/a", x_remote_user="alice")).verdict == (401, None)
    assert ask(ferry.port, raw.create("/in/b", x_remote_user="alice", x_api_key=token)).status == 200
    assert ask(str(short / "socket"), raw.create("/in/c", x_remote_user="alice")).status == 200
    log = ferry.log.read_text()
    assert log.count("user=alice") == 1
    assert log.count("user=bob") == 1


def test_two_users_in_one_request_are_nobody(serve: Serve) -> None:
    ferry = serve('["127.0.0.1"]')
    twice = raw.create("/in/a", x_remote_user="eve").replace(
        b"X-Remote-User: eve", b"X-Remote-User: eve\r\nx-remote-user: alice"
    )
    for request in (twice, raw.create("/in/a", x_remote_user="eve, alice")):
        assert ask(ferry.port, request).verdict == DENIED
    for name in ("X_Remote_User", "X-Remote_User", "X-Remote-User2"):
        spelt = raw.create("/in/a", x_remote_user="eve").replace(b"X-Remote-User", name.encode())
        assert ask(ferry.port, spelt).verdict == DENIED
    assert "the proxy names more than one user" in ferry.log.read_text()


def test_groups_may_come_from_the_proxy_as_well(serve: Serve) -> None:
    rules = 'auth = ["proxy"]\nuser_header = "X-User"\ngroups_header = "X-Groups"\nallow_groups = ["senders"]'
    ferry = serve('["127.0.0.1"]', rules)
    assert ask(ferry.port, raw.create("/in/a", x_user="a", x_groups="staff, senders")).status == 200
    assert ask(ferry.port, raw.create("/in/b", x_user="b", x_groups="staff")).verdict == DENIED


# From where


def test_the_clients_address_counts_for_rules_behind_a_proxy_of_ours_and_only_there(serve: Serve) -> None:
    ferry = serve('["127.0.0.1"]', 'allow_networks = ["192.0.2.0/24"]')

    def verdict(**headers: str) -> tuple[int, int | None]:
        return ask(ferry.port, raw.create("/in/a", **headers)).verdict

    assert verdict() == DENIED
    assert verdict(x_forwarded_for="192.0.2.7") == (200, None)
    assert verdict(x_forwarded_for="192.0.2.7, 203.0.113.1") == DENIED
    assert verdict(x_forwarded_for="203.0.113.1, 192.0.2.7:4711") == (200, None)
    assert verdict(forwarded="for=192.0.2.7") == DENIED
    assert "address=192.0.2.7" in ferry.log.read_text()
    assert "address=203.0.113.1" in ferry.log.read_text()

    ferry.configure(settings(ferry.folder.parent, '["10.0.0.1"]', 'allow_networks = ["192.0.2.0/24"]'))
    ferry.process.send_signal(signal.SIGHUP)
    assert raw.eventually(lambda: verdict(x_forwarded_for="192.0.2.7") == DENIED)


def test_forwarded_counts_where_it_is_set(serve: Serve) -> None:
    ferry = serve('["127.0.0.1"]', 'allow_networks = ["2001:db8::/32"]', top='forwarded_header = "Forwarded"')
    forwarded = 'for="[2001:db8::7]:4711";proto=https'
    assert ask(ferry.port, raw.create("/in/a", forwarded=forwarded)).status == 200
    assert ask(ferry.port, raw.create("/in/a", x_forwarded_for="2001:db8::7")).verdict == DENIED


def test_an_address_nobody_tells_is_in_no_network(serve: Serve, short: Path) -> None:
    serve('["unix"]', 'deny_networks = ["192.0.2.0/24"]')
    assert ask(str(short / "socket"), raw.create("/in/a")).verdict == DENIED
    assert ask(str(short / "socket"), raw.create("/in/a", x_forwarded_for="203.0.113.1")).status == 200
    assert ask(str(short / "socket"), raw.create("/in/b", x_forwarded_for="192.0.2.1")).verdict == DENIED


# In a program


def test_a_server_in_a_program_believes_whom_it_is_told_to(tmp_path: Path) -> None:
    for trusted, address in ((["127.0.0.1"], "192.0.2.7"), ([], "127.0.0.1")):
        server = Server(tmp_path / "in", trusted_proxies=trusted)
        heard: list[str] = []

        @server.on_upload("/")
        def note(upload: ReceivedUpload, heard: list[str] = heard) -> None:
            heard.append(upload.address)

        with server.running(), Line(int(server.urls[0].rstrip("/").rpartition(":")[2])) as line:
            session = line.ask(raw.create("/a", x_forwarded_for="192.0.2.7")).session or ""
            assert line.ask(raw.fragment("/a", session, b"x", x_forwarded_for="192.0.2.7")).status == 200
            assert line.ask(raw.close("/a", session)).status == 200
        assert heard == [address]
        (tmp_path / "in" / "a").unlink()
    with pytest.raises(ValueError, match="no address"):
        Server(tmp_path, trusted_proxies=["localhost"])


def test_the_same_in_an_asgi_application(tmp_path: Path) -> None:
    app = AsgiApp(
        Directory("/in/", str(tmp_path), guard=Guard([Proxied("X-User")])),
        trusted_proxies=["10.0.0.1", "unix"],
    )

    async def status(client: tuple[str, int] | None, **headers: str) -> int:
        fields = {"bits-packet-type": "Ping", "content-length": "0", "host": "x"} | headers
        sent: list[MutableMapping[str, Any]] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        async def receive() -> dict[str, Any]:
            return {"type": "http.request"}

        scope = {
            "type": "http",
            "method": "BITS_POST",
            "path": "/in/a",
            "query_string": b"",
            "headers": [(key.replace("_", "-").encode(), value.encode()) for key, value in fields.items()],
            "client": client,
        }
        await app(scope, receive, send)
        return int(sent[0]["status"])

    async def all_of_it() -> list[int]:
        try:
            stranger, ours = ("192.0.2.7", 1), ("10.0.0.1", 1)
            return [await status(who, x_user="alice") for who in (ours, None, stranger, ("testclient", 1))]
        finally:
            await app.stop()

    assert asyncio.run(all_of_it()) == [200, 200, 403, 403]


# nginx


@pytest.fixture
def nginx(short: Path) -> Iterator[Callable[[str], int]]:
    """Starts nginx, which asks for passwords, in front of a server; returns its port."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(upstream: str) -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        (short / "users").write_text("alice:{PLAIN}secret\nbob:{PLAIN}another\n")
        temporary = "".join(
            f"{name}_temp_path {short}/{name};\n"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = short / "nginx.conf"
        config.write_text(f"""
daemon off;
master_process off;
pid {short}/pid;
error_log stderr warn;
events {{ worker_connections 64; }}
http {{
    access_log off;
    {temporary}
    upstream ferry {{ server {upstream}; keepalive 1; }}
    server {{
        listen 127.0.0.1:{port};
        auth_basic "uploads";
        auth_basic_user_file {short}/users;
        location / {{
            proxy_pass http://ferry;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header Authorization "";
            proxy_set_header X-Remote-User $remote_user;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_request_buffering off;
        }}
    }}
}}
""")
        assert NGINX is not None
        with (short / "log").open("wb") as log:
            processes.append(
                subprocess.Popen([NGINX, "-p", str(short), "-e", "stderr", "-c", str(config)], stderr=log)
            )
        assert raw.eventually(lambda: is_open(port)), (short / "log").read_text()
        return port

    yield start
    for process in processes:
        process.terminate()
        process.wait(raw.PATIENCE)


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def create_as(connection: HTTPConnection, name: str, user: str, password: str, **forged: str) -> int:
    basic = base64.b64encode(f"{user}:{password}".encode()).decode()
    headers = {"BITS-Packet-Type": "Create-Session", "BITS-Supported-Protocols": GUID, "Content-Length": "0"}
    more = {key.replace("_", "-"): value for key, value in forged.items()}
    connection.request("BITS_POST", f"/in/{name}", b"", headers | {"Authorization": f"Basic {basic}"} | more)
    answer = connection.getresponse()
    answer.read()
    return answer.status


@needs_nginx
@pytest.mark.parametrize("way", ["tcp", "unix"])
def test_behind_nginx_users_and_addresses_are_those_it_found_and_none_a_client_made_up(
    serve: Serve, short: Path, nginx: Callable[[str], int], way: str
) -> None:
    ferry = serve('["127.0.0.1"]' if way == "tcp" else '["unix"]')
    port = nginx(f"127.0.0.1:{ferry.port}" if way == "tcp" else f"unix:{short}/socket")
    near = closing(HTTPConnection("127.0.0.1", port, timeout=10, source_address=("127.0.0.2", 0)))
    far = closing(HTTPConnection("127.0.0.1", port, timeout=10, source_address=("127.0.0.3", 0)))
    with near as alice, far as bob:
        for number in range(3):  # over one connection between nginx and us
            assert create_as(alice, f"a{number}", "alice", "secret", X_Remote_User="root") == 200
            forged = {"X_Remote_User": "alice", "X_Forwarded_For": "10.0.0.1", "X_Real_IP": "10.0.0.1"}
            assert create_as(bob, f"b{number}", "bob", "another", **forged) == 200
        assert create_as(bob, "c", "bob", "wrong", X_Remote_User="alice") == 401
    begun = [each for each in ferry.log.read_text().splitlines() if "upload begins" in each]
    assert len(begun) == 6
    for each in begun:
        assert ("path=/in/a" in each) == ("user=alice" in each) == ("address=127.0.0.2" in each)
        assert ("path=/in/b" in each) == ("user=bob" in each) == ("address=127.0.0.3" in each)
