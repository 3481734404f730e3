"""Functions, commands, applications reached by HTTP: no client can tell which of them is behind a URL."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from bitsferry.server.backend import Backend, Timing
from bitsferry.server.callable_backend import CallableBackend, ReceivedUpload, RefuseUpload, TryLater
from bitsferry.server.command_backend import CommandBackend
from bitsferry.server.directory import Directory
from bitsferry.server.embedding import Server
from bitsferry.server.http_backend import HttpBackend

from .applications import COPY, Application, Heard, say
from .guest import Guest, fresh
from .raw import eventually

LARGE = bytes(range(256)) * 20_000  # 5 MB


class Kind(ABC):
    """An application that does what the names of the files ask for, in the ways of its kind.

    `nothing`, `small`, `large`: it succeeds, with such a reply. `refusal`: it refuses. `failure`, `later`:
    when it hears of a file for the first time, it fails, or asks for time. `slow`: it waits for `go`.
    """

    def __init__(self, folder: Path) -> None:
        self.go = folder / "go"

    @abstractmethod
    def backend(self, *, keep: bool) -> Backend:
        """What tells it; `keep`: it wants files to appear at their destinations."""

    @abstractmethod
    def told(self, name: str) -> int:
        """How often it heard of the file."""

    def end(self) -> None:
        """Nothing of it stays."""
        self.go.touch()


class _InMemory(Kind):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._told: Counter[str] = Counter()
        self._lock = threading.Lock()

    def told(self, name: str) -> int:
        return self._told[name]

    def hear(self, name: str) -> tuple[str, bool]:
        """What to do, and whether this is the first time."""
        with self._lock:
            self._told[name] += 1
        return name.partition("-")[0], self._told[name] == 1


class Functions(_InMemory):
    def backend(self, *, keep: bool) -> Backend:
        return CallableBackend(self.work, keep=keep)

    def work(self, upload: ReceivedUpload) -> bytes | None:
        what, first = self.hear(upload.name)
        if what == "slow":
            assert eventually(self.go.exists)
        return self.finish(what, first)

    @staticmethod
    def finish(what: str, first: bool) -> bytes | None:
        match what:
            case "small" | "slow":
                return b"small"
            case "large":
                return LARGE
            case "refusal":
                raise RefuseUpload("not that one")
            case "failure" if first:
                raise LookupError("nothing there")
            case "later" if first:
                raise TryLater
        return None


class AsyncFunctions(Functions):
    def backend(self, *, keep: bool) -> Backend:
        return CallableBackend(self.work_async, keep=keep)

    async def work_async(self, upload: ReceivedUpload) -> bytes | None:
        what, first = self.hear(upload.name)
        while what == "slow" and not self.go.exists():
            await asyncio.sleep(0.01)
        return self.finish(what, first)


SCRIPT = r"""
exec >"$BITSFERRY_REPLY"
what=${BITSFERRY_NAME%%-*}
echo "$BITSFERRY_NAME" >>"$1"
first() { [ "$(grep -cx "$BITSFERRY_NAME" "$1")" = 1 ]; }
case $what in
small) printf small ;;
large) cat "$2" ;;
refusal) exit 77 ;;
failure) ! first "$1" ;;
later) if first "$1"; then exit 75; fi ;;
slow) while [ ! -e "$3" ]; do sleep 0.01; done; printf small ;;
esac
"""


class Commands(Kind):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._log, self._large, self._script = (folder / name for name in ("told", "large", "script"))
        self._log.touch()
        self._large.write_bytes(LARGE)
        self._script.write_text(SCRIPT)

    def backend(self, *, keep: bool) -> Backend:
        arguments = ("/bin/sh", self._script, self._log, self._large, self.go)
        return CommandBackend(tuple(map(str, arguments)), keep=keep)

    def told(self, name: str) -> int:
        return self._log.read_text().splitlines().count(name)


class ByValue(_InMemory):
    by_value = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._application = Application(self.answer)

    def end(self) -> None:
        super().end()
        self._application.close()

    def backend(self, *, keep: bool) -> Backend:
        return HttpBackend(self._application.url("/keep" if keep else "/"), by_value=self.by_value)

    def answer(self, heard: Heard) -> bytes:
        url = unquote(urlsplit(heard.get("BITS-Original-Request-URL") or "").path)
        what, first = self.hear(url.rpartition("/")[2])
        if what == "slow":
            assert eventually(self.go.exists)
        if what == "refusal":
            return say(403)
        if what in ("failure", "later") and first:
            return say(500 if what == "failure" else 202)
        reply = {"small": b"small", "slow": b"small", "large": LARGE}.get(what, b"")
        return self.say(heard, reply, COPY if heard.target == "/keep" else {})

    def say(self, heard: Heard, reply: bytes, headers: dict[str, Any]) -> bytes:
        return say(200, reply, **headers)


class ByReference(ByValue):
    by_value = False

    def say(self, heard: Heard, reply: bytes, headers: dict[str, Any]) -> bytes:
        if reply:
            heard.reply.write_bytes(reply)
        return say(200, **headers)


class Scene:
    """A server with one kind of application: it wants the files put in their places, but those of `/drop/`.

    In `/slow/` clients are not let wait.
    """

    def __init__(self, server: Server, kind: Kind, folder: Path) -> None:
        self.url = server.urls[0]
        self.kind = kind
        self.folder = folder

    def upload(self, target: str, data: bytes = b"some bytes") -> Guest:
        return Guest(self.url, target, data)

    def file(self, target: str) -> Path:
        return self.folder / target.lstrip("/")


@pytest.fixture(scope="module", params=[Functions, AsyncFunctions, Commands, ByReference, ByValue])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder: Path = tmp_path_factory.mktemp(request.param.__name__)
    kind: Kind = request.param(folder)
    directories = [
        Directory(
            f"/{name}/",
            str(folder / name),
            backend=kind.backend(keep=name != "drop"),
            timing=Timing(poll=0.05, hold=0.2 if name == "slow" else 60),
        )
        for name in ("keep", "drop", "slow")
    ]
    server = Server(directories=directories, store=folder / "store", durability="process")
    try:
        with server.running():
            yield Scene(server, kind, folder)
    finally:
        kind.end()


@pytest.mark.parametrize("under", ["keep", "drop"])
def test_without_a_reply_there_is_no_reply_url(scene: Scene, under: str) -> None:
    target = f"/{under}/{fresh('nothing')}"
    with scene.upload(target, b"precious") as upload:
        ack = upload.send()
        assert (ack.status, ack.received, ack.reply_url, ack.context) == (200, "8", None, None)
        assert upload.close().status == 200
    assert scene.file(target).exists() == (under == "keep")
    assert under == "drop" or scene.file(target).read_bytes() == b"precious"


@pytest.mark.parametrize(("what", "reply"), [("small", b"small"), ("large", LARGE)])
def test_a_reply_can_be_fetched_until_the_end(scene: Scene, what: str, reply: bytes) -> None:
    with scene.upload(f"/drop/{fresh(what)}") as upload:
        ack = upload.send()
        assert ack.status == 200
        assert upload.fetch(ack.reply_url) == reply
        assert upload.send() == ack, "the last Ack again, as it was"
        assert upload.fetch(ack.reply_url) == reply
        assert upload.close().status == 200
        assert upload.say("Ping").status == 200


def test_the_file_appears_with_a_reply_too(scene: Scene) -> None:
    target = f"/keep/{fresh('small')}"
    with scene.upload(target) as upload:
        assert upload.fetch(upload.send().reply_url) == b"small"
        assert scene.file(target).read_bytes() == b"some bytes"
        upload.cancel()
    assert scene.file(target).read_bytes() == b"some bytes"


def test_a_refusal_is_final_and_remembered(scene: Scene) -> None:
    name = fresh("refusal")
    with scene.upload(f"/keep/{name}") as upload:
        for _ in range(2):
            ack = upload.send()
            assert (ack.status, ack.code, ack.context) == (403, "0x80190193", "0x7")
    assert scene.kind.told(name) == 1
    assert not scene.file(f"/keep/{name}").exists()


def test_after_a_failure_it_is_told_again_when_the_client_comes_again(scene: Scene) -> None:
    name = fresh("failure")
    with scene.upload(f"/keep/{name}") as upload:
        ack = upload.send()
        assert ack.is_failure_of_application
        assert ack.received == "10", "no byte need be sent again"
        assert upload.send().status == 200
    assert scene.kind.told(name) == 2
    assert scene.file(f"/keep/{name}").exists()


def test_one_that_needs_time_is_asked_again_while_the_client_is_away(scene: Scene) -> None:
    name = fresh("later")
    with scene.upload(f"/keep/{name}") as upload:
        assert upload.send().is_wait
        assert eventually(lambda: scene.kind.told(name) == 2)
        assert eventually(lambda: upload.send().status == 200)
    assert scene.kind.told(name) == 2


def test_a_slow_one_goes_on_while_its_client_is_told_to_come_again(scene: Scene) -> None:
    name = fresh("slow")
    scene.kind.go.unlink(missing_ok=True)
    with scene.upload(f"/slow/{name}") as upload:
        assert upload.send().is_wait
        assert upload.send().is_wait
        scene.kind.go.touch()
        assert eventually(lambda: upload.send().status == 200)
        assert upload.fetch(upload.send().reply_url) == b"small"
    assert scene.kind.told(name) == 1


def test_a_cancelled_upload_is_forgotten_however_slow_its_application(scene: Scene) -> None:
    name = fresh("slow")
    scene.kind.go.unlink(missing_ok=True)
    with scene.upload(f"/slow/{name}") as upload:
        assert upload.send().is_wait
        assert upload.cancel().status == 200
        scene.kind.go.touch()
        assert upload.send().code == "0x8020001F"
    assert not scene.file(f"/slow/{name}").exists()
