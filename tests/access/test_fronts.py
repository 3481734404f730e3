"""Proxies: those in front of us say who their client is; what anybody else says of that is nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsferry.access.fronts import FORWARDED, Fronts

NEAR, FAR, STRANGER = "10.0.0.1", "10.9.9.9", "203.0.113.7"

OURS = Fronts.of(["10.0.0.0/8", "2001:db8:1::/48", "unix"])
SPOKEN = Fronts.of(["10.0.0.0/8", "unix"], FORWARDED)


def forwarded_for(value: str) -> dict[str, str]:
    return {"x-forwarded-for": value}


@pytest.mark.parametrize("peer", [STRANGER, "2001:db8:2::1", "", "testclient", "?"])
@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "x-real-ip"])
def test_what_a_stranger_says_of_a_client_is_ignored(peer: str, header: str) -> None:
    fronts = Fronts.of(["10.0.0.0/8"])
    assert not fronts.trusts(peer)
    assert fronts.client(peer, {header: "192.0.2.9"}) == peer
    assert fronts.client(peer, {header: "for=192.0.2.9"}) == peer
    assert fronts.scheme(peer, {"x-forwarded-proto": "https"}, "http") == "http"


def test_nobody_is_trusted_unless_it_is_said() -> None:
    for peer in ("127.0.0.1", "::1", ""):
        assert not Fronts().trusts(peer)
        assert Fronts().client(peer, forwarded_for("192.0.2.9")) == peer


@pytest.mark.parametrize("peer", [NEAR, "2001:db8:1::5", "", f"::ffff:{NEAR}"])
def test_a_proxy_of_ours_names_its_client(peer: str) -> None:
    assert OURS.client(peer, forwarded_for(STRANGER)) == STRANGER


def test_what_the_client_wrote_itself_stands_before_it_and_does_not_count() -> None:
    assert OURS.client(NEAR, forwarded_for(f"192.0.2.9, {STRANGER}")) == STRANGER
    assert OURS.client(NEAR, forwarded_for(f"10.1.1.1, {STRANGER}")) == STRANGER
    assert OURS.client(NEAR, forwarded_for(f"garbage, {STRANGER}")) == STRANGER


def test_proxies_may_stand_behind_each_other() -> None:
    assert OURS.client(NEAR, forwarded_for(f"192.0.2.9, {STRANGER}, {FAR}")) == STRANGER


def test_a_client_may_be_where_proxies_are() -> None:
    assert OURS.client(NEAR, forwarded_for(FAR)) == FAR


@pytest.mark.parametrize(
    "said", ["", " ", "unknown", "_hidden", "1.2.3", "10.0.0.300", "host.example", ",", "[::1"]
)
def test_where_the_proxy_names_no_address_its_own_counts(said: str) -> None:
    assert OURS.client(NEAR, forwarded_for(said)) == NEAR


def test_beyond_what_is_no_address_nobody_is_believed() -> None:
    assert OURS.client(NEAR, forwarded_for(f"{STRANGER}, unknown, {FAR}")) == FAR


@pytest.mark.parametrize(
    ("node", "address"),
    [
        ("203.0.113.7:4711", "203.0.113.7"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_an_address_is_understood_with_port_brackets_or_zone(node: str, address: str) -> None:
    assert OURS.client(NEAR, forwarded_for(node)) == address
    assert SPOKEN.client(NEAR, {"forwarded": f'for="{node}"'}) == address


def test_forwarded_is_understood_where_proxies_speak_it() -> None:
    said = f'for=192.0.2.9, for={STRANGER};proto=https;by="10.9.9.9:80", For="{FAR}" ; Proto=http'
    assert SPOKEN.client(NEAR, {"forwarded": said}) == STRANGER
    assert SPOKEN.scheme(NEAR, {"forwarded": said}, "http") == "https"


@pytest.mark.parametrize(
    "said", ['for="', "for", "for=192.0.2.9;for=192.0.2.8", 'for="192.0.2.9', ";", "by=192.0.2.9"]
)
def test_forwarded_that_is_damaged_names_nobody(said: str) -> None:
    assert SPOKEN.client(NEAR, {"forwarded": said}) == NEAR


@pytest.mark.parametrize("forged", ['for="', 'for="x', 'by="a, b', "for=10.1.1.1;by=\\"])
def test_what_a_client_begins_in_forwarded_does_not_swallow_what_the_proxy_adds(forged: str) -> None:
    assert SPOKEN.client(NEAR, {"forwarded": f"{forged}, for={STRANGER}"}) == STRANGER
    assert SPOKEN.client(NEAR, {"forwarded": f'{forged}, for="[2001:db8::1]:80"'}) == "2001:db8::1"


def test_only_the_header_that_is_set_counts_for_nobody_knows_who_wrote_the_other() -> None:
    both = {"forwarded": "for=192.0.2.8", "x-forwarded-for": "192.0.2.9"}
    assert OURS.client(NEAR, both) == "192.0.2.9"
    assert SPOKEN.client(NEAR, both) == "192.0.2.8"


def test_a_proxy_of_ours_says_whether_its_client_came_by_https() -> None:
    assert OURS.scheme(NEAR, {"x-forwarded-proto": "HTTPS"}, "http") == "https"
    assert OURS.scheme("", {"x-forwarded-proto": "http"}, "https") == "http"
    for odd in ("", "ftp", "https, http", "https://"):
        assert OURS.scheme(NEAR, {"x-forwarded-proto": odd}, "http") == "http"


def test_behind_any_sign_of_a_proxy_a_connection_may_be_shared() -> None:
    assert OURS.may_share(STRANGER, {}) is False
    assert OURS.may_share(NEAR, {}) is True
    assert OURS.may_share("", {}) is True
    assert OURS.may_share(STRANGER, {"via": "1.1 proxy"}) is True
    assert OURS.may_share(STRANGER, forwarded_for("x")) is True


@pytest.mark.parametrize(
    ("place", "advice"),
    [
        ("10.0.0.1/8", r"write 10\.0\.0\.0/8"),
        ("10.0.0.0/33", "no address and no network"),
        ("localhost", "no address and no network"),
        ("Unix", "no address and no network"),
        ("::ffff:10.0.0.0/104", "of IPv4"),
    ],
)
def test_a_place_that_cannot_be_is_told_with_what_would_be_right(place: str, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        Fronts.of([place])


@given(st.text(max_size=200), st.sampled_from([OURS, SPOKEN]))
def test_whatever_stands_in_the_header_the_client_has_an_address(said: str, fronts: Fronts) -> None:
    headers = {"x-forwarded-for": said, "forwarded": said, "x-forwarded-proto": said}
    assert fronts.client(NEAR, headers)
    assert fronts.scheme(NEAR, headers, "http") in ("http", "https")


def test_a_very_long_list_costs_little() -> None:
    assert OURS.client(NEAR, forwarded_for(", ".join([FAR] * 5000))) == FAR
