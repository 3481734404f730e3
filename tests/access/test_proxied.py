"""The word of a proxy: it says who it is from, and nobody else can."""

from __future__ import annotations

import pytest

from bitsferry.access.asker import Identity
from bitsferry.access.proxied import Proxied

from .asking import claim, identified, refused

SCHEME = Proxied("X-Remote-User", "X-Remote-Groups")


def test_a_proxy_we_trust_says_who_it_is_and_in_which_groups() -> None:
    said = {"x-remote-user": "alice", "x-remote-groups": "senders, night shift,,"}
    groups = frozenset({"senders", "night shift"})
    assert identified(SCHEME, claim(said, fronted=True)) == Identity("alice", "proxy", groups)
    assert identified(Proxied("X-Remote-User"), claim(said, fronted=True)) == Identity("alice", "proxy")


def test_from_anybody_else_the_header_is_nothing() -> None:
    assert identified(SCHEME, claim({"x-remote-user": "alice"})) is None


@pytest.mark.parametrize("said", [{}, {"x-remote-user": ""}, {"x-remote-user": " "}])
def test_a_proxy_that_names_nobody_says_nothing(said: dict[str, str]) -> None:
    assert identified(SCHEME, claim(said, fronted=True)) is None


def test_a_second_header_which_a_client_slipped_in_spoils_both() -> None:
    assert "more than one user" in str(refused(SCHEME, claim({"x-remote-user": "eve, alice"}, fronted=True)))


def test_a_header_of_nearly_that_name_is_another_one() -> None:
    assert identified(SCHEME, claim({"x_remote_user": "eve", "x-remote_user": "eve"}, fronted=True)) is None


def test_a_name_may_be_in_any_script_as_utf_8() -> None:
    spelt = "zoë".encode().decode("latin-1")  # as it comes out of a head
    assert identified(SCHEME, claim({"x-remote-user": spelt}, fronted=True)) == Identity("zoë", "proxy")


@pytest.mark.parametrize("odd", ["\xff", "a\tb", "a\x7fb", "x" * 301, "\xc2\xa0"])
def test_what_can_be_no_name_is_refused(odd: str) -> None:
    refused(SCHEME, claim({"x-remote-user": f"u{odd}"}, fronted=True))
