"""The front: HTTP/1.1 spoken well and badly."""

from __future__ import annotations

import os
import random
import socket
import ssl
import threading
import time
from contextlib import suppress

import pytest

from bitsferry.protocol.hresult import HResult

from . import raw
from .conftest import Serve
from .ferry import Ferry, Upload
from .raw import Line

URL = "/in/a"
FINE = (200, None)
INVALID = (400, HResult.E_INVALIDARG)
MIB = 1024 * 1024
PING = raw.ping(URL)
SMUGGLED = raw.ping("/off/smuggled")  # answered with a 501, if anybody takes it for a request


# One connection, many requests


def test_a_connection_serves_many_requests(upload: Upload) -> None:
    for at in range(50):
        assert upload.fragment(b"x", at=at, total=50).received == at + 1
    assert upload.close().verdict == FINE


def test_pipelined_requests_are_answered_in_their_order(upload: Upload) -> None:
    url, session = upload.url, upload.session
    upload.line.send(
        raw.ping(url)
        + raw.fragment(url, session, b"half", total=8)
        + raw.fragment(url, session, b"?", at=7)
        + raw.fragment(url, session, b"rest", at=4)
        + raw.ping("/off/a")
        + raw.close(url, session)
    )
    answers = [upload.line.answer() for _ in range(6)]
    assert [answer.status for answer in answers] == [200, 200, 416, 200, 501, 200]
    assert [answer.received for answer in answers] == [None, 4, 4, 8, None, None]
    assert upload.file.read_bytes() == b"halfrest"


def test_a_thousand_requests_in_one_send_get_a_thousand_answers(line: Line) -> None:
    line.send(PING * 1000)
    assert {line.answer().verdict for _ in range(1000)} == {FINE}
    assert line.is_silent(0.05)


def test_a_request_that_comes_byte_by_byte_is_one(upload: Upload) -> None:
    for byte in raw.fragment(upload.url, upload.session, b"slowly"):
        upload.line.send(bytes([byte]))
    assert upload.line.answer().received == 6
    assert upload.file.read_bytes() == b"slowly"


@pytest.mark.parametrize("size", [1, 1000, 16 * 1024, 300_000])
def test_a_request_cut_anywhere_between_two_sends_is_one(upload: Upload, size: int) -> None:
    data = os.urandom(size)
    request = raw.fragment(upload.url, upload.session, data)
    head = len(raw.head_of(request))
    upload.line.send(request[: head + size // 2])
    time.sleep(0.02)
    upload.line.send(request[head + size // 2 :] + raw.ping(upload.url))
    assert upload.line.answer().received == size
    assert upload.line.answer().verdict == FINE
    assert upload.file.read_bytes() == data


def test_empty_lines_before_a_request_are_ignored(line: Line) -> None:
    assert line.ask(b"\r\n\r\n" + PING).verdict == FINE
    for byte in b"\r\n":
        line.send(bytes([byte]))
        time.sleep(0.05)
    assert line.ask(PING).verdict == FINE


def test_connection_close_is_obeyed(line: Line) -> None:
    answer = line.ask(raw.ping(URL, connection="close"))
    assert (answer.verdict, answer.closes) == (FINE, True)
    assert line.is_closed()


def test_after_connection_close_nothing_more_is_answered(line: Line) -> None:
    assert line.ask(raw.ping(URL, connection="close") + PING).closes
    assert line.is_closed()


# Versions and targets


def test_http_1_0_is_answered_with_http_1_1_and_closed(line: Line) -> None:
    answer = line.ask(PING.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert (answer.version, answer.verdict) == ("HTTP/1.1", FINE)
    assert line.is_closed()


def test_http_1_0_stays_open_when_it_asks_for_that(line: Line) -> None:
    old = raw.ping(URL, connection="keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")
    answer = line.ask(old)
    assert (answer.get("Connection") or "").lower() == "keep-alive"
    assert line.ask(old).verdict == FINE


def test_http_1_0_needs_no_host(line: Line) -> None:
    assert line.ask(raw.ping(URL, host=None).replace(b"HTTP/1.1", b"HTTP/1.0")).verdict == FINE


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/1.2", b"HTTP/0.9", b"HTTP/11", b"HTTPS/1.1", b""])
def test_other_versions_are_refused(line: Line, version: bytes) -> None:
    refused = line.ask(PING.replace(b"HTTP/1.1", version))
    assert (refused.verdict, refused.closes) == (INVALID, True)


def test_the_absolute_form_of_a_target_is_understood(server: Ferry) -> None:
    upload = server.upload()
    path, upload.url = upload.url, f"http://somewhere.example:8080{upload.url}"
    assert upload.create().verdict == FINE
    assert upload.fragment(b"half", total=8).received == 4
    upload.url = path
    assert upload.fragment(b"rest", at=4).received == 8


@pytest.mark.parametrize("target", ["*", "in/a", "http:/in/a", "127.0.0.1:80", "?query", "//"])
def test_other_forms_of_a_target_are_refused(line: Line, target: str) -> None:
    assert 400 <= line.ask(raw.create(target)).status < 500


def test_an_upgrade_is_not_taken_up(line: Line) -> None:
    assert line.ask(raw.ping(URL, connection="Upgrade, HTTP2-Settings", upgrade="h2c")).verdict == FINE
    assert line.ask(PING).verdict == FINE


# Expect: 100-continue


def test_a_wanted_body_is_asked_for_with_100(upload: Upload) -> None:
    request = raw.fragment(upload.url, upload.session, b"data", expect="100-continue")
    head = raw.head_of(request)
    assert upload.line.ask(head).status == 100
    assert upload.line.ask(request[len(head) :]).received == 4
    assert upload.ping().verdict == FINE


def test_a_body_that_comes_without_waiting_for_the_100_is_taken(upload: Upload) -> None:
    upload.line.send(raw.fragment(upload.url, upload.session, b"data", expect="100-Continue"))
    answer = upload.line.answer()
    assert (answer if answer.status != 100 else upload.line.answer()).received == 4
    assert upload.ping().verdict == FINE


def test_an_unwanted_body_is_refused_without_100_and_the_connection_closes(upload: Upload) -> None:
    gap = raw.fragment(upload.url, upload.session, b"data", at=5, expect="100-continue")
    refused = upload.line.ask(raw.head_of(gap))
    assert (refused.verdict, refused.received, refused.closes) == ((416, None), 0, True)
    assert upload.line.is_closed()


def test_a_refused_body_that_comes_nevertheless_is_no_request(server: Ferry, upload: Upload) -> None:
    gap = raw.fragment(upload.url, upload.session, SMUGGLED, at=5, expect="100-continue")
    refused = upload.line.ask(gap)
    assert (refused.status, refused.closes) == (416, True)
    assert upload.line.is_closed()


def test_a_request_without_a_body_gets_no_100(line: Line) -> None:
    assert line.ask(raw.ping(URL, expect="100-continue")).verdict == FINE
    assert line.ask(PING).verdict == FINE


def test_an_old_client_gets_no_100(upload: Upload) -> None:
    request = raw.fragment(upload.url, upload.session, b"data", expect="100-continue")
    assert upload.line.ask(request.replace(b"HTTP/1.1", b"HTTP/1.0")).received == 4


def test_another_expectation_gets_417(line: Line) -> None:
    assert line.ask(raw.ping(URL, expect="200-fine")).status == 417


# What is too large


def test_a_header_value_over_4_kib_leaves_the_connection_usable(line: Line) -> None:
    for _ in range(3):
        refused = line.ask(raw.ping(URL, x_large="x" * 4097))
        assert (refused.verdict, refused.closes) == (INVALID, False)
        assert line.ask(PING).verdict == FINE


def test_a_head_of_16_kib_is_the_longest(server: Ferry) -> None:
    with server.line() as line:
        assert line.ask(_padded(16 * 1024)).verdict == FINE
        assert line.ask(_padded(16 * 1024 + 1)).verdict == INVALID
        assert line.is_closed()


def _padded(size: int) -> bytes:
    """A ping whose head has `size` bytes."""
    names = [f"x_{number}" for number in range(5)]
    empty = len(raw.ping(URL, **dict.fromkeys(names, "")))
    fill = dict.fromkeys(names, "x" * ((size - empty) // 5))
    fill["x_0"] += "x" * ((size - empty) % 5)
    return raw.ping(URL, **fill)


def test_a_head_that_never_ends_is_refused_and_not_kept(server: Ferry) -> None:
    with server.line() as line:
        line.send(b"BITS_POST /in/a HTTP/1.1\r\nHost: a\r\n" + b"X: x\r\n" * 3000)
        refused = line.answer()
        assert (refused.verdict, refused.closes) == (INVALID, True)
        assert line.is_closed()


# Heads that are refused, whatever they might mean

_HEAD = b"BITS_POST /in/a HTTP/1.1\r\nHost: a\r\nBITS-Packet-Type: Ping\r\nContent-Length: 0\r\n"
MALFORMED = {
    "obs-fold": _HEAD + b"X-Folded: one\r\n two\r\n\r\n",
    "obs-fold first": b"BITS_POST /in/a HTTP/1.1\r\n Host: a\r\n" + _HEAD[26:] + b"\r\n",
    "two Content-Lengths": _HEAD + b"Content-Length: 0\r\n\r\n",
    "two different Content-Lengths": _HEAD + b"Content-Length: 5\r\n\r\n",
    "Content-Length list": _HEAD.replace(b": 0", b": 0, 0") + b"\r\n",
    "Content-Length with a sign": _HEAD.replace(b": 0", b": +0") + b"\r\n",
    "negative Content-Length": _HEAD.replace(b": 0", b": -1") + b"\r\n",
    "hexadecimal Content-Length": _HEAD.replace(b": 0", b": 0x0") + b"\r\n",
    "empty Content-Length": _HEAD.replace(b": 0", b": ") + b"\r\n",
    "Content-Length with a space inside": _HEAD.replace(b": 0", b": 0 0") + b"\r\n",
    "Content-Length beyond 64 bits": _HEAD.replace(b": 0", b": 18446744073709551616") + b"\r\n",
    "Content-Length with an underscore": _HEAD.replace(b": 0", b": 1_0") + b"\r\n",
    "Content-Length and Transfer-Encoding": _HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
    "Transfer-Encoding and Content-Length": _HEAD.replace(
        b"Content-L", b"Transfer-Encoding: chunked\r\nContent-L"
    )
    + b"\r\n",
    "Transfer-Encoding identity": _HEAD + b"Transfer-Encoding: identity\r\n\r\n",
    "Transfer-Encoding obscured": _HEAD + b"Transfer-Encoding: xchunked\r\n\r\n",
    "bare LF": _HEAD.replace(b"\r\n", b"\n") + b"\n",
    "bare LF once": _HEAD.replace(b"Host: a\r\n", b"Host: a\n") + b"\r\n",
    "bare LF at the end": _HEAD + b"\n",
    "bare CR": _HEAD.replace(b"Host: a\r\n", b"Host: a\rX: y\r\n") + b"\r\n",
    "NUL in a value": _HEAD + b"X: a\x00b\r\n\r\n",
    "NUL in a name": _HEAD + b"X\x00: a\r\n\r\n",
    "NUL in the target": _HEAD.replace(b"/in/a", b"/in/\x00") + b"\r\n",
    "control character in a value": _HEAD + b"X: a\x01b\r\n\r\n",
    "space before the colon": _HEAD.replace(b"Host:", b"Host :") + b"\r\n",
    "space before the colon of the length": _HEAD.replace(b"Length:", b"Length :") + b"\r\n",
    "tab before the colon": _HEAD.replace(b"Host:", b"Host\t:") + b"\r\n",
    "header without a colon": _HEAD + b"nothing\r\n\r\n",
    "header without a name": _HEAD + b": nothing\r\n\r\n",
    "no Host": _HEAD.replace(b"Host: a\r\n", b"") + b"\r\n",
    "two Hosts": _HEAD + b"Host: b\r\n\r\n",
    "no version": _HEAD.replace(b" HTTP/1.1", b"") + b"\r\n",
    "no target": _HEAD.replace(b"/in/a ", b"") + b"\r\n",
    "space in the target": _HEAD.replace(b"/in/a", b"/in/a b") + b"\r\n",
    "lower-case verb": _HEAD.replace(b"BITS_POST", b"bits_post") + b"\r\n",
    "half a verb": _HEAD.replace(b"BITS_POST", b"BITS_") + b"\r\n",
    "space before the verb": b" " + _HEAD + b"\r\n",
    "two spaces after the verb": _HEAD.replace(b"POST ", b"POST \x0b") + b"\r\n",
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_head_is_refused_and_what_follows_it_is_no_request(server: Ferry, kind: str) -> None:
    with server.line() as line:
        refused = line.ask(MALFORMED[kind] + SMUGGLED)
        assert refused.status in (400, 501)
        assert refused.status == 400 or "verb" in kind
        assert (refused.is_ack, refused.closes) == (True, True)
        line.stop_sending()
        assert line.is_closed()


def test_an_unknown_method_gets_501_and_the_connection_closes(line: Line) -> None:
    refused = line.ask(PING.replace(b"BITS_POST", b"BITS_PUT") + SMUGGLED)
    assert (refused.status, refused.closes) == (501, True)
    assert line.is_closed()


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "POST", "PROPFIND", "CONNECT", "TRACE"])
def test_a_method_nobody_wants_gets_405_with_the_ones_we_have(line: Line, method: str) -> None:
    refused = line.ask(raw.request(f"{method} {URL} HTTP/1.1", {"Content-Length": "0"}))
    assert refused.status == 405
    assert "BITS_POST" in (refused.get("Allow") or "")
    assert refused.get("Content-Length") == "0"


def test_tls_on_the_plain_port_is_told_so_and_closed(server: Ferry) -> None:
    hello = ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    with server.line() as line:
        refused = line.ask(hello.read())
        assert (refused.verdict, refused.closes) == (INVALID, True)
        assert line.is_closed()


def test_garbage_is_refused_and_closed(server: Ferry) -> None:
    for garbage in (b"\x00" * 100, b"\xff\xfe\xfd", b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"{}\r\n\r\n"):
        with server.line() as line:
            refused = line.ask(garbage)
            assert refused.status in (400, 501)
            assert refused.closes
            line.stop_sending()
            assert line.is_closed()


# Smuggling: a body is never a request, whatever it looks like


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Length": str(len(SMUGGLED))}, 400),
        ({"Content-Length": str(len(SMUGGLED)), "Transfer-Encoding": "chunked"}, 400),
        ({"Transfer-Encoding": "chunked"}, 400),
        ({"Transfer-Encoding": "chunked, identity"}, 400),
        ({"Transfer-Encoding": "\x0bchunked"}, 400),
        ({"Content-Length": None}, 411),
        ({"Content_Length": "0", "Content-Length": None}, 411),
    ],
)
def test_what_follows_a_head_whose_body_is_in_doubt_is_no_request(
    line: Line, headers: dict[str, str | None], status: int
) -> None:
    if "Transfer-Encoding" in headers:
        headers = {"Content-Length": None, **headers}
    refused = line.ask(raw.packet("Ping", URL, headers) + SMUGGLED)
    assert refused.status == status
    if refused.closes:
        line.stop_sending()
        assert line.is_closed()
    else:
        assert line.ask(PING).verdict == FINE


# Without either header, PUT and POST leave it in doubt whether a body follows; the others have none.
FRAMINGS = [(method, how) for method in ("GET", "HEAD", "DELETE", "CONNECT") for how in ("length", "chunked")]
FRAMINGS += [(method, how) for method in ("PUT", "POST") for how in ("length", "chunked", "neither")]


@pytest.mark.parametrize(("method", "framing"), FRAMINGS)
def test_the_body_of_another_method_is_no_request(line: Line, method: str, framing: str) -> None:
    headers: dict[str, str | None] = {}
    body = SMUGGLED
    if framing == "length":
        headers["Content-Length"] = str(len(body))
    elif framing == "chunked":
        headers["Transfer-Encoding"] = "chunked"
        body = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    refused = line.ask(raw.request(f"{method} {URL} HTTP/1.1", headers, body))
    assert 400 <= refused.status < 500
    if refused.closes:
        line.stop_sending()
        assert line.is_closed()
    else:
        assert line.ask(PING).verdict == FINE


def test_a_refused_fragments_body_is_no_request(upload: Upload) -> None:
    refused = upload.fragment(SMUGGLED * 10, at=7)
    assert (refused.status, refused.closes) == (416, False)
    assert upload.ping().verdict == FINE


# Early refusals of large bodies


def test_a_refusal_is_told_before_a_large_body_has_come(server: Ferry) -> None:
    with server.line() as line:
        refused = line.ask(raw.ping(URL, content_length=str(64 * MIB)))
        assert (refused.verdict, refused.closes) == (INVALID, True)


def test_a_client_that_sends_first_and_listens_then_still_reads_its_refusal(server: Ferry) -> None:
    """As Windows does with its fragments of up to 13 MB: a reset would cost it the Ack."""
    upload = server.begun()
    body = bytes(13 * MIB)
    upload.line.send(raw.fragment(upload.url, upload.session, body, at=1))
    refused = upload.line.answer()
    assert (refused.verdict, refused.received, refused.closes) == ((416, None), 0, True)


def test_a_slow_line_is_listened_to_until_its_refused_body_has_come(serve: Serve) -> None:
    ferry = serve(limits="linger_time = 0.7")
    upload = ferry.begun()
    refused = raw.fragment(upload.url, upload.session, bytes(100_000), at=1)
    upload.line.send(refused[:-99_000])
    for _ in range(9):
        time.sleep(0.2)
        upload.line.send(bytes(11_000))
    answer = upload.line.answer()
    assert (answer.verdict, answer.received) == ((416, None), 0)


def test_a_large_refused_body_is_not_read_to_its_end(server: Ferry) -> None:
    sent = 0
    with server.line() as line:
        line.send(raw.ping(URL, content_length=str(1024 * MIB)))
        answers = _listen(line)
        block = bytes(MIB)
        with suppress(OSError):
            for _ in range(1024):
                line.send(block)
                sent += 1
        answers.join(raw.PATIENCE)
    assert answers.heard is not None
    assert answers.heard.verdict == INVALID
    assert sent < 64


class _Listener(threading.Thread):
    heard: raw.Answer | None = None

    def __init__(self, line: Line) -> None:
        super().__init__(daemon=True)
        self.line = line

    def run(self) -> None:
        self.heard = self.line.answer()


def _listen(line: Line) -> _Listener:
    listener = _Listener(line)
    listener.start()
    return listener


# Clients that stop half-way


def test_a_client_that_stops_sending_still_hears_its_answer(upload: Upload) -> None:
    upload.line.send(raw.fragment(upload.url, upload.session, b"whole"))
    upload.line.stop_sending()
    assert upload.line.answer().received == 5
    assert upload.line.is_closed()


def test_a_client_that_stops_sending_hears_all_its_answers(server: Ferry) -> None:
    upload = server.upload()
    upload.line.send(raw.create(upload.url) + PING * 4)
    upload.line.stop_sending()
    assert [upload.line.answer().verdict for _ in range(5)] == [FINE] * 5
    assert upload.line.is_closed()


def test_a_client_that_stops_sending_inside_a_head_or_body_is_let_go(server: Ferry, upload: Upload) -> None:
    for request in (PING, raw.fragment(upload.url, upload.session, b"data")):
        with server.line() as line:
            line.send(request[:-1])
            line.stop_sending()
            assert line.is_closed()


def test_clients_that_vanish_leave_nothing_behind(server: Ferry) -> None:
    refused = raw.ping(URL, content_length=str(64 * MIB))
    for request in (b"", PING[:9], PING, raw.ping(URL, content_length="99"), refused, b"\x00") * 5:
        line = server.line()
        line.send(request)
        line.break_off()
    with server.line() as line:
        assert line.ask(PING).verdict == FINE


def test_whatever_is_said_is_answered_or_ended_and_the_server_goes_on(server: Ferry, upload: Upload) -> None:
    chance = random.Random(3)
    url, session = upload.url, upload.session
    sensible = [
        PING,
        raw.create(url),
        raw.fragment(url, session, b"x" * 50, total=100),
        raw.fragment(url, session, b"x" * 50, at=50, expect="100-continue"),
        raw.close(url, session),
        raw.request(f"GET {url} HTTP/1.1", {}),
    ]
    for _ in range(300):
        said = _mangled(chance, b"".join(chance.choices(sensible, k=3)))
        with server.line() as line, suppress(ConnectionError):
            line.send(said)
            line.stop_sending()
            while True:
                assert 100 <= line.answer().status < 600
    assert server.upload().create().verdict == FINE


def _mangled(chance: random.Random, request: bytes) -> bytes:
    """A few bytes lost, doubled, changed or put in."""
    said = bytearray(request)
    for _ in range(chance.randrange(6)):
        at, size = chance.randrange(len(said)), chance.randrange(1, 9)
        put = chance.choice(
            [b"", said[at : at + size] * 2, b"\r\n", b"\r\n\r\n", b"\x00", b" ", b":", b"%2e%2e/"]
        )
        said[at : at + chance.choice([0, size])] = put
    return bytes(said)


def test_a_client_that_asks_and_never_listens_costs_no_memory_and_no_one_else_anything(
    serve: Serve,
) -> None:
    ferry = serve()
    with ferry.line() as other:
        assert other.ask(PING).verdict == FINE
        before = ferry.memory
        with Line(ferry.port, buffer=16 * 1024) as deaf:
            sent = deaf.send_what_is_taken(PING * 100_000)
            assert sent < len(PING) * 100_000, "the server takes what nobody wants answered"
            assert ferry.memory - before < 8 * MIB
            begun = time.monotonic()
            assert other.ask(PING).verdict == FINE
            assert time.monotonic() - begun < 1
            for _ in range(sent // len(PING)):
                assert deaf.answer().status == 200


# Limits


def test_a_client_that_asks_and_never_listens_is_let_go_after_the_stall_time(serve: Serve) -> None:
    ferry = serve(limits="stall_time = 0.5\nconnections = 1")
    with Line(ferry.port, buffer=16 * 1024) as deaf:
        deaf.send_what_is_taken(PING * 100_000)
        assert raw.eventually(lambda: ferry.is_welcoming)


@pytest.mark.parametrize("said", [PING[:-2], PING[:5], b"\r\n"], ids=["no end", "a verb", "a line"])
def test_a_slow_head_is_closed_however_steadily_it_comes(serve: Serve, said: bytes) -> None:
    ferry = serve(limits="head_time = 0.5\nidle_time = 0.5")
    with ferry.line() as line:
        begun = time.monotonic()
        line.send(said)
        while not line.is_closed(0.1):
            with suppress(OSError):
                line.send(b"X: x\r\n" if said.startswith(PING[:-2]) else b"")
            assert time.monotonic() - begun < 5


def test_an_idle_connection_is_closed_and_a_busy_one_is_not(serve: Serve) -> None:
    ferry = serve(limits="idle_time = 1")
    with ferry.line() as idle, ferry.line() as busy:
        assert idle.ask(PING).verdict == FINE
        begun = time.monotonic()
        while not idle.is_closed(0.2):
            assert busy.ask(PING).verdict == FINE
            assert time.monotonic() - begun < 8
        assert busy.ask(PING).verdict == FINE


def test_a_connection_that_never_says_anything_is_closed(serve: Serve) -> None:
    ferry = serve(limits="idle_time = 0.3")
    with ferry.line() as line:
        assert line.is_closed()


def test_a_body_that_stalls_is_given_up_and_what_arrived_counts(serve: Serve) -> None:
    ferry = serve(limits="stall_time = 0.5")
    upload = ferry.begun()
    upload.line.send(raw.fragment(upload.url, upload.session, b"0123456789")[:-6])
    assert upload.line.is_closed()
    upload.call_again()
    assert upload.held(10) == 4


def test_a_body_that_comes_slowly_but_steadily_is_not_given_up(serve: Serve) -> None:
    ferry = serve(limits="stall_time = 1\nhead_time = 0.5\nidle_time = 0.5")
    upload = ferry.begun()
    request = raw.fragment(upload.url, upload.session, b"0123456789")
    upload.line.send(request[:-10])
    for byte in request[-10:]:
        time.sleep(0.2)
        upload.line.send(bytes([byte]))
    assert upload.line.answer().received == 10


def test_a_refused_body_that_never_comes_is_not_waited_for(serve: Serve) -> None:
    ferry = serve(limits="stall_time = 0.5\nlinger_time = 0.5")
    for length in (1000, 64 * MIB):
        with ferry.line() as line:
            assert line.ask(raw.ping(URL, content_length=str(length))).verdict == INVALID
            assert line.is_closed()


def test_connections_over_the_limit_get_503_and_others_go_on(serve: Serve) -> None:
    ferry = serve(limits="connections = 3")
    lines = [ferry.line() for _ in range(3)]
    try:
        for line in lines:
            assert line.ask(PING).verdict == FINE
        for _ in range(5):
            with ferry.line() as refused:
                answer = refused.answer()
                assert (answer.verdict, answer.closes) == ((503, None), True)
                assert answer.get("Retry-After")
        for line in lines:
            assert line.ask(PING).verdict == FINE
    finally:
        for line in lines:
            line.hang_up()
    assert raw.eventually(lambda: ferry.is_welcoming)


def test_connections_of_one_address_over_its_limit_get_503_and_other_addresses_go_on(serve: Serve) -> None:
    ferry = serve(limits="connections_per_address = 1")
    with ferry.line() as first, ferry.line() as second:
        assert second.answer().verdict == (503, None)
        assert first.ask(PING).verdict == FINE
        with socket.create_connection(("127.0.0.1", ferry.port), 10, ("127.0.0.2", 0)) as elsewhere:
            elsewhere.sendall(PING)
            assert elsewhere.recv(1000).startswith(b"HTTP/1.1 200 ")
