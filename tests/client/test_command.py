"""`bitsferry send`: what it prints, to whom, and how it ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bitsferry.cli.display import JsonLines, Lines
from bitsferry.cli.send import send
from bitsferry.client import events
from bitsferry.client.places import Places
from bitsferry.protocol.errors import AccessDenied, Busy
from bitsferry.protocol.packets import Ack, CreateSession, Fragment

from .conftest import MIB, Clock, Sender
from .hostile import Exchange, HostileServer


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this user's sends are remembered."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "bitsferry" / "sends"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(send, [str(argument) for argument in arguments])


def test_it_ends_with_where_the_file_is(sender: Sender, server: HostileServer) -> None:
    result = run(sender.path, server.url("/in/"))
    assert result.exit_code == 0
    assert f"stored as {server.url()} (5.2 MB in " in result.stdout
    assert result.stderr == ""
    assert sender.arrived


def test_quiet_says_nothing(sender: Sender, server: HostileServer) -> None:
    result = run(sender.path, server.url(), "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_json_is_an_object_a_line(sender: Sender, server: HostileServer) -> None:
    @server.on(CreateSession, first=1)
    def be_busy(exchange: Exchange) -> None:
        exchange.refuse(Busy(retry_after=0))

    result = run(sender.path, server.url(), "--json")
    told = [json.loads(line) for line in result.stdout.splitlines()]
    size = sender.path.stat().st_size
    assert told[0] == {
        "event": "started",
        "file": str(sender.path),
        "url": server.url(),
        "size": size,
        "sent": 0,
        "resumable": True,
    }
    assert told[1]["event"] == "retry"
    assert told[1]["error"]["name"] == "BG_E_HTTP_ERROR_503"
    assert told[-2] == {"event": "progress", "sent": size, "offset": size, "size": size}
    assert told[-1]["event"] == "done"


def test_a_refusal_is_a_name_a_number_a_sentence_and_what_to_do(
    sender: Sender, server: HostileServer
) -> None:
    @server.on(CreateSession)
    def refuse(exchange: Exchange) -> None:
        exchange.refuse(AccessDenied())

    result = run(sender.path, server.url())
    assert result.exit_code == 1
    error, advice = result.stderr.splitlines()
    assert error.startswith("E_ACCESSDENIED (0x80070005): the server refuses")
    assert advice.startswith("Choose another name")


def test_a_refusal_in_json_has_name_number_and_context(sender: Sender, server: HostileServer) -> None:
    @server.on(CreateSession)
    def refuse(exchange: Exchange) -> None:
        exchange.refuse(AccessDenied())

    result = run(sender.path, server.url(), "--json")
    assert result.exit_code == 1
    failed = json.loads(result.stdout.splitlines()[-1])
    assert failed["event"] == "failed"
    assert failed["transient"] is False
    assert failed["error"]["name"] == "E_ACCESSDENIED"
    assert failed["error"]["hresult"] == "0x80070005"
    assert failed["error"]["context"] == 5


def test_what_may_go_better_later_ends_with_75(sender: Sender, server: HostileServer) -> None:
    @server.on(Fragment)
    def be_busy_for_long(exchange: Exchange) -> None:
        exchange.refuse(Busy(retry_after=3600))

    result = run(sender.path, server.url())
    assert result.exit_code == 75
    assert "Run the same command again later" in result.stderr


def test_a_second_send_of_the_same_is_told_to_wait(
    sender: Sender, server: HostileServer, state: Path
) -> None:
    with Places(str(state)).take(str(sender.path), server.url()):
        result = run(sender.path, server.url())
    assert result.exit_code == 75
    assert "another process is sending file.bin" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["{file}"],
        ["{file}.not", "{url}"],
        ["{file}", "host/in/"],
        ["{file}", "{url}", "--limit", "fast"],
        ["{file}", "{url}", "--header", "no colon"],
        ["{file}", "{url}", "--header", "Content-Length: 5"],
        ["{file}", "{url}", "--header", "X: a\r\nY: b"],
        ["{file}", "{url}", "--user", "inga"],
    ],
)
def test_wrong_usage_ends_with_2(sender: Sender, server: HostileServer, arguments: list[str]) -> None:
    result = run(*(each.format(file=sender.path, url=server.url()) for each in arguments))
    assert result.exit_code == 2
    assert server.heard == []


def test_a_password_may_come_from_the_environment(
    sender: Sender, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITSFERRY_PASSWORD", "pw")

    @server.on(CreateSession)
    def ask(exchange: Exchange) -> None:
        known = exchange.headers.get("authorization") == "Basic aW5nYTpwdw=="
        exchange.say(exchange.process() if known else Ack(401, challenges=("Basic",)))

    assert run(sender.path, server.url(), "--user", "inga").exit_code == 0


def test_where_nothing_can_be_remembered_the_file_is_sent_all_the_same(
    sender: Sender, server: HostileServer, state: Path
) -> None:
    state.parent.parent.write_text("a file where a folder should be")
    result = run(sender.path, server.url())
    assert result.exit_code == 0
    assert "nowhere to remember" in result.stdout
    assert sender.arrived


def test_interrupted_it_says_how_to_go_on_and_then_does(sender: Sender, server: HostileServer) -> None:
    command = [sys.executable, "-m", "bitsferry", "send", str(sender.path), server.url()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    @server.on(Fragment, first=2)
    def interrupt_at_the_second(exchange: Exchange) -> None:
        if len(server.fragments()) == 2:
            process.send_signal(signal.SIGINT)
            exchange.stay_silent(2)
            exchange.hang_up()
        exchange.say(exchange.process())

    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors == "interrupted; run the same command again to go on\n"

    before = len(server.heard)
    result = run(sender.path, server.url())
    assert result.exit_code == 0
    assert "going on at 1 MB of 5.2 MB, where it stopped before" in result.stdout
    assert server.kinds()[before] == "Ping"
    assert server.fragments()[2].range.start == MIB
    assert sender.arrived


# Displays


def test_lines_come_every_ten_per_cent(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = Lines(sys.stdout, sys.stderr, clock)
    lines.show(events.Started("/tmp/a.bin", "http://host/a.bin", 1000_000, 0, True))
    for sent in range(0, 1000_001, 1000):
        clock.now = sent / 100_000
        lines.show(events.Progress(sent, sent, 1000_000))
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 9
    assert said[2] == "a.bin: 30 % (300 KB of 1 MB), 100 KB/s, 7 s left"


def test_json_progress_does_not_flood(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = JsonLines(sys.stdout, every=0.5, clock=clock)
    for sent in range(1000):
        clock.now = sent / 1000
        lines.show(events.Progress(sent, sent, 1000))
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_nothing_is_left_after_a_success(sender: Sender, server: HostileServer, state: Path) -> None:
    run(sender.path, server.url())
    assert os.listdir(state) == []
