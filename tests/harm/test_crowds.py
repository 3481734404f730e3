"""Crowds that mean harm: honest uploads get through, memory, log and store stay within bounds.

These are the quick forms, which assert what cannot depend on the machine; `make harm` measures.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from server import raw
from server.conftest import Serve
from server.ferry import Ferry

from .conftest import Gather

MIB = 1 << 20
PATIENCE = 60.0  # seconds for what takes less than one where nobody means harm
SLACK = 12 * MIB  # bytes of memory a server may take beside what the tests count
PING = raw.ping("/in/a")
CREATE = raw.create("/in/a")


def upload(ferry: Ferry) -> float:
    """An honest upload of 4 MiB, which arrives whole; how many seconds it took."""
    begun = time.monotonic()
    upload = ferry.begun()
    upload.line.socket.settimeout(PATIENCE)
    content = bytes(4 * MIB)
    upload.send(content, MIB)
    assert upload.file.read_bytes() == content
    return time.monotonic() - begun


def honest(ferry: Ferry, count: int = 3) -> None:
    """Several of them at once."""
    with ThreadPoolExecutor(count) as pool:
        took = list(pool.map(lambda _: upload(ferry), range(count)))
    assert max(took) < PATIENCE


@pytest.mark.parametrize(
    ("said", "statuses"),
    [
        (PING, {200}),
        (raw.ping("/nowhere/a"), {404}),
        (CREATE, {200}),
        (raw.fragment("/in/a", "{A0FF5911-0000-4000-8000-000000000000}", b"x" * 100), {500, 503}),
    ],
    ids=["pings", "nowhere", "sessions", "forgotten sessions"],
)
def test_honest_uploads_finish_while_a_crowd_asks_without_a_pause(
    serve: Serve, gather: Gather, said: bytes, statuses: set[int]
) -> None:
    ferry = serve()
    before = ferry.memory
    crowd = gather(ferry, said, 200)
    assert raw.eventually(lambda: crowd.answers.total() > 200)
    honest(ferry)
    assert ferry.memory - before < SLACK + 200 * 32 * 1024
    assert set(crowd.answers) <= statuses


def test_who_never_ends_a_head_is_let_go_and_holds_nobody_up(serve: Serve, gather: Gather) -> None:
    ferry = serve(limits='head_time = "1 s"')
    crowd = gather(ferry, PING, 200, drip=0.2)
    honest(ferry)
    assert raw.eventually(lambda: crowd.ended == 200)
    assert not crowd.answers


def test_bodies_that_come_byte_by_byte_hold_nobody_up(serve: Serve, gather: Gather) -> None:
    ferry = serve()
    slow = raw.packet("Ping", "/in/a", {"Content-Length": "60000"}) + bytes(60_000)
    gather(ferry, slow, 200, drip=0.05)
    honest(ferry)


def test_unfinished_heads_cost_their_bytes_and_little_more(serve: Serve) -> None:
    ferry, count, size = serve(), 300, 16_000
    before = ferry.memory
    lines = [ferry.line() for _ in range(count)]
    for line in lines:
        line.send(b"GET / HTTP/1.1\r\nX: " + b"a" * (size - 19))
    assert ferry.is_welcoming
    ferry.catch_up()
    # docs/explanation/security.md: connections x (head_size + 16 KiB)
    assert ferry.memory - before < count * (16 * 1024 + 16 * 1024) + SLACK
    for line in lines:
        line.hang_up()


def test_pipelined_requests_wait_in_the_system_not_in_our_memory(serve: Serve) -> None:
    ferry = serve()
    before = ferry.memory
    lines = [ferry.line() for _ in range(50)]
    for line in lines:
        line.send_what_is_taken(PING * 2000)
    with ferry.line() as line:
        assert line.ask(PING).status == 200
    assert ferry.memory - before < SLACK + 50 * 64 * 1024
    for line in lines:
        line.hang_up()


OVERSIZED = {
    "head": b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000,
    "target": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 5000 + b"\r\n",
    "101 headers": b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: a\r\n" * 100 + b"\r\n",
    "value": raw.ping("/in/a", content_name="a" * 5000),
    "length 2^63": raw.packet("Ping", "/in/a", {"Content-Length": str(1 << 63)}),
    "length 2^64": raw.packet("Ping", "/in/a", {"Content-Length": str(1 << 64)}),
    "length of 100 digits": raw.packet("Ping", "/in/a", {"Content-Length": "9" * 100}),
    "range": raw.fragment("/in/a", raw.GUID, b"x", content_range=f"bytes 0-{1 << 63}/{(1 << 63) + 1}"),
}


def test_what_is_oversized_is_refused_with_a_4xx(serve: Serve) -> None:
    ferry = serve()
    before = ferry.memory
    for what, said in OVERSIZED.items():
        for _ in range(10):
            with ferry.line() as line:
                line.send(said)
                assert line.answer().status == 400, what
    assert ferry.memory - before < SLACK
    assert ferry.is_welcoming


def test_a_body_without_end_is_cut_off(serve: Serve) -> None:
    ferry = serve(limits='linger_size = "1 MB"')
    with ferry.line() as line:
        line.send(raw.packet("Ping", "/in/a", {"Content-Length": str(1 << 60)}))
        assert line.answer().status == 400
        assert line.send_what_is_taken(bytes(64 * MIB)) < 64 * MIB


def test_limits_on_sessions_bound_the_store_whatever_is_asked(serve: Serve, gather: Gather) -> None:
    ferry = serve(directory="sessions_per_user = 50")
    crowd = gather(ferry, CREATE, 50)
    assert raw.eventually(lambda: crowd.answers[503] > 1000)
    assert crowd.answers[200] == 50
    assert len(list((ferry.folder / "store" / "sessions").glob("*/*"))) == 50


def test_a_flood_of_refusals_does_not_flood_the_log(serve: Serve, gather: Gather) -> None:
    ferry = serve()
    crowd = gather(ferry, raw.ping("/nowhere/a"), 20)
    begun = time.monotonic()
    assert raw.eventually(lambda: crowd.answers[404] > 2000)
    lines = ferry.log.read_text(encoding="utf-8").count("no upload directory")
    assert 0 < lines <= 30 + time.monotonic() - begun + 1
    assert raw.eventually(lambda: "left_out=" in ferry.log.read_text(encoding="utf-8"))


PASSWORDS = 'auth = ["basic"]\nhtpasswd = "users"'


def test_wrong_passwords_by_the_hundred_keep_nobody_out(serve: Serve, gather: Gather) -> None:
    """bcrypt at cost 12 takes a quarter of a second: two hundred guesses at once would take all of them."""
    bcrypt = pytest.importorskip("bcrypt")
    ferry = serve()
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(12)).decode()
    (ferry.folder / "users").write_text(f"anna:{hashed}\nbob:{hashed}\n")
    settings = ferry.folder / "bitsferry.toml"
    more = f'\n[[directory]]\nurl = "/who/"\nfolder = "./who"\n{PASSWORDS}\n'
    settings.write_text(settings.read_text() + more)
    ferry.reload()
    with ferry.line() as line:
        assert raw.eventually(lambda: line.ask(raw.ping("/who/a")).status == 401)
    crowd = gather(ferry, raw.ping("/who/a", authorization="Basic Ym9iOndyb25n"), 100)  # bob:wrong
    honest(ferry)
    assert set(crowd.answers) <= {401, 503}
    with ferry.line() as line:
        line.socket.settimeout(PATIENCE)
        right = raw.ping("/who/a", authorization="Basic YW5uYTpzZWNyZXQ=")  # anna:secret
        assert raw.eventually(lambda: line.ask(right).status == 200, PATIENCE)
