"""An application behind a directory: told of whole uploads over HTTP, its answers reach the client."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from transcripts.reader import Direction, Message, pattern, read

from . import raw
from .applications import (
    COPY,
    Answering,
    Application,
    Heard,
    Slow,
    Stage,
    get,
    reply_url,
    replying,
    say,
    telling,
)
from .conftest import Serve, end
from .ferry import Ferry, Upload
from .old_application import old_application
from .raw import Answer

DATA = os.urandom(20_000)
REPLY = b"what the application has to say to it"
FINE = (200, None)

BOTH = pytest.mark.parametrize("kind", ["reference", "value"])

Ask = Callable[[Answering | bytes], Application]


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


@pytest.fixture
def ask() -> Iterator[Ask]:
    """Starts applications for servers of a test's own."""
    started: list[Application] = []

    def ask(answer: Answering | bytes) -> Application:
        started.append(Application(answer if callable(answer) else lambda heard: answer))
        return started[-1]

    yield ask
    for application in started:
        application.close()


def answering(kind: str, reply: bytes = REPLY, **headers: Any) -> Answering:
    """Answers with a reply, the way the directory has it."""
    return replying(reply, **headers) if kind == "reference" else lambda heard: say(200, reply, **headers)


def dateless(answer: Answer) -> list[tuple[str, str]]:
    return [header for header in answer.headers if header[0] != "Date"]


# By reference and by value


def test_by_reference_the_application_reads_the_file_and_writes_its_reply(stage: Stage) -> None:
    seen: list[bytes] = []

    def answer(heard: Heard) -> bytes:
        seen.append(heard.file.read_bytes())
        heard.reply.write_bytes(REPLY)
        return say()

    stage.answer(answer)
    upload = stage.upload("/reference/", "by-reference.bin")
    ack = upload.send(DATA, 15_000)
    assert stage.get(reply_url(upload, ack)).body == REPLY
    assert seen == [DATA]
    (heard,) = stage.heard
    assert heard.start_line == "POST /handle HTTP/1.1"
    assert (heard.get("Content-Length"), heard.body) == ("0", b"")
    assert heard.get("BITS-Original-Request-URL") == "http://127.0.0.1/reference/by-reference.bin"
    assert heard.file.is_absolute()
    assert heard.reply.is_absolute()


def test_by_value_the_file_is_the_body_and_so_is_the_reply(stage: Stage) -> None:
    stage.answer(say(body=REPLY))
    upload = stage.upload("/value/", "by-value.bin")
    ack = upload.send(DATA, 15_000)
    assert stage.get(reply_url(upload, ack)).body == REPLY
    (heard,) = stage.heard
    assert (heard.get("Content-Length"), heard.body) == (str(len(DATA)), DATA)
    assert heard.get("BITS-Request-DataFile-Name") is heard.get("BITS-Response-DataFile-Name") is None
    assert heard.get("BITS-Original-Request-URL") == "http://127.0.0.1/value/by-value.bin"
    assert heard.get("Accept-Encoding") == "identity"


@BOTH
def test_only_the_last_fragment_tells_and_only_its_ack_has_the_reply(stage: Stage, kind: str) -> None:
    stage.answer(answering(kind))
    upload = stage.upload(f"/{kind}/")
    first = upload.fragment(DATA[:5000], total=len(DATA))
    assert (first.verdict, first.get("BITS-Reply-URL")) == (FINE, None)
    assert stage.heard == []
    last = upload.fragment(DATA[5000:], at=5000)
    assert (last.verdict, last.received, last.is_ack) == (FINE, len(DATA), True)
    assert last.get("BITS-Reply-URL") is not None


@BOTH
def test_c10_no_reply_is_no_url_and_a_success(stage: Stage, kind: str) -> None:
    ack = stage.upload(f"/{kind}/").fragment(DATA)
    assert (ack.verdict, ack.get("BITS-Reply-URL")) == (FINE, None)


@BOTH
def test_c10_an_empty_reply_is_none_either(stage: Stage, kind: str) -> None:
    stage.answer(answering(kind, b""))
    ack = stage.upload(f"/{kind}/").fragment(DATA)
    assert (ack.verdict, ack.get("BITS-Reply-URL")) == (FINE, None)


def test_c11_by_reference_a_body_is_no_reply(stage: Stage) -> None:
    stage.answer(say(body=b"<p>thank you</p>" * 20_000))
    ack = stage.upload("/reference/").fragment(DATA)
    assert (ack.verdict, ack.get("BITS-Reply-URL")) == (FINE, None)


def test_c2_the_paths_have_the_names_that_are_on_the_wire(stage: Stage) -> None:
    stage.upload("/reference/").fragment(DATA)
    names = {name for name, _ in stage.heard[0].headers if name.startswith("BITS-")}
    assert names == {"BITS-Original-Request-URL", "BITS-Request-DataFile-Name", "BITS-Response-DataFile-Name"}


@BOTH
def test_a_static_url_goes_to_the_client_as_it_is(stage: Stage, kind: str) -> None:
    url = "https://replies.example/for/everybody.bin?v=1"
    stage.answer(answering(kind, b"not this one", bits_static_response_url=url))
    upload = stage.upload(f"/{kind}/")
    assert [upload.fragment(DATA).get("BITS-Reply-URL") for _ in range(2)] == [url, url]
    assert not list(stage.ferry.folder.rglob(f"{upload.session.strip('{}')}/reply.*"))


@BOTH
def test_the_file_appears_only_when_the_application_says_so(stage: Stage, kind: str) -> None:
    kept, copied = stage.upload(f"/{kind}/"), stage.upload(f"/{kind}/")
    assert kept.fragment(DATA).verdict == FINE
    stage.answer(say(**COPY))
    assert copied.fragment(DATA).verdict == FINE
    assert copied.file.read_bytes() == DATA
    assert not kept.file.exists()
    assert (kept.close().verdict, copied.close().verdict) == (FINE, FINE)
    assert not kept.file.exists()
    assert not list(stage.ferry.folder.rglob(f"{kept.session.strip('{}')}/request.data"))


@BOTH
def test_a_file_of_no_bytes_is_told_too(stage: Stage, kind: str) -> None:
    stage.answer(say(**COPY))
    sent, closed = stage.upload(f"/{kind}/"), stage.upload(f"/{kind}/")
    assert sent.fragment(b"", content_range="bytes 0--1/0").verdict == FINE
    for upload in (sent, closed):
        assert upload.close().verdict == FINE
        assert upload.file.read_bytes() == b""
    assert [heard.get("Content-Length") for heard in stage.heard] == ["0", "0"]


def test_the_query_of_the_upload_is_appended(serve: Serve, ask: Ask) -> None:
    """Learn: an upload to `file.asp?ACCOUNT=86433` is told to `bag.asp?ACCOUNT=86433`."""
    application = ask(say())
    ferry = serve(
        directory=telling(application, "value"),
        top='[[directory]]\nurl = "/two/"\nfolder = "two"\n' + telling(application, "value", "/b.asp?a=1"),
    )
    for under, name in (("/in/", "x?ACCOUNT=86433&%20"), ("/two/", "x?ACCOUNT=86433"), ("/two/", "y")):
        assert ferry.begun(under, name).fragment(DATA).verdict == FINE
    targets = [heard.target for heard in application.heard]
    assert targets == ["/handle?ACCOUNT=86433&%20", "/b.asp?a=1&ACCOUNT=86433", "/b.asp?a=1"]
    original = application.heard[0].get("BITS-Original-Request-URL")
    assert original == "http://127.0.0.1/in/x?ACCOUNT=86433&%20"


def test_a_relative_url_is_found_where_clients_find_the_directory(serve: Serve, ask: Ask) -> None:
    """Learn: `myasp.asp` is /myvdir/myasp.asp for a file in /myvdir/. The Host of a client does not count."""
    application = ask(say())
    ferry = serve(
        directory='notification_type = "value"\nnotification_url = "myasp.asp?x=1"\n'
        f'reply_url_base = "{application.url("/myvdir")}"'
    )
    assert ferry.begun().fragment(DATA, host="elsewhere.example").verdict == FINE
    assert application.last.target == "/myvdir/myasp.asp?x=1"
    assert application.last.get("Host") == f"127.0.0.1:{application.port}"


def test_reply_urls_are_absolute_where_that_is_set(serve: Serve, ask: Ask) -> None:
    base = 'reply_url_base = "https://node1.example/files/in"\n'
    ferry = serve(directory=telling(ask(say(body=REPLY)), "value") + base)
    url = ferry.begun().fragment(DATA).get("BITS-Reply-URL") or ""
    assert url.startswith("https://node1.example/files/in/.bitsferry/replies/")


# The transcript


def test_the_upload_reply_of_the_transcript_is_spoken_as_it_says(serve: Serve, tmp_path: Path) -> None:
    """All of MC-BUP 4.2, with an application in a process of its own."""
    messages = read("upload-reply")
    (answered,) = (m for m in messages if m.direction is Direction.APPLICATION_ANSWERS)
    (notified,) = (m for m in messages if m.direction is Direction.SERVER_NOTIFIES)
    (tmp_path / "reply").write_bytes(pattern("reply", 10_240))
    (tmp_path / "head").write_bytes(answered.to_bytes())
    with old_application(tmp_path / "reply", tmp_path / "head") as (port, heads):
        ferry = serve(
            top='[[directory]]\nurl = "/upload-ref-isapi-WebFarm/"\nfolder = "./farm"\n'
            'host_id = "FRANKCAO8"\nhost_id_fallback_timeout = 110\n'
            f'notification_type = "reference"\nnotification_url = "http://127.0.0.1:{port}/bitsasp/test.REPLY"'
        )
        session = play(ferry, messages)
        (told,) = heads()
    assert told.split("\r\n")[0] == notified.start_line
    ours, theirs = headers_of(told), headers_of(notified.head().decode())
    assert ours.pop("Idempotency-Key") == session.strip("{}")
    assert ours.pop("Accept-Encoding") == "identity"
    assert set(ours) == set(theirs)
    # The host of the client's last packet was the host id, in capitals; IIS remembers the first one.
    original = "BITS-Original-Request-URL"
    assert ours[original].lower() == theirs[original].lower()
    for name in ("Accept", "Content-Length"):
        assert ours[name] == theirs[name]
    assert not list((ferry.folder / "farm").iterdir()), "nobody said that the file shall be there"
    assert not list(ferry.folder.rglob("*reply*")), "the Close released the reply"


def play(ferry: Ferry, messages: list[Message]) -> str:
    """Say what the client says, and hear what the server answers; returns the session's id."""
    sides = (Direction.CLIENT_ASKS, Direction.SERVER_ANSWERS)
    heard = [message for message in messages if message.direction in sides]
    session, url = "", ""
    with ferry.line() as line:
        for asked, expected in list(pairwise(heard))[::2]:
            answer = line.ask(in_our_words(asked, session, url))
            assert f"HTTP/1.1 {answer.status}" == expected.start_line[:12]
            assert spelt(list(answer.headers)) == spelt(expected.headers)
            assert answer.body == expected.body
            session = answer.session or session
            url = answer.get("BITS-Reply-URL") or url
    return session


def in_our_words(asked: Message, session: str, url: str) -> bytes:
    """As Windows said it, but for the session's id and the reply's URL, which are the server's to give."""
    theirs = dict(asked.headers).get("BITS-Session-Id", "none")
    said = asked.to_bytes().replace(theirs.encode(), session.encode())
    _, found, rest = asked.start_line.split()[1].partition("BITS-Sessions")
    return said.replace((found + rest).encode(), url.encode()) if found else said


def spelt(headers: list[tuple[str, str]]) -> dict[str, str]:
    """What must be as it was; where each server has its own words, that it is there."""
    own = {"date", "server", "bits-reply-url", "last-modified", "etag"}
    extra = {"bits-session-id", "content-location", "x-content-type-options"}
    lower = {name.lower(): value for name, value in headers}
    return {name: "own" if name in own else value for name, value in lower.items() if name not in extra}


def headers_of(head: str) -> dict[str, str]:
    return {
        name: value for name, _, value in (line.partition(": ") for line in head.split("\r\n")[1:] if line)
    }


# The reply


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_reply_comes_in_any_range(stage: Stage, method: str) -> None:
    stage.answer(say(body=REPLY))
    upload = stage.upload()
    url = reply_url(upload, upload.fragment(DATA))
    part = stage.get(url, method, range="bytes=3-9")
    assert (part.status, part.get("Content-Range")) == (206, f"bytes 3-9/{len(REPLY)}")
    assert part.body == (REPLY[3:10] if method == "GET" else b"")
    assert stage.get(url, method).get("Content-Length") == str(len(REPLY))


@BOTH
def test_c31_a_reply_is_kept_until_the_close(serve: Serve, ask: Ask, kind: str) -> None:
    ferry = serve(directory=telling(ask(answering(kind)), kind))
    upload = ferry.begun()
    url = reply_url(upload, upload.fragment(DATA))
    ferry.restart()
    assert [get(ferry, url).body for _ in range(2)] == [REPLY, REPLY]
    assert upload.close().verdict == FINE
    assert get(ferry, url).status == 404
    assert upload.close().verdict == FINE


def test_c31_a_reply_goes_with_a_cancel(stage: Stage) -> None:
    stage.answer(say(body=REPLY))
    upload = stage.upload()
    url = reply_url(upload, upload.fragment(DATA))
    assert stage.get(url).status == 200
    assert upload.cancel().verdict == FINE
    assert stage.get(url).status == 404


def test_c31_a_reply_goes_with_the_session_timeout(serve: Serve, ask: Ask) -> None:
    settings = telling(ask(say(body=REPLY)), "value") + "session_timeout = 1"
    ferry = serve(directory=settings, top="cleanup_interval = 0.1")
    upload = ferry.begun()
    url = reply_url(upload, upload.fragment(DATA))
    assert get(ferry, url).status == 200
    assert raw.eventually(lambda: not list(ferry.folder.rglob("reply.data")))
    assert get(ferry, url).status == 404


# Told once


@BOTH
def test_the_last_fragment_again_gets_the_stored_ack_and_nobody_is_told_again(
    serve: Serve, ask: Ask, kind: str
) -> None:
    application = ask(answering(kind))
    ferry = serve(directory=telling(application, kind))
    upload = ferry.begun()
    acks = [upload.send(DATA, 15_000), upload.fragment(DATA[15_000:], at=15_000)]
    ferry.restart()
    acks.append(upload.fragment(DATA[15_000:], at=15_000))
    assert dateless(acks[0]) == dateless(acks[1]) == dateless(acks[2])
    assert len(application.heard) == 1


def test_while_it_works_a_newer_request_takes_over_and_hears_the_one_answer(stage: Stage) -> None:
    slow = Slow(lambda heard: say(body=REPLY))
    stage.answer(slow)
    upload = stage.upload()
    request = raw.fragment(upload.url, upload.session, DATA)
    with stage.ferry.line() as older, stage.ferry.line() as newer:
        older.send(request)
        assert slow.at_work.wait(5)
        newer.send(request)
        assert older.answer().status == 503  # a test gives up after ten seconds, this takes none
        slow.finish()
        ack = newer.answer()
    assert ack.verdict == FINE
    assert stage.get(reply_url(upload, ack)).body == REPLY
    assert len(stage.heard) == 1


def test_an_answer_after_the_client_went_is_kept_for_its_next_call(stage: Stage) -> None:
    slow = Slow(lambda heard: say(body=REPLY))
    stage.answer(slow)
    upload = stage.upload()
    upload.line.send(raw.fragment(upload.url, upload.session, DATA))
    assert slow.at_work.wait(5)
    upload.line.break_off()
    slow.finish()
    guid = upload.session.strip("{}")
    assert raw.eventually(lambda: list(stage.ferry.folder.rglob(f"{guid}/reply.data")))
    stage.answer(say(500))
    upload.call_again()
    assert stage.get(reply_url(upload, upload.fragment(DATA))).body == REPLY
    assert len(stage.heard) == 1


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_a_server_that_ends_while_it_works_tells_it_again_with_the_same_key(
    serve: Serve, ask: Ask, how: str
) -> None:
    slow = Slow(lambda heard: say(**COPY))
    application = ask(slow)
    ferry = serve(directory=telling(application, "value"), limits="drain_time = 0.1\nlinger_time = 0.1")
    upload = ferry.begun()
    upload.line.send(raw.fragment(upload.url, upload.session, DATA))
    assert slow.at_work.wait(5)
    if how == "SIGTERM":
        ferry.terminate()
        assert ferry.ended() == 0
    else:
        ferry.kill()
    slow.finish()
    assert application.hung_up.wait(5)
    ferry.start()
    upload.call_again()
    assert upload.fragment(DATA).verdict == FINE
    assert upload.file.read_bytes() == DATA
    assert (len(application.heard), len(application.keys)) == (2, 1)


def test_a_server_that_is_to_end_lets_the_application_finish(serve: Serve, ask: Ask) -> None:
    slow = Slow(lambda heard: say(body=REPLY))
    ferry = serve(directory=telling(ask(slow), "value"), limits="drain_time = 10")
    upload = ferry.begun()
    upload.line.send(raw.fragment(upload.url, upload.session, DATA))
    assert slow.at_work.wait(5)
    ferry.terminate()
    assert raw.eventually(lambda: not ferry.is_listening)
    slow.finish()
    assert upload.line.answer().verdict == FINE
    assert ferry.ended() == 0


# Close and Cancel while it works


def begin(stage: Stage, upload: Upload, slow: Slow) -> None:
    """Have the application at work, and nobody at the line."""
    stage.answer(slow)
    upload.line.send(raw.fragment(upload.url, upload.session, DATA))
    assert slow.at_work.wait(5)
    upload.line.break_off()
    upload.call_again()


@BOTH
def test_a_cancel_ends_the_talk_and_all_there_was_is_gone(stage: Stage, kind: str) -> None:
    slow = Slow(answering(kind, **COPY))
    upload = stage.upload(f"/{kind}/")
    begin(stage, upload, slow)
    stage.application.hung_up.clear()
    assert upload.cancel().verdict == FINE
    if kind == "value":
        slow.finish()
        assert stage.application.hung_up.wait(5)
    folder = next(stage.ferry.folder.rglob(upload.session.strip("{}")))
    assert {path.name for path in folder.iterdir()} == {"session.json"}
    assert not upload.file.exists()
    slow.finish()


def test_a_close_waits_for_the_answer_and_does_what_it_says(stage: Stage) -> None:
    slow = Slow(lambda heard: say(body=REPLY, **COPY))
    upload = stage.upload()
    begin(stage, upload, slow)
    upload.line.send(raw.close(upload.url, upload.session))
    assert upload.line.is_silent()
    slow.finish()
    assert upload.line.answer().verdict == FINE
    assert upload.file.read_bytes() == DATA
    assert len(stage.heard) == 1


def test_a_close_after_which_the_application_fails_may_be_said_again(stage: Stage) -> None:
    upload = stage.upload()
    begin(stage, upload, slow := Slow(lambda heard: say(503)))
    upload.line.send(raw.close(upload.url, upload.session))
    slow.finish()
    assert upload.line.answer().status == 503
    stage.answer(say(**COPY))
    assert upload.close().verdict == FINE
    assert upload.file.read_bytes() == DATA


# The page


def test_the_application_of_the_page_answers(serve: Serve, tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "answer-uploads.md"
    code, settings = (
        re.search(rf"```{kind}\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
        for kind in ("python", "toml")
    )
    assert code is not None
    assert settings is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    (tmp_path / "answer.py").write_text(code[1].replace("9000", port), encoding="utf-8")
    application = subprocess.Popen([sys.executable, str(tmp_path / "answer.py")], stderr=subprocess.DEVNULL)
    try:
        _, _, told = settings[1].replace("9000", port).partition('folder = "in"\n')
        upload = (ferry := serve(directory=told)).begun()
        assert raw.eventually(lambda: upload.fragment(DATA).status == 200)
        reply = get(ferry, reply_url(upload, upload.fragment(DATA))).body
    finally:
        application.kill()
        application.wait()
    assert reply.decode() == hashlib.sha256(DATA).hexdigest()
    assert upload.file.read_bytes() == DATA


# Large ones


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is looked up in /proc")
def test_the_size_of_a_file_or_a_reply_by_value_does_not_matter_to_memory(stage: Stage) -> None:
    """64 MiB each way, while the server never grows by an eighth of that."""
    size, block = 64 << 20, os.urandom(1 << 20)
    data = block * 64
    stage.answer(lambda heard: say(body=data[: heard.size]))
    warm, upload = stage.upload(), stage.upload()
    warm.fragment(data[: 4 << 20])
    before = most_memory(stage.ferry)
    assert upload.send(data, 8 << 20).verdict == FINE
    assert most_memory(stage.ferry) - before < size // 8
    assert stage.heard[-1].size == size
    (reply,) = stage.ferry.folder.rglob(f"{upload.session.strip('{}')}/reply.data")
    assert reply.stat().st_size == size
    upload.close()
    warm.close()


def most_memory(ferry: Ferry) -> int:
    """The most bytes the server ever had."""
    status = Path(f"/proc/{ferry.process.pid}/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
