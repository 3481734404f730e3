"""Basic: names and passwords, looked up in a file that may change at any time."""

from __future__ import annotations

import asyncio
import base64
import threading
from pathlib import Path

import pytest

from bitsferry.access.asker import Identity
from bitsferry.access.basic import Basic
from bitsferry.access.htpasswd import Users, read_htpasswd
from bitsferry.access.scheme import Claim, NotProved
from bitsferry.access.slow_hashes import SlowHashes
from bitsferry.access.watched_file import WatchedFile
from bitsferry.protocol.errors import Busy

from .asking import claim, identified, refused, run


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Door:
    """Basic over a file of users in plain text, which counts how often a password is looked at."""

    def __init__(self, folder: Path, *users: str, **more: SlowHashes) -> None:
        self._path = folder / "users"
        self.clock = Clock()
        self.looks = 0
        self.write(*users)
        file = WatchedFile(str(self._path), self._parse, self.clock)
        self.scheme = Basic(file, "bitsferry", clock=self.clock, **more)

    def write(self, *users: str) -> None:
        lines = (user.replace(":", ":{PLAIN}", 1) + "\n" for user in users)
        self._path.write_text("".join(lines), encoding="utf-8")

    def _parse(self, text: str) -> Users:
        users = read_htpasswd(text)
        check = users.check

        def counted(name: str, password: bytes) -> bool:
            self.looks += 1
            return check(name, password)

        users.check = counted  # type: ignore[method-assign]
        return users


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path, "alice:secret", "jörg:pässwörd")


def said(text: str | bytes) -> dict[str, str]:
    raw = text.encode() if isinstance(text, str) else text
    return {"authorization": "Basic " + base64.b64encode(raw).decode("ascii")}


def test_a_name_and_its_password_are_somebody(door: Door) -> None:
    assert identified(door.scheme, claim(said("alice:secret"))) == Identity("alice", "basic")
    assert identified(door.scheme, claim(said("jörg:pässwörd"))) == Identity("jörg", "basic")
    assert identified(door.scheme, claim()) is None
    assert identified(door.scheme, claim({"authorization": "Bearer abc"})) is None


def test_an_old_client_may_say_it_in_latin_1(door: Door) -> None:
    assert identified(door.scheme, claim(said("jörg:pässwörd".encode("latin-1")))) is not None


def test_it_is_asked_for_in_utf_8(door: Door) -> None:
    assert door.scheme.challenges(claim()) == ('Basic realm="bitsferry", charset="UTF-8"',)


@pytest.mark.parametrize("text", ["alice:wrong", "alice:", "bob:secret", "Alice:secret", "alice:secret "])
def test_what_is_wrong_is_wrong_and_nobody_learns_which_half(door: Door, text: str) -> None:
    error = refused(door.scheme, claim(said(text)))
    assert str(error) == "wrong user name or password"
    assert error.user == text.partition(":")[0]
    assert error.counts


@pytest.mark.parametrize(
    "text",
    [
        "alice",
        ":secret",
        "alice:secret\n",
        "alice:sec\0ret",
        "al\nice:secret",
        "alice:" + "x" * 2000,
        "x" * 2000 + ":",
    ],
)
def test_what_no_client_says_is_refused_without_a_look(door: Door, text: str) -> None:
    refused(door.scheme, claim(said(text)))
    assert door.looks == 0


@pytest.mark.parametrize("value", ["Basic", "Basic !!!!", "basic  ====", "Basic é"])
def test_what_is_no_base64_is_refused(door: Door, value: str) -> None:
    refused(door.scheme, claim({"authorization": value}))


def test_a_hash_is_computed_once_for_five_minutes_wherever_its_password_comes_from(door: Door) -> None:
    for _ in range(5):
        identified(door.scheme, claim(said("alice:secret")))
    door.clock.now = 299
    identified(door.scheme, claim(said("alice:secret")))
    assert door.looks == 1
    door.clock.now = 301
    identified(door.scheme, claim(said("alice:secret")))
    assert door.looks == 2


def test_a_connection_that_was_right_stays_right(door: Door) -> None:
    request = claim(said("alice:secret"))
    identified(door.scheme, request)
    door.clock.now = 86_400
    identified(door.scheme, request)
    assert door.looks == 1
    other = claim(said("alice:other"))
    other.link = request.link
    refused(door.scheme, other)


def test_what_is_known_to_be_right_needs_not_be_slowed_down(door: Door) -> None:
    request = claim(said("alice:secret"))
    assert door.scheme.claimed(request) == "alice"
    identified(door.scheme, request)
    assert door.scheme.claimed(request) is None
    assert door.scheme.claimed(claim(said("alice:secret"))) is None
    assert door.scheme.claimed(claim(said("alice:wrong"))) == "alice"
    assert door.scheme.claimed(claim()) is None


def test_a_wrong_password_is_looked_at_each_time(door: Door) -> None:
    for _ in range(3):
        refused(door.scheme, claim(said("alice:wrong")))
    assert door.looks == 3


def test_who_is_taken_out_of_the_file_is_out_at_the_next_look_on_open_connections_too(door: Door) -> None:
    request = claim(said("alice:secret"))
    identified(door.scheme, request)
    door.write("bob:secret")
    door.clock.now = 2
    for each in (request, claim(said("alice:secret"))):
        refused(door.scheme, each)
    assert identified(door.scheme, claim(said("bob:secret"))) is not None


def test_a_changed_password_counts_at_once(door: Door) -> None:
    request = claim(said("alice:secret"))
    identified(door.scheme, request)
    door.write("alice:other", "jörg:pässwörd")
    door.clock.now = 2
    refused(door.scheme, request)
    assert identified(door.scheme, claim(said("alice:other"))) is not None


def test_a_thousand_machines_that_come_at_once_with_one_account_need_one_hash(door: Door) -> None:
    async def all_at_once() -> list[Identity | None]:
        return await asyncio.gather(*(door.scheme.identify(claim(said("alice:secret"))) for _ in range(1000)))

    assert set(run(all_at_once())) == {Identity("alice", "basic")}
    assert door.looks == 1


def test_no_more_passwords_wait_than_a_bound_and_the_loop_goes_on_meanwhile(tmp_path: Path) -> None:
    door = Door(tmp_path, "alice:secret", hashes=SlowHashes(threads=1, waiting=3))
    held = threading.Event()
    users = run(door.scheme._file.value())
    users.check = lambda name, password: held.wait(10) and False  # type: ignore[method-assign]

    async def attack() -> list[object]:
        guesses = [
            asyncio.create_task(door.scheme.identify(claim(said(f"alice:{each}")))) for each in range(10)
        ]
        done, _ = await asyncio.wait(guesses, timeout=0.2)
        assert len(done) == 7
        guesses[0].cancel()  # its client is gone, its hash is not
        with pytest.raises(Busy):
            await door.scheme.identify(claim(said("alice:more")))
        held.set()
        return await asyncio.gather(*guesses, return_exceptions=True)

    told = run(attack())
    assert [type(each) for each in told] == [asyncio.CancelledError, *[NotProved] * 2, *[Busy] * 7]


def test_what_is_remembered_is_bounded_and_is_no_password(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitsferry.access.basic._MOST_REMEMBERED", 10)
    door.write(*(f"user{each}:secret{each}" for each in range(30)))
    door.clock.now = 2

    async def all_of_them() -> None:
        for each in range(30):
            await door.scheme.identify(claim(said(f"user{each}:secret{each}")))

    run(all_of_them())
    assert "secret" not in repr(vars(door.scheme))
    assert len(door.scheme._proved) == 10
    assert not door.scheme._checking


def test_without_a_connection_it_works_too(door: Door) -> None:
    request = Claim("BITS_POST", "/in/a", said("alice:secret"))
    assert identified(door.scheme, request) is not None
