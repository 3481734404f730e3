"""What the application makes of ASGI's messages, whatever order they come in."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bitsferry.protocol.hresult import HResult
from bitsferry.protocol.packets import BITS_1_5, CloseSession, CreateSession, Fragment, Ping
from bitsferry.protocol.ranges import ContentRange
from bitsferry.server.asgi import AsgiApp, Directory
from bitsferry.store import appending
from bitsferry.store.appending import Disk
from bitsferry.store.folder import Folder

from .conversation import LOST, PATIENCE, Exchange, Life, block, open_files, say, speaking

pytestmark = pytest.mark.anyio

CREATE = CreateSession((BITS_1_5,))


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[AsgiApp]:
    app = AsgiApp(Directory("/in/", str(tmp_path / "in"), read_back="everybody"))
    yield app
    await app.stop()


def fragment(session: str | None, at: int, stop: int, total: int) -> Fragment:
    return Fragment(session or "", ContentRange(at, stop, total))


async def held(app: AsgiApp, session: str | None, total: int = 1000) -> int | None:
    """What the server holds of a file, and that nothing keeps it from telling at once."""
    async with asyncio.timeout(1):
        ack = await say(app, fragment(session, total - 1, total, total), body=b"?")
    assert ack.status == 416
    return ack.received


# Bodies


async def test_a_file_arrives_in_blocks_of_any_size(app: AsgiApp, tmp_path: Path) -> None:
    session = (await say(app, CREATE)).session_id
    exchange = speaking(app, fragment(session, 0, 6, 6))
    exchange.bring(block(b""), block(b"abc"), block(b"d"), block(b"ef"), block(b"", more=False))
    await exchange.run()
    assert (exchange.ack.status, exchange.ack.received) == (200, 6)
    assert (tmp_path / "in" / "file").read_bytes() == b"abcdef"
    assert (await say(app, CloseSession(session or ""))).status == 200


async def test_a_disconnect_in_a_body_keeps_its_bytes_and_answers_nobody(app: AsgiApp) -> None:
    session = (await say(app, CREATE)).session_id
    exchange = speaking(app, fragment(session, 0, 1000, 1000))
    exchange.bring(block(b"x" * 300), LOST)
    await exchange.run()
    assert exchange.sent == []
    assert await held(app, session) == 300


async def test_bytes_behind_the_announced_length_are_not_taken(app: AsgiApp) -> None:
    session = (await say(app, CREATE)).session_id
    exchange = speaking(app, fragment(session, 0, 300, 1000))
    exchange.bring(block(b"x" * 200), block(b"x" * 200), block(b"x" * 200, more=False))
    await exchange.run()
    assert (exchange.ack.status, exchange.ack.received) == (200, 300)
    assert await held(app, session) == 300


async def test_a_body_that_ends_before_its_announced_length_counts_as_far_as_it_came(app: AsgiApp) -> None:
    session = (await say(app, CREATE)).session_id
    exchange = speaking(app, fragment(session, 0, 1000, 1000))
    exchange.bring(block(b"x" * 300, more=False))
    await exchange.run()
    assert (exchange.ack.status, exchange.ack.received) == (503, 300)
    assert await held(app, session) == 300


async def test_a_newer_request_ends_a_body_that_waits_for_its_next_block(app: AsgiApp) -> None:
    session = (await say(app, CREATE)).session_id
    older = speaking(app, fragment(session, 0, 1000, 1000))
    older.bring(block(b"x" * 300))
    task = older.go()
    await older.waits.wait()
    assert await held(app, session) == 300
    await task
    assert (older.ack.status, older.ack.received) == (503, 300)
    assert older.ack.retry_after


async def test_what_arrived_before_a_newer_request_counts_though_nobody_had_taken_it(app: AsgiApp) -> None:
    session = (await say(app, CREATE)).session_id
    older = speaking(app, fragment(session, 0, 1000, 1000))
    older.bring(*[block(b"x" * 100)] * 7, LOST)
    task = older.go()
    await asyncio.sleep(0)  # it has begun, and taken nothing yet
    assert await held(app, session) == 700
    await task


async def test_a_body_of_which_nothing_more_comes_is_given_up(
    app: AsgiApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitsferry.server.asgi._STALL_TIME", 0.05)
    session = (await say(app, CREATE)).session_id
    exchange = speaking(app, fragment(session, 0, 1000, 1000))
    exchange.bring(block(b"x" * 300))
    await exchange.run()
    assert (exchange.ack.status, exchange.ack.received) == (503, 300)


async def test_a_slow_disk_is_waited_for_before_the_next_block(
    app: AsgiApp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Disk, "is_slow", True)
    session = (await say(app, CREATE)).session_id
    exchange = speaking(app, fragment(session, 0, 1000, 1000))
    exchange.bring(*[block(bytes([n]) * 100) for n in range(10)])
    await exchange.run()
    assert exchange.ack.received == 1000
    assert (tmp_path / "in" / "file").read_bytes() == b"".join(bytes([n]) * 100 for n in range(10))


# Bodies nobody wants


async def test_a_refused_body_is_read_to_its_end_before_the_answer(app: AsgiApp) -> None:
    exchange = speaking(app, fragment("{00000000-0000-0000-0000-000000000000}", 0, 1000, 1000))
    exchange.bring(block(b"x" * 600))
    task = exchange.go()
    await exchange.waits.wait()
    await asyncio.sleep(0.05)
    assert exchange.sent == []
    exchange.bring(block(b"x" * 400, more=False))
    await task
    assert exchange.ack.hresult == HResult.BG_E_SESSION_NOT_FOUND


async def test_a_refused_body_larger_than_any_fragment_is_answered_at_once(app: AsgiApp) -> None:
    size = 17 * 1024 * 1024
    exchange = speaking(app, fragment("{00000000-0000-0000-0000-000000000000}", 0, size, size))
    await exchange.run()
    assert exchange.ack.hresult == HResult.BG_E_SESSION_NOT_FOUND


async def test_a_client_that_waits_to_be_asked_for_a_body_is_refused_unasked(app: AsgiApp) -> None:
    exchange = speaking(app, fragment("{00000000-0000-0000-0000-000000000000}", 0, 1000, 1000))
    exchange.headers.append(("Expect", "100-continue"))
    await exchange.run()
    assert exchange.ack.hresult == HResult.BG_E_SESSION_NOT_FOUND


async def test_somebody_reads_while_an_answer_is_sent_in_front_of_a_body(app: AsgiApp) -> None:
    """Hypercorn does not finish sending an answer while the messages of its request's body pile up."""
    size = 17 * 1024 * 1024
    exchange = speaking(app, fragment("{00000000-0000-0000-0000-000000000000}", 0, size, size))
    exchange.bring(*[block(b"x" * 100)] * 100)
    send = exchange.send

    async def send_when_read(message: Any) -> None:
        await exchange.waits.wait()
        await send(message)

    exchange.send = send_when_read  # type: ignore[method-assign]
    await exchange.run()
    assert exchange.status == 500


# Requests that are cancelled


async def test_a_request_cancelled_in_its_body_keeps_the_bytes(app: AsgiApp) -> None:
    session = (await say(app, CREATE)).session_id
    exchange = speaking(app, fragment(session, 0, 1000, 1000))
    exchange.bring(block(b"x" * 300))
    task = exchange.go()
    await exchange.waits.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert exchange.sent == []
    assert await held(app, session) == 300


async def test_a_cancelled_request_ends_only_when_its_work_on_the_disk_is_done(
    app: AsgiApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is cancelled: who comes next must find the session quiet."""
    disk = Gate()
    monkeypatch.setattr(Disk, "is_slow", True)
    monkeypatch.setattr(appending, "_write_all", disk.before(appending._write_all))
    session = (await say(app, CREATE)).session_id
    exchange = speaking(app, fragment(session, 0, 1000, 1000))
    exchange.bring(block(b"x" * 300), block(b"x" * 200))
    task = exchange.go()
    await disk.reached()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.02)
        assert not task.done()
    disk.open()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await held(app, session) == 500


class Gate:
    """Holds up a thread until it is opened."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._open = threading.Event()

    def before(self, work: Any) -> Any:
        def held_up(*args: Any) -> Any:
            self._reached.set()
            assert self._open.wait(PATIENCE)
            return work(*args)

        return held_up

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, PATIENCE)

    def open(self) -> None:
        self._open.set()


async def test_an_answer_nobody_hears_leaves_no_file_open(
    app: AsgiApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await received(app, tmp_path, b"x" * 1000)
    disk = Gate()
    monkeypatch.setattr(Folder, "open_file", disk.before(Folder.open_file))
    exchange = Exchange(app, method="GET")
    task = exchange.go()
    await disk.reached()
    task.cancel()
    disk.open()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert open_files(file) == 0


# Files read back


async def received(app: AsgiApp, tmp_path: Path, data: bytes) -> Path:
    """A file that arrived."""
    session = (await say(app, CREATE)).session_id
    assert (await say(app, fragment(session, 0, len(data), len(data)), body=data)).status == 200
    await say(app, CloseSession(session or ""))
    return tmp_path / "in" / "file"


DATA = bytes(range(256)) * 4096  # four blocks


async def test_a_file_is_read_back_in_blocks(app: AsgiApp, tmp_path: Path) -> None:
    file = await received(app, tmp_path, DATA)
    exchange = Exchange(app, method="GET")
    exchange.bring(block(b"", more=False))
    await exchange.run()
    assert (exchange.status, exchange.told["content-length"]) == (200, str(len(DATA)))
    assert exchange.body == DATA
    assert len(exchange.sent) > 3
    assert open_files(file) == 0


async def test_a_file_is_not_read_on_for_a_client_that_is_gone(app: AsgiApp, tmp_path: Path) -> None:
    file = await received(app, tmp_path, DATA)
    exchange = Exchange(app, method="GET")
    exchange.bring(block(b"", more=False), LOST)
    await exchange.run()
    assert sum(len(message.get("body", b"")) for message in exchange.sent) < len(DATA)
    assert open_files(file) == 0


async def test_a_send_that_fails_closes_the_file(app: AsgiApp, tmp_path: Path) -> None:
    file = await received(app, tmp_path, DATA)
    exchange = Exchange(app, method="GET", deaf=True)
    await exchange.run()
    assert open_files(file) == 0


async def test_a_file_that_shrinks_while_it_is_sent_is_not_ended_as_if_it_were_whole(
    app: AsgiApp, tmp_path: Path
) -> None:
    file = await received(app, tmp_path, DATA)
    exchange = Exchange(app, method="GET")
    send = exchange.send

    async def send_and_cut(message: Any) -> None:
        file.write_bytes(b"")
        await send(message)

    exchange.send = send_and_cut  # type: ignore[method-assign]
    await exchange.run()
    assert exchange.sent[-1]["type"] == "http.response.start"
    assert open_files(file) == 0


async def test_a_cancelled_download_closes_the_file(app: AsgiApp, tmp_path: Path) -> None:
    file = await received(app, tmp_path, DATA)
    exchange = Exchange(app, method="GET")
    stuck = asyncio.Event()

    async def send(message: Any) -> None:
        stuck.set()
        await asyncio.Event().wait()

    exchange.send = send  # type: ignore[method-assign]
    task = exchange.go()
    await stuck.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert open_files(file) == 0


# Heads


async def test_repeated_headers_are_one_with_commas(app: AsgiApp) -> None:
    exchange = Exchange(app, headers=[("BITS-Packet-Type", "Create-Session"), ("Content-Length", "0")])
    exchange.headers += [("BITS-Supported-Protocols", "{00000000-0000-0000-0000-000000000000}")]
    exchange.headers += [("BITS-Supported-Protocols", BITS_1_5)]
    await exchange.run()
    assert exchange.ack.protocol == BITS_1_5


@pytest.mark.parametrize("length", ["0, 0", "-1", "9" * 5000, "x"])
async def test_a_length_that_is_no_number_is_refused(app: AsgiApp, length: str) -> None:
    exchange = Exchange(app, headers=[("BITS-Packet-Type", "Ping"), ("Content-Length", length)])
    await exchange.run()
    assert exchange.ack.status == 400


async def test_the_log_has_the_clients_address_and_does_without_one(
    app: AsgiApp, caplog: pytest.LogCaptureFixture
) -> None:
    for client, address in ((("192.0.2.1", 4711), "192.0.2.1"), (None, "")):
        caplog.clear()
        assert (await say(app, Ping(), "/elsewhere/", client=client)).status == 404
        assert [vars(record)["address"] for record in caplog.records] == [address]


async def test_every_answers_names_are_lower_case(app: AsgiApp) -> None:
    exchange = speaking(app, CREATE)
    await exchange.run()
    assert all(name == name.lower() for name in exchange.told)


async def test_websockets_are_refused(app: AsgiApp) -> None:
    exchange = Exchange(app, scope={"type": "websocket"})
    exchange.bring({"type": "websocket.connect"})
    await exchange.run()
    assert [message["type"] for message in exchange.sent] == ["websocket.close"]


async def test_what_asgi_may_yet_invent_is_an_error(app: AsgiApp) -> None:
    with pytest.raises(ValueError, match="'carrier-pigeon'"):
        await Exchange(app, scope={"type": "carrier-pigeon"}).run()


# Lives


def test_several_directories_need_a_store_to_share() -> None:
    with pytest.raises(ValueError, match="store"):
        AsgiApp(Directory("/a/", "a"), Directory("/b/", "b"))
    with pytest.raises(ValueError, match="directory"):
        AsgiApp()


def test_a_url_that_could_never_match_is_refused() -> None:
    with pytest.raises(ValueError, match="'/in/'"):
        AsgiApp(Directory("in", "in"))


def test_making_an_application_touches_nothing(tmp_path: Path) -> None:
    AsgiApp(Directory("/", str(tmp_path / "in")))
    assert list(tmp_path.iterdir()) == []


async def test_several_directories_receive_through_one_store(tmp_path: Path) -> None:
    folders = Directory("/a/", str(tmp_path / "a")), Directory("/b/", str(tmp_path / "b"))
    app = AsgiApp(*folders, store=str(tmp_path / "store"))
    async with Life(app):
        for target in ("/a/one", "/b/two"):
            session = (await say(app, CREATE, target)).session_id
            assert (await say(app, fragment(session, 0, 1, 1), target, b"x")).status == 200
    assert (tmp_path / "a" / "one").exists()
    assert (tmp_path / "b" / "two").exists()


async def test_the_store_is_held_from_the_start_of_the_lifespan_to_its_end(tmp_path: Path) -> None:
    first, second = (AsgiApp(Directory("/", str(tmp_path))) for _ in range(2))
    async with Life(first):
        refused = await Life(second).start()
        assert refused["type"] == "lifespan.startup.failed"
        assert refused["message"].startswith("bitsferry: another bitsferry server is using the store")
    async with Life(second):
        assert (await say(second, Ping(), "/x")).status == 200


async def test_a_kind_of_store_there_is_none_of_is_told_at_the_start(tmp_path: Path) -> None:
    said = await Life(AsgiApp(Directory("/", str(tmp_path)), store="tape:1")).start()
    assert said["type"] == "lifespan.startup.failed"
    assert "'tape'" in said["message"]


async def test_a_store_that_cannot_be_opened_is_an_answer_that_says_try_again(tmp_path: Path) -> None:
    first, second = (AsgiApp(Directory("/", str(tmp_path))) for _ in range(2))
    async with Life(first):
        ack = await say(second, CREATE, "/x")
        assert (ack.status, ack.hresult) == (500, HResult.ERROR_IO_DEVICE)
    assert (await say(second, CREATE, "/x")).status == 200
    await second.stop()


async def test_without_a_lifespan_the_first_request_starts_to_tidy_up(app: AsgiApp, tmp_path: Path) -> None:
    orphan = tmp_path / "in" / ".bitsferry" / "sessions" / "AB" / "AB-left-by-a-crash"
    orphan.mkdir(parents=True)
    assert (await say(app, Ping())).status == 200
    async with asyncio.timeout(PATIENCE):
        while orphan.exists():
            await asyncio.sleep(0.01)


async def test_the_end_of_the_lifespan_ends_bodies_and_keeps_their_bytes(tmp_path: Path) -> None:
    app = AsgiApp(Directory("/in/", str(tmp_path)))
    async with Life(app):
        session = (await say(app, CREATE)).session_id
        exchange = speaking(app, fragment(session, 0, 1000, 1000))
        exchange.bring(block(b"x" * 300))
        task = exchange.go()
        await exchange.waits.wait()
    await task
    assert (exchange.ack.status, exchange.ack.received) == (503, 300)
    async with Life(app):
        assert await held(app, session) == 300


async def test_it_can_be_stopped_and_started_again(app: AsgiApp) -> None:
    for _ in range(2):
        app.start()
        app.start()
        assert (await say(app, Ping())).status == 200
        await app.stop()
        await app.stop()
