"""Files land where the directory's template says, over the wire and through everything that knows a file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from . import raw
from .applications import Application, Heard, say
from .conftest import Serve
from .receiver import SECRET, Receiver

FINE = (200, None)


@pytest.fixture
def listener() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def test_a_repeated_upload_of_one_name_is_another_file(serve: Serve) -> None:
    ferry = serve(directory='name_template = "{client_address}/{stem}-{session}{suffix}"')
    for number in range(3):
        upload = ferry.begun(name="evidence.zip")
        assert upload.send(b"evidence %d" % number, 4).verdict == FINE
        assert upload.close().verdict == FINE
    files = sorted(path.read_bytes() for path in (ferry.folder / "in/127.0.0.1").iterdir())
    assert files == [b"evidence 0", b"evidence 1", b"evidence 2"]


def test_the_place_outlives_the_server_and_its_settings(serve: Serve) -> None:
    ferry = serve(directory='name_template = "{session}/{name}"')
    upload = ferry.begun(name="a.zip")
    assert upload.fragment(b"by", total=5).verdict == FINE
    settings = (ferry.folder / "bitsferry.toml").read_text()
    ferry.configure(settings.replace("{session}/", "later/"))
    ferry.restart()
    assert upload.fragment(b"tes", at=2).verdict == FINE
    guid = upload.session.strip("{}")
    assert (ferry.folder / "in" / guid / "a.zip").read_bytes() == b"bytes"


def test_folders_of_the_url_are_only_needed_where_the_template_names_them(serve: Serve) -> None:
    ferry = serve(directory='name_template = "{date}/{path}"')
    assert ferry.begun(name="case/7/a.zip").fragment(b"bytes").verdict == FINE
    (file,) = (ferry.folder / "in").rglob("a.zip")
    assert file.relative_to(ferry.folder / "in").parts[1:] == ("case", "7", "a.zip")


def test_a_file_is_read_back_where_it_lies(serve: Serve) -> None:
    ferry = serve(directory='name_template = "x%y/{name}"\nread_back = "everybody"')
    assert ferry.begun(name="a.zip").fragment(b"bytes").verdict == FINE
    with ferry.line() as line:
        assert line.ask(raw.request("GET /in/a.zip HTTP/1.1", {})).status == 404
        assert line.ask(raw.request("GET /in/x%25y/a.zip HTTP/1.1", {})).body == b"bytes"


def test_a_create_hook_renames_the_last_part(serve: Serve) -> None:
    heard: list[str] = []

    def name(said: Heard) -> bytes:
        heard.append(json.loads(said.body)["data"]["file"])
        return say(200, body=b'{"name": "b.zip"}')

    with closing(Application(name)) as hook:
        ferry = serve(
            directory=f'name_template = "{{client_address}}/{{name}}"\ncreate_hook = "{hook.url()}"'
        )
        assert ferry.begun(name="a.zip").fragment(b"bytes").verdict == FINE
    assert heard == ["127.0.0.1/a.zip"]
    assert (ferry.folder / "in/127.0.0.1/b.zip").read_bytes() == b"bytes"


def test_webhooks_hear_where_the_file_is(serve: Serve, listener: Receiver, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    ferry = serve(
        directory='name_template = "{client_address}/{name}"\n'
        f'webhook_url = "{listener.url()}"\nwebhook_secret_file = "{secret}"'
    )
    assert ferry.begun(name="a.zip").fragment(b"bytes").verdict == FINE
    events = listener.hears("created", "completed")
    assert [event["data"]["file"] for event in events] == ["127.0.0.1/a.zip"] * 2
    assert {event["data"]["path"] for event in events} == {"/in/a.zip"}


def test_a_reply_is_found_below_the_url_the_client_knows(serve: Serve) -> None:
    command = [sys.executable, "-c", "import os; open(os.environ['BITSFERRY_REPLY'], 'w').write('reply')"]
    ferry = serve(
        directory=f'name_template = "{{session}}/{{name}}"\nnotification_command = {json.dumps(command)}'
    )
    upload = ferry.begun(name="a.zip")
    reply_url = upload.fragment(b"bytes").get("BITS-Reply-URL")
    with ferry.line() as line:
        assert line.ask(raw.request(f"GET /in/{reply_url} HTTP/1.1", {})).body == b"reply"
    assert upload.close().verdict == FINE


def test_our_own_client_sends_there(serve: Serve, tmp_path: Path) -> None:
    ferry = serve(directory='name_template = "{session}/{name}"')
    (tmp_path / "a.zip").write_bytes(b"bytes" * 1000)
    url = f"http://127.0.0.1:{ferry.port}/in/"
    for _ in range(2):
        command = [sys.executable, "-m", "bitsferry", "send", "--quiet", str(tmp_path / "a.zip"), url]
        assert subprocess.run(command, check=False).returncode == 0
    assert len(list((ferry.folder / "in").rglob("a.zip"))) == 2
