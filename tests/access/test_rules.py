"""Rules: who may come in, of those who are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitsferry.access.asker import Identity
from bitsferry.access.bearer import Bearer
from bitsferry.access.groups import GroupFile, parse_groups
from bitsferry.access.guard import Guard
from bitsferry.access.networks import network_of
from bitsferry.access.proxied import Proxied
from bitsferry.access.rules import Rules
from bitsferry.access.watched_file import WatchedFile
from bitsferry.protocol.errors import AccessDenied, AuthenticationRequired

from .asking import claim, run


def somebody(user: str, scheme: str = "basic", *, groups: str = "", names: tuple[str, ...] = ()) -> Identity:
    return Identity(user, scheme, frozenset(groups.split()), frozenset(names))


def may(rules: Rules, identity: Identity | None) -> bool:
    try:
        run(rules.check(identity))
    except AccessDenied:
        return False
    return True


def may_come_from(rules: Rules, address: str) -> bool:
    try:
        rules.check_address(address)
    except AccessDenied:
        return False
    return True


@pytest.fixture
def groups(tmp_path: Path) -> GroupFile:
    path = tmp_path / "groups"
    path.write_text('# who is who\n\nsenders: alice bob\nnight shift: "CN=host 1,O=Corp"\nsenders: carol\n')
    return WatchedFile(str(path), parse_groups)


# Addresses


def test_nothing_is_asked_unless_it_is_set() -> None:
    assert may_come_from(Rules(), "")
    assert may(Rules(), None)
    assert may(Rules(), somebody("anybody"))


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("2001:db8::7", True),
        ("11.0.0.1", False),
        ("2001:db9::7", False),
        ("", False),
        ("?", False),
        ("testclient", False),
    ],
)
def test_the_address_must_be_in_one_of_the_networks(address: str, allowed: bool) -> None:
    rules = Rules(networks=map(network_of, ["10.0.0.0/8", "2001:db8::/32"]))
    assert may_come_from(rules, address) is allowed


@pytest.mark.parametrize(
    ("address", "allowed"),
    [("10.1.2.3", True), ("10.66.0.1", False), ("::ffff:10.66.0.1", False), ("192.0.2.1", True), ("", False)],
)
def test_the_address_must_be_in_none_of_those_that_are_denied(address: str, allowed: bool) -> None:
    rules = Rules(deny_networks=[network_of("10.66.0.0/16")])
    assert may_come_from(rules, address) is allowed


# Users


def test_one_of_users_groups_and_certificates_is_enough(groups: GroupFile) -> None:
    rules = Rules(users=["dora"], groups=["senders", "claimed"], certificates=["O=Corp"], group_file=groups)
    assert may(rules, somebody("dora"))
    assert may(rules, somebody("alice"))
    assert may(rules, somebody("carol"))
    assert may(rules, somebody("eve", "bearer", groups="claimed"))
    assert may(rules, somebody("host1", "certificate", names=("CN=host1", "O=Corp")))
    assert not may(rules, somebody("eve"))
    assert not may(rules, somebody("host1", "certificate", names=("CN=host1", "O=Corporation")))
    assert not may(rules, None)


def test_a_denied_user_may_not_whatever_else_fits(groups: GroupFile) -> None:
    rules = Rules(users=["alice", "bob"], groups=["senders"], deny_users=["bob"], group_file=groups)
    assert may(rules, somebody("alice"))
    assert not may(rules, somebody("bob"))
    assert may(Rules(deny_users=["bob"]), somebody("anybody else"))
    assert not may(Rules(deny_users=["bob"]), None)


def test_a_name_counts_as_it_is_spelt_but_to_windows_its_case_is_nothing(groups: GroupFile) -> None:
    allowed = Rules(users=["Alice"], groups=["senders"], group_file=groups)
    assert not may(allowed, somebody("ALICE"))
    assert not may(allowed, somebody("BOB"))
    for scheme in ("ntlm", "negotiate"):
        assert may(allowed, somebody("ALICE", scheme))
        assert may(allowed, somebody("BOB", scheme))
        assert not may(Rules(deny_users=["eve@CORP.EXAMPLE"]), somebody("EVE@corp.example", scheme))


@pytest.mark.parametrize(
    ("wanted", "name", "fits"),
    [
        ("CN=host*.corp.example", "CN=host17.corp.example", True),
        ("CN=host*.corp.example", "CN=HOST17.Corp.Example", True),
        ("CN=host*.corp.example", "CN=host17.corp.example.evil.example", False),
        ("CN=host*.corp.example", "CN=evilhost17.corp.example", False),
        ("CN=host*.corp.example", "O=CN=host17.corp.example", False),
        ("CN=host*.corp.example", "CN=host17.corpXexample", False),
        ("DNS:*.corp.example", "DNS:a.b.corp.example", True),
        ("DNS:*.corp.example", "CN=a.corp.example", False),
        ("email:*@corp.example", "email:alice@corp.example", True),
        ("O=Corp", "O=Corp", True),
        ("O=Corp", "O=Corp\n", False),
        ("O=[A-Z]*", "O=Corp", False),
        ("CN=k", "CN=\N{KELVIN SIGN}", False),
    ],
)
def test_a_star_stands_for_any_letters_in_one_name_of_a_certificate(
    wanted: str, name: str, fits: bool
) -> None:
    rules = Rules(certificates=[wanted])
    assert may(rules, somebody("x", "certificate", names=(name,))) is fits


# The file of groups


def test_a_name_with_spaces_stands_between_quotes(groups: GroupFile) -> None:
    rules = Rules(groups=["night shift"], group_file=groups)
    assert may(rules, somebody("CN=host 1,O=Corp", "certificate"))
    assert not may(rules, somebody("CN=host"))


@pytest.mark.parametrize("line", ["alice bob", ": alice", "\N{SNOWMAN}"])
def test_a_line_that_is_no_group_is_told_by_its_number_only(line: str) -> None:
    with pytest.raises(ValueError, match=r"^line 2 is no group") as error:
        parse_groups(f"senders: alice\n{line}\n")
    assert "alice bob'" in str(error.value)  # the example, and not what is in the file


# Before a directory


def test_who_is_known_and_may_not_is_refused_for_good_and_counted() -> None:
    guard = Guard([Proxied("X-User")], rules=Rules(users=["alice"]))
    with pytest.raises(AccessDenied, match="bob may not come in"):
        run(guard.admit(claim({"x-user": "bob"}, fronted=True)))
    assert run(guard.admit(claim({"x-user": "alice"}, fronted=True))) == somebody("alice", "proxy")
    assert guard.refusals == {("rules", "may not"): 1}


def test_an_address_is_refused_before_anybody_is_asked() -> None:
    guard = Guard([Proxied("X-User")], rules=Rules(networks=[network_of("10.0.0.0/8")]))
    with pytest.raises(AccessDenied, match=r"192\.0\.2\.1"):
        run(guard.admit(claim({"x-user": "alice"}, fronted=True)))
    assert run(guard.admit(claim({"x-user": "alice"}, fronted=True, address="10.0.0.1")))


def test_where_nobody_can_be_asked_the_answer_is_403_and_the_reason_is_for_the_log() -> None:
    guard = Guard([Proxied("X-User")])
    with pytest.raises(AccessDenied, match="auth: proxy"):
        run(guard.admit(claim()))
    with pytest.raises(AccessDenied):
        run(guard.admit(claim({"x-user": "alice, bob"}, fronted=True)))
    assert guard.refusals["guard", "cannot be asked"] == 2
    assert guard.refusals["proxy", "the proxy names more than one user, or one with a comma"] == 1


def test_rules_for_users_ask_even_where_nobody_has_to_say_who_they_are() -> None:
    guard = Guard([Bearer()], anonymous=True, rules=Rules(users=["alice"]))
    with pytest.raises(AuthenticationRequired) as asked:
        run(guard.admit(claim()))
    assert asked.value.challenges == ('Bearer realm="bitsferry"',)
