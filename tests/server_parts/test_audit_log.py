"""The audit log tells who brought what: whole lines, in order, safe before a client hears of it."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitsferry.access.asker import Asker
from bitsferry.protocol.errors import Busy, DestinationExists, FileTooLarge
from bitsferry.protocol.packets import CreateSession
from bitsferry.protocol.session import Session
from bitsferry.server.audit import AuditLog
from bitsferry.server.directory import Directories, Directory
from bitsferry.server.janitor import Janitor
from bitsferry.server.service import Service
from bitsferry.server.upload_events import Kind, UploadEvent
from bitsferry.store.local import LocalStore

from .speaking import Speaker, guid_of

pytestmark = pytest.mark.anyio


class Office:
    """A server with an audit log."""

    def __init__(self, store: LocalStore, folder: Path, path: Path) -> None:
        self.path = path
        self.store = store
        directory = Directory("/in/", str(folder), digest="sha-256", max_upload_size=10_000)
        self.service = Service(store, Directories([directory]))
        self.service.audit_log = AuditLog(str(path), durable=False)
        self.ada = Speaker(self.service, "ada", "192.0.2.7")

    @property
    def lines(self) -> list[dict[str, Any]]:
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        assert text == "" or text.endswith("\n")
        return [json.loads(line) for line in text.split("\n")[:-1]]

    @property
    def events(self) -> list[str]:
        return [line["event"] for line in self.lines]

    @property
    def end(self) -> dict[str, Any]:
        first, last = self.lines
        assert first["event"] == "begun"
        assert first["session"] == last["session"]
        return last


@pytest.fixture
def office(store: LocalStore, folder: Path, memory: Path) -> Office:
    return Office(store, folder, memory / "audit.jsonl")


def breaks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on nothing can be written to an audit log; call the result to mend it."""
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if data.startswith(b'{"time"'):
            return real(descriptor, data[: len(data) // 2])  # as a disk that is full half-way
        return real(descriptor, data)

    monkeypatch.setattr("bitsferry.server.audit.os.write", full)
    return lambda: monkeypatch.setattr("bitsferry.server.audit.os.write", real)


async def test_an_upload_has_a_beginning_and_an_end(office: Office) -> None:
    session = await office.ada.create("/in/%C3%BC%20file")
    await office.ada.send(session, b"by", 0, 5, "/in/%C3%BC%20file")
    assert len(office.lines) == 1
    await office.ada.send(session, b"tes", 2, 5, "/in/%C3%BC%20file")
    (begun, completed) = office.lines  # before it is closed
    await office.ada.close(session, "/in/%C3%BC%20file")
    assert office.lines == [begun, completed]
    who = {"user": "ada", "address": "192.0.2.7"}
    what = {"session": guid_of(session), "directory": "/in/", "path": "/in/ü file", "file": "ü file"}
    assert begun == {"time": begun["time"], "event": "begun"} | who | what
    sha = "277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9"
    rest = {"size": 5, "digest": {"sha-256": sha}, "time": completed["time"], "seconds": completed["seconds"]}
    assert completed == {"event": "completed"} | who | what | rest
    assert begun["time"].endswith("Z")
    assert 0 <= completed["seconds"] < 60


async def test_how_the_user_was_proved_is_told(office: Office) -> None:
    asker = Asker("192.0.2.7", "ada", scheme="ntlm")
    await office.service.create_session(CreateSession(), "/in/a", asker)
    assert office.lines[0]["scheme"] == "ntlm"


async def test_who_did_not_say_a_name_is_known_by_address(office: Office) -> None:
    await Speaker(office.service).create()
    assert "user" not in office.lines[0]
    assert office.lines[0]["address"] == "192.0.2.1"


@pytest.mark.parametrize("end", ["cancel", "close"])
async def test_an_upload_that_was_given_up_says_how_much_had_come(office: Office, end: str) -> None:
    session = await office.ada.create()
    await office.ada.send(session, b"by", 0, 5)
    await (office.ada.cancel if end == "cancel" else office.ada.close)(session)
    assert office.end["event"] == "cancelled"
    assert (office.end["received"], office.end["size"]) == (2, 5)
    assert ("reason" in office.end) == (end == "close")


async def test_an_expired_upload_is_told_too(office: Office) -> None:
    session = await office.ada.create()
    await office.ada.send(session, b"by", 0, 5)
    await Janitor(office.service, clock=lambda: time.time() + 15 * 86400).sweep()
    assert office.end["event"] == "expired"
    assert (office.end["user"], office.end["address"], office.end["received"]) == ("ada", "192.0.2.7", 2)
    assert office.end["seconds"] == pytest.approx(15 * 86400, abs=60)


async def test_one_whose_directory_is_gone_is_told_without_it(office: Office) -> None:
    await office.ada.create()
    office.service.directories = Directories([])
    await Janitor(office.service, clock=lambda: time.time() + 15 * 86400).sweep()
    assert office.end["event"] == "expired"
    assert office.end["directory"] == ""


async def test_what_is_over_has_no_second_end(office: Office) -> None:
    session = await office.ada.create()
    await office.ada.send(session, b"bytes", 0, 5)
    await office.ada.send(session, b"bytes", 0, 5)
    await office.ada.cancel(session)
    await office.ada.cancel(session)
    await Janitor(office.service, clock=lambda: time.time() + 15 * 86400).sweep()
    assert office.events == ["begun", "completed"]


async def test_what_is_refused_for_good_is_told_with_the_reason(office: Office, folder: Path) -> None:
    (folder / "file.bin").touch()
    with pytest.raises(DestinationExists):
        await office.ada.create()
    session = await office.ada.create("/in/large")
    with pytest.raises(FileTooLarge):
        await office.ada.send(session, b"x", 0, 20_000, "/in/large")
    assert office.events == ["refused", "begun", "refused"]
    assert "already there" in office.lines[0]["reason"]
    assert office.lines[2]["session"] == guid_of(session)


async def test_names_break_no_line(office: Office) -> None:
    user = 'eve"\n{"event":"completed"}\r\n\x85\u2029'
    await Speaker(office.service, user).create("/in/a%E2%80%A8b")
    assert len(office.path.read_text(encoding="ascii").splitlines()) == 1
    (line,) = office.lines
    assert line["user"] == user
    assert line["path"] == "/in/a\u2028b"


# Order and safety


async def test_the_end_is_written_before_it_is_said(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash between the line and the state lets the line come twice, and never lets it be missing."""
    session = await office.ada.create()

    def crash(*_: object) -> None:
        raise RuntimeError("the end")

    with monkeypatch.context() as patch:
        patch.setattr(Session, "publish", crash)
        with pytest.raises(RuntimeError):
            await office.ada.send(session, b"bytes", 0, 5)
    office.store.forget(guid_of(session))
    assert office.events == ["begun", "completed"]
    await office.ada.send(session, b"s", 4, 5)
    assert office.events == ["begun", "completed", "completed"]


async def test_what_cannot_be_written_down_is_not_done(
    office: Office, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The client comes again, and nothing is lost."""
    session = await office.ada.create()
    mend = breaks(monkeypatch)
    with pytest.raises(Busy) as refused:
        await office.ada.create("/in/other")
    assert refused.value.retry_after
    assert len(list(Path(office.store.root).glob("sessions/*/*-*"))) == 1
    for _ in range(2):
        with pytest.raises(Busy) as refused:
            await office.ada.send(session, b"bytes", 0, 5)
        assert refused.value.held == 5
    with pytest.raises(Busy):
        await office.ada.cancel(session)
    assert any("audit log" in record.getMessage() for record in caplog.records if record.levelname == "ERROR")
    mend()
    await office.ada.send(session, b"s", 4, 5)
    assert (folder / "file.bin").read_bytes() == b"bytes"
    whole = [line for line in office.path.read_text().splitlines() if line.endswith("}")]
    assert [json.loads(line)["event"] for line in whole] == ["begun", "completed"]


async def test_an_old_session_stays_until_its_end_is_written(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    await office.ada.create()
    janitor = Janitor(office.service, clock=lambda: time.time() + 15 * 86400)
    mend = breaks(monkeypatch)
    assert await janitor.sweep() == 0
    mend()
    assert await janitor.sweep() == 1


# The file


def happened(number: int) -> tuple[UploadEvent, Session]:
    session = Session(f"{number:08}", f"/in/{number}", None, 0.0)
    return UploadEvent(kind=Kind.CREATED, session=session.id, time=1.0, path=session.path), session


async def test_many_at_once_are_written_in_order_with_few_syncs(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AuditLog(str(memory / "audit"))
    syncs: list[int] = []
    monkeypatch.setattr("bitsferry.server.audit.os.fsync", syncs.append)
    await asyncio.gather(*(log.tell(*happened(number)) for number in range(500)))
    lines = (memory / "audit").read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == [f"/in/{number}" for number in range(500)]
    assert 1 <= len(syncs) < 20


async def test_it_is_for_its_owner_alone_whatever_the_umask(memory: Path) -> None:
    before = os.umask(0)
    try:
        await AuditLog(str(memory / "audit")).tell(*happened(1))
    finally:
        os.umask(before)
    assert stat.S_IMODE((memory / "audit").stat().st_mode) == 0o600


async def test_it_is_only_added_to_also_after_it_was_moved_away(memory: Path) -> None:
    path = memory / "audit"
    path.write_text('{"was": "there"}\n')
    log = AuditLog(str(path))
    await log.tell(*happened(1))
    path.rename(memory / "audit.1")
    await log.tell(*happened(2))
    assert len((memory / "audit.1").read_text().splitlines()) == 2
    assert json.loads(path.read_text())["path"] == "/in/2"


async def test_a_line_that_was_cut_off_takes_no_other_with_it(memory: Path) -> None:
    path = memory / "audit"
    path.write_text('{"time":"2026')
    await AuditLog(str(path)).tell(*happened(1))
    first, second = path.read_text().splitlines()
    assert first == '{"time":"2026'
    assert json.loads(second)["path"] == "/in/1"


async def test_several_may_write_it(memory: Path) -> None:
    logs = [AuditLog(str(memory / "audit"), durable=False) for _ in range(4)]
    await asyncio.gather(*(logs[number % 4].tell(*happened(number)) for number in range(400)))
    lines = (memory / "audit").read_text().splitlines()
    assert {json.loads(line)["path"] for line in lines} == {f"/in/{number}" for number in range(400)}


@pytest.mark.parametrize("what", ["a folder", "a pipe", "nothing"])
async def test_what_is_no_file_is_an_error_and_blocks_nobody(memory: Path, what: str) -> None:
    path = memory / "audit"
    if what == "a folder":
        path.mkdir()
    elif what == "a pipe":
        os.mkfifo(path)
    else:
        path = memory / "not" / "there"
    log = AuditLog(str(path))
    with pytest.raises(OSError, match=r".+"):
        log.check()
    with pytest.raises(Busy):
        await log.tell(*happened(1))
