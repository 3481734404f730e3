"""The talk with an application, without a line between: told once, whatever comes in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest

from bitsferry.access.asker import Asker
from bitsferry.protocol.errors import Busy
from bitsferry.protocol.notification import Answer, ApplicationFailed, Dialogue, Later
from bitsferry.protocol.packets import Ack, CreateSession, Fragment
from bitsferry.protocol.ranges import ContentRange
from bitsferry.server.backend import Backend, Timing, WholeUpload
from bitsferry.server.directory import Directories, Directory
from bitsferry.server.janitor import Janitor
from bitsferry.server.request import Body
from bitsferry.server.service import Service
from bitsferry.store.base import Receiver
from bitsferry.store.local import LocalStore

pytestmark = pytest.mark.anyio

TARGET = "/in/file"
ASKER = Asker("192.0.2.1", origin="http://ferry.example")
DATA = b"all of it"
REPLY = b"what the application has to say to it"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Arrived(Body):
    async def into(self, receiver: Receiver, pace: object = None) -> None:
        writing = receiver.write(memoryview(DATA))
        if writing is not None:
            await writing

    def stop(self) -> None:
        """It is here already."""


class Scripted(Backend):
    """Says one thing after the other, the last one for ever; writes its reply when it is told, as an
    application by reference does.
    """

    def __init__(self, *answers: Answer | Later, reply: bytes = b"") -> None:
        self.answers = list(answers)
        self.reply = reply
        self.told = 0
        self.asked = 0
        self.free = asyncio.Event()
        self.free.set()

    async def tell(self, upload: WholeUpload) -> Answer | Later:
        self.told += 1
        if self.reply:
            Path(upload.reply).write_bytes(self.reply)
        return await self._next()

    async def ask_again(self, upload: WholeUpload, later: Later) -> Answer | Later:
        self.asked += 1
        return await self._next()

    async def _next(self) -> Answer | Later:
        await self.free.wait()
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Scene:
    """A service over a store, whose clock a test may turn."""

    def __init__(self, folder: Path, backend: Backend, timing: Timing) -> None:
        self.store = LocalStore(str(folder / "store"), "process", shared=True)
        self.backend = backend
        self.later = 0.0
        (folder / "in").mkdir()
        directory = Directory("/in/", str(folder / "in"), backend=backend, timing=timing)
        self._directories = Directories([directory])
        self.service = self.another()

    def another(self) -> Service:
        """A service in another process, as far as this one can tell."""
        return Service(self.store, self._directories, shared=True, clock=lambda: self.later)

    async def upload(self) -> str:
        """The id of a session that was just told of."""
        session = (await self.service.create_session(CreateSession(), TARGET, ASKER)).session_id or ""
        self.first = await outcome(self.say(session))
        return session

    def say(self, session: str, service: Service | None = None) -> Coroutine[None, None, Ack]:
        packet = Fragment(session, ContentRange(0, len(DATA), len(DATA)))
        return (service or self.service).fragment(packet, TARGET, ASKER, Arrived())


async def outcome(saying: Coroutine[None, None, Ack]) -> int:
    """The status of an Ack, or of the error in its place."""
    try:
        return (await saying).status
    except (ApplicationFailed, Busy) as error:
        return error.status


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    scenes: list[Scene] = []

    def make(backend: Backend, timing: Timing | None = None) -> Scene:
        scenes.append(Scene(tmp_path, backend, timing or Timing()))
        return scenes[-1]

    yield make
    for each in scenes:
        each.store.close()


def guid_of(session: str) -> str:
    return session.strip("{}")


async def test_an_answer_that_came_while_another_process_looked_is_not_asked_for_again(
    scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = scene(backend := Scripted(Answer(copy=True)))
    looked = asyncio.Event()
    read = stage.store.read_dialogue

    async def slow_to_read(guid: str) -> Dialogue:
        """What was true when it was read is told only after the other process ended its talk."""
        dialogue = await read(guid)
        if dialogue.answer is None and not looked.is_set():
            looked.set()
            await stage.store.keep_answer(guid, Answer(copy=True))
        return dialogue

    monkeypatch.setattr(stage.store, "read_dialogue", slow_to_read)
    await stage.upload()
    assert (stage.first, backend.told) == (200, 0)


async def test_two_processes_do_not_tell_it_at_once(scene: Callable[..., Scene]) -> None:
    stage = scene(backend := Scripted(Answer(copy=True)))
    backend.free.clear()
    session = asyncio.create_task(stage.upload())
    while not backend.told:
        await asyncio.sleep(0.001)
    (path,) = (path for path in Path(stage.store.root).rglob("session.json"))
    other = stage.another()
    assert await outcome(stage.say("{" + path.parent.name + "}", other)) == 503
    backend.free.set()
    await session
    assert backend.told == 1


async def test_later_in_no_time_is_not_at_once(scene: Callable[..., Scene]) -> None:
    """An application that says `Retry-After: 0` is not asked in a circle."""
    stage = scene(backend := Scripted(Later(0)), Timing(poll=600))
    session = await stage.upload()
    assert stage.first == 503
    await asyncio.sleep(0.05)
    assert (backend.told, backend.asked) == (1, 0)
    await stage.service.notifications.forget(guid_of(session))


async def test_what_an_application_at_work_has_written_survives_a_restart(
    scene: Callable[..., Scene],
) -> None:
    stage = scene(backend := Scripted(Later(600), Answer(), reply=REPLY))
    session = await stage.upload()
    await stage.service.notifications.stop()
    stage.service = stage.another()
    await check_reply(stage, session)
    assert (backend.told, backend.asked) == (1, 1)


async def test_so_does_a_reply_whose_answer_was_not_kept_when_the_plug_was_pulled(
    scene: Callable[..., Scene],
) -> None:
    stage = scene(Scripted(Later(600), Answer(), reply=REPLY))
    session = await stage.upload()
    await stage.service.notifications.stop()
    folder = Path(stage.store.folder_of(guid_of(session)))
    (folder / "reply.new").rename(folder / "reply.data")
    stage.service = stage.another()
    await check_reply(stage, session)


async def check_reply(stage: Scene, session: str) -> None:
    """It is named in the Ack, and there."""
    assert (await stage.say(session)).reply_url is not None
    assert (Path(stage.store.folder_of(guid_of(session))) / "reply.data").read_bytes() == REPLY


async def test_patience_has_an_end_and_then_all_begins_anew(scene: Callable[..., Scene]) -> None:
    stage = scene(backend := Scripted(Later(600)), Timing(patience=86_400))
    session = await stage.upload()
    await stage.service.notifications.stop()
    stage.later += 86_401
    stage.service = stage.another()
    assert await outcome(stage.say(session)) == 504
    backend.answers = [Answer(copy=True)]
    assert await outcome(stage.say(session)) == 200
    assert (backend.told, backend.asked) == (2, 1)


async def test_an_upload_that_expires_is_talked_about_no_more(scene: Callable[..., Scene]) -> None:
    stage = scene(backend := Scripted(Later(600)))
    session = await stage.upload()
    janitor = Janitor(stage.service, clock=lambda: 1e12)
    assert await janitor.sweep() == 1
    assert not Path(stage.store.folder_of(guid_of(session))).exists()
    assert not [task for task in asyncio.all_tasks() if "_begin" in repr(task)]
    assert backend.told == 1
