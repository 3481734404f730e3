"""The line to an application by itself: what it costs, and that it ends when nobody wants it any more."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bitsferry.protocol.errors import StoreFailed
from bitsferry.protocol.notification import Answer, ApplicationFailed, Later
from bitsferry.server.backend import WholeUpload
from bitsferry.server.http_backend import HttpBackend, Trust, basic, bearer
from bitsferry.server.outgoing import Address, Waits

from .applications import COPY, Answering, Application, Heard, Slow, say

pytestmark = pytest.mark.anyio

DATA = os.urandom(20_000)
REPLY = b"what the application has to say to it"

Ask = Callable[[Answering | bytes], Application]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def ask() -> Iterator[Ask]:
    """Starts applications."""
    started: list[Application] = []

    def ask(answer: Answering | bytes) -> Application:
        started.append(Application(answer if callable(answer) else lambda heard: answer))
        return started[-1]

    yield ask
    for application in started:
        application.close()


@pytest.fixture
def upload(tmp_path: Path) -> WholeUpload:
    (tmp_path / "request.data").write_bytes(DATA)
    return whole(tmp_path, len(DATA))


def whole(folder: Path, size: int) -> WholeUpload:
    return WholeUpload(
        id="A0FF5911-4144-45B3-BF27-27AFC8EC8A67",
        url="http://ferry.example/in/file.bin",
        path="/in/file.bin",
        query="",
        name="file.bin",
        size=size,
        file=str(folder / "request.data"),
        reply=str(folder / "reply.new"),
        user=None,
        address="192.0.2.1",
    )


def by_value(application: Application, **settings: object) -> HttpBackend:
    return HttpBackend(application.url(), by_value=True, **settings)  # type: ignore[arg-type]


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0.005)


# Whoever stops waiting


async def test_a_talk_that_is_cancelled_hangs_up_at_once(ask: Ask, upload: WholeUpload) -> None:
    application = ask(slow := Slow(lambda heard: say(body=REPLY)))
    talk = asyncio.create_task(by_value(application).tell(upload))
    await until(slow.at_work.is_set)
    talk.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await talk
    assert not Path(upload.reply).exists()
    slow.finish()
    await until(application.hung_up.is_set)


async def test_one_that_is_cancelled_inside_a_reply_writes_no_more_of_it(
    ask: Ask, upload: WholeUpload
) -> None:
    application = ask(slow := Slow(lambda heard: b"x" * 1_000_000))
    application.beginning = b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 1_000_000
    talk = asyncio.create_task(by_value(application).tell(upload))
    await until(lambda: Path(upload.reply).exists() and Path(upload.reply).stat().st_size > 500_000)
    talk.cancel()
    with pytest.raises(asyncio.CancelledError):
        await talk
    size = Path(upload.reply).stat().st_size
    slow.finish()
    await until(application.hung_up.is_set)
    assert Path(upload.reply).stat().st_size == size


async def test_one_that_is_cancelled_while_the_file_goes_out(ask: Ask, tmp_path: Path) -> None:
    application = ask(slow := Slow(lambda heard: say()))
    application.reads_bodies = False
    with (tmp_path / "request.data").open("wb") as file:
        file.truncate(1 << 30)
    talk = asyncio.create_task(by_value(application).tell(whole(tmp_path, 1 << 30)))
    await until(slow.at_work.is_set)
    talk.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await talk
    slow.finish()


async def test_one_that_is_cancelled_while_it_connects(upload: WholeUpload) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        talk = asyncio.create_task(HttpBackend(url).tell(upload))
        await asyncio.sleep(0.05)
        talk.cancel()
        with pytest.raises(asyncio.CancelledError):
            await talk
        for each in waiting:
            each.close()


async def test_one_application_is_asked_by_so_many_at_once_and_others_wait(
    ask: Ask, upload: WholeUpload
) -> None:
    application = ask(slow := Slow(lambda heard: say(**COPY)))
    backend = HttpBackend(application.url())
    talks = [asyncio.create_task(backend.tell(upload)) for _ in range(40)]
    await until(lambda: len(application.heard) == 32)
    talks.pop().cancel()
    slow.finish()
    assert await asyncio.gather(*talks) == [Answer(copy=True)] * 39
    assert len(application.heard) == 39


# The reply


async def test_a_reply_is_a_new_file_of_our_own(ask: Ask, upload: WholeUpload) -> None:
    """Whatever lies there from before, a link included, is not written through."""
    elsewhere = Path(upload.reply).with_name("elsewhere")
    elsewhere.write_bytes(b"precious")
    Path(upload.reply).symlink_to(elsewhere)
    await by_value(ask(say(body=REPLY))).tell(upload)
    assert Path(upload.reply).read_bytes() == REPLY
    assert not Path(upload.reply).is_symlink()
    assert Path(upload.reply).stat().st_mode & 0o777 == 0o600
    assert elsewhere.read_bytes() == b"precious"


# What fails on our side is not the application's fault


async def test_a_disk_that_fails_is_told_as_such(ask: Ask, upload: WholeUpload) -> None:
    backend = by_value(ask(say(body=REPLY)))
    Path(upload.file).unlink()
    with pytest.raises(StoreFailed):
        await backend.tell(upload)


async def test_so_is_a_reply_that_cannot_be_written(ask: Ask, upload: WholeUpload) -> None:
    Path(upload.reply).mkdir()
    with pytest.raises(StoreFailed):
        await by_value(ask(say(body=REPLY))).tell(upload)


async def test_so_is_a_file_that_became_shorter(ask: Ask, upload: WholeUpload) -> None:
    application = ask(slow := Slow(lambda heard: say()))
    slow.finish()
    Path(upload.file).write_bytes(DATA[:100])
    with pytest.raises(StoreFailed, match="100 bytes"):
        await by_value(application).tell(upload)


# How an application is asked


async def test_letters_beyond_ascii_are_spelt_so_that_they_arrive(ask: Ask, tmp_path: Path) -> None:
    folder = tmp_path / "Ablage für Größeres"
    folder.mkdir()
    (folder / "request.data").write_bytes(DATA)
    heard: list[Heard] = []

    def answer(one: Heard) -> bytes:
        heard.append(one)
        return say(200 if one.file.read_bytes() == DATA else 500)

    application = ask(answer)
    await HttpBackend(application.url("/größe?ä=1")).tell(whole(folder, len(DATA)))
    assert heard[0].target == "/gr%C3%B6%C3%9Fe?%C3%A4=1"
    assert heard[0].file == folder / "request.data"


async def test_over_ipv6_too(upload: WholeUpload) -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    heard = b""

    def serve() -> None:
        nonlocal heard
        line, _ = listener.accept()
        with line:
            heard = line.recv(65536)
            line.sendall(say(**COPY))

    thread = threading.Thread(target=serve)
    thread.start()
    port = listener.getsockname()[1]
    assert await HttpBackend(f"http://[::1]:{port}/x").tell(upload) == Answer(copy=True)
    thread.join()
    listener.close()
    assert f"Host: [::1]:{port}".encode() in heard


async def test_the_next_address_of_a_name_is_tried(ask: Ask, upload: WholeUpload) -> None:
    """localhost is ::1 first on many machines."""
    application = ask(say(**COPY))
    assert await HttpBackend(application.url(host="localhost")).tell(upload) == Answer(copy=True)


async def test_redirects_are_not_followed(ask: Ask, upload: WholeUpload) -> None:
    elsewhere = ask(say(**COPY))
    with pytest.raises(ApplicationFailed) as failed:
        await HttpBackend(ask(say(307, location=elsewhere.url())).url()).tell(upload)
    assert (failed.value.status, failed.value.transient) == (307, False)
    assert elsewhere.heard == []


async def test_where_to_ask_again_is_said_in_full(ask: Ask, upload: WholeUpload) -> None:
    application = ask(say(202, location="../jobs/1", retry_after="5"))
    said = await HttpBackend(application.url("/a/b/c?d=e")).tell(upload)
    assert said == Later(5, application.url("/a/jobs/1"))


# Every limit of time


@pytest.mark.parametrize(
    ("waits", "stuck", "said"),
    [
        (Waits(answering=0.2), "head", "did not answer within 0.2 s"),
        (Waits(receiving=0.2), "body", "sent no byte of its answer for 0.2 s"),
        (Waits(sending=0.2), "file", "took no byte for 0.2 s"),
    ],
)
async def test_no_step_takes_longer_than_it_may(
    ask: Ask, tmp_path: Path, waits: Waits, stuck: str, said: str
) -> None:
    application = ask(slow := Slow(lambda heard: b""))
    application.reads_bodies = stuck != "file"
    application.beginning = b"HTTP/1.1 200 OK\r\n" + b"Content-Length: 9\r\n\r\nhalf" * (stuck == "body")
    size = (64 << 20) if stuck == "file" else 10
    with (tmp_path / "request.data").open("wb") as file:
        file.truncate(size)
    with pytest.raises(ApplicationFailed, match=said) as failed:
        await by_value(application, waits=waits).tell(whole(tmp_path, size))
    assert (failed.value.status, failed.value.transient) == (408, True)
    slow.finish()


async def test_a_head_that_drips_does_not_take_for_ever(upload: WholeUpload) -> None:
    said = b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50
    with Dripping(said) as url, pytest.raises(ApplicationFailed, match="did not answer within"):
        await HttpBackend(url, waits=Waits(answering=0.3)).tell(upload)


async def test_a_body_may_drip_as_long_as_it_likes(upload: WholeUpload) -> None:
    with Dripping(say(body=REPLY)) as url:
        backend = HttpBackend(url, by_value=True, waits=Waits(answering=5, receiving=0.3))
        assert await backend.tell(upload) == Answer()
    assert Path(upload.reply).read_bytes() == REPLY


class Dripping:
    """An application that says a byte each 20 milliseconds; gives its URL."""

    def __init__(self, said: bytes) -> None:
        self._said = said
        self._ending = threading.Event()

    def __enter__(self) -> str:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._drip)
        self._thread.start()
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/"

    def _drip(self) -> None:
        line, _ = self._listener.accept()
        with line:
            line.recv(65536)
            try:
                for byte in self._said:
                    if self._ending.wait(0.02):
                        break
                    line.sendall(bytes([byte]))
            except OSError:
                return

    def __exit__(self, *error: object) -> None:
        self._ending.set()
        self._thread.join()
        self._listener.close()


# What may be said of an application


def test_nothing_shows_a_secret() -> None:
    backend = HttpBackend("http://host/x", authorization=basic("me", "sesame"))
    assert "sesame" not in repr(backend)
    assert "Basic" not in repr(backend)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "no spaces and no control"),
        ("http://a b/", "no spaces and no control"),
        ("http://a/\r\nX: y", "no spaces and no control"),
        ("/relative", "begins with http"),
        ("//host/x", "begins with http"),
        ("ftp://host/", "begins with http"),
        ("http:///x", "begins with http"),
        ("http://host:99999/", "cannot be"),
        ("http://host:x/", "cannot be"),
        ("http://[::1/", "cannot be"),
        ("http://a..b/", "cannot be"),
        ("http://me:sesame@host/", "must not stand in a URL"),
        ("http://host/#x", "never sent"),
        ("http://host/" + "a" * 2189, "2201 characters"),
    ],
)
def test_what_is_no_url_of_an_application_is_told_without_showing_it(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as wrong:
        HttpBackend(url)
    assert "sesame" not in str(wrong.value)


@pytest.mark.parametrize(
    ("url", "shown", "target"),
    [
        ("http://host", "http://host:80/", "/"),
        ("HTTPS://Host:8443/A?b=%20&c=ü", "https://host:8443/A", "/A?b=%20&c=%C3%BC"),
        ("http://[2001:db8::1]:81/x", "http://[2001:db8::1]:81/x", "/x"),
        ("http://bücher.example/x", "http://xn--bcher-kva.example:80/x", "/x"),
    ],
)
def test_an_address_is_shown_without_its_query(url: str, shown: str, target: str) -> None:
    address = Address.of(url)
    assert (str(address), address.target) == (shown, target)


@pytest.mark.parametrize("user", ["", "a:b", "a\nb"])
def test_a_name_that_cannot_be_said_is_none(user: str) -> None:
    with pytest.raises(ValueError, match="a user's name"):
        basic(user, "x")


@pytest.mark.parametrize("token", ["", "a b", "ü", "a\nb"])
def test_nor_is_a_token(token: str) -> None:
    with pytest.raises(ValueError, match="a token has"):
        bearer(token)


def test_files_that_cannot_vouch_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for trust in (Trust(ca=str(tmp_path / "none")), Trust(ca=str(tmp_path / "empty"))):
        with pytest.raises(OSError):
            HttpBackend("https://host/", trust=trust)
    HttpBackend("http://host/", trust=Trust(ca=str(tmp_path / "none")))
