"""Settings about tokens, certificates, proxies and rules: what is right, and what is said of a mistake."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bitsferry.access.fronts import Fronts
from bitsferry.cli.settings import Settings, SettingsError, read_settings

BEARER = 'auth = ["bearer"]\ntokens = "tokens"\n'
JWT = 'auth = ["bearer"]\njwks = "https://id.example/keys"\njwt_issuer = "i"\njwt_audience = "a"\n'
PROXY = 'auth = ["proxy"]\nuser_header = "X-User"\n'

Read = Callable[..., Settings]
Complain = Callable[..., str]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """What lines mean in a directory, and at the top."""
    (tmp_path / "tokens").write_text("")
    (tmp_path / "groups").write_text("senders: alice\n")
    (tmp_path / "broken").write_text("# secret stuff\nmore secret stuff\n")

    def read(directory: str, top: str = "") -> Settings:
        path = tmp_path / "bitsferry.toml"
        path.write_text(f'{top}\n[[directory]]\nurl = "/in/"\nfolder = "in"\n{directory}')
        return read_settings(str(path))

    return read


@pytest.fixture
def complain(read: Read, tmp_path: Path) -> Complain:
    """What is said about lines, without the folder the file is in."""

    def complain(directory: str, top: str = "") -> str:
        with pytest.raises(SettingsError) as error:
            read(directory, top)
        said = str(error.value).replace(str(tmp_path) + "/", "")
        assert "secret stuff" not in said
        return said

    return complain


def schemes(settings: Settings) -> list[str]:
    guard = settings.directories[0].guard
    return [] if guard is None else [scheme.name for scheme in guard.schemes]


def test_ways_to_come_in_are_tried_in_the_order_they_stand_in(read: Read) -> None:
    every = f'{PROXY}tokens = "tokens"\n'.replace('["proxy"]', '["proxy", "certificate", "bearer", "none"]')
    settings = read(every, 'trusted_proxies = ["unix"]')
    assert schemes(settings) == ["proxy", "certificate", "bearer"]
    guard = settings.directories[0].guard
    assert guard is not None
    assert guard.anonymous
    assert not guard.shares_safely


def test_a_front_that_keeps_clients_apart_is_believed_where_it_is_said(read: Read) -> None:
    guard = read('auth = ["certificate"]\none_client_per_connection = true').directories[0].guard
    assert guard is not None
    assert guard.shares_safely


def test_rules_need_nobodys_name_where_they_are_about_addresses(read: Read) -> None:
    guard = read('allow_networks = ["10.0.0.0/8"]').directories[0].guard
    assert guard is not None
    assert guard.anonymous
    assert not guard.rules.want_somebody


def test_a_front_is_told_by_address_network_and_unix(read: Read) -> None:
    top = 'trusted_proxies = ["10.0.0.0/8", "::1", "unix"]\nforwarded_header = "Forwarded"'
    assert read("", top).fronts == Fronts.of(["::1", "10.0.0.0/8", "unix"], "Forwarded")
    assert read("").fronts == Fronts()


@pytest.mark.parametrize(
    ("directory", "said"),
    [
        ('auth = ["bearer"]', 'line 5: auth: "bearer" needs tokens, a file of them, or jwks'),
        (f"{BEARER}htpasswd = 'x'", 'line 7: htpasswd: nobody is asked for it; auth = [...] needs "basic"'),
        ('tokens = "tokens"', 'line 5: tokens: nobody is asked for it; auth = [...] needs "bearer"'),
        ('auth = ["bearer"]\ntokens = "nowhere"', "line 6: tokens: nowhere cannot be read: No such file"),
        ('auth = ["bearer"]\ntokens = "broken"', "line 6: tokens: broken: line 2 is no NAME:sha256:HASH"),
        (f'{BEARER}api_key_header = "X_Key"', 'line 7: api_key_header: "X_Key" is no name of a header'),
        (f'{BEARER}jwt_issuer = "i"', "line 7: jwt_issuer: there is no jwks"),
        ('auth = ["bearer"]\njwks = "https://h/"', "line 6: jwks: there is no jwt_issuer"),
        (
            JWT.replace('jwt_audience = "a"\n', ""),
            "line 6: jwks: there is no jwt_audience; say what stands in aud",
        ),
        (JWT.replace("https:", "http:"), "line 6: jwks: what comes by http:// can be changed on the way"),
        (JWT.replace("https://id.example/keys", "broken"), "line 6: jwks: broken: it is no JWK Set"),
        (f'{JWT}jwt_user_claim = ""', "line 9: jwt_user_claim: this must not be empty"),
        ('auth = ["proxy"]', 'line 5: auth: "proxy" needs user_header'),
        (
            PROXY,
            'line 5: auth: "proxy" believes no proxy unless it is in trusted_proxies, at the top, and none',
        ),
        (
            'auth = ["certificate"]\ncertificate_user = "UPN"',
            'line 6: certificate_user: "UPN" is none of "CN"',
        ),
        (
            'auth = ["certificate"]\nallow_certificates = ["host1"]',
            'line 6: allow_certificates: "host1" is no name of a certificate: write one as CN=host*',
        ),
        ('allow_certificates = ["CN=*"]', "line 5: allow_certificates: nobody is asked for it"),
        ('allow_users = ["alice"]', "line 5: allow_users: auth lets in those who do not say who they are"),
        (f'{BEARER}groups = "groups"', "line 7: groups: no group is asked for; write allow_groups, too"),
        (f'{BEARER}allow_groups = ["g"]', "line 7: allow_groups: nothing says who is in a group"),
        (
            f'{BEARER}allow_groups = ["g"]\ngroups = "broken"',
            "line 8: groups: broken: line 2 is no group with its users",
        ),
        (
            'allow_networks = ["10.0.0.1/8"]',
            "an address inside a network: write 10.0.0.0/8, or the address alone",
        ),
        ('deny_networks = ["here"]', 'line 5: deny_networks: "here" is no address and no network'),
        ("allow_networks = []", "line 5: allow_networks: [] is no list of texts"),
        ("one_client_per_connection = true", "line 5: one_client_per_connection: nobody is asked for it"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_what_would_be_right(
    complain: Complain, directory: str, said: str
) -> None:
    assert said in complain(directory)


@pytest.mark.parametrize(
    ("top", "said"),
    [
        ('trusted_proxies = ["proxy.example"]', 'line 1: trusted_proxies: "proxy.example" is no address'),
        ('trusted_proxies = "127.0.0.1"', "line 1: trusted_proxies: "),
        ('forwarded_header = "X-Real-IP"', 'line 1: forwarded_header: "X-Real-IP" is none of'),
    ],
)
def test_a_mistake_at_the_top_is_told_too(complain: Complain, top: str, said: str) -> None:
    assert said in complain("", top)


def test_what_has_to_be_installed_for_jwts_is_told(
    complain: Complain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "joserfc", None)
    assert "line 6: jwks: tokens that are signed need more: pip install 'bitsferry[jwt]'" in complain(JWT)
