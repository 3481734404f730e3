"""The promises every store inherits: a store's tests are a subclass that says what the store stands on."""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bitsferry.protocol.errors import (
    BitsError,
    Busy,
    DestinationExists,
    DestinationIsFolder,
    FolderNotFound,
    SessionNotFound,
    StoreFailed,
)
from bitsferry.protocol.notification import Answer, Dialogue, Later, Refusal
from bitsferry.protocol.session import Session, State
from bitsferry.store.base import Found, Store
from bitsferry.store.folder import Companion, Destination

FILE = "file.bin"
PLAIN = Answer()


class World(ABC):
    """What a store stands on, with the place where files appear; processes come and go, it stays."""

    @abstractmethod
    def start(self) -> Store:
        """The store of a process that starts now; the process before died without a word."""

    @abstractmethod
    def another(self) -> Store:
        """The store of a second process beside the running one, where a store may be shared."""

    @abstractmethod
    def end(self) -> None:
        """No process is left."""

    @abstractmethod
    def destination(
        self, *parts: str, overwrite: bool = False, create_folders: bool = False
    ) -> Destination: ...

    @abstractmethod
    def put(self, content: bytes, *parts: str) -> None:
        """Somebody else puts a file there, and the folders it needs."""

    @abstractmethod
    def take_away(self, *parts: str) -> None:
        """Somebody else deletes a file that is there."""

    @abstractmethod
    def there(self) -> dict[str, bytes]:
        """Every file at the destination by its path, hidden ones too."""


def new_session(path: str = "/" + FILE, user: str | None = None) -> Session:
    return Session(str(uuid.uuid4()).upper(), path, user, 1000.0)


def some_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def blocks_of(data: bytes, seed: int = 0) -> Iterator[memoryview]:
    """`data` in blocks of any size."""
    chance, view = random.Random(seed), memoryview(data)
    while view:
        size = chance.choice((1, 7, 100, 4096, 65536))
        yield view[:size]
        view = view[size:]


async def receive(store: Store, guid: str, data: bytes, skip: int = 0) -> int:
    """A fragment arrives; returns how many bytes are held then."""
    async with store.open(guid) as stored:
        receiver = stored.receiver(skip)
        for block in blocks_of(data):
            writing = receiver.write(block)
            if writing is not None:
                await writing
        await stored.sync()
        return stored.held


async def upload(store: Store, data: bytes, path: str = "/" + FILE) -> str:
    """A session whose bytes are all held; returns its id."""
    session = new_session(path)
    await store.create(session)
    async with store.open(session.id) as stored:
        stored.session.start(len(data))
        await stored.save()
    await receive(store, session.id, data)
    return session.id


async def finish(
    store: Store, guid: str, destination: Destination, companion: Companion | None = None
) -> None:
    """What the service does after the last byte."""
    async with store.open(guid) as stored:
        if not stored.session.published:
            await stored.publish(destination, companion)
            stored.session.publish()
            await stored.save()
        await stored.release(destination)


async def answer(store: Store, guid: str, reply: bytes | None, said: Answer = PLAIN) -> Answer:
    """An application writes this reply and says that; what is kept of it."""
    papers = await store.papers(guid)
    if reply is not None:
        Path(papers.response).write_bytes(reply)
    return await store.keep_answer(guid, said)


async def reply_to(store: Store, guid: str) -> bytes | None:
    """The reply that is given out, if there is one."""
    try:
        descriptor = await store.open_reply(guid)
    except SessionNotFound:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


async def walked(store: Store) -> dict[str, Found]:
    found = [one async for one in store.walk()]
    assert len({one.guid for one in found}) == len(found), "a session was met twice"
    return {one.guid: one for one in found}


class _Promises:
    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def world(self) -> Iterator[World]:
        raise NotImplementedError

    @pytest.fixture
    def store(self, world: World) -> Iterator[Store]:
        yield world.start()
        world.end()


class StorePromises(_Promises):
    """What every store promises; a subclass overrides the fixture `world`."""

    # Sessions

    async def test_a_session_is_found_as_it_was_made_also_by_the_next_process(
        self, world: World, store: Store
    ) -> None:
        session = new_session("/a folder/ß.bin", "somebody")
        await store.create(session)
        for one in (store, world.start()):
            assert await one.read(session.id) == session
            async with one.open(session.id) as stored:
                assert stored.session == session
                assert stored.held == 0

    async def test_a_session_nobody_made_is_not_found(self, store: Store) -> None:
        guid = new_session().id
        with pytest.raises(SessionNotFound):
            await store.read(guid)
        with pytest.raises(SessionNotFound):
            async with store.open(guid):
                pass
        assert await walked(store) == {}

    async def test_a_saved_state_is_what_the_next_process_reads(self, world: World, store: Store) -> None:
        session = new_session()
        await store.create(session)
        async with store.open(session.id) as stored:
            stored.session.start(12)
            stored.session.reply_url = "reply/ü"
            await stored.save()
        for one in (store, world.start()):
            read = await one.read(session.id)
            assert (read.total, read.reply_url, read.state) == (12, "reply/ü", State.RECEIVE_FRAGMENTS)

    async def test_a_session_is_made_once(self, store: Store) -> None:
        guid = await upload(store, b"bytes")
        with pytest.raises(BitsError):
            await store.create(Session(guid, "/other.bin", None, 1.0))
        async with store.open(guid) as stored:
            assert (stored.session.path, stored.held) == ("/" + FILE, 5)

    async def test_walking_meets_every_session_once(self, store: Store) -> None:
        guids = {await upload(store, b"bytes") for _ in range(20)}
        found = await walked(store)
        assert set(found) == guids
        assert all(one.has_bytes for one in found.values())

    async def test_a_session_was_last_spoken_of_when_a_byte_came_or_it_was_touched(
        self, store: Store
    ) -> None:
        guid = await upload(store, b"bytes")
        async with store.open(guid) as stored:
            first = await stored.quiet_since()
            assert abs(first - time.time()) < 60
            await store.touch(stored.session.id)
            assert await stored.quiet_since() >= first
        assert (await walked(store))[guid].quiet_since >= first

    async def test_sessions_are_no_orphans(self, world: World, store: Store) -> None:
        guids = {await upload(store, b"bytes") for _ in range(3)}
        store = world.start()
        assert await store.sweep_orphans() == 0
        assert set(await walked(store)) == guids

    async def test_there_is_room(self, store: Store) -> None:
        assert await store.room() > 0

    # Bytes

    async def test_bytes_that_arrived_are_held_also_by_the_next_process(
        self, world: World, store: Store
    ) -> None:
        data = some_bytes(300_000)
        session = new_session()
        await store.create(session)
        assert await receive(store, session.id, data[:100_000]) == 100_000
        assert await receive(store, session.id, data[100_000:200_001]) == 200_001
        store = world.start()
        assert await receive(store, session.id, b"") == 200_001
        assert await receive(store, session.id, data[200_001:]) == 300_000
        await finish(store, session.id, world.destination(FILE))
        assert world.there() == {FILE: data}

    @pytest.mark.parametrize("skip", [1, 100, 4096, 99_999, 100_000])
    async def test_bytes_held_already_are_skipped_not_written_again(
        self, world: World, store: Store, skip: int
    ) -> None:
        data = some_bytes(200_000)
        guid = await upload(store, data[:100_000])
        again = bytes(skip) + data[100_000:]  # what is skipped may be anything
        assert await receive(store, guid, again, skip) == 200_000
        await finish(store, guid, world.destination(FILE))
        assert world.there() == {FILE: data}

    async def test_nothing_appears_before_it_is_published(self, world: World, store: Store) -> None:
        await upload(store, some_bytes(1000))
        assert world.there() == {}

    # Publishing

    async def test_a_published_file_is_there_whole_with_nothing_beside_it(
        self, world: World, store: Store
    ) -> None:
        data = some_bytes(100_000)
        guid = await upload(store, data)
        await finish(store, guid, world.destination(FILE))
        assert world.there() == {FILE: data}

    async def test_an_empty_file_is_a_file(self, world: World, store: Store) -> None:
        guid = await upload(store, b"")
        await finish(store, guid, world.destination(FILE))
        assert world.there() == {FILE: b""}

    async def test_a_file_that_is_there_stays_unless_it_may_be_overwritten(
        self, world: World, store: Store
    ) -> None:
        world.put(b"older", FILE)
        guid = await upload(store, b"newer")
        for _ in range(2):
            with pytest.raises(DestinationExists):
                await finish(store, guid, world.destination(FILE))
            assert world.there() == {FILE: b"older"}
        async with store.open(guid) as stored:
            assert stored.held == 5
            assert not stored.session.published
        await finish(store, guid, world.destination(FILE, overwrite=True))
        assert world.there() == {FILE: b"newer"}

    async def test_a_refused_file_appears_when_its_place_is_free_again(
        self, world: World, store: Store
    ) -> None:
        world.put(b"older", FILE)
        guid = await upload(store, b"newer")
        with pytest.raises(DestinationExists):
            await finish(store, guid, world.destination(FILE))
        world.take_away(FILE)
        await finish(world.start(), guid, world.destination(FILE))
        assert world.there() == {FILE: b"newer"}

    @pytest.mark.parametrize("overwrite", [False, True])
    async def test_a_folder_is_never_replaced(self, world: World, store: Store, overwrite: bool) -> None:
        world.put(b"inside", FILE, "inner.txt")
        guid = await upload(store, b"bytes")
        with pytest.raises(DestinationIsFolder):
            await finish(store, guid, world.destination(FILE, overwrite=overwrite))
        assert world.there() == {f"{FILE}/inner.txt": b"inside"}

    async def test_a_folder_that_is_missing_is_made_only_when_allowed(
        self, world: World, store: Store
    ) -> None:
        guid = await upload(store, b"bytes")
        with pytest.raises(FolderNotFound):
            await finish(store, guid, world.destination("a", "b", FILE))
        assert world.there() == {}
        await finish(store, guid, world.destination("a", "b", FILE, create_folders=True))
        assert world.there() == {f"a/b/{FILE}": b"bytes"}

    @pytest.mark.parametrize("overwrite", [False, True])
    async def test_published_twice_is_published_once(
        self, world: World, store: Store, overwrite: bool
    ) -> None:
        world.put(b"older", FILE)
        if not overwrite:
            world.take_away(FILE)
        guid = await upload(store, b"bytes")
        destination = world.destination(FILE, overwrite=overwrite)
        async with store.open(guid) as stored:
            await stored.publish(destination)
            await stored.publish(destination)
        store = world.start()  # the state was never saved
        assert not (await store.read(guid)).published
        await finish(store, guid, destination)
        assert world.there() == {FILE: b"bytes"}

    @pytest.mark.parametrize("overwrite", [False, True])
    async def test_a_file_taken_away_after_a_crash_does_not_come_back_beside_itself(
        self, world: World, store: Store, overwrite: bool
    ) -> None:
        guid = await upload(store, b"bytes")
        destination = world.destination(FILE, overwrite=overwrite)
        async with store.open(guid) as stored:
            await stored.publish(destination)
        world.take_away(FILE)
        await finish(world.start(), guid, destination)
        assert world.there() in ({}, {FILE: b"bytes"})

    @pytest.mark.parametrize("seed", range(5))
    async def test_of_many_publishers_exactly_one_wins(self, world: World, store: Store, seed: int) -> None:
        many = [some_bytes(50_000, seed * 100 + number) for number in range(8)]
        guids = [await upload(store, data) for data in many]
        ends = await asyncio.gather(
            *(finish(store, guid, world.destination(FILE)) for guid in guids), return_exceptions=True
        )
        losers = [end for end in ends if end is not None]
        assert len(losers) == len(many) - 1
        assert all(isinstance(end, DestinationExists) for end in losers)
        assert world.there() == {FILE: many[ends.index(None)]}
        kept = {guid for guid in guids if not (await store.read(guid)).published}
        assert len(kept) == len(losers)
        for guid in kept:
            async with store.open(guid) as stored:
                assert stored.held == 50_000

    async def test_of_many_publishers_that_may_overwrite_the_last_wins_whole(
        self, world: World, store: Store
    ) -> None:
        many = [some_bytes(50_000, number) for number in range(8)]
        guids = [await upload(store, data) for data in many]
        await asyncio.gather(
            *(finish(store, guid, world.destination(FILE, overwrite=True)) for guid in guids)
        )
        there = world.there()
        assert set(there) == {FILE}
        assert there[FILE] in many

    # What stands beside it

    async def test_a_companion_is_published_with_its_file(self, world: World, store: Store) -> None:
        guid = await upload(store, b"bytes")
        destination = world.destination("a", FILE, create_folders=True)
        await finish(store, guid, destination, Companion("sum", b"12\n"))
        assert world.there() == {f"a/{FILE}": b"bytes", "a/sum": b"12\n"}

    @pytest.mark.parametrize("taken", [b"", b"12\n3", b"other"])
    async def test_a_companion_needs_a_free_name_as_its_file_does(
        self, world: World, store: Store, taken: bytes
    ) -> None:
        guid = await upload(store, b"bytes")
        world.put(taken, "sum")
        with pytest.raises(DestinationExists):
            await finish(store, guid, world.destination(FILE), Companion("sum", b"12\n"))
        assert world.there() == {"sum": taken}
        world.take_away("sum")
        world.put(b"12\n", "sum")  # as good as our own
        await finish(store, guid, world.destination(FILE), Companion("sum", b"12\n"))
        assert world.there() == {FILE: b"bytes", "sum": b"12\n"}

    @pytest.mark.parametrize("overwrite", [False, True])
    async def test_a_folder_is_no_place_for_a_companion_and_nothing_was_touched(
        self, world: World, store: Store, overwrite: bool
    ) -> None:
        guid = await upload(store, b"bytes")
        world.put(b"inside", "sum", "inner.txt")
        with pytest.raises(DestinationIsFolder):
            await finish(store, guid, world.destination(FILE, overwrite=overwrite), Companion("sum", b"12\n"))
        assert world.there() == {"sum/inner.txt": b"inside"}

    async def test_of_many_that_may_overwrite_the_last_one_has_its_own_companion(
        self, world: World, store: Store
    ) -> None:
        for attempt in range(5):
            many = [b"%d" % number for number in range(8)]
            guids = [await upload(store, data) for data in many]
            destination = world.destination(FILE, overwrite=True)
            ends = (
                finish(store, guid, destination, Companion("sum", b"the sum of " + data))
                for guid, data in zip(guids, many, strict=True)
            )
            await asyncio.gather(*ends)
            there = world.there()
            assert there == {FILE: there[FILE], "sum": b"the sum of " + there[FILE]}, attempt

    # What is taken back

    async def test_what_is_cut_off_is_held_no_more_and_other_bytes_take_its_place(
        self, world: World, store: Store
    ) -> None:
        guid = await upload(store, b"first and wrong")
        async with store.open(guid) as stored:
            await stored.cut(100)
            assert stored.held == 15
            await stored.cut(6)
            assert stored.held == 6
        store = world.start()
        async with store.open(guid) as stored:
            assert stored.held == 6
        assert await receive(store, guid, b"then right") == 16
        await finish(store, guid, world.destination(FILE))
        assert world.there() == {FILE: b"first then right"}

    async def test_what_is_held_can_be_read_by_who_has_no_turn(self, world: World, store: Store) -> None:
        guid = await upload(store, b"first ")
        descriptor = store.open_bytes(guid)
        await receive(store, guid, b"second")
        with open(descriptor, "rb") as file:
            assert file.read() == b"first second"
        await finish(store, guid, world.destination(FILE))
        for nobody in (guid, new_session().id):
            with pytest.raises(SessionNotFound):
                store.open_bytes(nobody)

    # The end

    async def test_after_release_the_state_stays_and_the_bytes_are_gone(
        self, world: World, store: Store
    ) -> None:
        guid = await upload(store, b"bytes")
        await finish(store, guid, world.destination(FILE))
        for one in (store, world.start()):
            assert not (await walked(one))[guid].has_bytes
            async with one.open(guid) as stored:
                assert stored.session.published
                assert stored.held == 5
                await stored.release(world.destination(FILE))  # said again, it does nothing
        assert world.there() == {FILE: b"bytes"}

    async def test_what_was_given_up_never_appears(self, world: World, store: Store) -> None:
        guid = await upload(store, b"bytes")
        async with store.open(guid) as stored:
            stored.session.end(State.CANCEL)
            await stored.save()
            await stored.release(world.destination(FILE))
        store = world.start()
        assert (await store.read(guid)).over
        assert not (await walked(store))[guid].has_bytes
        assert world.there() == {}

    async def test_what_was_refused_leaves_nothing_when_it_is_given_up(
        self, world: World, store: Store
    ) -> None:
        world.put(b"older", FILE)
        guid = await upload(store, b"newer")
        with pytest.raises(DestinationExists):
            await finish(store, guid, world.destination(FILE))
        async with store.open(guid) as stored:
            await stored.remove(world.destination(FILE))
        assert world.there() == {FILE: b"older"}

    @pytest.mark.parametrize("published", [False, True])
    async def test_a_removed_session_is_gone_and_its_file_stays(
        self, world: World, store: Store, published: bool
    ) -> None:
        guid, other = await upload(store, b"bytes"), await upload(store, b"other")
        if published:
            await finish(store, guid, world.destination(FILE))
        async with store.open(guid) as stored:
            await stored.remove(world.destination(FILE))
        for one in (store, world.start()):
            with pytest.raises(SessionNotFound):
                await one.read(guid)
            with pytest.raises(SessionNotFound):
                async with one.open(guid):
                    pass
            assert set(await walked(one)) == {other}
        assert world.there() == ({FILE: b"bytes"} if published else {})

    # The talk with an application

    async def test_of_a_new_session_nobody_said_anything(self, store: Store) -> None:
        guid = await upload(store, b"bytes")
        assert await store.read_dialogue(guid) == Dialogue()
        with pytest.raises(SessionNotFound):
            await store.open_reply(guid)

    async def test_an_application_finds_the_bytes_and_a_free_place_for_its_reply(self, store: Store) -> None:
        data = some_bytes(50_000)
        guid = await upload(store, data)
        papers = await store.papers(guid)
        assert Path(papers.request).read_bytes() == data
        assert not Path(papers.response).exists()
        assert Path(papers.response).parent.is_dir()

    async def test_an_answer_is_known_with_its_reply_also_by_the_next_process(
        self, world: World, store: Store
    ) -> None:
        reply = some_bytes(100_000)
        guid = await upload(store, b"bytes")
        kept = await answer(store, guid, reply, Answer(copy=True))
        assert kept == Answer(copy=True, has_reply=True)
        for one in (store, world.start()):
            assert (await one.read_dialogue(guid)).answer == kept
            for _ in range(2):
                assert await reply_to(one, guid) == reply

    @pytest.mark.parametrize("reply", [None, b""])
    async def test_an_answer_without_a_byte_has_no_reply(
        self, world: World, store: Store, reply: bytes | None
    ) -> None:
        guid = await upload(store, b"bytes")
        assert await answer(store, guid, reply) == Answer()
        for one in (store, world.start()):
            assert (await one.read_dialogue(guid)).answer == Answer()
            assert await reply_to(one, guid) is None

    @pytest.mark.parametrize(
        "said", [Answer(static_url="http://h/x"), Answer(refusal=Refusal(403, 0x80190193, "no"))]
    )
    async def test_what_lies_beside_another_answer_is_no_reply(
        self, world: World, store: Store, said: Answer
    ) -> None:
        guid = await upload(store, b"bytes")
        assert await answer(store, guid, b"what for", said) == said
        for one in (store, world.start()):
            assert (await one.read_dialogue(guid)).answer == said
            assert await reply_to(one, guid) is None

    async def test_one_that_works_on_it_still_is_known_also_by_the_next_process(
        self, world: World, store: Store
    ) -> None:
        guid = await upload(store, b"bytes")
        working = Dialogue(later=Later(2.5, "http://h/task/1"), since=1000.25)
        await store.keep_dialogue(guid, working)
        for one in (store, world.start()):
            assert await one.read_dialogue(guid) == working
        await store.keep_dialogue(guid, Dialogue())
        assert await world.start().read_dialogue(guid) == Dialogue()

    async def test_what_an_earlier_talk_left_of_a_reply_is_gone(self, world: World, store: Store) -> None:
        guid = await upload(store, b"bytes")
        Path((await store.papers(guid)).response).write_bytes(b"half a reply")
        assert not Path((await world.start().papers(guid)).response).exists()

    async def test_what_an_application_wrote_that_works_on_it_still_stays(
        self, world: World, store: Store
    ) -> None:
        guid = await upload(store, b"bytes")
        Path((await store.papers(guid)).response).write_bytes(b"reply")
        await store.keep_dialogue(guid, Dialogue(later=Later(), since=1.0))
        store = world.start()
        assert Path((await store.papers(guid)).response).read_bytes() == b"reply"
        assert await store.keep_answer(guid, Answer()) == Answer(has_reply=True)
        assert await reply_to(store, guid) == b"reply"

    @pytest.mark.parametrize("what", ["a link", "a link to nothing", "a folder", "a full folder", "a pipe"])
    async def test_only_a_file_is_a_reply_and_the_next_talk_begins_anew(
        self, world: World, store: Store, what: str
    ) -> None:
        guid = await upload(store, b"bytes")
        papers = await store.papers(guid)
        place = Path(papers.response)
        try:
            match what:
                case "a link":
                    place.symlink_to(papers.request)
                case "a link to nothing":
                    place.symlink_to("nowhere")
                case "a folder" | "a full folder":
                    place.mkdir()
                    if what == "a full folder":
                        (place / "file").write_bytes(b"what for")
                case "a pipe":
                    os.mkfifo(place)
        except PermissionError:
            pytest.skip(f"{what} cannot be here")
        with pytest.raises(StoreFailed, match="reply is no file"):
            await store.keep_answer(guid, Answer())
        store = world.start()
        assert await store.read_dialogue(guid) == Dialogue()
        assert await reply_to(store, guid) is None
        assert await answer(store, guid, b"a reply") == Answer(has_reply=True)
        assert await reply_to(store, guid) == b"a reply"
        assert Path(papers.request).read_bytes() == b"bytes"

    async def test_a_reply_that_is_dropped_is_gone_and_the_session_stays(
        self, world: World, store: Store
    ) -> None:
        guid = await upload(store, b"bytes")
        await answer(store, guid, b"reply")
        async with store.open(guid) as stored:
            stored.session.end(State.COMPLETE)
            await stored.save()
            await stored.drop_reply()
            await stored.drop_reply()  # said again, it does nothing
        for one in (store, world.start()):
            assert await reply_to(one, guid) is None
            assert await one.read_dialogue(guid) == Dialogue()
            assert (await one.read(guid)).state is State.COMPLETE

    async def test_whoever_reads_a_reply_reads_it_to_its_end_after_it_was_dropped(self, store: Store) -> None:
        guid = await upload(store, b"bytes")
        await answer(store, guid, b"reply")
        with os.fdopen(await store.open_reply(guid), "rb") as reading:
            async with store.open(guid) as stored:
                await stored.drop_reply()
            assert reading.read() == b"reply"

    async def test_after_release_the_reply_stays(self, world: World, store: Store) -> None:
        guid = await upload(store, b"bytes")
        await answer(store, guid, b"reply")
        await finish(store, guid, world.destination(FILE))
        for one in (store, world.start()):
            assert await reply_to(one, guid) == b"reply"

    async def test_a_removed_session_takes_its_reply_along(self, world: World, store: Store) -> None:
        guid, other = await upload(store, b"bytes"), await upload(store, b"other")
        for each in (guid, other):
            await answer(store, each, b"reply")
        async with store.open(guid) as stored:
            await stored.remove(world.destination(FILE))
        for one in (store, world.start()):
            assert await reply_to(one, guid) is None
            assert await one.read_dialogue(guid) == Dialogue()
            assert await reply_to(one, other) == b"reply"

    async def test_nobody_talks_about_a_session_twice_at_once(self, world: World, store: Store) -> None:
        guid, other = await upload(store, b"bytes"), await upload(store, b"other")
        for _ in range(2):
            with store.claim_dialogue(guid):
                with pytest.raises(Busy), store.claim_dialogue(guid):
                    pass
                with store.claim_dialogue(other):
                    pass
        with suppress(LookupError), store.claim_dialogue(guid):
            raise LookupError
        with world.start().claim_dialogue(guid):
            pass

    async def test_nobody_talks_about_a_session_that_is_gone(self, store: Store) -> None:
        with pytest.raises(SessionNotFound), store.claim_dialogue(new_session().id):
            pass


class SharedStorePromises(_Promises):
    """What every store promises that several processes may use at once."""

    async def test_one_process_has_a_session_and_is_told_when_another_wants_it(
        self, world: World, store: Store
    ) -> None:
        other = world.another()
        guid = await upload(store, b"bytes")
        wanted, having, most = asyncio.Event(), 0, 0

        async def take(one: Store) -> None:
            nonlocal having, most
            async with one.claim(guid, wanted.set, 5.0):
                having += 1
                most = max(most, having)
                if one is store:
                    await wanted.wait()
                having -= 1

        first = asyncio.ensure_future(take(store))
        await asyncio.sleep(0.01)
        await asyncio.gather(first, take(other))
        assert most == 1
        other.close()

    async def test_a_process_that_does_not_let_go_makes_the_other_busy(
        self, world: World, store: Store
    ) -> None:
        other = world.another()
        guid = await upload(store, b"bytes")
        async with store.claim(guid, lambda: None, 1.0):
            with pytest.raises(Busy):
                async with other.claim(guid, lambda: None, 0.05):
                    pass
        async with other.claim(guid, lambda: None, 0.05):
            pass
        other.close()

    async def test_many_processes_never_have_a_session_at_once(self, world: World, store: Store) -> None:
        other = world.another()
        guid = await upload(store, b"bytes")
        chance, having = random.Random(1), 0

        async def take(one: Store) -> None:
            nonlocal having
            with suppress(Busy):
                async with one.claim(guid, lambda: None, chance.choice((0.0, 0.05, 5.0))):
                    having += 1
                    assert having == 1
                    await asyncio.sleep(chance.choice((0.0, 0.001, 0.03)))
                    having -= 1

        await asyncio.gather(*(take(chance.choice((store, other))) for _ in range(30)))
        assert having == 0
        other.close()

    async def test_one_process_at_a_time_talks_about_a_session(self, world: World, store: Store) -> None:
        other = world.another()
        guid = await upload(store, b"bytes")
        for one, two in ((store, other), (other, store)):
            with one.claim_dialogue(guid), pytest.raises(Busy), two.claim_dialogue(guid):
                pass
        other.close()

    async def test_what_was_answered_to_one_process_the_other_knows(self, world: World, store: Store) -> None:
        other = world.another()
        guid = await upload(store, b"bytes")
        await answer(store, guid, b"reply")
        assert (await other.read_dialogue(guid)).answer == Answer(has_reply=True)
        assert await reply_to(other, guid) == b"reply"
        async with other.open(guid) as stored:
            await stored.drop_reply()
        assert await reply_to(store, guid) is None
        other.close()

    async def test_what_one_process_did_the_other_sees(self, world: World, store: Store) -> None:
        other = world.another()
        data = some_bytes(10_000)
        guid = await upload(store, data[:5000])
        assert await receive(other, guid, data[5000:9000]) == 9000
        assert await receive(store, guid, data[9000:]) == 10_000
        await finish(other, guid, world.destination(FILE))
        async with store.open(guid) as stored:
            assert stored.session.published
            await stored.remove(world.destination(FILE))
        with pytest.raises(SessionNotFound):
            async with other.open(guid):
                pass
        assert world.there() == {FILE: data}
        other.close()
