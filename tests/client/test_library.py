"""The library: what `import bitsferry` gives, its pages, and transfers that asyncio cancels."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib
import inspect
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

import bitsferry
from bitsferry import events
from bitsferry.client.properties import PROPERTIES
from bitsferry.protocol.errors import Busy
from bitsferry.protocol.packets import Ack, CreateSession, Fragment
from cli.serving import Served

from .conftest import MIB, content
from .hostile import Exchange, Get, HostileServer
from .web import Exchange as WebExchange
from .web import WebFile, WebServer

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = [DOCS / "reference" / "library.md", DOCS / "how-to" / "send-from-programs.md", ROOT / "README.md"]
LIBRARY = PAGES[0].read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this user's queue is, and the places of interrupted transfers."""
    for module in ("sending", "fetching", "job_queue"):
        monkeypatch.setattr(f"bitsferry.client.{module}.user_state_path", lambda *_, **__: tmp_path / "state")


# What there is


def homes() -> dict[str, str]:
    """The names `__init__.pyi` tells type checkers of, with the modules they are from."""
    stub = ast.parse((ROOT / "src" / "bitsferry" / "__init__.pyi").read_text(encoding="utf-8"))
    return {
        alias.name: node.module or ""
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }


def test_type_checkers_are_told_of_what_there_is() -> None:
    assert sorted([*homes(), "__version__"]) == dir(bitsferry)


@pytest.mark.parametrize(("name", "home"), homes().items())
def test_each_name_is_what_type_checkers_are_told(name: str, home: str) -> None:
    if name == "events":
        assert bitsferry.events is events
    else:
        assert getattr(bitsferry, name) is getattr(importlib.import_module(home), name)


def test_there_is_nothing_else() -> None:
    with pytest.raises(AttributeError, match="no attribute 'uplaod'"):
        bitsferry.uplaod  # type: ignore[attr-defined]  # noqa: B018


def test_every_error_of_the_client_is_there() -> None:
    for path in (ROOT / "src" / "bitsferry" / "client").glob("*.py"):
        module = importlib.import_module(f"bitsferry.client.{path.stem}")
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            is_error = inspect.isclass(value) and issubclass(value, bitsferry.BitsError)
            if is_error and value.__module__ == module.__name__:
                assert getattr(bitsferry, name) is value


def brought(statement: str) -> set[str]:
    """The modules a fresh Python has after a statement."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_it_is_loaded_when_it_is_used() -> None:
    heavy = {"asyncio", "ssl", "socket", "sqlite3", "msgspec", "platformdirs", "click", "rich"}
    assert not brought("import bitsferry; dir(bitsferry)") & {*heavy, "bitsferry.client"}
    assert "sqlite3" not in brought("import bitsferry; bitsferry.upload")


# The pages


def blocks() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        code = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
        yield from ((f"{page.stem}-{number}", block) for number, block in enumerate(code, start=1))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server as `HOST:PORT` that takes any file any number of times."""
    folder = tmp_path_factory.mktemp("receiver")
    (folder / "root" / "in").mkdir(parents=True)
    (folder / "root" / "in" / "disk.zip").write_bytes(content(MIB))
    (folder / "bitsferry.toml").write_text(
        'listen = ["127.0.0.1:0"]\n[[directory]]\nurl = "/"\nfolder = "root"\n'
        'allow_overwrites = true\nread_back = "everybody"\n'
    )
    served = Served(folder, ["--config", "bitsferry.toml"]).ready()
    yield f"127.0.0.1:{served.port}"
    served.stop()


@pytest.mark.parametrize("block", [pytest.param(block, id=name) for name, block in blocks()])
def test_examples_work(
    block: str,
    served: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("disk.zip", "memory.raw", "backup.tar"):
        (tmp_path / name).write_bytes(content(MIB))
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    ca.issue_cert("anna@example").private_key_and_cert_chain_pem.write_to_path(tmp_path / "anna.pem")
    monkeypatch.chdir(tmp_path)
    code = block.replace("receiver:8080", served).replace("receiver", "127.0.0.1")
    exec(compile(code, "example", "exec"), {"__name__": "example"})
    assert "Error" not in capsys.readouterr().err


def test_examples_are_typed(tmp_path: Path) -> None:
    """The pages' examples, as a stranger's type checker sees them."""
    files = []
    for name, block in blocks():
        files.append(tmp_path / f"{name.replace('-', '_')}.py")
        files[-1].write_text(block, encoding="utf-8")
    cache = ROOT / ".mypy_cache" / "examples"
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", cache, "--config-file", os.devnull, *files],
        capture_output=True,
        text=True,
        env=os.environ | {"MYPYPATH": str(ROOT / "src")},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def listed(section: str) -> set[str]:
    """The names in the first column of the tables of a section."""
    text = LIBRARY.split(f"\n## {section}\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`(\w+)", cell)}


def test_the_page_lists_the_arguments_of_an_upload() -> None:
    taken = set(inspect.signature(bitsferry.upload).parameters) - {"path", "url"}
    assert listed("Send a file") == taken
    assert set(inspect.signature(bitsferry.Sender).parameters) == taken - {"reply"}


def test_the_page_lists_the_errors() -> None:
    text = LIBRARY.split("\n## When it does not work\n")[1].split("\n## ")[0]
    told = set(re.findall(r"`(\w+)`", text))
    errors = {
        name
        for name in dir(bitsferry)
        if inspect.isclass(value := getattr(bitsferry, name)) and issubclass(value, bitsferry.BitsError)
    }
    assert errors - {"BitsError"} <= told


def test_the_page_lists_the_events() -> None:
    assert listed("What is told") == set(events.__all__) - {"Event", "Error", "Failed", "Interrupted"}


def test_the_page_lists_the_properties_and_the_methods_of_a_client() -> None:
    methods = {name for name in vars(bitsferry.Client) if not name.startswith("_")}
    arguments = {"job", "type", "until", "on_change", "text", "path"}
    assert listed("Jobs that survive") - arguments == methods | set(PROPERTIES)


def test_an_async_client_has_all_that_a_client_has() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(bitsferry.AsyncClient) == public(bitsferry.Client)


# In short


def test_a_name_and_a_password_are_enough(server: HostileServer, path: Path) -> None:
    @server.on(CreateSession)
    def ask(exchange: Exchange) -> None:
        if exchange.headers.get("authorization") == "Basic YW5uYTpzZWNyZXQ=":
            exchange.say(exchange.process())
        else:
            exchange.say_plainly(
                401,
                [
                    ("WWW-Authenticate", 'Basic realm="x"'),
                    ("BITS-Packet-Type", "Ack"),
                    ("Content-Length", "0"),
                ],
            )

    with pytest.raises(bitsferry.AuthenticationRequired):
        bitsferry.upload(path, server.url())
    done = bitsferry.upload(path, server.url("/in/"), credentials=("anna", "secret"))
    assert (done.url, done.size, done.reply) == (server.url(), path.stat().st_size, None)
    assert server.files["/in/file.bin"] == path.read_bytes()


def test_replies_on_their_way_to_one_path_are_not_mixed(server: HostileServer, tmp_path: Path) -> None:
    reply = tmp_path / "reply.bin"

    @server.on(Fragment)
    def take(exchange: Exchange) -> None:
        server.replies.setdefault(exchange.target, content(10_000))  # all with one ETag
        exchange.say(Ack(received=exchange.process().received, reply_url=exchange.target))

    @server.on(Get, first=4)
    def break_off(exchange: Exchange) -> None:
        exchange.give(most=5_000)
        exchange.hang_up()

    for name in ("one.bin", "two.bin"):
        (tmp_path / name).write_bytes(b"file")
        with pytest.raises(bitsferry.BitsError):
            bitsferry.upload(tmp_path / name, server.url("/in/"), reply=reply, patience=0)
    done = bitsferry.upload(tmp_path / "one.bin", server.url("/in/"), reply=reply)
    assert done.reply == str(reply)
    assert reply.read_bytes() == server.replies["/in/one.bin"]


# Fetching


@pytest.fixture
def web() -> Iterator[WebServer]:
    web = WebServer({"/out/file.bin": WebFile(content(MIB), etag='"one"')})
    yield web
    web.close()


def test_a_download_goes_on_where_it_was(web: WebServer, tmp_path: Path) -> None:
    @web.on("GET", first=1)
    def break_off(exchange: WebExchange) -> None:
        exchange.serve(cut=MIB // 2)

    with pytest.raises(bitsferry.TransportFailed):
        bitsferry.download(web.url(), tmp_path / "file.bin", patience=0)
    done = bitsferry.download(web.url(), tmp_path / "file.bin")
    assert (done.path, done.size) == (str(tmp_path / "file.bin"), MIB)
    assert (tmp_path / "file.bin").read_bytes() == web.files["/out/file.bin"].data
    assert web.ranges() == [None, f"bytes={MIB // 2}-"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file.bin", "state"]


def test_what_came_from_elsewhere_is_not_gone_on_with(web: WebServer, tmp_path: Path) -> None:
    other = WebFile(content(MIB), etag='"one"')
    web.files["/out/other.bin"] = other

    @web.on("GET", first=2)
    def break_off(exchange: WebExchange) -> None:
        exchange.serve(cut=MIB // 2)

    for target in ("/out/file.bin", "/out/other.bin"):
        with pytest.raises(bitsferry.TransportFailed):
            bitsferry.download(web.url(target), tmp_path / "file.bin", patience=0)
    bitsferry.download(web.url("/out/file.bin"), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == web.files["/out/file.bin"].data


def test_a_folder_is_no_place_for_a_file(web: WebServer, tmp_path: Path) -> None:
    with pytest.raises(bitsferry.LocalFileInTheWay, match="say what the file shall be called"):
        bitsferry.download(web.url(), tmp_path)
    assert web.asked == []


def test_two_do_not_fetch_to_one_place_at_once(web: WebServer, tmp_path: Path) -> None:
    def fetch_too(event: events.Event) -> None:
        if isinstance(event, events.Connected):
            with pytest.raises(bitsferry.AlreadyBeingReceived):
                bitsferry.download(web.url(), tmp_path / "file.bin")

    bitsferry.download(web.url(), tmp_path / "file.bin", tell=fetch_too)
    assert (tmp_path / "file.bin").stat().st_size == MIB


# Stopped from outside


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    path.write_bytes(content(3 * MIB))
    return path


def quickly(cancelled: Coroutine[Any, Any, object], under_way: Callable[[], bool]) -> None:
    """Await something, cancel it when it is under way: it ends soon, and no thread of it is left."""

    async def main() -> float:
        task = asyncio.ensure_future(cancelled)
        while not under_way():
            assert not task.done(), task.exception()
            await asyncio.sleep(0.01)
        task.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - began

    before = set(threading.enumerate())
    assert asyncio.run(main()) < 1.5
    assert not [thread for thread in set(threading.enumerate()) - before if "bitsferry" in thread.name]


def test_a_cancelled_upload_keeps_its_place(server: HostileServer, path: Path) -> None:
    @server.on(Fragment)
    def take_one(exchange: Exchange) -> None:
        assert isinstance(exchange.packet, Fragment)
        if exchange.packet.range.start == 0:
            exchange.say(exchange.process())
        else:
            exchange.read_body()
            exchange.stay_silent()

    quickly(
        bitsferry.upload_async(path, server.url(), fragment_limit=MIB), lambda: len(server.fragments()) == 2
    )
    server.behave()
    sent = server.fragments()[0].range.stop
    told: list[events.Event] = []
    asyncio.run(bitsferry.upload_async(path, server.url(), tell=told.append))
    assert server.files["/in/file.bin"] == path.read_bytes()
    assert server.kinds().count("CreateSession") == 1
    assert isinstance(told[0], events.Started)
    assert told[0].sent == sent


def test_it_ends_soon_while_the_server_takes_no_byte(server: HostileServer, tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(content(8 * MIB) * 4)

    @server.on(Fragment)
    def read_nothing(exchange: Exchange) -> None:
        exchange.stay_silent()

    told: list[events.Event] = []
    upload = bitsferry.upload_async(path, server.url(), fragment_limit=32 * MIB, tell=told.append)
    quickly(upload, lambda: any(isinstance(event, events.Progress) for event in told))


def test_it_ends_soon_while_it_waits_to_try_again(server: HostileServer, path: Path) -> None:
    @server.on(CreateSession)
    def be_busy(exchange: Exchange) -> None:
        exchange.refuse(Busy(retry_after=60))

    told: list[events.Event] = []
    upload = bitsferry.upload_async(path, server.url(), tell=told.append)
    quickly(upload, lambda: any(isinstance(event, events.Retry) for event in told))


def test_it_ends_soon_at_a_low_limit(server: HostileServer, path: Path) -> None:
    told: list[events.Event] = []
    upload = bitsferry.upload_async(path, server.url(), limits=[bitsferry.Limit(1)], tell=told.append)
    quickly(upload, lambda: any(isinstance(event, events.Progress) for event in told))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_it_ends_soon_where_nobody_says_a_word(scheme: str, path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/in/"
        quickly(bitsferry.upload_async(path, url), lambda: bool(select.select([listener], [], [], 0)[0]))


@pytest.mark.skipif(sys.platform != "linux", reason="others refuse what Linux lets wait")
def test_it_ends_soon_while_it_reaches_for_a_server(path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as waiting:
        for _ in range(3):  # more than the system keeps for a listener that accepts nobody
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        began = time.monotonic()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/in/"
        quickly(bitsferry.upload_async(path, url), lambda: time.monotonic() - began > 0.2)


def test_a_cancelled_download_keeps_its_place(web: WebServer, tmp_path: Path) -> None:
    @web.on("GET", first=1)
    def break_off(exchange: WebExchange) -> None:
        exchange.say(
            200, [("Content-Length", str(MIB)), ("ETag", '"one"')], web.files["/out/file.bin"].data[:1000]
        )
        exchange.stay_silent()

    told: list[events.Event] = []
    download = bitsferry.download_async(web.url(), tmp_path / "file.bin", tell=told.append)
    quickly(download, lambda: any(isinstance(event, events.Receiving) for event in told))
    asyncio.run(bitsferry.download_async(web.url(), tmp_path / "file.bin"))
    assert web.ranges() == [None, "bytes=1000-"]
    assert (tmp_path / "file.bin").read_bytes() == web.files["/out/file.bin"].data


def test_what_is_told_is_told_in_the_event_loop(server: HostileServer, path: Path) -> None:
    told: list[tuple[events.Event, threading.Thread]] = []
    upload = bitsferry.upload_async(
        path, server.url(), tell=lambda event: told.append((event, threading.current_thread()))
    )
    asyncio.run(upload)
    assert {thread for _, thread in told} == {threading.main_thread()}
    assert isinstance(told[0][0], events.Started)
    assert isinstance(told[-1][0], events.Done)


def test_an_error_is_raised_where_it_is_awaited(tmp_path: Path) -> None:
    with pytest.raises(bitsferry.LocalFileMissing, match=r"missing\.bin cannot be read"):
        asyncio.run(bitsferry.upload_async(tmp_path / "missing.bin", "http://127.0.0.1:1/in/"))


# The queue


def test_a_job_is_carried_and_waited_for(server: HostileServer, path: Path) -> None:
    async def main() -> list[bitsferry.JobState]:
        states: list[bitsferry.JobState] = []
        async with bitsferry.AsyncClient() as client:
            job = await client.upload(path, server.url(), priority=bitsferry.Priority.FOREGROUND)
            waiting = asyncio.ensure_future(client.wait(job))
            await client.run(job, on_change=lambda job: states.append(job.state))
            await client.complete(await waiting)
            assert await client.jobs() == []
            assert not await client.runner_is_working()
        return states

    states = asyncio.run(main())
    assert states[-1] is bitsferry.JobState.TRANSFERRED
    assert server.files["/in/file.bin"] == path.read_bytes()


def test_a_cancelled_run_leaves_its_job_in_the_queue(server: HostileServer, path: Path) -> None:
    @server.on(Fragment)
    def read_nothing(exchange: Exchange) -> None:
        exchange.stay_silent()

    async def run() -> None:
        async with bitsferry.AsyncClient() as client:
            await client.run(await client.upload(path, server.url()))

    quickly(run(), lambda: len(server.fragments()) == 1)
    with bitsferry.Client() as client:
        (job,) = client.jobs()
        assert job.state is bitsferry.JobState.QUEUED
        server.behave()
        client.run(job)
        client.complete(client.wait(job, timeout=5))
    assert server.files["/in/file.bin"] == path.read_bytes()


@pytest.mark.parametrize(
    ("url", "settings"),
    [("receiver/in/", {}), ("http://receiver/in/", {"credentials": ("a" * 301, "")})],
)
def test_a_job_that_cannot_be_made_is_not_half_made(path: Path, url: str, settings: dict[str, Any]) -> None:
    with bitsferry.Client() as client:
        with pytest.raises((ValueError, bitsferry.UserNameTooLong)):
            client.upload(path, url, **settings)
        with pytest.raises((ValueError, bitsferry.UserNameTooLong)):
            client.download(url, path, **settings)
        assert client.jobs() == []


def test_a_queue_that_cannot_be_opened_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "queue").write_bytes(b"no queue at all " * 100)

    async def main() -> None:
        async with bitsferry.AsyncClient(tmp_path / "queue"):
            pass

    with pytest.raises(bitsferry.QueueUnusable):
        asyncio.run(main())
