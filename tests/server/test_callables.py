"""Functions of a Python program: what they are told, what they may return, what they may raise."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bitsferry.protocol.errors import DestinationExists, InvalidMessage
from bitsferry.protocol.notification import Answer, ApplicationFailed, Later
from bitsferry.server.callable_backend import CallableBackend, ReceivedUpload, RefuseUpload, Reply, TryLater

from .raw import eventually
from .whole import Whole

FAILED = (503, 0x801901F7, 7)


class Session(Whole):
    """A whole upload, with functions to tell it to."""

    def tell(self, function: Callable[[ReceivedUpload], Any], **options: Any) -> Answer | Later:
        return asyncio.run(CallableBackend(function, **options).tell(self.upload))

    def answer(self, said: Any, **options: Any) -> bytes | None:
        """The reply to an answer that is a success."""
        assert isinstance(self.tell(lambda upload: said, **options), Answer)
        return self.reply.read_bytes() if self.reply.exists() else None

    def fail(self, function: Callable[[ReceivedUpload], Any]) -> None:
        """Tell a function that fails."""
        with pytest.raises(ApplicationFailed) as caught:
            self.tell(function)
        assert (caught.value.status, caught.value.code, caught.value.context) == FAILED
        assert caught.value.transient
        assert not self.reply.exists()


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path)


# What it is told


def test_it_is_told_everything_about_the_upload(session: Session) -> None:
    told: list[ReceivedUpload] = []
    session.tell(told.append)
    assert told == [
        ReceivedUpload(
            path=session.file,
            name="café 1.csv",
            size=8,
            url="http://server:8080/in/caf%C3%A9%201.csv?x=1",
            url_path="/in/café 1.csv",
            user="anna",
            address="192.0.2.1",
            id="A0FF5911-0000-4000-8000-000000000000",
        )
    ]


class Asynchronous:
    async def __call__(self, upload: ReceivedUpload) -> bytes:
        return str(threading.current_thread() is threading.main_thread()).encode()


async def plus(more: bytes, upload: ReceivedUpload) -> bytes:
    return more + upload.path.read_bytes()


def test_an_async_one_runs_in_the_event_loop_whatever_it_looks_like(session: Session) -> None:
    session.tell(Asynchronous())
    assert session.reply.read_bytes() == b"True"
    session.tell(functools.partial(plus, b"partial "))
    assert session.reply.read_bytes() == b"partial uploaded"
    session.tell(lambda upload: plus(b"lambda ", upload))
    assert session.reply.read_bytes() == b"lambda uploaded"


def test_a_plain_one_does_not_keep_the_event_loop(session: Session) -> None:
    async def story() -> None:
        go = threading.Event()

        def work(upload: ReceivedUpload) -> None:
            assert go.wait(10)

        telling = asyncio.create_task(CallableBackend(work).tell(session.upload))
        await asyncio.sleep(0)
        go.set()
        await telling

    asyncio.run(story())


def test_no_more_plain_ones_work_at_once_than_was_said(session: Session) -> None:
    working: list[int] = []
    most: list[int] = []

    def work(upload: ReceivedUpload) -> None:
        working.append(1)
        most.append(len(working))
        working.pop()

    async def story() -> None:
        backend = CallableBackend(work, at_once=1)
        await asyncio.gather(*(backend.tell(session.upload) for _ in range(20)))

    asyncio.run(story())
    assert len(most) == 20
    assert max(most) == 1


# What it may return


@pytest.mark.parametrize("reply", [b"bytes", bytearray(b"bytes"), memoryview(b"bytes"), Reply(b"bytes")])
def test_bytes_are_the_reply(session: Session, reply: Any) -> None:
    assert session.answer(reply) == b"bytes"


def test_a_path_is_a_file_that_is_copied_and_stays(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "price list"
    path.write_bytes(b"cheap")
    assert session.answer(path) == b"cheap"
    assert session.answer(Reply(path)) == b"cheap"
    assert path.read_bytes() == b"cheap"


def test_a_file_is_moved_where_that_is_said(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "temporary"
    path.write_bytes(b"mine")
    assert session.answer(Reply(path, move=True)) == b"mine"
    assert not path.exists()


def test_a_file_is_moved_from_another_file_system_too(session: Session) -> None:
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == session.file.stat().st_dev:
        pytest.skip("no second file system here")
    path = shm / f"bitsferry-{os.getpid()}"
    path.write_bytes(b"far away")
    assert session.answer(Reply(path, move=True)) == b"far away"
    assert not path.exists()


def test_of_a_link_to_a_file_only_the_link_is_moved(session: Session, tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"linked")
    link.symlink_to(path)
    assert session.answer(Reply(link, move=True)) == b"linked"
    assert not session.reply.is_symlink()
    assert not link.exists()
    assert path.read_bytes() == b"linked"


def test_an_echo_does_not_cost_the_upload(session: Session) -> None:
    assert isinstance(session.tell(lambda upload: upload.path), Answer)
    assert session.reply.read_bytes() == b"uploaded"
    assert isinstance(session.tell(lambda upload: Reply(upload.path, move=True)), Answer)
    assert session.reply.read_bytes() == b"uploaded"
    assert session.file.read_bytes() == b"uploaded"


def test_what_an_attempt_left_is_not_the_reply_to_another(session: Session) -> None:
    session.reply.write_bytes(b"half of a long reply")
    assert session.answer(b"short") == b"short"


def test_none_is_no_reply(session: Session) -> None:
    assert session.answer(None) is None
    assert session.answer(Reply()) is None


@pytest.mark.parametrize(
    ("said", "keep", "kept"),
    [
        (None, True, True),
        (None, False, False),
        (b"reply", False, False),
        (Reply(keep=True), False, True),
        (Reply(keep=False), True, False),
        (Reply(b"reply"), False, False),
    ],
)
def test_whether_the_file_is_kept_can_be_said_for_all_or_for_one(
    session: Session, said: Any, keep: bool, kept: bool
) -> None:
    answer = session.tell(lambda upload: said, keep=keep)
    assert isinstance(answer, Answer)
    assert answer.copy == kept


def test_a_reply_may_be_at_a_url_already(session: Session) -> None:
    url = "https://files.example/prices.pdf"
    answer = session.tell(lambda upload: Reply(url=url))
    assert answer == Answer(copy=True, static_url=url)
    assert not session.reply.exists()


@pytest.mark.parametrize("url", ["prices.pdf", "/prices.pdf", "ftp://host/prices.pdf"])
def test_that_url_is_an_absolute_one(session: Session, url: str) -> None:
    with pytest.raises(ApplicationFailed, match="no absolute URL"):
        session.tell(lambda upload: Reply(url=url))


def test_that_url_has_its_length(session: Session) -> None:
    """MC-BUP 2.2.1.2 demands a 400."""
    with pytest.raises(InvalidMessage, match="characters"):
        session.tell(lambda upload: Reply(url="http://host/" + "x" * 2200))


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("text", "a str could be meant as either"),
        (Reply("text"), "a str could be meant as either"),  # type: ignore[arg-type]
        (42, "a int is no reply"),
        (["a", "b"], "a list is no reply"),
        (Path("/there/is/no/such/file"), "cannot be read: No such file"),
        (Path("/"), "cannot be read: Is a directory"),
        (Reply(b"reply", url="http://host/"), "or has content, or there is none"),
        (Reply(url=" "), "or has content, or there is none"),
    ],
)
def test_what_can_be_no_reply_is_a_failure_that_says_so(
    session: Session, caplog: pytest.LogCaptureFixture, said: Any, sentence: str
) -> None:
    session.fail(lambda upload: said)
    assert sentence in caplog.text


def test_a_pipe_is_not_waited_for(session: Session, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(tmp_path / "pipe")
    session.fail(lambda upload: tmp_path / "pipe")
    assert "is no file" in caplog.text


# What it may raise


def test_a_refusal_is_an_answer_with_a_sentence_for_the_log(session: Session) -> None:
    def refuse(upload: ReceivedUpload) -> None:
        raise RefuseUpload(f"{upload.name} is no invoice")

    answer = session.tell(refuse)
    assert isinstance(answer, Answer)
    assert answer.refusal is not None
    assert (answer.refusal.status, answer.refusal.message) == (403, "café 1.csv is no invoice")
    assert not answer.copy


@pytest.mark.parametrize("seconds", [None, 0, 1.5, 3600])
def test_it_may_want_to_be_called_again(session: Session, seconds: float | None) -> None:
    def put_off(upload: ReceivedUpload) -> None:
        raise TryLater(seconds)

    assert session.tell(put_off) == Later(seconds)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_not_at_a_time_that_never_comes(seconds: float) -> None:
    with pytest.raises(ValueError, match="no number of seconds"):
        TryLater(seconds)


@pytest.mark.parametrize(
    "error",
    [
        LookupError("a secret"),
        OSError(28, "a secret"),
        TimeoutError("a secret"),
        DestinationExists("a secret"),
        StopIteration("a secret"),
        SystemExit("a secret"),
        asyncio.CancelledError("a secret"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("kind", ["plain", "async"])
def test_anything_else_is_a_failure_of_which_the_log_has_the_traceback_and_nobody_else(
    session: Session, caplog: pytest.LogCaptureFixture, error: BaseException, kind: str
) -> None:
    def fall_over(upload: ReceivedUpload) -> None:
        raise error

    async def fall_over_later(upload: ReceivedUpload) -> None:
        await asyncio.sleep(0)
        raise error

    with pytest.raises(ApplicationFailed) as caught:
        session.tell(fall_over if kind == "plain" else fall_over_later)
    assert (caught.value.status, caught.value.code, caught.value.context) == FAILED
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    (record,) = (each for each in caplog.records if each.levelno == logging.ERROR)
    assert "fall_over" in record.getMessage()
    assert vars(record)["session"] == session.upload.id
    assert "in fall_over" in caplog.text
    assert "a secret" in caplog.text


@dataclass
class Keeper:
    password: str

    def __call__(self, upload: ReceivedUpload) -> bytes:
        raise LookupError

    def work(self, password: str, upload: ReceivedUpload) -> bytes:
        raise LookupError


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (Keeper("sesame"), "Keeper"),
        (functools.partial(Keeper("sesame").work, "sesame"), "Keeper.work"),
        (functools.partial(functools.partial(Keeper("sesame"))), "Keeper"),
    ],
)
def test_the_log_names_a_function_and_not_what_it_knows(
    session: Session, caplog: pytest.LogCaptureFixture, function: Any, name: str
) -> None:
    session.fail(function)
    assert f"the function {name} failed" in caplog.text
    assert "sesame" not in caplog.text


# Cancelled


def test_an_async_one_hears_that_nobody_waits_any_more(session: Session) -> None:
    heard: list[str] = []

    async def work(upload: ReceivedUpload) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise

    asyncio.run(cancel_when(lambda: True, CallableBackend(work), session))
    assert heard == ["cancelled"]


def test_a_plain_one_goes_on_and_its_reply_is_nobodys(session: Session) -> None:
    began, go, over = threading.Event(), threading.Event(), threading.Event()

    def work(upload: ReceivedUpload) -> bytes:
        began.set()
        assert go.wait(10)
        over.set()
        return b"too late"

    asyncio.run(cancel_when(began.is_set, CallableBackend(work), session))
    go.set()
    assert over.wait(10)
    assert not session.reply.exists()


def test_one_that_has_not_begun_does_not_begin(session: Session) -> None:
    began, go = threading.Event(), threading.Event()
    second = replace(session.upload, name="second")
    names: list[str] = []

    def work(upload: ReceivedUpload) -> None:
        names.append(upload.name)
        began.set()
        assert go.wait(10)

    async def story() -> None:
        backend = CallableBackend(work, at_once=1)
        first = asyncio.create_task(backend.tell(session.upload))
        while not began.is_set():
            await asyncio.sleep(0.001)
        waiting = asyncio.create_task(backend.tell(second))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        go.set()
        await first
        await backend.tell(session.upload)

    asyncio.run(story())
    assert names == [session.upload.name] * 2


async def cancel_when(begun: Callable[[], bool], backend: CallableBackend, session: Session) -> None:
    telling = asyncio.create_task(backend.tell(session.upload))
    await asyncio.sleep(0)
    assert await asyncio.to_thread(eventually, begun)
    telling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await telling
