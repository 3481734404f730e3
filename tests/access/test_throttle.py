"""Whoever guesses is slowed down; whoever knows the password comes in."""

from __future__ import annotations

import asyncio

import pytest

from bitsferry.access.throttle import Throttle
from bitsferry.protocol.errors import Busy

HOME, OFFICE, EVIL = "192.0.2.1", "192.0.2.2", "198.51.100.66"


class World:
    """A throttle whose time goes on only when somebody sleeps, or when it is told to."""

    def __init__(self, **limits: float) -> None:
        self.now = 1000.0
        self.throttle = Throttle(clock=lambda: self.now, sleep=self._sleep, **limits)  # type: ignore[arg-type]
        self.slept = 0.0

    async def _sleep(self, seconds: float) -> None:
        self.slept = seconds

    def fail(self, address: str, user: str = "alice") -> float:
        """A wrong password; how long until that is told, while the world goes on."""
        self.slept = 0.0
        self.throttle.before(address, user)
        asyncio.run(self.throttle.failed(address, user))
        return self.slept

    def succeed(self, address: str, user: str = "alice") -> None:
        self.throttle.before(address, user)
        self.throttle.succeeded(address, user)

    def hammer(self, address: str = EVIL, user: str = "alice", seconds: float = 60.0) -> int:
        """As many guesses as get through, tried without a pause; how many that were."""
        guesses, end = 0, self.now + seconds
        while self.now < end:
            try:
                self.fail(address, user)
                guesses += 1
            except Busy:
                self.now += 0.05
        return guesses


def test_who_mistypes_a_few_times_waits_for_nothing() -> None:
    world = World()
    assert [world.fail(HOME) for _ in range(4)] == [0.0] * 4


def test_answers_to_wrong_passwords_come_later_and_later_up_to_a_bound() -> None:
    world = World()
    delays = []
    for _ in range(12):
        delays.append(world.fail(EVIL))
        world.now += 5
    assert delays == sorted(delays)
    assert delays[3] == 0.0
    assert 0 < delays[4] < 1
    assert delays[-1] == 5.0


def test_a_guesser_gets_few_guesses_however_many_at_once() -> None:
    assert World().hammer() < 80
    assert World(wrong_password_delay=1.0).hammer() < 300


def test_more_at_once_are_told_to_come_back() -> None:
    world = World()
    world.hammer(seconds=20)
    with pytest.raises(Busy) as refused:
        for _ in range(20):
            world.fail(EVIL)
    assert refused.value.status == 503
    assert refused.value.retry_after == 5


def test_the_right_password_comes_in_from_elsewhere_while_somebody_hammers_at_the_same_name() -> None:
    world = World()
    world.hammer()
    world.succeed(HOME)
    assert world.slept <= 5.0


def test_others_at_the_guessers_address_come_in_while_it_hammers_at_one_name() -> None:
    """Behind one router, or a proxy nobody told us of."""
    world = World()
    for user in ("bob", "carol"):
        world.hammer(EVIL, "alice", 10)
        world.succeed(EVIL, user)


def test_who_was_right_lately_is_let_in_whatever_others_do() -> None:
    world = World()
    world.succeed(EVIL, "bob")
    for guess in range(200):
        try:
            world.fail(EVIL, f"user{guess}")
        except Busy:
            pass
        world.hammer(OFFICE, "bob", 0.5)
    for _ in range(50):
        world.succeed(EVIL, "bob")
    assert world.fail(EVIL, "bob") == 0.0


def test_trust_ends_when_it_is_abused() -> None:
    """Somebody at the address of somebody we know guesses that one's password."""
    world = World()
    world.succeed(EVIL)
    assert world.hammer(EVIL, "alice", 60) < 80


def test_an_account_of_ones_own_makes_no_room_for_guesses_at_others() -> None:
    world = World()
    guesses, end = 0, world.now + 60
    while world.now < end:
        try:
            world.succeed(EVIL, "mallory")
            world.fail(EVIL, "alice")
            guesses += 1
        except Busy:
            world.now += 0.05
    assert guesses < 80


def test_many_addresses_get_less_together_than_each_on_its_own_would() -> None:
    world = World()
    for each in range(100):
        world.fail(f"203.0.113.{each}")
    assert world.fail("203.0.113.200") == 5.0, "its first guess, but the name is under attack"


def test_an_address_that_tries_many_names_is_slowed_down_too() -> None:
    world = World()
    for each in range(10):
        world.fail(EVIL, f"user{each}")
        world.now += 0.5
    assert world.fail(EVIL, "another") > 1


def test_what_was_is_forgotten_after_a_while() -> None:
    world = World()
    world.hammer()
    world.now += 3600
    assert world.fail(EVIL) == 0.0


def test_neighbours_in_one_ipv6_network_are_one_guesser() -> None:
    world = World()
    for each in range(10):
        world.fail(f"2001:db8::{each:x}", f"user{each}")
    assert world.fail("2001:db8::ffff:1", "another") > 1
    assert world.fail("2001:db8:0:1::1", "yet another") == 0.0


def test_where_no_address_is_known_the_name_alone_counts() -> None:
    world = World()
    for each in range(50):
        assert world.fail("", f"user{each}") == 0.0
    for _ in range(6):
        world.fail("")
    assert world.fail("") > 0


def test_nobody_is_slowed_down_where_that_is_switched_off() -> None:
    world = World(wrong_password_delay=0.0)
    assert {world.fail(EVIL) for _ in range(100)} == {0.0}


def test_a_password_that_was_right_gives_its_place_back() -> None:
    world = World()
    for each in range(10):
        world.fail(EVIL, f"user{each}")
        world.now += 1
    world.now += 5
    for each in range(100):
        world.succeed(EVIL, f"honest{each}")


def test_memory_is_bounded_however_many_names_and_addresses_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bitsferry.access.throttle._MOST", 500)
    world = World()
    for each in range(1000):
        world.fail(f"10.0.{each >> 8}.{each & 255}", "x" * 1000 + str(each))
        world.succeed(f"10.1.{each >> 8}.{each & 255}", "x" * 1000 + str(each))
    tables = [table for table in vars(world.throttle).values() if isinstance(table, dict)]
    assert [len(table) for table in tables] == [500, 500]
    assert all(len(key) < 50 for table in tables for key in table)


def test_a_throttle_goes_on_where_another_one_was() -> None:
    world, heir = World(), World()
    world.hammer()
    world.succeed(HOME, "bob")
    heir.now = world.now
    heir.throttle.inherit(world.throttle)
    assert heir.fail(OFFICE, "alice") == 5.0
    heir.succeed(HOME, "bob")
