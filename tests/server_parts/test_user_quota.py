"""What one user may bring in a day: counted from the store, so that no restart forgives it."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from bitsferry.access.asker import Asker
from bitsferry.protocol.errors import FileTooLarge, OverQuota
from bitsferry.server.directory import Directories, Directory
from bitsferry.server.janitor import Janitor
from bitsferry.server.service import Service
from bitsferry.store.local import LocalStore

from .speaking import Speaker, guid_of

pytestmark = pytest.mark.anyio

HOUR, DAY = 3600.0, 86400.0


class House:
    """A server whose users may bring 1,000 bytes a day, and whose clock we turn."""

    def __init__(self, store: LocalStore, folder: Path, **options: float) -> None:
        self.store = store
        self._directories = Directories(
            [
                Directory("/in/", str(folder), user_quota=1000, session_timeout=options.get("timeout", DAY)),
                Directory("/free/", str(folder)),
            ]
        )
        self.later = 0.0
        self.restart()

    def restart(self) -> None:
        self.service = Service(self.store, self._directories, clock=self.now)

    def now(self) -> float:
        return time.time() + self.later

    def user(self, name: str | None, address: str = "192.0.2.1") -> Speaker:
        return Speaker(self.service, name, address)

    async def bring(
        self, size: int, name: str, user: str | None = "ada", *, address: str = "192.0.2.1", end: str = ""
    ) -> str:
        speaker, target = self.user(user, address), name if name.startswith("/") else f"/in/{name}"
        session = await speaker.create(target)
        await speaker.send(session, bytes(size), 0, size, target)
        if end == "close":
            await speaker.close(session, target)
        elif end == "cancel":
            await speaker.cancel(session, target)
        return session

    async def sweep(self) -> int:
        return await Janitor(self.service, clock=self.now).sweep()

    def age(self, session: str, seconds: float) -> None:
        """The session was quiet for so long."""
        folder = self.store.folder_of(guid_of(session))
        moment = time.time() - seconds
        os.utime(os.path.join(folder, "session.json"), (moment, moment))


@pytest.fixture
def house(store: LocalStore, folder: Path) -> House:
    return House(store, folder)


@pytest.mark.parametrize("end", ["", "close"])
@pytest.mark.parametrize("restart", [False, True])
async def test_what_arrived_counts_for_a_day(house: House, end: str, restart: bool) -> None:
    await house.bring(600, "a", end=end)
    if restart:
        house.restart()
    with pytest.raises(OverQuota) as refused:
        await house.bring(401, "b")
    assert refused.value.status == 503
    assert refused.value.transient
    await house.bring(400, "c")
    house.later = DAY - 60
    with pytest.raises(OverQuota):
        await house.bring(1, "d")
    house.later = DAY + 60
    await house.bring(1000, "e")


async def test_what_is_on_its_way_counts_with_all_its_bytes(house: House) -> None:
    ada = house.user("ada")
    session = await ada.create("/in/a")
    await ada.send(session, b"x", 0, 900, "/in/a")
    house.restart()
    with pytest.raises(OverQuota) as refused:
        await house.bring(101, "b")
    assert refused.value.retry_after == 3600  # nobody knows when
    await house.user("ada").cancel(session, "/in/a")
    await house.bring(1000, "c")


@pytest.mark.parametrize("restart", [False, True])
async def test_the_client_hears_when_there_is_room(house: House, restart: bool) -> None:
    house.age(await house.bring(300, "a", end="close"), DAY - 100)
    house.age(await house.bring(300, "b", end="close"), DAY - 900)
    house.age(await house.bring(300, "c", end="close"), 7200)
    house.restart()
    waits = []
    for size in (400, 700, 1000):
        with pytest.raises(OverQuota) as refused:
            await house.bring(size, f"d{size}")
        waits.append(refused.value.retry_after)
    assert waits[0] == pytest.approx(100, abs=5)
    assert waits[1] == pytest.approx(900, abs=5)
    assert waits[2] == 3600
    house.later = waits[0] + 5
    if restart:
        house.restart()
    await house.bring(400, "e")


async def test_a_file_larger_than_a_days_worth_is_refused_for_good(house: House) -> None:
    with pytest.raises(FileTooLarge):
        await house.bring(1001, "a")


async def test_what_was_cancelled_does_not_count(house: House) -> None:
    ada = house.user("ada")
    for number in range(3):
        session = await ada.create(f"/in/{number}")
        await ada.send(session, bytes(800), 0, 1000, f"/in/{number}")
        await (ada.cancel if number else ada.close)(session, f"/in/{number}")
    house.restart()
    await house.bring(1000, "c")


async def test_what_arrived_stays_brought_when_its_reply_is_cancelled(house: House) -> None:
    await house.bring(1000, "a", end="cancel")
    for number in range(2):
        with pytest.raises(OverQuota):
            await house.bring(1, f"b{number}")
        house.restart()


async def test_users_and_directories_have_quotas_of_their_own(house: House) -> None:
    await house.bring(1000, "a")
    await house.bring(1000, "b", "bob")
    await house.bring(5000, "/free/c")
    with pytest.raises(OverQuota):
        await house.bring(1, "d")


async def test_who_has_no_name_is_counted_by_address(house: House) -> None:
    await house.bring(1000, "a", None)
    await house.bring(1000, "b", None, address="192.0.2.2")
    await house.bring(1000, "c", None, address="2001:db8:0:1::1")
    house.restart()
    for number, address in enumerate(("192.0.2.1", "192.0.2.2", "2001:db8:0:1:ffff::2")):
        with pytest.raises(OverQuota):
            await house.bring(1, f"d{number}", None, address=address)
    await house.bring(1000, "e", None, address="2001:db8:0:2::1")
    await house.bring(1000, "f", "192.0.2.1")  # who is called like an address


async def test_the_janitor_keeps_what_is_needed_to_count(store: LocalStore, folder: Path) -> None:
    house = House(store, folder, timeout=HOUR)
    await house.bring(500, "a", end="close")
    await house.bring(500, "b")
    given_up = await house.bring(300, "c", "bob", end="cancel")
    house.later = DAY - 60
    await house.sweep()
    assert os.path.exists(store.folder_of(guid_of(given_up)))  # it arrived, too
    house.restart()
    with pytest.raises(OverQuota):
        await house.bring(1, "d")
    house.later = DAY + 60
    assert await house.sweep() >= 3
    await house.bring(1000, "e")


async def test_what_only_began_goes_in_its_time(store: LocalStore, folder: Path) -> None:
    house = House(store, folder, timeout=HOUR)
    ada = house.user("ada")
    session = await ada.create("/in/a")
    await ada.send(session, b"x", 0, 1000, "/in/a")
    house.later = HOUR + 60
    assert await house.sweep() == 1
    await house.bring(1000, "b")


async def test_many_at_once_do_not_pass_the_quota_together(house: House) -> None:
    ends = await asyncio.gather(
        *(house.bring(300, str(number)) for number in range(10)), return_exceptions=True
    )
    assert sum(isinstance(end, str) for end in ends) == 3
    assert sum(isinstance(end, OverQuota) for end in ends) == 7


async def test_an_attempt_that_was_refused_is_welcome_when_there_is_room(house: House) -> None:
    first = await house.bring(1000, "a")
    ada = house.user("ada")
    session = await ada.create("/in/b")
    for _ in range(3):
        with pytest.raises(OverQuota) as refused:
            await ada.send(session, bytes(10), 0, 10, "/in/b")
        assert refused.value.held == 0
    house.later = DAY + 60
    assert (await ada.send(session, bytes(10), 0, 10, "/in/b")).received == 10
    assert first


async def test_a_quota_that_comes_with_new_settings_counts_what_was_before(
    store: LocalStore, folder: Path
) -> None:
    service = Service(store, Directories([Directory("/in/", str(folder), sessions_per_user=5)]))
    ada = Speaker(service, "ada")
    session = await ada.create("/in/a")
    await ada.send(session, bytes(900), 0, 900, "/in/a")
    service.directories = Directories([Directory("/in/", str(folder), user_quota=1000)])
    session = await ada.create("/in/b")
    with pytest.raises(OverQuota):
        await ada.send(session, bytes(101), 0, 101, "/in/b")


def test_who_is_counted() -> None:
    def counted(address: str, user: str | None = None) -> str:
        return Asker(address, user).counted_as

    assert counted("192.0.2.1", "ada") == counted("192.0.2.2", "ada")
    assert counted("2001:db8::1") == counted("2001:db8::ffff") != counted("2001:db8:1::1")
    assert counted("::ffff:192.0.2.1") == counted("192.0.2.1")
    assert counted("") == counted("") != counted("192.0.2.1")
    assert counted("x", "address 192.0.2.1") != counted("192.0.2.1")
