"""The create hook is asked before an upload begins; it may refuse the file, or give it another name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from . import raw
from .applications import Answering, Application, Slow, say
from .conftest import Serve, end, settings
from .ferry import Ferry
from .receiver import SECRET, Receiver

DATA = b"what is uploaded"
FINE = (200, None)
FORBIDDEN = (403, 0x80070005)
LATER = (503, None)


@pytest.fixture(scope="module")
def everybodys_hook() -> Iterator[Application]:
    hook = Application(lambda heard: say())
    yield hook
    hook.close()


@pytest.fixture
def hook(everybodys_hook: Application) -> Application:
    """Lets everything pass until it is told otherwise."""
    everybodys_hook.answer = lambda heard: say()
    everybodys_hook.heard.clear()
    return everybodys_hook


@pytest.fixture
def ferry(serve: Serve, hook: Application) -> Ferry:
    """A server for tests that look at all it has."""
    return serve(directory=f'create_hook = "{hook.url("/may-it")}"\ncreate_hook_timeout = 0.5')


@pytest.fixture(scope="module")
def everybodys_ferry(
    everybodys_hook: Application, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ferry]:
    told = f'create_hook = "{everybodys_hook.url()}"'
    ferry = Ferry(tmp_path_factory.mktemp("ferry"), settings(directory=told))
    yield ferry
    end(ferry)


@pytest.fixture
def server(everybodys_ferry: Ferry, hook: Application) -> Iterator[Ferry]:
    """A server all share."""
    yield everybodys_ferry
    everybodys_ferry.forget()


def naming(name: Any) -> Answering:
    body = json.dumps({"name": name}).encode()
    return lambda heard: say(200, body)


def refusing(status: int, words: bytes = b"") -> Answering:
    return lambda heard: say(status, words)


def send(ferry: Ferry, target: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """A file, by `bitsferry send`."""
    file = tmp_path / "to-send"
    file.write_bytes(DATA)
    return subprocess.run(
        [sys.executable, "-m", "bitsferry", "send", str(file), f"http://127.0.0.1:{ferry.port}{target}"],
        env=os.environ | {"XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def post(ferry: Ferry, target: str, kind: str, **headers: str) -> tuple[int, dict[str, str]]:
    """A packet without a body, by http.client."""
    line = HTTPConnection("127.0.0.1", ferry.port, timeout=10)
    fields = {"BITS-Packet-Type": kind} | {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        line.request("BITS_POST", target, b"", fields)
        answer = line.getresponse()
        answer.read()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}
    finally:
        line.close()


def log_of(ferry: Ferry) -> str:
    return ferry.log.read_text(encoding="utf-8")


def sessions(ferry: Ferry) -> int:
    return len(list((ferry.folder / "store/sessions").rglob("session.json")))


def test_it_hears_who_wants_to_upload_what_before_there_is_a_session(ferry: Ferry, hook: Application) -> None:
    there: list[int] = []

    def look(heard: object) -> bytes:
        there.append(sessions(ferry))
        return say()

    hook.answer = look
    session = ferry.begun(name="a%20file?x=1").session
    (heard,) = hook.heard
    assert there == [0]
    assert (heard.method, heard.target) == ("POST", "/may-it")
    assert heard.get("Content-Type") == "application/cloudevents+json"
    event = json.loads(heard.body)
    assert event["type"] == "io.bitsferry.upload.creating"
    assert event["subject"] == session.strip("{}")
    assert event["data"] == {"path": "/in/a file", "file": "a file", "address": "127.0.0.1"}


@pytest.mark.parametrize("answer", [say(), say(204), say(200, b"{}"), say(201, b'{"name": null, "x": [1]}')])
def test_it_may_let_the_file_pass(server: Ferry, hook: Application, answer: bytes) -> None:
    hook.answer = lambda heard: answer
    upload = server.begun()
    assert upload.fragment(DATA).verdict == FINE
    assert upload.file.read_bytes() == DATA


def test_it_is_asked_once_for_an_upload(ferry: Ferry, hook: Application) -> None:
    upload = ferry.begun()
    upload.send(DATA, 3)
    upload.ping()
    upload.close()
    assert len(hook.heard) == 1


# Another name


def test_a_renamed_file_appears_by_its_new_name_while_its_client_keeps_its_url(
    ferry: Ferry, hook: Application
) -> None:
    hook.answer = naming("ü 1.zip")
    upload = ferry.begun(name="a.zip")
    assert upload.send(DATA, 5).verdict == FINE
    assert upload.close().verdict == FINE
    assert upload.close().verdict == FINE
    assert ferry.files == {"in", "in/ü 1.zip"}
    assert (ferry.folder / "in/ü 1.zip").read_bytes() == DATA


def test_a_new_name_outlives_the_server(ferry: Ferry, hook: Application) -> None:
    hook.answer = naming("b")
    upload = ferry.begun(name="a")
    assert upload.fragment(DATA[:4], total=len(DATA)).verdict == FINE
    ferry.restart()
    assert upload.fragment(DATA[4:], at=4).verdict == FINE
    assert ferry.files == {"in", "in/b"}


def test_an_empty_file_is_renamed_too(ferry: Ferry, hook: Application) -> None:
    hook.answer = naming("b")
    status, headers = post(ferry, "/in/a", "Create-Session", BITS_Supported_Protocols=raw.GUID)
    assert status == 200
    assert post(ferry, "/in/a", "Close-Session", BITS_Session_Id=headers["bits-session-id"])[0] == 200
    assert ferry.files == {"in", "in/b"}


def test_only_the_last_name_changes(serve: Serve, hook: Application) -> None:
    ferry = serve(directory=f'create_hook = "{hook.url()}"\ncreate_folders = true')
    hook.answer = naming("b")
    upload = ferry.begun(name="deep/er/a")
    assert upload.fragment(DATA).verdict == FINE
    assert (ferry.folder / "in/deep/er/b").read_bytes() == DATA


def test_a_new_name_makes_way_where_a_file_is_there(ferry: Ferry, hook: Application) -> None:
    (ferry.folder / "in/a").write_bytes(b"old")
    assert ferry.upload(name="a").create().verdict == FORBIDDEN
    hook.answer = naming("b")
    assert ferry.begun(name="a").fragment(DATA).verdict == FINE
    assert ferry.upload(name="a").create().verdict == FORBIDDEN  # now b is there
    assert (ferry.folder / "in/a").read_bytes() == b"old"


def test_our_own_client_sends_a_renamed_file(ferry: Ferry, hook: Application, tmp_path: Path) -> None:
    hook.answer = naming("b")
    assert send(ferry, "/in/a", tmp_path).returncode == 0
    assert (ferry.folder / "in/b").read_bytes() == DATA


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../a", "x/y", "/etc/x", "a\\b", "nul.txt", ".bitsferry", "a\0", "x" * 300, 7, ["a"]],
)
def test_a_name_that_cannot_be_is_the_hooks_mistake_not_the_clients(
    server: Ferry, hook: Application, name: object
) -> None:
    before = sessions(server)
    hook.answer = naming(name)
    assert server.upload().create().verdict == LATER
    assert sessions(server) == before


# Refusals


@pytest.mark.parametrize("status", [400, 403, 409, 410, 413, 422])
def test_it_may_refuse(server: Ferry, hook: Application, status: int) -> None:
    before = sessions(server)
    hook.answer = refusing(status, b"this customer has left us\nfor good")
    assert server.upload().create().verdict == FORBIDDEN
    assert r"this customer has left us\nfor good" in log_of(server)
    assert sessions(server) == before


def test_our_own_client_hears_the_refusal(ferry: Ferry, hook: Application, tmp_path: Path) -> None:
    hook.answer = refusing(403)
    done = send(ferry, "/in/a", tmp_path)
    assert done.returncode == 1
    assert "refuses" in done.stderr
    assert len(hook.heard) == 1  # it did not try again


def test_a_webhook_hears_of_the_refusal(serve: Serve, hook: Application, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    hook.answer = refusing(403, b"not you")
    receiver = Receiver()
    try:
        ferry = serve(
            directory=f'create_hook = "{hook.url()}"\nwebhook_url = "{receiver.url()}"\n'
            f'webhook_secret_file = "{tmp_path / "secret"}"'
        )
        ferry.upload().create()
        (refused,) = receiver.hears("refused")
        assert refused["data"]["reason"].endswith("not you")
        assert refused["subject"] == json.loads(hook.last.body)["subject"]
    finally:
        receiver.close()


# A hook that fails


@pytest.mark.parametrize(
    "answer",
    [
        *(say(status) for status in (301, 302, 401, 404, 405, 407, 408, 429, 500, 502, 503, 504)),
        b"",
        b"nonsense\r\n\r\n",
        say(200, b"no JSON"),
        say(200, b"\xff"),
        say(200, b'"a"'),
        say(200, b"{}" + b" " * 70_000),
        say(200, b"{}", content_length="10"),
    ],
)
def test_a_hook_that_fails_lets_clients_come_again(server: Ferry, hook: Application, answer: bytes) -> None:
    before = sessions(server)
    hook.answer = lambda heard: answer
    status, headers = post(server, server.upload().url, "Create-Session", BITS_Supported_Protocols=raw.GUID)
    assert status == 503
    assert int(headers["retry-after"]) > 0
    assert sessions(server) == before
    hook.answer = lambda heard: say()
    assert server.begun().fragment(DATA).verdict == FINE


def test_a_hook_that_does_not_answer_is_waited_for_only_so_long(ferry: Ferry, hook: Application) -> None:
    slow = Slow(lambda heard: say())
    hook.answer = slow
    assert ferry.upload().create().verdict == LATER
    assert "within 0.5 s" in log_of(ferry)
    slow.finish()


def test_a_hook_that_is_away_lets_clients_come_again(serve: Serve) -> None:
    away = Application(lambda heard: say())
    away.close()
    ferry = serve(directory=f'create_hook = "{away.url("/?token=hidden")}"')
    assert ferry.upload().create().verdict == LATER
    assert "cannot be reached" in log_of(ferry)
    assert "hidden" not in log_of(ferry)


def test_other_uploads_go_on_while_a_hook_thinks(ferry: Ferry, hook: Application) -> None:
    upload, slow = ferry.begun(), Slow(lambda heard: say())
    hook.answer = slow
    another = ferry.upload()
    another.line.send(raw.create(another.url))
    assert slow.at_work.wait(raw.PATIENCE)
    assert upload.fragment(DATA).verdict == FINE
    slow.finish()
    assert another.line.answer().verdict == FINE
