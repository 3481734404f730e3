"""Two users behind one nginx that sends both over one connection: neither is ever taken for the other."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from passlib.hash import nthash

from . import raw
from .conftest import Serve
from .ferry import Ferry
from .handshakes import Step, authorization, first_leg, handshake, pyspnego
from .raw import Line

pytest.importorskip("spnego", reason="the client's side of NTLM is pyspnego's")

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx here")

CONFIGURATION = """
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
    upstream ferry {{
        server 127.0.0.1:{port};
        keepalive 1;
    }}
    server {{
        listen unix:{folder}/front;
        client_max_body_size 0;
        location / {{
            proxy_pass http://ferry;
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_set_header Connection "";
            {said}
        }}
    }}
}}
"""

Front = Callable[..., str]


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    """Starts an nginx before a server; returns where it listens."""
    assert NGINX
    processes = []

    def start(ferry: Ferry, said: str = "") -> str:
        folder = tmp_path / "nginx"
        folder.mkdir()
        configuration = folder / "nginx.conf"
        configuration.write_text(CONFIGURATION.format(folder=folder, port=ferry.port, said=said))
        with (folder / "log").open("wb") as log:
            processes.append(
                subprocess.Popen([NGINX, "-p", str(folder), "-c", str(configuration)], stdout=log, stderr=log)
            )
        path = str(folder / "front")
        assert raw.eventually(lambda: answers(path)), (folder / "log").read_text()
        return path

    yield start
    for process in processes:
        process.kill()
        process.wait()


def answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


@pytest.fixture
def server(serve: Serve, tmp_path: Path) -> Ferry:
    hashes = tmp_path / "nt-hashes"
    hashes.write_text(f"alice:{nthash.hash('of alice')}\nbob:{nthash.hash('of bob')}\n")
    return serve(directory=f'auth = ["ntlm"]\nnt_hashes = "{hashes}"\nread_back = "everybody"\n')


@pytest.fixture
def alice(server: Ferry, front: Front) -> Iterator[Line]:
    """Her line to the front, which says nothing of itself to the server."""
    with Line(front(server)) as line:
        yield line


@pytest.fixture
def bob(alice: Line) -> Iterator[Line]:
    with Line(str(alice.socket.getpeername())) as line:
        yield line


def password_of(user: str) -> Step:
    return pyspnego(user, f"of {user}")


def create(url: str) -> Callable[[str | None], bytes]:
    return lambda said: raw.create(url, authorization=said)


def get(url: str) -> Callable[[str | None], bytes]:
    return lambda said: raw.request(f"GET {url} HTTP/1.1", {"Authorization": said})


def uploads_of(server: Ferry) -> set[tuple[str, str]]:
    """Which user began which upload, by the server's log."""
    return {
        (words["user"], words["path"])
        for line in server.log.read_text().splitlines()
        if "upload begins" in line
        for words in [dict(word.split("=", 1) for word in line.split() if "=" in word)]
    }


def test_this_front_really_shares_its_connection(alice: Line, bob: Line) -> None:
    """A handshake goes well that begins on one line to it, ends on another; else all this proves little."""
    said = authorization("NTLM", first_leg(alice, "NTLM", password_of("alice"), create("/in/a")))
    assert bob.ask(create("/in/a")(said)).status == 200


@pytest.mark.parametrize(
    "request_of_bob",
    [
        pytest.param(create("/in/b"), id="create"),
        pytest.param(create("/in/a"), id="create-hers"),
        pytest.param(get("/in/a"), id="read-back"),
        pytest.param(lambda _: raw.request("HEAD /in/a HTTP/1.1", {}), id="head"),
    ],
)
def test_behind_her_a_stranger_is_a_stranger(
    server: Ferry, alice: Line, bob: Line, request_of_bob: Callable[[None], bytes]
) -> None:
    session = handshake(alice, "NTLM", password_of("alice"), create("/in/a")).session or ""
    assert alice.ask(raw.fragment("/in/a", session, b"hers", total=9)).received == 4
    bob.send(request_of_bob(None))
    assert bob.answer(bodiless=True).status == 401
    # She may have to say again who she is, and then goes on where she was.
    assert alice.ask(raw.fragment("/in/a", session, b", too", at=4, total=9)).status == 401
    rest = handshake(
        alice,
        "NTLM",
        password_of("alice"),
        lambda said: raw.fragment("/in/a", session, b", too", at=4, total=9, authorization=said),
    )
    assert (rest.status, rest.received) == (200, 9)
    assert uploads_of(server) == {("alice", "/in/a")}


def test_a_stranger_cannot_go_on_with_what_he_cannot_name(server: Ferry, alice: Line, bob: Line) -> None:
    session = handshake(alice, "NTLM", password_of("alice"), create("/in/a")).session or ""
    guess = "{00000000-0000-4000-8000-000000000000}"
    assert bob.ask(raw.fragment("/in/a", guess, b"his")).status == 500
    assert bob.ask(raw.cancel("/in/a", guess)).status == 500
    assert alice.ask(raw.fragment("/in/a", session, b"hers")).status == 200
    assert (server.folder / "in" / "a").read_bytes() == b"hers"


def test_behind_her_ping_nobody_begins_elsewhere(server: Ferry, alice: Line, bob: Line) -> None:
    ping = handshake(alice, "NTLM", password_of("alice"), lambda said: raw.ping("/in/a", authorization=said))
    assert ping.status == 200
    assert bob.ask(raw.create("/in/b")).status == 401
    assert uploads_of(server) == set()


def test_both_with_their_own_passwords_stay_themselves(server: Ferry, alice: Line, bob: Line) -> None:
    for turn in range(10):
        for user, line in (("alice", alice), ("bob", bob)):
            url = f"/in/{user}-{turn}"
            assert line.ask(raw.create(url)).status == 401
            session = handshake(line, "NTLM", password_of(user), create(url)).session or ""
            assert line.ask(raw.fragment(url, session, user.encode())).status == 200
            assert line.ask(raw.close(url, session)).status == 200
            assert (server.folder / url.strip("/")).read_bytes() == user.encode()
    begun = uploads_of(server)
    assert begun == {(user, f"/in/{user}-{turn}") for user in ("alice", "bob") for turn in range(10)}


def test_his_handshake_between_her_legs_is_nobodys(server: Ferry, alice: Line, bob: Line) -> None:
    """The server's side of hers is gone then: what she answers was asked of somebody else."""
    hers = authorization("NTLM", first_leg(alice, "NTLM", password_of("alice"), create("/in/a")))
    his = authorization("NTLM", first_leg(bob, "NTLM", password_of("bob"), create("/in/b")))
    assert alice.ask(create("/in/a")(hers)).status == 401
    assert bob.ask(create("/in/b")(his)).status == 401
    assert uploads_of(server) == set()


def test_a_front_that_says_what_it_is_gets_no_such_handshake(
    serve: Serve, front: Front, tmp_path: Path
) -> None:
    (tmp_path / "nt-hashes").write_text(f"alice:{nthash.hash('of alice')}\n")
    (tmp_path / "users").write_text("bob:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n")
    server = serve(
        directory=f"""
auth = ["ntlm", "basic"]
nt_hashes = "{tmp_path}/nt-hashes"
htpasswd = "{tmp_path}/users"
"""
    )
    path = front(server, "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;")
    with Line(path) as line:
        answer = line.ask(raw.create("/in/a"))
        assert answer.status == 401
        assert [challenge.partition(" ")[0] for challenge in answer.all("WWW-Authenticate")] == ["Basic"]
        token = authorization("NTLM", password_of("alice")(None))
        answer = line.ask(raw.create("/in/a", authorization=token))
        assert answer.status == 401
        assert not [each for each in answer.all("WWW-Authenticate") if each.startswith("NTLM")]
    with server.line() as line:  # past the front, all is as it was
        assert handshake(line, "NTLM", password_of("alice"), create("/in/a")).status == 200
