"""Servers inside programs: in asyncio, in a thread, as all a program does, and mounted in somebody else's."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import BadStatusLine, HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from asgi.conversation import Exchange, Life, block, say, speaking
from bitsferry.protocol.errors import StoreFailed
from bitsferry.protocol.packets import CloseSession, CreateSession, Fragment
from bitsferry.protocol.ranges import ContentRange
from bitsferry.server.asgi import AsgiApp
from bitsferry.server.backend import Timing
from bitsferry.server.callable_backend import ReceivedUpload, RefuseUpload, Reply, TryLater
from bitsferry.server.connections import Limits
from bitsferry.server.directory import Directory
from bitsferry.server.embedding import Server
from bitsferry.server.listeners import ListenError

from .guest import Guest, Heard
from .raw import eventually


def sent(server: Server | str, target: str, data: bytes = b"some bytes") -> Heard:
    """A whole upload; the Ack of its last fragment."""
    with Guest(server if isinstance(server, str) else server.urls[0], target, data) as guest:
        ack = guest.send()
        guest.close()
        return ack


def answers(url: str) -> bool:
    """Somebody listens there."""
    line = HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        line.request("GET", "/")
        return line.getresponse().status == 403
    except ConnectionError:
        return False
    finally:
        line.close()


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """One that serves the folder `in`."""
    return Server(tmp_path / "in", durability="process")


# Its life


def test_in_a_thread_it_serves_until_the_end_of_the_with(server: Server, tmp_path: Path) -> None:
    assert list(server.urls) == []
    with server.running() as same:
        assert same is server
        (url,) = server.urls
        assert sent(server, "/a").status == 200
    assert list(server.urls) == []
    assert not answers(url)
    assert (tmp_path / "in" / "a").read_bytes() == b"some bytes"


def test_a_stopped_one_may_be_started_again_and_knows_its_uploads(server: Server) -> None:
    with server.running(), Guest(server.urls[0], "/a") as first:
        first.begin()
    with server.running(), Guest(server.urls[0], "/a", session=first.session) as second:
        assert second.send().status == 200


def test_in_asyncio_it_serves_until_the_end_of_the_with(server: Server) -> None:
    async def story() -> str:
        async with server:
            assert (await asyncio.to_thread(sent, server, "/a")).status == 200
            return server.urls[0]

    assert not answers(asyncio.run(story()))


def test_in_asyncio_it_can_be_started_and_stopped_by_hand(server: Server) -> None:
    async def story() -> None:
        await server.stop()
        await server.start()
        with pytest.raises(RuntimeError, match="runs already"):
            await server.start()
        assert (await asyncio.to_thread(sent, server, "/a")).status == 200
        await server.stop()
        await server.stop()
        await server.start()
        await server.stop()

    asyncio.run(story())


def test_it_listens_where_it_shall(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "socket"
    server = Server(tmp_path / "in", listen=["127.0.0.1:0", f"unix:{path}"])
    with server.running():
        url, unix = server.urls
        assert answers(url)
        assert unix == f"unix:{path}"
        assert path.is_socket()
        assert f"listening on {url}" in caplog.text
    assert not path.exists()


def test_what_cannot_be_started_leaves_nothing_open(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("server.listeners", "store.local"):
        monkeypatch.setattr(f"bitsferry.{module}._LAST_BREATH", 0.1)
    with server.running():
        taken = urlsplit(server.urls[0]).netloc
        other = Server(tmp_path / "other", listen=["127.0.0.1:0", taken])
        with pytest.raises(ListenError, match=f"cannot listen on {taken}"), other.running():
            raise AssertionError
        with pytest.raises(StoreFailed, match="another bitsferry server"):
            asyncio.run(Server(tmp_path / "in").start())
    with other.running():
        assert other.urls


def test_its_store_may_lie_elsewhere(tmp_path: Path) -> None:
    with Server(tmp_path / "in", store=tmp_path / "store").running():
        assert (tmp_path / "store" / "sessions").is_dir()
    assert list((tmp_path / "in").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "a folder to receive into, or directories"),
        ({"folder": "in", "directories": [Directory("/", "in")]}, "a folder to receive into, or directories"),
        ({"directories": [Directory("/a/", "a"), Directory("/b/", "b")]}, "the store they share"),
        ({"directories": [Directory("/a/", "a"), Directory("/a/", "b")], "store": "s"}, "two directories"),
        ({"directories": [Directory("a", "a")]}, "begins and ends in '/'"),
        ({"folder": "in", "listen": "8080"}, "no address to listen on"),
        ({"folder": "in", "listen": ["127.0.0.1:99999"]}, "no address to listen on"),
    ],
)
def test_what_cannot_be_meant_is_said_at_once(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Server(**arguments)


# Functions and their URLs


def test_a_function_hears_of_uploads_to_its_url_and_below(server: Server, tmp_path: Path) -> None:
    @server.on_upload("/invoices/")
    def invoices(upload: ReceivedUpload) -> bytes:
        return b"invoice"

    @server.on_upload()
    async def rest(upload: ReceivedUpload) -> bytes:
        return b"rest of " + upload.url_path.encode()

    with server.running():
        for target, reply in (("/invoices/a", b"invoice"), ("/b", b"rest of /b")):
            with Guest(server.urls[0], target) as guest:
                assert guest.fetch(guest.send().reply_url) == reply
    assert (tmp_path / "in" / "invoices" / "a").exists()
    assert (tmp_path / "in" / "b").exists()
    assert callable(invoices)
    assert callable(rest)


def test_where_there_is_no_function_a_file_just_arrives(server: Server, tmp_path: Path) -> None:
    @server.on_upload("/invoices/")
    def invoices(upload: ReceivedUpload) -> None:
        raise AssertionError

    with server.running():
        assert sent(server, "/other").status == 200
    assert (tmp_path / "in" / "other").exists()


def test_a_part_of_a_directory_has_all_that_was_said_of_the_whole(tmp_path: Path) -> None:
    directory = Directory("/in/", str(tmp_path / "in"), max_upload_size=5, allow_overwrites=True)
    server = Server(directories=[directory])
    server.on_upload("/in/a/b/", keep=False)(lambda upload: None)
    with server.running():
        assert sent(server, "/in/a/b/short", b"12345").status == 200
        assert sent(server, "/in/a/b/short", b"123456").status == 500
    assert list((tmp_path / "in" / "a" / "b").iterdir()) == []


@pytest.mark.parametrize(
    ("url", "error", "sentence"),
    [
        ("/elsewhere/", ValueError, "no directory is at '/elsewhere/'; there is '/in/'"),
        ("/", ValueError, "no directory is at '/'; there is '/in/'"),
        ("/in", ValueError, "begins and ends in '/'"),
        ("/in/a", ValueError, "begins and ends in '/'"),
        ("/in/a%20b/", ValueError, "begins and ends in '/'"),
        ("/in/../etc/", ValueError, "no upload could reach"),
        ("/in/NUL/", ValueError, "no upload could reach"),
        (print, TypeError, "write @server.on_upload"),
    ],
)
@pytest.mark.parametrize("kind", [Server, AsgiApp])
def test_a_function_wants_a_url_that_is_served(
    tmp_path: Path, kind: type[Server | AsgiApp], url: Any, error: type[Exception], sentence: str
) -> None:
    directory = Directory("/in/", str(tmp_path))
    server = Server(directories=[directory]) if kind is Server else AsgiApp(directory)
    with pytest.raises(error, match=sentence):
        server.on_upload(url)


def test_a_url_has_one_function_that_is_named_before_the_start(server: Server) -> None:
    server.on_upload("/a/")(lambda upload: None)
    with pytest.raises(ValueError, match="answered already"):
        server.on_upload("/a/")
    with server.running(), pytest.raises(RuntimeError, match="before the server starts"):
        server.on_upload("/b/")
    server.on_upload("/b/")


def test_an_empty_file_is_an_upload_too(server: Server) -> None:
    told: list[tuple[int, bytes]] = []
    server.on_upload()(lambda upload: told.append((upload.size, upload.path.read_bytes())))
    with server.running(), Guest(server.urls[0], "/empty") as guest:
        guest.begin()
        assert guest.close().status == 200
    assert told == [(0, b"")]


# The end while a function works


@pytest.fixture
def hasty(tmp_path: Path) -> Server:
    """One that waits for nobody for long when it ends."""
    return Server(tmp_path / "in", durability="process", limits=Limits(drain_time=0.1))


def cut_off(server: Server, began: threading.Event) -> tuple[str, Heard]:
    """The session of an upload whose server ends as soon as its function `began`; what its client hears."""
    with ThreadPoolExecutor(1) as client:
        with server.running():
            guest = Guest(server.urls[0], "/a")
            hearing = client.submit(guest.send)
            assert began.wait(10)
        with guest:
            return guest.session, hearing.result(10)


def test_an_async_function_is_cancelled_and_its_upload_told_again_after_the_next_start(hasty: Server) -> None:
    began = threading.Event()
    ids: list[str] = []
    ended: list[str] = []

    @hasty.on_upload()
    async def work(upload: ReceivedUpload) -> bytes:
        ids.append(upload.id)
        if len(ids) == 1:
            began.set()
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.01)  # nobody cancels it twice
                ended.append(upload.id)
        return b"reply"

    session, heard = cut_off(hasty, began)
    assert (heard.status, heard.context, heard.received) == (503, None, "10"), "a word, and not a reset"
    assert heard.retry_after
    assert ended == ids
    with hasty.running(), Guest(hasty.urls[0], "/a", session=session) as guest:
        assert guest.fetch(guest.send().reply_url) == b"reply"
    assert ids == ids[:1] * 2


def test_a_plain_function_is_not_waited_for_and_told_again_after_the_next_start(hasty: Server) -> None:
    began, go = threading.Event(), threading.Event()
    ids: list[str] = []

    @hasty.on_upload()
    def work(upload: ReceivedUpload) -> bytes:
        ids.append(upload.id)
        if len(ids) == 1:
            began.set()
            assert go.wait(10)
            return b"too late"
        return b"reply"

    session, heard = cut_off(hasty, began)
    assert heard.status == 503
    with hasty.running(), Guest(hasty.urls[0], "/a", session=session) as guest:
        ack = guest.send()
        go.set()
        assert guest.fetch(ack.reply_url) == b"reply"
    assert ids == ids[:1] * 2


def test_within_the_drain_time_it_is_waited_for(tmp_path: Path) -> None:
    server = Server(tmp_path, limits=Limits(drain_time=20))
    began = threading.Event()

    @server.on_upload()
    async def work(upload: ReceivedUpload) -> bytes:
        began.set()
        await asyncio.sleep(0.3)
        return b"reply"

    _, heard = cut_off(server, began)
    assert heard.status == 200
    assert heard.reply_url


def test_it_ends_cleanly_when_a_client_hung_up_meanwhile(
    hasty: Server, caplog: pytest.LogCaptureFixture
) -> None:
    began = threading.Event()

    @hasty.on_upload()
    async def work(upload: ReceivedUpload) -> None:
        began.set()
        await asyncio.sleep(60)

    with hasty.running():
        guest = Guest(hasty.urls[0], "/a")
        guest.begin()
        guest.send_and_hang_up()
        assert began.wait(10)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_function_may_end_its_server(hasty: Server) -> None:
    @hasty.on_upload()
    async def work(upload: ReceivedUpload) -> None:
        await hasty.stop()

    async def story() -> Heard:
        await hasty.start()
        heard = await asyncio.to_thread(sent_whole, hasty.urls[0])
        await hasty.stop()
        assert list(hasty.urls) == []
        return heard

    assert asyncio.run(story()).status == 503


def sent_whole(url: str) -> Heard:
    with Guest(url, "/a") as guest:
        return guest.send()


def test_one_that_wanted_more_time_is_called_after_the_next_start_when_its_client_comes(
    tmp_path: Path,
) -> None:
    told: list[str] = []
    directory = Directory("/", str(tmp_path), timing=Timing(poll=3600))
    server = Server(directories=[directory])

    @server.on_upload()
    def work(upload: ReceivedUpload) -> None:
        told.append(upload.id)
        if len(told) == 1:
            raise TryLater

    with server.running(), Guest(server.urls[0], "/a") as first:
        assert first.send().retry_after == "3600"
    with server.running(), Guest(server.urls[0], "/a", session=first.session) as second:
        assert second.send().status == 200
    assert told == told[:1] * 2


def test_an_answer_survives_and_is_not_asked_for_again(server: Server) -> None:
    told: list[str] = []

    @server.on_upload()
    def work(upload: ReceivedUpload) -> bytes:
        told.append(upload.id)
        return b"reply"

    with server.running(), Guest(server.urls[0], "/a") as first:
        ack = first.send()
    with server.running(), Guest(server.urls[0], "/a", session=first.session) as second:
        assert second.send() == ack
        assert second.fetch(ack.reply_url) == b"reply"
    assert len(told) == 1


# As all a program does


PROGRAM = """
import logging, signal, sys, threading, time
from pathlib import Path
from bitsferry.server.connections import Limits
from bitsferry.server.embedding import Server

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
server = Server(sys.argv[1], limits=Limits(drain_time=60))
attempts = Path(sys.argv[2])

@server.on_upload()
def work(upload):
    with attempts.open("a") as file:
        print(upload.id, file=file)
    while upload.name == "slow" and attempts.read_text().count("-") == 4:
        time.sleep(0.01)
    return upload.id.encode()

before = signal.signal(signal.SIGTERM, signal.SIG_IGN), signal.getsignal(signal.SIGINT)
server.serve_forever()
assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == (signal.SIG_IGN, before[1])
print("the end", flush=True)
"""


class Program:
    """The program above, over a folder."""

    def __init__(self, folder: Path) -> None:
        self.attempts = folder / "attempts"
        self.attempts.touch()
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder / "in"), str(self.attempts)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), line
        self.url = line.split()[-1]

    def end(self, number: signal.Signals) -> str:
        """What it said, when the signal ended it."""
        self.process.send_signal(number)
        return self.process.communicate(timeout=20)[0]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[[], Program]]:
    started: list[Program] = []

    def start() -> Program:
        started.append(Program(tmp_path))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_program_serves_until_a_signal_and_goes_on(
    program: Callable[[], Program], tmp_path: Path, number: signal.Signals
) -> None:
    running = program()
    with Guest(running.url, "/a") as guest:
        assert len(guest.fetch(guest.send().reply_url)) == 36
    assert running.end(number).endswith("the end\n")
    assert running.process.returncode == 0
    assert (tmp_path / "in" / "a").read_bytes() == b"some bytes"


def test_a_second_signal_is_impatience(program: Callable[[], Program]) -> None:
    """Requests are waited for no longer; what a plain function began, it still ends."""
    running = program()
    with Guest(running.url, "/slow") as guest, ThreadPoolExecutor(1) as client:
        hearing = client.submit(guest.send)
        assert eventually(running.attempts.read_text)
        running.process.send_signal(signal.SIGINT)
        assert eventually(lambda: not answers(running.url))
        assert not hearing.done()
        running.process.send_signal(signal.SIGINT)
        assert hearing.result(10).status == 503
        with running.attempts.open("a") as file:
            print("-", file=file)
        assert running.process.communicate(timeout=20)[0].endswith("the end\n")


def test_only_the_main_thread_hears_signals(server: Server) -> None:
    with ThreadPoolExecutor(1) as other, pytest.raises(RuntimeError, match="only the main thread"):
        other.submit(server.serve_forever).result(10)


def test_after_its_death_a_function_is_told_again_under_the_same_id(
    program: Callable[[], Program], tmp_path: Path
) -> None:
    running = program()
    with Guest(running.url, "/slow") as guest, ThreadPoolExecutor(1) as client:
        hearing = client.submit(guest.send)
        assert eventually(running.attempts.read_text)
        running.process.kill()
        assert isinstance(hearing.exception(10), ConnectionError | BadStatusLine)
    with Guest(program().url, "/slow", session=guest.session) as again:
        reply = again.fetch(again.send().reply_url).decode()
    assert running.attempts.read_text().split() == [reply, reply]


# Mounted in somebody else's


def test_functions_answer_inside_other_servers_too(tmp_path: Path) -> None:
    app = AsgiApp(Directory("/in/", str(tmp_path)))

    @app.on_upload("/in/")
    def echo(upload: ReceivedUpload) -> Reply:
        return Reply(upload.path.read_bytes().upper(), keep=False)

    async def story() -> bytes:
        async with Life(app):
            with pytest.raises(RuntimeError, match="before the server starts"):
                app.on_upload("/in/other/")
            session = (await say(app, CreateSession())).session_id or ""
            ack = await say(app, Fragment(session, ContentRange(0, 3, 3)), body=b"abc")
            assert ack.status == 200
            fetching = Exchange(app, f"/in/{ack.reply_url}", "GET")
            fetching.bring(block(b"", more=False))
            await fetching.run()
            assert (await say(app, CloseSession(session))).status == 200
            return fetching.body

    assert asyncio.run(story()) == b"ABC"
    assert not (tmp_path / "file").exists()


def test_at_their_end_functions_end_too(tmp_path: Path) -> None:
    app = AsgiApp(Directory("/in/", str(tmp_path)))
    ended: list[bool] = []

    async def story() -> int:
        began = asyncio.Event()

        @app.on_upload("/in/")
        async def work(upload: ReceivedUpload) -> None:
            began.set()
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(True)

        async with Life(app):
            session = (await say(app, CreateSession())).session_id or ""
            fragment = Fragment(session, ContentRange(0, 3, 3))
            saying = asyncio.create_task(say(app, fragment, body=b"abc"))
            await began.wait()
        return (await saying).status

    assert asyncio.run(story()) == 503
    assert ended == [True]


def test_a_mounted_one_is_told_the_url_the_client_says(tmp_path: Path) -> None:
    told: list[str] = []
    app = AsgiApp(Directory("/in/", str(tmp_path)))
    app.on_upload("/in/")(lambda upload: told.append(upload.url))
    mounted: dict[str, Any] = {"root_path": "/fi les", "scheme": "https"}

    async def story() -> None:
        async with Life(app):
            for host in ("server:8443", ""):
                session = (await say(app, CreateSession(), **mounted)).session_id or ""
                closing = speaking(app, CloseSession(session), **mounted)
                closing.headers += [("Host", host)] if host else []
                closing.bring(block(b"", more=False))
                await closing.run()
                (tmp_path / "file").unlink()

    asyncio.run(story())
    assert told == ["https://server:8443/fi%20les/in/file", "/fi%20les/in/file"]


# What the page says


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "answer-with-python.md"
PUBLIC = (Server, Directory, Timing, ReceivedUpload, Reply, RefuseUpload, TryLater)

# Where an example would wait for somebody: what happens there, so that it does not take long.
MEANWHILE = {
    "0.0.0.0:8080": "127.0.0.1:0",
    "server.serve_forever()": "with server.running(): talk(server)",
    "await asyncio.sleep(3600)": "await asyncio.to_thread(talk, server)",
    "print(arrived.get()": "talk(server); print(arrived.get()",
}


@pytest.mark.parametrize("example", re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
def test_the_examples_of_the_page_can_be_run(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for public in PUBLIC:
        monkeypatch.setattr(f"bitsferry.{public.__name__}", public, raising=False)
    talks: list[Heard] = []

    target = "/invoices/may.csv" if "/invoices/" in example else "/may.csv"

    def talk(server: Server) -> None:
        talks.append(sent(server, target, b"a\nb\n"))

    for waiting, instead in MEANWHILE.items():
        example = example.replace(waiting, instead)
    exec(example, {"talk": talk})
    assert len(talks) == example.count("talk")
    assert all(each.status == 200 for each in talks)
    assert (tmp_path / f"uploads{target}").exists() == bool(talks)
