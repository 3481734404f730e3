"""The server's log: one event a line, whatever is in the names."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsferry.cli import logs
from server import raw

from .conftest import Configure, Start
from .serving import put

NASTY = 'a\n2030-01-01T00:00:00.000Z INFO b\r\x1b[2J\x85\u2028\u202e\x00\x9b\udc80 "\\'

Logged = Callable[[str], io.StringIO]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Logged]:
    """The log in one of its styles, which goes nowhere else."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def start(style: str) -> io.StringIO:
        stream = io.StringIO()
        monkeypatch.setattr("sys.stderr", stream)
        logs.start_logging("json" if style == "json" else "text")
        return stream

    yield start
    root.handlers[:], root.level = handlers, level


def test_text_is_a_line_with_its_facts(logged: Logged) -> None:
    stream = logged("text")
    logging.getLogger("x").info("file %s", "received", extra={"path": "/in/ü b", "bytes": 5, "user": None})
    assert re.fullmatch(
        r'20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO file received path="/in/ü b" bytes=5\n',
        stream.getvalue(),
    )


def test_json_is_an_object_a_line(logged: Logged) -> None:
    stream = logged("json")
    logging.getLogger("x").warning("told", extra={"path": "/in/ü b", "bytes": 5, "user": None})
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {"level": "WARNING", "event": "told", "path": "/in/ü b", "bytes": 5}


@pytest.mark.parametrize("style", ["text", "json"])
def test_no_name_breaks_a_line(logged: Logged, style: str) -> None:
    stream = logged(style)
    logging.getLogger("x").error("refused: %s", NASTY, extra={"path": NASTY})
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    assert len(text.splitlines()) == 1
    if style == "json":
        assert json.loads(text)["path"] == NASTY


@given(name=st.text())
def test_no_name_at_all_breaks_a_line_or_passes_for_another_fact(name: str) -> None:
    record = logging.makeLogRecord({"levelname": "INFO", "msg": "told", "path": name, "bytes": 5})
    line = logs._Text().format(record)
    assert line.isprintable()
    words = re.fullmatch(r'\S+ INFO told path=(?:[^ "]*|"(?:[^"\\]|\\.)*") bytes=5', line)
    assert words, line
    assert json.loads(logs._Json().format(record))["path"] == name


def test_a_traceback_follows_indented(logged: Logged) -> None:
    stream = logged("text")
    try:
        raise ValueError("no\n2030-01-01T00:00:00.000Z INFO forged")
    except ValueError:
        logging.getLogger("x").exception("it failed")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("ERROR it failed")
    assert rest[-1] == "    2030-01-01T00:00:00.000Z INFO forged"
    assert all(line.startswith("    ") for line in rest)


def test_a_traceback_is_part_of_its_json(logged: Logged) -> None:
    stream = logged("json")
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("x").exception("it failed")
    assert json.loads(stream.getvalue())["exception"].endswith("ValueError: no")


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_server_writes_its_log_so(start: Start, configure: Configure, style: str) -> None:
    served = start("--config", configure(), "--log-format", style).ready()
    with served.line() as line:
        assert put(line, "/in/%C3%BC%20b", b"hello").status == 200
        assert line.ask(raw.create("/in/a%0Ab")).status == 400
        assert line.ask(raw.ping("/in/../\x85\xff")).status in (200, 400)
    lines = [line for line in served.log.splitlines() if "the server runs as root" not in line]
    assert all(line.isprintable() for line in lines)
    if style == "json":
        events = [json.loads(line) for line in lines]
        assert [event["event"] for event in events[:2]] == ["upload begins", "file received"]
        assert events[1]["path"] == "/in/ü b"
        assert events[1]["bytes"] == 5
        assert events[1]["address"] == "127.0.0.1"
    else:
        assert ' INFO file received path="/in/ü b" session=' in lines[1]
    assert any("has a control character" in line for line in lines)
