"""The server is killed at every step between the last byte and the Close of an upload that gets a reply.

Whenever it dies, the client goes on with the next server as if nothing had happened: there is one file, if
the application wanted one, and one reply, whole. The application was told once if its answer was kept, and
else again with the same key.
"""

from __future__ import annotations

import http.client
import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from server.applications import Application, say
from server.applications import Heard as Told
from server.raw import eventually
from store.disks import folder_in_memory
from store.tracing import EVERYTHING, Call, read_calls, traced

from .line import Heard, Line
from .serving import Servers

pytestmark = pytest.mark.storm

# What a server on sockets does besides; `epoll_wait` says nothing new.
CALLS = EVERYTHING + ",connect,accept4,recvfrom,recvmsg,sendto,sendmsg,shutdown"
ASKING = ("stat", "lstat", "newfstatat", "fstat", "statx", "lseek", "read", "pread64", "close")
TALKING = ("connect", "sendto", "sendmsg", "sendfile", "recvfrom", "recvmsg")
NAME = "file.bin"
DATA = bytes(range(256)) * 80
HALF = len(DATA) // 2
REPLY = b"what the application has to say to it, " * 100
SETTINGS = """
store = "file:{store}"

[[directory]]
url = "/"
folder = "{folder}"
notification_type = "{kind}"
notification_url = "{url}"
"""


class Client(Line):
    """A line that fetches replies, too."""

    def get(self, path: str) -> tuple[Heard, bytes]:
        with self.ask_for(path) as answer:
            return Heard(answer.status, answer.headers), answer.read()

    def ask_for(self, path: str, headers: Mapping[str, str] | None = None) -> http.client.HTTPResponse:
        self._connection.request("GET", path, headers=headers or {})
        return self._connection.getresponse()


@dataclass
class Scene:
    """A server with an application behind it, and how often that was told of the upload at hand."""

    servers: Servers
    application: Application
    root: Path
    kind: str
    copy: bool
    session: str = ""

    @property
    def guid(self) -> str:
        return self.session.strip("{}")

    @property
    def folder(self) -> Path:
        return self.root / "in"

    def start(self) -> None:
        self.servers.start("--config", str(self.root / "bitsferry.toml"))

    @contextmanager
    def line(self) -> Iterator[Client]:
        line = Client(self.servers.port)
        try:
            yield line
        finally:
            line.close()

    def prepare(self, line: Client, held: int, *, fails: bool = False) -> None:
        """An upload of which so many bytes are held; of a whole one the reply is there, or it failed."""
        (self.folder / NAME).unlink(missing_ok=True)
        self.application.answer = (lambda told: say(500)) if fails else self.right
        self.application.heard.clear()
        self.session = line.create("/" + NAME).headers["BITS-Session-Id"]
        for start in range(0, held, HALF):
            heard = line.fragment("/" + NAME, self.session, DATA, start, start + HALF)
            assert heard.status == (500 if fails and start else 200)
        if fails:
            self.application.answer = self.right
            self.application.heard.clear()

    # The application

    def right(self, told: Told) -> bytes:
        if self.kind == "reference":
            told.reply.write_bytes(REPLY)
        return self.answer

    @property
    def answer(self) -> bytes:
        copy = "yes" if self.copy else None
        return say(200, REPLY if self.kind == "value" else b"", bits_copy_file_to_destination=copy)

    # What is on disk

    def left(self) -> set[str]:
        """What lies in the session's folder."""
        return {path.name for path in self._session_folder.iterdir()}

    @property
    def _session_folder(self) -> Path:
        return self.root / "store" / "sessions" / self.guid[:2] / self.guid

    def has_answer(self) -> bool:
        """An answer is kept, or was, and is not needed any more."""
        if json.loads((self._session_folder / "session.json").read_bytes())["session"]["published"]:
            return True
        with suppress(FileNotFoundError):
            return json.loads((self._session_folder / "dialogue.json").read_bytes())["answer"] is not None
        return False

    def file(self) -> int | None:
        """The inode of the file that appeared, whole."""
        path = self.folder / NAME
        if not path.exists():
            return None
        assert self.copy, "nobody wanted it"
        assert path.read_bytes() == DATA
        return path.stat().st_ino

    def check_told(self, *, once: bool) -> None:
        """Once, or again because the server died with the answer; by the same name."""
        assert 1 <= len(self.application.heard) <= (1 if once else 2)
        assert self.application.keys == {self.guid}

    # The client that goes on

    def go_on(self, *, from_the_last_fragment: bool = True) -> None:
        """After a crash, everything is as it would have been."""
        kept, before = self.has_answer(), self.file()
        with self.line() as line:
            url = ""
            for _ in range(2 if from_the_last_fragment else 0):
                ack = line.fragment("/" + NAME, self.session, DATA, HALF, len(DATA))
                assert (ack.status, ack.received) == (200, len(DATA)), ack
                url = ack.headers["BITS-Reply-URL"]
                self.check_told(once=kept)
                assert before in (None, self.file()), "it was put there twice"
                before = self.file()
                assert (before is not None) == self.copy, "the Ack is no promise"
                heard, reply = line.get("/" + url)
                assert (heard.status, reply) == (200, REPLY)
            self.end(line, url)
        assert before is None or self.file() == before

    def end(self, line: Client, url: str) -> None:
        closed = line.close_session("/" + NAME, self.session)
        assert closed.status == 200, closed
        if url:
            assert line.get("/" + url)[0].status == 404
        assert self.left() <= {"session.json", "session.json.new"}
        assert (self.file() is not None) == self.copy
        assert {path.name for path in self.folder.iterdir()} == ({NAME} if self.copy else set())


@pytest.fixture
def scene(servers: Servers, kind: str, copy: bool) -> Iterator[Scene]:
    application = Application(lambda told: b"")
    try:
        with folder_in_memory() as root:
            settings = SETTINGS.format(
                store=root / "store", folder=root / "in", kind=kind, url=application.url()
            )
            (root / "bitsferry.toml").write_text(settings)
            here = Scene(servers, application, root, kind, copy)
            here.start()
            try:
                yield here
            finally:
                servers.kill()
    finally:
        application.close()


# It dies while the application speaks


def cuts(answer: bytes) -> list[int]:
    """How many bytes of an answer are said when the server dies."""
    head = answer.index(b"\r\n\r\n") + 4
    return sorted({0, 7, head // 2, head - 1, head, (head + len(answer)) // 2, len(answer) - 1, len(answer)})


# By reference the application writes, then it speaks. So many bytes of each when the server dies.
MOMENTS = [
    *(("reference", written, 0) for written in (0, 1, len(REPLY) // 2)),
    *(("reference", len(REPLY), said) for said in cuts(say(bits_copy_file_to_destination="yes"))),
    *(("value", 0, said) for said in cuts(say(200, REPLY, bits_copy_file_to_destination="yes"))),
]


@pytest.mark.parametrize("copy", [True], ids=["copied"])
@pytest.mark.parametrize(("kind", "written", "said"), MOMENTS)
def test_killed_while_the_application_answers_it_is_told_again_unless_its_answer_was_kept(
    scene: Scene, written: int, said: int
) -> None:
    killed = threading.Event()

    def answer(told: Told) -> bytes:
        if written:
            told.reply.write_bytes(REPLY[:written])
        assert eventually(lambda: has_read(scene.application.port))
        scene.servers.kill()
        killed.set()
        return b""

    with scene.line() as line:
        scene.prepare(line, HALF)
        scene.application.beginning = scene.answer[:said]
        scene.application.answer = answer
        with suppress(OSError, http.client.HTTPException):
            line.fragment("/" + NAME, scene.session, DATA, HALF, len(DATA))
    assert killed.wait(20)
    scene.application.beginning = b""
    scene.application.answer = scene.right
    scene.start()
    assert said == len(scene.answer) or not scene.has_answer()
    scene.go_on()


def has_read(port: int) -> bool:
    """The server has taken from the system what the application at this port said."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
    for here, there, _, queues in (line[1:5] for line in lines):
        unsent, unread = (int(size, 16) for size in queues.split(":"))
        if (here.endswith(f":{port:04X}") and unsent) or (there.endswith(f":{port:04X}") and unread):
            return False
    return True


@pytest.mark.parametrize("copy", [False], ids=["not copied"])
@pytest.mark.parametrize("kind", ["value"])
def test_killed_while_a_reply_goes_out_the_rest_comes_from_the_next_server(scene: Scene) -> None:
    large = REPLY * 5000
    with scene.line() as line:
        scene.prepare(line, HALF)
        scene.application.answer = lambda told: say(200, large)
        assert line.fragment("/" + NAME, scene.session, DATA, HALF, len(DATA)).status == 200
        url = f"/.bitsferry/replies/{scene.guid}"
        with line.ask_for(url) as answer:
            got, etag = answer.read(len(large) // 2), answer.headers["ETag"]
            scene.servers.kill()
            with suppress(OSError, http.client.HTTPException):
                got += answer.read()
    assert len(got) < len(large)
    scene.start()
    with scene.line() as line:
        with line.ask_for(url, {"Range": f"bytes={len(got)}-", "If-Range": etag}) as answer:
            assert answer.status == 206
            assert got + answer.read() == large
        scene.end(line, url.removeprefix("/"))
    scene.check_told(once=True)


# It dies in front of any system call


@dataclass(frozen=True)
class Story:
    """`held` bytes are sent, then a request is made whose answer is lost, and made again."""

    name: str
    held: int
    ask: Callable[[Scene, Client], object]
    repeats: Callable[[Scene], None]
    """What the client does with the next server."""
    fails: bool = False
    """The application did not answer before."""


def last_fragment(here: Scene, line: Client) -> object:
    return line.fragment("/" + NAME, here.session, DATA, HALF, len(DATA))


def fetch(here: Scene, line: Client) -> object:
    heard, reply = line.get(f"/.bitsferry/replies/{here.guid}")
    assert reply == REPLY, "a part of a reply was taken for all of it"
    return heard


def close(here: Scene, line: Client) -> object:
    return line.close_session("/" + NAME, here.session)


def cancel(here: Scene, line: Client) -> object:
    return line.say("/" + NAME, "Cancel-Session", {"BITS-Session-Id": here.session})


def fetch_again(here: Scene) -> None:
    here.go_on()
    here.check_told(once=True)


def close_again(here: Scene) -> None:
    kept = here.has_answer()
    here.go_on(from_the_last_fragment=False)
    here.check_told(once=kept)


def cancel_again(here: Scene) -> None:
    with here.line() as line:
        heard = line.say("/" + NAME, "Cancel-Session", {"BITS-Session-Id": here.session})
        assert heard.status == 200, heard
        here.end(line, f".bitsferry/replies/{here.guid}")
    here.check_told(once=True)


STORIES = [
    Story("last fragment", HALF, last_fragment, Scene.go_on),
    Story("reply", len(DATA), fetch, fetch_again),
    Story("close", len(DATA), close, close_again),
    Story("close after a failure", len(DATA), close, close_again, fails=True),
    Story("cancel", len(DATA), cancel, cancel_again),
]


@pytest.mark.parametrize("kind", ["reference", "value"])
@pytest.mark.parametrize("copy", [True, False], ids=["copied", "not copied"])
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_killed_anywhere_the_client_goes_on_to_one_file_and_one_whole_reply(
    scene: Scene, story: Story
) -> None:
    calls, heard = speak(scene, story)
    assert heard is not None
    steps = [call for call in until_answered(calls) if is_step(call, scene.root)]
    assert len(steps) >= 3
    alive = 0
    for step in steps:
        _, heard = speak(scene, story, f"{step.name}:signal=KILL:when={step.nth}")
        if heard is None:
            assert scene.servers.ended() == -signal.SIGKILL
            scene.start()
        else:
            alive += 1
        try:
            story.repeats(scene)
        except AssertionError as error:
            raise AssertionError(f"killed in front of {step}") from error
    assert alive * 4 <= len(steps), "it did not die where it was to"


def until_answered(calls: list[Call]) -> list[Call]:
    """Up to the last piece of the answer that went to the client."""
    answered = [
        number
        for number, call in enumerate(calls)
        if call.name == "sendfile" or (call.name == "sendto" and '"HTTP/1.1 20' in call.text)
    ]
    return calls[: answered[-1] + 1]


def is_step(call: Call, root: Path) -> bool:
    """It changes the disk, or somebody else may notice it; waking up each other is a thread's own affair."""
    if call.name in TALKING:
        return (call.worked or call.name == "connect") and '"\\0"' not in call.text
    if call.name in ASKING or ("open" in call.name and "O_CREAT" not in call.text):
        return False
    return str(root) in call.text


def speak(here: Scene, story: Story, inject: str | None = None) -> tuple[list[Call], object]:
    """Tell the story up to its request, made under strace; the answer is None when the server died."""
    with here.line() as line:
        here.prepare(line, story.held, fails=story.fails)
        heard = None
        with traced(here.servers.pid, CALLS, inject) as strace:
            with suppress(OSError, http.client.HTTPException):
                heard = story.ask(here, line)
            if heard is not None:
                strace.stop()
        return read_calls(strace.lines), heard
