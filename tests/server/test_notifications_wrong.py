"""Applications that fail or break the rules: what their clients hear, and that they are told again."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from bitsferry.protocol.hresult import http_error

from .applications import COPY, Answering, Application, Heard, Slow, Stage, outcome, replying, say, telling
from .conftest import Serve, end
from .ferry import Upload

DATA = os.urandom(20_000)
FINE = (200, None, None)


@pytest.fixture(scope="module")
def shared_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("stage"))
    yield stage
    stage.close()
    end(stage.ferry)


@pytest.fixture
def stage(shared_stage: Stage) -> Iterator[Stage]:
    yield shared_stage
    shared_stage.clear()


def check_told_again(stage: Stage, upload: Upload) -> None:
    """Once the application is mended, the next fragment brings the success; it is one upload to it."""
    stage.answer(say(**COPY))
    before = len(stage.heard)
    ack = upload.fragment(DATA)
    assert (outcome(ack), ack.received) == (FINE, len(DATA))
    assert upload.file.read_bytes() == DATA
    assert len(stage.heard) == before + 1
    assert len(stage.application.keys) == 1


# By their status (Learn, handling-server-application-errors)

# What the application says, what its client hears. An application must not make a client log on to us, send
# smaller fragments or start over; and what is no status must not stand in an Ack.
STATUSES = {
    300: 300, 301: 301, 302: 302, 303: 303, 304: 304, 305: 305, 306: 306, 307: 307, 308: 308, 399: 399,
    400: 400, 402: 402, 404: 404, 405: 405, 408: 408, 409: 409, 410: 410, 418: 418, 429: 429, 499: 499,
    401: 502, 407: 502, 411: 400, 413: 400, 416: 400,
    500: 500, 501: 501, 502: 502, 503: 503, 504: 504, 505: 505, 599: 599,
    101: 502, 103: 502, 600: 502, 999: 502,
}  # fmt: skip


@pytest.mark.parametrize("status", STATUSES)
def test_a_status_that_is_no_success_reaches_the_client_and_the_application_is_told_again(
    stage: Stage, status: int
) -> None:
    stage.answer(say(status, b"<p>an error page</p>", location="http://127.0.0.1:1/elsewhere"))
    upload = stage.upload()
    ack = upload.fragment(DATA)
    assert outcome(ack) == (STATUSES[status], f"0x{http_error(status):08X}", "0x7")
    assert (ack.received, ack.session, ack.is_ack) == (len(DATA), upload.session, True)
    assert not upload.file.exists()
    assert len(stage.heard) == 1, "redirects are not followed"
    check_told_again(stage, upload)


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_any_success_but_202_is_one(stage: Stage, status: int) -> None:
    stage.answer(say(status, **COPY))
    upload = stage.upload()
    assert outcome(upload.fragment(DATA)) == FINE
    assert upload.file.read_bytes() == DATA


@pytest.mark.parametrize("header", ["bits_error_code", "bits_error"])
def test_the_applications_own_number_goes_on_to_the_client(stage: Stage, header: str) -> None:
    number: dict[str, Any] = {header: "0xA0001234"}
    stage.answer(say(500, **number))
    assert outcome(stage.upload().fragment(DATA)) == (500, "0xA0001234", "0x7")


def test_a_number_that_would_mean_that_we_lost_the_upload_does_not(stage: Stage) -> None:
    stage.answer(say(500, bits_error_code="0x8020001F"))
    assert outcome(stage.upload().fragment(DATA)) == (500, "0x801901F4", "0x7")


def test_of_an_error_only_the_head_counts(stage: Stage) -> None:
    stage.answer(say(404, b"?" * 2000, content_length="nonsense", content_encoding="br"))
    assert outcome(stage.upload("/quick/").fragment(DATA))[0] == 404


def test_how_long_to_wait_goes_on_to_the_client(stage: Stage) -> None:
    stage.answer(say(503, retry_after="77"))
    assert stage.upload().fragment(DATA).get("Retry-After") == "77"


def test_a_403_is_the_last_word(serve: Serve) -> None:
    """Learn: the only status after which the same file is not posted again."""
    application = Application(lambda heard: say(403, bits_error_code="0xA0000001"))
    try:
        ferry = serve(directory=telling(application, "value"))
        upload = ferry.begun()
        refused = (403, "0xA0000001", "0x7")
        assert outcome(upload.fragment(DATA)) == refused
        application.answer = lambda heard: say(**COPY)
        assert outcome(upload.fragment(DATA)) == refused
        ferry.restart()
        assert outcome(upload.fragment(DATA)) == refused
        assert len(application.heard) == 1
        assert upload.cancel().verdict == (200, None)
        assert not upload.file.exists()
    finally:
        application.close()


# By what they say, or do not

LATE = (408, "0x80070112", "0x7")
BROKEN_OFF = (502, "0x80072EFE", "0x7")
AGAINST_THE_RULES = (502, "0x80070057", "0x7")

BODY = b"a reply of forty bytes, and not one more"

WRONG: dict[str, tuple[Answering | bytes, tuple[int, str, str]]] = {
    "hangs up": (b"", BROKEN_OFF),
    "half a status line": (b"HTTP/1.1 2", BROKEN_OFF),
    "half a head": (say()[:-10], BROKEN_OFF),
    "half a body": (say(body=BODY)[:-20], BROKEN_OFF),
    "half a chunked body": (
        say(content_length=None, transfer_encoding="chunked") + b"28\r\nhalf of i",
        BROKEN_OFF,
    ),
    "a chunked body without its end": (
        say(content_length=None, transfer_encoding="chunked") + b"4\r\nhalf\r\n",
        BROKEN_OFF,
    ),
    "no HTTP": (b"220 mail.example ESMTP\r\n", AGAINST_THE_RULES),
    "no chunks": (
        say(content_length=None, transfer_encoding="chunked") + b"not hexadecimal\r\n",
        BROKEN_OFF,
    ),
    "an endless head": (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 2000, AGAINST_THE_RULES),
    "an endless line": (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, AGAINST_THE_RULES),
    "no length": (say(body=BODY, content_length="forty"), AGAINST_THE_RULES),
    "a negative length": (say(body=BODY, content_length="-1"), AGAINST_THE_RULES),
    "two lengths": (
        say(body=BODY).replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\n", 1),
        AGAINST_THE_RULES,
    ),
    "a length and chunks": (say(body=BODY, transfer_encoding="chunked"), AGAINST_THE_RULES),
    "another coding": (say(body=BODY, content_length=None, transfer_encoding="gzip"), AGAINST_THE_RULES),
    "a compressed reply": (say(body=BODY, content_encoding="gzip"), AGAINST_THE_RULES),
    "a reply too large": (say(body=b"x" * 1001), AGAINST_THE_RULES),
    "a chunked reply too large": (
        say(content_length=None, transfer_encoding="chunked") + b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n",
        AGAINST_THE_RULES,
    ),
    "a relative static URL": (say(bits_static_response_url="/reply.bin"), AGAINST_THE_RULES),
    "a static URL of another kind": (say(bits_static_response_url="file:///etc/passwd"), AGAINST_THE_RULES),
    "a static URL of two": (say(bits_static_response_url="http://a/ http://b/"), AGAINST_THE_RULES),
    "a static URL too long": (
        say(bits_static_response_url="http://a/" + "a" * 2192),
        (400, "0x80070057", "0x7"),
    ),
    "a header too long": (say(x_header="y" * 4097), AGAINST_THE_RULES),
    "a Location too long": (say(202, location="http://a/" + "a" * 2192), AGAINST_THE_RULES),
    "a Location of another kind": (say(202, location="file:///etc/passwd"), AGAINST_THE_RULES),
    "a Location with a password": (say(202, location="http://me:pass@127.0.0.1/"), AGAINST_THE_RULES),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_answer_is_told_as_one_and_the_application_is_told_again(stage: Stage, wrong: str) -> None:
    answer, expected = WRONG[wrong]
    stage.answer(answer)
    upload = stage.upload("/quick/")
    ack = upload.fragment(DATA)
    assert outcome(ack) == expected
    assert ack.received == len(DATA)
    assert ack.get("BITS-Reply-URL") is None
    assert not upload.file.exists()
    check_told_again(stage, upload)


def test_the_longest_of_everything_is_taken(stage: Stage) -> None:
    url = "http://a/" + "a" * 2191
    stage.answer(say(bits_static_response_url=url, x_header="y" * 4096, body=b"x" * 1000))
    assert stage.upload("/quick/").fragment(DATA).get("BITS-Reply-URL") == url


@pytest.mark.parametrize("under", ["/quick/", "/quick-reference/"])
def test_an_application_that_never_answers_is_given_up_in_time(stage: Stage, under: str) -> None:
    """MC-BUP 3.3.6: 408 and the number that is printed there."""
    slow = Slow(lambda heard: say())
    stage.answer(slow)
    upload = stage.upload(under)
    assert outcome(upload.fragment(DATA)) == LATE
    slow.finish()
    check_told_again(stage, upload)


@pytest.mark.parametrize("under", ["/quick/", "/quick-reference/"])
def test_one_that_stops_inside_its_answer_too(stage: Stage, under: str) -> None:
    slow = Slow(lambda heard: b"")
    upload = stage.upload(under)
    stage.application.beginning = say(body=BODY)[:-20]
    stage.answer(slow)
    assert outcome(upload.fragment(DATA)) == LATE
    slow.finish()
    stage.application.beginning = b""
    check_told_again(stage, upload)


def test_by_reference_a_reply_that_is_too_large_is_refused(stage: Stage) -> None:
    stage.answer(replying(b"x" * 1001))
    upload = stage.upload("/quick-reference/")
    assert outcome(upload.fragment(DATA)) == AGAINST_THE_RULES
    check_told_again(stage, upload)


def test_by_reference_only_a_file_is_a_reply(stage: Stage) -> None:
    """A link would give out what the application's account may not read and ours may."""

    def answer(heard: Heard) -> bytes:
        heard.reply.symlink_to("/etc/hostname")
        return say()

    stage.answer(answer)
    upload = stage.upload("/reference/")
    ack = upload.fragment(DATA)
    assert (ack.status, ack.get("BITS-Reply-URL")) == (500, None)
    check_told_again(stage, upload)


def test_what_a_failed_attempt_left_of_a_reply_is_no_reply(stage: Stage) -> None:
    def answer(heard: Heard) -> bytes:
        heard.reply.write_bytes(b"half of it")
        return say(500)

    stage.answer(answer)
    upload = stage.upload("/reference/")
    assert upload.fragment(DATA).status == 500
    stage.answer(say())
    assert upload.fragment(DATA).get("BITS-Reply-URL") is None


# What is fine, however odd


@pytest.mark.parametrize(
    "answer",
    [
        say(content_length=None, body=BODY),
        b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
        b"HTTP/1.1 100 Continue\r\n\r\n" + say(body=BODY),
        b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" * 3 + say(body=BODY),
        say(content_length=None, transfer_encoding="chunked")
        + b"A;x=y\r\n" + BODY[:10] + b"\r\n1E\r\n" + BODY[10:] + b"\r\n0\r\nX: y\r\n\r\n",
        say(body=BODY, connection="keep-alive", content_encoding="identity"),
        say(body=BODY) + b"more than was announced",
    ],
    ids=["no length", "1.0", "continue", "continue thrice", "chunked", "keep-alive", "more"],
)  # fmt: skip
def test_every_way_to_answer_is_understood(stage: Stage, answer: bytes) -> None:
    stage.answer(answer)
    upload = stage.upload()
    url = upload.fragment(DATA).get("BITS-Reply-URL")
    assert stage.get(f"/value/{url}").body == BODY


def test_an_answer_before_the_whole_file_was_read_is_heard(stage: Stage) -> None:
    """As nginx says 413, and does not read on."""
    stage.application.reads_bodies = False
    stage.answer(say(413))
    try:
        data = os.urandom(8 << 20)
        assert outcome(stage.upload().fragment(data)) == (400, f"0x{http_error(413):08X}", "0x7")
    finally:
        stage.application.reads_bodies = True


# Not there at all


def port_of_nobody() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", (503, "0x80072EFD", "0x7")), ("nobody.invalid", (503, "0x80072EE7", "0x7"))],
)
def test_one_that_cannot_be_reached_is_a_reason_to_try_again(
    serve: Serve, host: str, expected: tuple[int, str, str]
) -> None:
    url = f"http://{host}:{port_of_nobody()}/x"
    upload = serve(directory=f'notification_type = "value"\nnotification_url = "{url}"\n').begun()
    assert outcome(upload.fragment(DATA)) == expected
    assert upload.cancel().verdict == (200, None)


def test_one_whose_line_is_never_taken_is_given_up_in_time(serve: Serve) -> None:
    """Its queue of connections is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        ferry = serve(
            directory=f'notification_type = "value"\nnotification_url = "{url}"\nnotification_timeout = 0.3'
        )
        assert outcome(ferry.begun().fragment(DATA)) == (503, "0x80072EFD", "0x7")
        for each in waiting:
            each.close()
