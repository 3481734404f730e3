"""Webhooks hear what happens to uploads: signed, in order, and again until they hear."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import trustme

from bitsferry.protocol.errors import StoreFailed
from bitsferry.server import outbox
from bitsferry.server.directory import Directory
from bitsferry.server.embedding import Server
from bitsferry.server.outbox import Outbox
from bitsferry.server.upload_events import Kind, UploadEvent, read_event, write_event
from bitsferry.server.webhook import Webhook
from bitsferry.server.webhooks import OLDEST, pause

from . import raw
from .applications import Application, Heard, Slow, say
from .conftest import Serve
from .ferry import Ferry
from .guest import Guest
from .receiver import KEY, SECRET, Receiver

DATA = b"what is uploaded"
FINE = (200, None)
FORBIDDEN = (403, 0x80070005)

Listen = Callable[..., Receiver]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Starts receivers."""
    started: list[Receiver] = []

    def listen(*arguments: Any, **options: Any) -> Receiver:
        started.append(Receiver(*arguments, **options))
        return started[-1]

    yield listen
    for receiver in started:
        receiver.close()


@pytest.fixture
def serve_telling(serve: Serve, tmp_path: Path) -> Callable[..., Ferry]:
    """Starts servers whose directory tells a receiver."""

    def serve_telling(
        receiver: Receiver, directory: str = "", top: str = "", host: str = "127.0.0.1"
    ) -> Ferry:
        secret = tmp_path / "secret"
        secret.write_text(SECRET + "\n")
        url = receiver.url("/events?token=hidden", host)
        told = f'webhook_url = "{url}"\nwebhook_secret_file = "{secret}"\n'
        return serve(directory=told + directory, top=top)

    return serve_telling


ServeTelling = Callable[..., Ferry]


def upload(ferry: Ferry, name: str | None = None) -> str:
    """A whole file; its session."""
    upload = ferry.begun(name=name)
    assert upload.fragment(DATA).verdict == FINE
    assert upload.close().verdict == FINE
    return upload.session.strip("{}")


def log_of(ferry: Ferry) -> str:
    return ferry.log.read_text(encoding="utf-8")


def says(ferry: Ferry, text: str) -> bool:
    return raw.eventually(lambda: text in log_of(ferry))


# What is told


def test_an_upload_is_told_from_its_beginning_to_its_end(listen: Listen, serve_telling: ServeTelling) -> None:
    receiver = listen()
    session = upload(serve_telling(receiver), "%C3%BC%20file.zip")
    created, completed, closed = receiver.hears("created", "completed", "closed")
    for event in (created, completed, closed):
        assert event["specversion"] == "1.0"
        assert event["source"] == "/in/"
        assert event["subject"] == session
        assert event["datacontenttype"] == "application/json"
        assert event["time"].endswith("Z")
        assert event["data"]["path"] == "/in/ü file.zip"
        assert event["data"]["address"] == "127.0.0.1"
        datetime.fromisoformat(event["time"])
    assert completed["data"]["file"] == "ü file.zip"
    assert completed["data"]["size"] == len(DATA)
    assert len({event["id"] for event in (created, completed, closed)}) == 3


def test_a_completed_file_is_there_when_it_is_told(listen: Listen, serve_telling: ServeTelling) -> None:
    there: list[bool] = []

    def look(heard: Heard) -> bytes:
        there.append((ferry.folder / "in/a").exists())
        return say()

    receiver = listen(look)
    ferry = serve_telling(receiver, 'webhook_events = ["completed"]')
    upload(ferry, "a")
    receiver.hears("completed")
    assert there == [True]


def test_the_source_is_the_url_clients_find_where_that_was_said(
    listen: Listen, serve_telling: ServeTelling
) -> None:
    receiver = listen()
    serve_telling(receiver, 'reply_url_base = "https://uploads.example/in/"').begun()
    (event,) = receiver.hears("created")
    assert event["source"] == "https://uploads.example/in/"


def test_a_cancelled_upload_is_told_with_what_was_held(listen: Listen, serve_telling: ServeTelling) -> None:
    receiver = listen()
    upload = serve_telling(receiver).begun()
    upload.fragment(DATA, total=100)
    upload.cancel()
    upload.cancel()
    _, cancelled = receiver.hears("created", "cancelled")
    assert (cancelled["data"]["received"], cancelled["data"]["size"]) == (len(DATA), 100)


def test_an_upload_closed_before_its_last_byte_is_told_as_cancelled(
    listen: Listen, serve_telling: ServeTelling
) -> None:
    receiver = listen()
    upload = serve_telling(receiver).begun()
    upload.fragment(DATA, total=100)
    upload.close()
    _, cancelled = receiver.hears("created", "cancelled")
    assert cancelled["data"]["reason"] == "it was closed before its last byte"


def test_a_refused_upload_is_told_with_the_reason(listen: Listen, serve_telling: ServeTelling) -> None:
    receiver = listen()
    ferry = serve_telling(receiver, "max_upload_size = 50")
    (ferry.folder / "in/there").write_bytes(b"")
    assert ferry.upload(name="there").create().verdict == FORBIDDEN
    (refused,) = receiver.hears("refused")
    assert "already there" in refused["data"]["reason"]

    large = ferry.begun()
    assert large.fragment(DATA, total=51).status == 500
    refused = receiver.hears("refused", "created", "refused")[2]
    assert refused["subject"] == large.session.strip("{}")
    assert refused["data"]["reason"] == "the file has 51 bytes; 50 are the most this directory takes"


def test_an_applications_reply_is_told_with_its_url(listen: Listen, serve_telling: ServeTelling) -> None:
    receiver, application = listen(), Application(lambda heard: say(200, b"a reply"))
    try:
        told = f'notification_type = "value"\nnotification_url = "{application.url()}"'
        ferry = serve_telling(receiver, told)
        answer = ferry.begun().fragment(DATA)
        _, completed, replied = receiver.hears("created", "completed", "replied")
        assert replied["data"]["reply_url"] == answer.get("BITS-Reply-URL")
        assert "file" not in completed["data"]  # the application did not want it there
    finally:
        application.close()


def test_an_upload_that_went_quiet_is_told_as_expired(listen: Listen, serve_telling: ServeTelling) -> None:
    receiver = listen()
    upload = serve_telling(receiver, "session_timeout = 0.2", top="cleanup_interval = 0.1").begun()
    upload.fragment(DATA, total=100)
    _, expired = receiver.hears("created", "expired")
    assert expired["data"]["received"] == len(DATA)


def test_only_what_was_asked_for_is_told(listen: Listen, serve_telling: ServeTelling) -> None:
    receiver = listen()
    upload(serve_telling(receiver, 'webhook_events = ["closed", "completed"]'))
    receiver.hears("completed", "closed")


def test_who_wants_to_hear_nothing_pays_nothing(serve: Serve) -> None:
    ferry = serve()
    upload(ferry)
    assert not (ferry.folder / "store/outbox").exists()


# Until it is heard


def test_what_was_not_heard_is_told_again_before_what_came_later(
    listen: Listen, serve_telling: ServeTelling
) -> None:
    answers = iter([say(500), say(302, location="/elsewhere")])
    receiver = listen(lambda heard: next(answers, say()))
    upload(serve_telling(receiver))
    receiver.hears("created", "created", "created", "completed", "closed")
    assert len({told.id for told in receiver.told}) == 3
    assert all(heard.target == "/events?token=hidden" for heard in receiver.heard)


def test_one_upload_does_not_wait_for_another(listen: Listen, serve_telling: ServeTelling) -> None:
    receiver = listen(lambda heard: say(500 if b"/in/poison" in heard.body else 200))
    ferry = serve_telling(receiver)
    upload(ferry, "poison")
    session = upload(ferry, "fine")

    def told() -> list[str]:
        return [each.kind for each in receiver.told if each.event["subject"] == session]

    assert raw.eventually(lambda: len(told()) == 3)
    assert told() == ["created", "completed", "closed"]


def test_an_event_outlives_the_server_from_its_ack_on(listen: Listen, serve_telling: ServeTelling) -> None:
    receiver = listen(say(503))
    ferry = serve_telling(receiver)
    first = upload(ferry)
    assert raw.eventually(lambda: receiver.heard != [])
    before = receiver.told[0]
    last = ferry.begun()
    assert last.fragment(DATA).verdict == FINE
    ferry.kill()
    receiver.heard.clear()
    receiver.answers(say())
    ferry.start()
    assert raw.eventually(lambda: len(receiver.heard) == 5)
    kinds: dict[str, list[str]] = {first: [], last.session.strip("{}"): []}
    for told in receiver.told:
        kinds[told.event["subject"]].append(told.kind)
    assert list(kinds.values()) == [["created", "completed", "closed"], ["created", "completed"]]
    assert before in receiver.told


def test_of_many_uploads_eight_are_told_at_once(listen: Listen, serve_telling: ServeTelling) -> None:
    at_work, most = [0], [0]
    meeting = threading.Barrier(8)

    def count(heard: Heard) -> bytes:
        with lock:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
        with suppress(threading.BrokenBarrierError):
            meeting.wait(1)
        with lock:
            at_work[0] -= 1
        return say()

    lock, receiver = threading.Lock(), listen(say(500))
    ferry = serve_telling(receiver)
    assert raw.eventually((ferry.folder / "store/outbox").exists)
    ferry.kill()
    box = Outbox(str(ferry.folder / "store/outbox"))
    for number in range(40):
        event = replace(an_event(Kind.CLOSED, f"7DF0354D-249B-430F-820D-{number:012X}"), time=time.time())
        box.put(event, write_event(event, "/in/"))
    receiver.answers(count)
    ferry.start()
    assert raw.eventually(lambda: len(receiver.heard) == 40)
    assert len({told.id for told in receiver.told}) == 40
    assert most == [8]


def test_an_upload_does_not_wait_for_a_receiver_that_never_answers(
    listen: Listen, serve_telling: ServeTelling
) -> None:
    slow = Slow(lambda heard: say())
    receiver = listen(slow)
    ferry = serve_telling(receiver)
    upload(ferry)
    assert slow.at_work.wait(raw.PATIENCE)
    upload(ferry)
    ferry.terminate()
    assert ferry.ended() == 0  # nor does the end
    slow.finish()


def test_whoever_comes_back_hears_all_that_waits(listen: Listen, serve_telling: ServeTelling) -> None:
    receiver = listen(b"")  # it hangs up without a word
    ferry = serve_telling(receiver)
    sessions = {upload(ferry) for _ in range(3)}
    assert says(ferry, "a webhook does not hear")
    receiver.answers(say())
    assert says(ferry, "hears again")
    assert raw.eventually(lambda: [told.kind for told in receiver.told].count("closed") == 3)
    assert {told.event["subject"] for told in receiver.told} == sessions


def test_an_upload_does_not_need_a_receiver_at_all(listen: Listen, serve_telling: ServeTelling) -> None:
    receiver = listen()
    receiver.close()
    ferry = serve_telling(receiver)
    upload(ferry)
    assert says(ferry, "cannot be reached")


def test_whoever_is_gone_hears_no_more_until_the_settings_are_read_again(
    listen: Listen, serve_telling: ServeTelling
) -> None:
    receiver = listen(say(410))
    ferry = serve_telling(receiver)
    upload(ferry)
    assert says(ferry, "is gone")
    upload(ferry)
    receiver.hears("created")
    receiver.heard.clear()
    receiver.answers(say())
    ferry.reload()
    assert raw.eventually(lambda: len(receiver.heard) == 6)


def test_with_several_processes_each_event_is_told_once_and_in_order(
    listen: Listen, serve_telling: ServeTelling
) -> None:
    receiver = listen()
    ferry = serve_telling(receiver, top="workers = 3")
    sessions = [upload(ferry) for _ in range(8)]
    assert raw.eventually(lambda: len(receiver.heard) >= 24)
    for session in sessions:
        kinds = [told.kind for told in receiver.told if told.event["subject"] == session]
        assert kinds == ["created", "completed", "closed"]


def test_a_receiver_nobody_vouches_for_hears_nothing(
    listen: Listen, serve_telling: ServeTelling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    receiver = listen(tls=context)
    ferry = serve_telling(receiver, host="localhost")
    upload(ferry)
    assert says(ferry, "there is no safe line")
    assert receiver.heard == []

    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    monkeypatch.setenv("SSL_CERT_FILE", str(ca))
    ferry.restart()
    receiver.hears("created", "completed", "closed")


def test_a_program_of_its_own_is_told_too(listen: Listen, tmp_path: Path) -> None:
    receiver = listen()
    directory = Directory("/in/", str(tmp_path / "in"), webhook=Webhook(receiver.url(), KEY))
    with Server(directories=[directory]).running() as server, Guest(server.urls[0], "/in/a") as guest:
        guest.send()
        guest.close()
        receiver.hears("created", "completed", "closed")


# The outbox


def test_an_upload_goes_on_when_its_events_cannot_be_kept(
    listen: Listen, serve_telling: ServeTelling
) -> None:
    receiver = listen()
    ferry = serve_telling(receiver, 'webhook_events = ["completed", "closed"]')
    folder = ferry.folder / "store/outbox"
    assert raw.eventually(folder.exists)
    for name in os.listdir(folder):
        (folder / name).unlink()
    folder.rmdir()
    folder.write_bytes(b"in the way")
    upload(ferry, "a")
    assert (ferry.folder / "in/a").read_bytes() == DATA
    assert says(ferry, "a webhook will not hear of an event")


def test_a_damaged_event_is_dropped_and_the_next_one_told(
    listen: Listen, serve_telling: ServeTelling
) -> None:
    receiver = listen(say(500))
    ferry = serve_telling(receiver)
    session = upload(ferry)
    assert raw.eventually(lambda: receiver.heard != [])
    ferry.kill()
    damaged = ferry.folder / f"store/outbox/{session}-created.json"
    damaged.write_bytes(damaged.read_bytes()[:40])
    receiver.heard.clear()
    receiver.answers(say())
    ferry.start()
    receiver.hears("completed", "closed")
    assert f"{session}-created.json" in log_of(ferry)
    assert raw.eventually(lambda: os.listdir(ferry.folder / "store/outbox") == ["lock"])


def test_an_event_nobody_heard_for_three_days_is_dropped(listen: Listen, serve_telling: ServeTelling) -> None:
    receiver = listen(say(500))
    ferry = serve_telling(receiver)
    session = upload(ferry)
    assert raw.eventually(lambda: receiver.heard != [])
    ferry.kill()
    old = ferry.folder / f"store/outbox/{session}-created.json"
    event = json.loads(old.read_bytes())
    event["time"] = datetime.fromtimestamp(datetime.now().timestamp() - OLDEST - 1).astimezone().isoformat()
    old.write_text(json.dumps(event))
    receiver.heard.clear()
    receiver.answers(say())
    ferry.start()
    receiver.hears("completed", "closed")
    assert "never heard" in log_of(ferry)


def an_event(kind: Kind, session: str = "7DF0354D-249B-430F-820D-3D2A9BEF4931") -> UploadEvent:
    return UploadEvent(kind=kind, session=session, time=1.5, path="/in/a", received=7)


def test_an_event_is_read_as_it_was_written() -> None:
    event = an_event(Kind.EXPIRED)
    assert read_event(write_event(event, "/in/")) == event


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff", b"[]", write_event(an_event(Kind.CLOSED), "/").replace(b"closed", b"x")]
)
def test_what_is_no_event_is_not_read_as_one(content: bytes) -> None:
    with pytest.raises(ValueError):
        read_event(content)


def test_only_so_many_events_wait_and_new_uploads_leave_room_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MOST", 4)
    box = Outbox(str(tmp_path / "outbox"))

    def put(kind: Kind, number: int) -> None:
        box.put(an_event(kind, f"7DF0354D-249B-430F-820D-{number:012X}"), b"{}")

    put(Kind.CREATED, 1)
    put(Kind.REFUSED, 2)
    with pytest.raises(StoreFailed, match="no room"):
        put(Kind.CREATED, 3)
    put(Kind.COMPLETED, 1)
    put(Kind.COMPLETED, 2)
    with pytest.raises(StoreFailed, match="no room"):
        put(Kind.COMPLETED, 3)


def test_pauses_grow_from_a_second_to_an_hour() -> None:
    assert 0.5 <= pause(1) <= 1
    assert 4 <= pause(4) <= 8
    assert all(1800 <= pause(attempts) <= 3600 for attempts in (13, 100, 10_000))


# Secrets


def test_no_secret_is_in_the_log_or_in_the_outbox(listen: Listen, serve_telling: ServeTelling) -> None:
    receiver = listen(say(500))
    ferry = serve_telling(receiver)
    upload(ferry)
    assert says(ferry, "answered with 500")
    kept = b"".join(path.read_bytes() for path in (ferry.folder / "store/outbox").iterdir())
    for text in (log_of(ferry), kept.decode()):
        assert SECRET.removeprefix("whsec_") not in text
        assert "token=hidden" not in text


# The page


def test_the_receiver_of_the_page_hears_what_is_signed_and_nothing_else(serve: Serve, tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "webhooks.md"
    (code,) = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "webhook-secret").write_text(SECRET + "\n")
    (tmp_path / "listen.py").write_text(code.replace("9000", str(port)), encoding="utf-8")
    with (tmp_path / "heard").open("w") as heard:
        receiver = subprocess.Popen(
            [sys.executable, "listen.py"], cwd=tmp_path, stdout=heard, stderr=subprocess.DEVNULL
        )
    try:
        assert raw.eventually(lambda: _is_listening(port))
        told = f'webhook_url = "http://127.0.0.1:{port}/"\nwebhook_secret_file = "{tmp_path}/webhook-secret"'
        upload(serve(directory=told))
        assert raw.eventually(lambda: (tmp_path / "heard").read_text().count("\n") == 3)

        forged = HTTPConnection("127.0.0.1", port, timeout=10)
        headers = {"webhook-id": "a", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}
        forged.request("POST", "/", b"{}", headers)
        assert forged.getresponse().status == 401
        forged.close()
    finally:
        receiver.kill()
        receiver.wait()
    lines = (tmp_path / "heard").read_text().splitlines()
    prefix = "io.bitsferry.upload."
    assert [line.split()[0].removeprefix(prefix) for line in lines] == ["created", "completed", "closed"]


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
