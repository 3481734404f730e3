"""Applications that take an upload with 202, work on it, and answer when they are asked again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from . import raw
from .applications import COPY, Answering, Application, Heard, get, outcome, reply_url, say, telling
from .conftest import Serve
from .ferry import Ferry, Upload
from .raw import Answer

DATA = os.urandom(20_000)
REPLY = b"what the application has to say to it"
FINE = (200, None)

Ask = Callable[[Answering | bytes], Application]


@pytest.fixture
def ask() -> Iterator[Ask]:
    """Starts applications."""
    started: list[Application] = []

    def ask(answer: Answering | bytes) -> Application:
        started.append(Application(answer if callable(answer) else lambda heard: answer))
        return started[-1]

    yield ask
    for application in started:
        application.close()


def has_answered(folder: Path) -> bool:
    """Whether the application's answer is kept, so that nobody has to wait for it any more."""
    return any(b'"has_reply":true' in each.read_bytes() for each in folder.rglob("dialogue.json"))


def is_told_to_wait(ack: Answer) -> bool:
    """What a client hears that shall come again."""
    assert outcome(ack) == (503, "0x801901F7", "0x7")
    assert ack.get("Retry-After") == "1"
    assert ack.received == len(DATA)
    return True


def fragment_until_done(upload: Upload) -> Answer:
    answers: list[Answer] = []

    def done() -> bool:
        answers.append(upload.fragment(DATA))
        return answers[-1].status == 200 or not is_told_to_wait(answers[-1])

    assert raw.eventually(done)
    return answers[-1]


def methods(application: Application) -> list[tuple[str, str]]:
    return [(heard.method, heard.target) for heard in application.heard]


def test_it_is_posted_again_until_it_answers_while_the_client_is_told_to_come_again(
    serve: Serve, ask: Ask
) -> None:
    application = ask(say(202, retry_after="1"))
    ferry = serve(directory=telling(application, "value"))
    upload = ferry.begun()
    assert is_told_to_wait(upload.fragment(DATA))
    assert is_told_to_wait(upload.fragment(DATA))
    assert len(application.heard) == 1, "a client that asks does not make us ask"
    upload.line.hang_up()
    assert raw.eventually(lambda: len(application.heard) == 2), "nor does it need one"
    application.answer = lambda heard: say(body=REPLY, **COPY)
    assert raw.eventually(lambda: has_answered(ferry.folder))
    upload.call_again()
    ack = upload.fragment(DATA)
    assert ack.verdict == FINE
    assert upload.file.read_bytes() == DATA
    assert get(ferry, reply_url(upload, ack)).body == REPLY
    assert [heard.body for heard in application.heard] == [DATA] * 3
    assert len(application.keys) == 1


def working_at(place: str, *answers: bytes) -> Answering:
    """Takes what is posted and says where to ask; there it says these one after the other."""
    left = list(answers)

    def answer(heard: Heard) -> bytes:
        if heard.method == "POST":
            return say(202, location=place, retry_after="1")
        return left.pop(0) if len(left) > 1 else left[0]

    return answer


@pytest.mark.parametrize("place", ["/jobs/1?x=1", "jobs/1?x=1", "http://127.0.0.1:{port}/jobs/1?x=1#now"])
def test_where_it_says_so_it_is_asked_there_and_nothing_is_sent_again(
    serve: Serve, ask: Ask, place: str
) -> None:
    application = ask(say())
    application.answer = working_at(
        place.format(port=application.port), say(202, retry_after="1"), say(body=REPLY)
    )
    ferry = serve(directory=telling(application, "value"))
    upload = ferry.begun()
    assert is_told_to_wait(upload.fragment(DATA))
    ack = fragment_until_done(upload)
    assert get(ferry, reply_url(upload, ack)).body == REPLY
    assert methods(application) == [("POST", "/handle")] + [("GET", "/jobs/1?x=1")] * 2
    assert application.last.get("Content-Length") == "0"
    assert len(application.keys) == 1


@pytest.mark.parametrize("forgotten", [404, 410])
def test_one_that_forgot_it_is_told_again(serve: Serve, ask: Ask, forgotten: int) -> None:
    """The status must not kill the client's job: nothing is wrong with the upload."""
    posted: list[Heard] = []

    def answer(heard: Heard) -> bytes:
        if heard.method == "GET":
            return say(forgotten)
        posted.append(heard)
        return say(202, location="/jobs/1", retry_after="1") if len(posted) == 1 else say(**COPY)

    upload = serve(directory=telling(ask(answer), "value")).begun()
    assert is_told_to_wait(upload.fragment(DATA))
    assert fragment_until_done(upload).verdict == FINE
    assert upload.file.read_bytes() == DATA
    assert len({heard.get("Idempotency-Key") for heard in posted}) == 1


def test_what_it_wrote_before_it_forgot_is_no_reply(serve: Serve, ask: Ask) -> None:
    posted: list[Heard] = []

    def answer(heard: Heard) -> bytes:
        if heard.method == "GET":
            return say(404)
        posted.append(heard)
        if len(posted) > 1:
            return say()
        heard.reply.write_bytes(b"half of a repl")
        return say(202, location="/jobs/1", retry_after="1")

    upload = serve(directory=telling(ask(answer), "reference")).begun()
    assert is_told_to_wait(upload.fragment(DATA))
    assert fragment_until_done(upload).get("BITS-Reply-URL") is None


@pytest.mark.parametrize("kind", ["reference", "value"])
def test_what_it_said_survives_the_death_of_the_server(serve: Serve, ask: Ask, kind: str) -> None:
    """It is asked where it said, not told again; by reference a reply it wrote meanwhile is there."""

    def answer(heard: Heard) -> bytes:
        if heard.method == "POST":
            if kind == "reference":
                heard.reply.write_bytes(REPLY)
            return say(202, location="/jobs/1", retry_after="600")
        return say(body=b"" if kind == "reference" else REPLY, **COPY)

    application = ask(answer)
    ferry = serve(directory=telling(application, kind))
    upload = ferry.begun()
    assert outcome(upload.fragment(DATA))[0] == 503
    ferry.restart()
    ack = upload.fragment(DATA)
    assert ack.verdict == FINE
    assert get(ferry, reply_url(upload, ack)).body == REPLY
    assert upload.file.read_bytes() == DATA
    assert methods(application) == [("POST", "/handle"), ("GET", "/jobs/1")]


def test_its_patience_is_ours_only_so_long(serve: Serve, ask: Ask) -> None:
    application = ask(say(202, retry_after="1"))
    settings = telling(application, "value") + "notification_patience = 1"
    upload = serve(directory=settings).begun()
    assert is_told_to_wait(upload.fragment(DATA))
    late: list[Answer] = []

    def is_over() -> bool:
        late.append(upload.fragment(DATA))
        return late[-1].status == 504

    # The talk ends by itself, or under the eyes of a client: then that one hears 504.
    assert raw.eventually(lambda: is_over() or len(application.heard) > 2)
    application.answer = lambda heard: say(**COPY)
    assert fragment_until_done(upload).verdict == FINE
    assert upload.file.read_bytes() == DATA


def test_a_cancel_ends_the_asking(serve: Serve, ask: Ask) -> None:
    application = ask(say(202, retry_after="1"))
    ferry: Ferry = serve(directory=telling(application, "value"))
    upload, other = ferry.begun(), ferry.begun()
    for each in (upload, other):
        assert is_told_to_wait(each.fragment(DATA))
    assert upload.cancel().verdict == FINE
    assert raw.eventually(lambda: len(application.heard) == 4), "the other one is asked twice"
    keys = [heard.get("Idempotency-Key") for heard in application.heard]
    assert keys.count(upload.session.strip("{}")) == 1


def test_a_close_while_it_works_is_told_to_come_again(serve: Serve, ask: Ask) -> None:
    application = ask(say(202, retry_after="1"))
    upload = serve(directory=telling(application, "value")).begun()
    assert is_told_to_wait(upload.fragment(DATA))
    assert is_told_to_wait(upload.close())
    application.answer = lambda heard: say(**COPY)
    assert raw.eventually(lambda: upload.close().status == 200)
    assert upload.file.read_bytes() == DATA
