"""NTLM and Negotiate: who is asking is proved on each connection once, before any of the file goes out."""

import base64
import contextlib
import logging
import os
import secrets
import ssl
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from bitsferry.client.credentials import Authenticator, Credential, Scheme, Target
from bitsferry.client.handshake import missing
from bitsferry.client.options import HttpOptions
from bitsferry.client.proxies import ProxySettings
from bitsferry.client.trust import TlsSettings
from bitsferry.protocol.errors import (
    AuthenticationRequired,
    BitsError,
    ProxyAuthenticationRequired,
    TransportFailed,
)
from bitsferry.protocol.packets import Fragment, Ping

from .conftest import MIB, Sender, password
from .hostile import Exchange, HostileServer, Proxy

pytest.importorskip("spnego", reason="pyspnego is not installed")

from spnego.channel_bindings import GssChannelBindings

from .doorkeeper import Doorkeeper

INGA = password("inga", "Circle of Life")
NTLM = password("inga", "Circle of Life", Scheme.NTLM)
NEGOTIATE = password("inga", "Circle of Life", Scheme.NEGOTIATE)
LOG_ON = password("", "", Scheme.NEGOTIATE)


@pytest.fixture(autouse=True)
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whom doorkeepers know; and no Kerberos of this machine."""
    names = [":inga", "SALES:inga", ":inga@sales.example"]
    (tmp_path / "users").write_text("".join(f"{name}:Circle of Life\n" for name in names))
    monkeypatch.setenv("NTLM_USER_FILE", str(tmp_path / "users"))
    monkeypatch.setenv("KRB5_CONFIG", os.devnull)
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{tmp_path}/no-tickets")


@pytest.fixture
def keeper(server: HostileServer) -> Doorkeeper:
    keeper = Doorkeeper()
    server.on()(keeper)
    return keeper


# One connection after the other


def test_all_is_said_on_one_connection_before_the_first_byte_of_the_file(
    sender: Sender, server: HostileServer, keeper: Doorkeeper
) -> None:
    sender.run(credentials=[INGA])
    assert sender.arrived
    assert keeper.legs == [2]
    assert keeper.in_vain == 0
    assert server.connections == 1
    assert server.kinds()[:4] == [*3 * ["CreateSession"], "Fragment"]
    assert [said is not None for said in keeper.said[:4]] == [False, True, True, False], "and then no more"


def test_on_a_new_connection_a_ping_says_it_before_a_fragment_goes_out(
    sender: Sender, server: HostileServer, keeper: Doorkeeper
) -> None:
    @server.on(Fragment, every=3)
    def break_off(exchange: Exchange) -> None:
        exchange.process(1000)
        exchange.hang_up()

    server._plans.reverse()  # the doorkeeper after it
    sender.run(credentials=[INGA])
    assert sender.arrived
    assert server.connections > 1
    assert keeper.legs == [2] * server.connections
    assert keeper.in_vain == 0


def test_a_connection_that_goes_away_between_two_fragments_is_opened_by_a_ping(
    sender: Sender, server: HostileServer, keeper: Doorkeeper
) -> None:
    @server.on(Fragment, first=1)
    def answer_and_hang_up(exchange: Exchange) -> None:
        keeper(exchange)
        exchange.hang_up()

    server._plans.reverse()
    sender.run(credentials=[INGA])
    assert sender.arrived
    assert not sender.retries
    assert keeper.in_vain == 0
    after = server.kinds()[server.kinds().index("Fragment") + 1 :]
    assert after[:3] == ["Ping", "Ping", "Fragment"]


def test_a_server_that_asks_again_in_the_middle_is_told_again(
    sender: Sender, server: HostileServer, keeper: Doorkeeper
) -> None:
    keeper.asks_again = 4
    sender.run(credentials=[INGA])
    assert sender.arrived
    assert keeper.legs == [2, 2]
    assert keeper.in_vain <= MIB


def test_a_server_that_forgets_all_the_time_is_told_twice_in_a_request(
    sender: Sender, server: HostileServer, keeper: Doorkeeper
) -> None:
    keeper.each_time = True
    with pytest.raises(AuthenticationRequired, match="refuses the user name 'inga'"):
        sender.run(credentials=[INGA])
    assert len(server.heard) < 20


@pytest.mark.parametrize("user", ["inga", "SALES\\inga", "inga@sales.example", "Inga"])
@pytest.mark.parametrize("scheme", ["NTLM", "Negotiate"])
def test_users_are_named_with_their_domain_or_without(
    sender: Sender, keeper: Doorkeeper, user: str, scheme: str
) -> None:
    keeper.scheme = scheme
    sender.run(credentials=[password(user, "Circle of Life", Scheme(scheme.lower()))])
    assert sender.arrived
    assert keeper.users == [user]
    assert keeper.in_vain == 0


def test_a_password_that_looks_like_hashes_is_a_password(
    sender: Sender, keeper: Doorkeeper, tmp_path: Path
) -> None:
    odd = f"{secrets.token_hex(16)}:{secrets.token_hex(16)}"
    (tmp_path / "users").write_text(f"inga:1::{'0' * 32}:::\n:inga:{odd.replace(':', '-')}\n")
    sender.path.write_bytes(b"small")
    with pytest.raises(AuthenticationRequired):
        sender.run(credentials=[password("inga", odd, Scheme.NTLM)])
    sender.run(credentials=[password("inga", odd.replace(":", "-"), Scheme.NTLM)])
    assert sender.arrived


# What is chosen


@pytest.mark.parametrize(
    "offers", [("NTLM", "Negotiate"), ("Negotiate", "NTLM"), ('Basic realm="x"', "NTLM", "Negotiate")]
)
def test_negotiate_goes_before_ntlm_and_both_before_the_others(offers: tuple[str, ...]) -> None:
    authenticator = Authenticator([INGA], Target.SERVER, host="localhost")
    assert authenticator.challenged(offers)
    assert (authenticator.authorization("GET", "/") or "").startswith("Negotiate ")


def test_a_scheme_that_is_offered_and_not_gone_on_with_leaves_the_word_to_the_next() -> None:
    authenticator = Authenticator([INGA], Target.SERVER)
    assert authenticator.challenged(["NTLM", "Basic"])
    assert (authenticator.authorization("GET", "/") or "").startswith("NTLM ")
    assert authenticator.challenged(["NTLM", "Basic"])
    assert (authenticator.authorization("GET", "/") or "").startswith("Basic ")
    assert not authenticator.challenged(["NTLM", "Basic"])


def test_a_password_that_ntlm_refused_is_not_said_by_basic(sender: Sender, keeper: Doorkeeper) -> None:
    keeper.before = ('Basic realm="in"',)
    with pytest.raises(AuthenticationRequired, match="refuses the user name 'inga' or its password"):
        sender.run(credentials=[password("inga", "wrong")])
    assert [said.split()[0] for said in keeper.said if said] == ["NTLM", "NTLM"]


def test_a_log_on_is_said_only_where_that_is_asked_for(sender: Sender, keeper: Doorkeeper) -> None:
    with pytest.raises(AuthenticationRequired, match=r"wants a user name and a password \(NTLM\)"):
        sender.run()
    assert keeper.said == [None]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has a log-on")
def test_a_log_on_is_said_by_ntlm_where_there_is_one(sender: Sender, keeper: Doorkeeper) -> None:
    sender.run(credentials=[password("", "", Scheme.NTLM)])
    assert sender.arrived
    assert keeper.users == ["inga"], "of NTLM_USER_FILE the first"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has a log-on")
def test_no_log_on_and_no_ticket_is_said_in_a_sentence(
    sender: Sender, keeper: Doorkeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper.scheme = "Negotiate"
    monkeypatch.delenv("NTLM_USER_FILE")
    with pytest.raises(
        AuthenticationRequired, match=r"has no log-on, or ticket, for Negotiate|bitsferry\[kerberos"
    ):
        sender.run(credentials=[LOG_ON])
    assert keeper.said == [None]


@pytest.mark.parametrize(("scheme", "extra"), [("ntlm", "ntlm"), ("negotiate", "kerberos")])
def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, scheme: str, extra: str) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    authenticator = Authenticator([password("inga", "pw", Scheme(scheme))], Target.SERVER)
    assert not authenticator.challenged(["NTLM", "Negotiate"])
    assert authenticator.refusal().endswith(f"pip install 'bitsferry[{extra}]'")
    authenticator = Authenticator([INGA], Target.SERVER)
    assert authenticator.challenged(["NTLM", "Negotiate", "Basic"]), "what is there is said"
    assert missing(scheme, "inga")


def test_a_password_without_a_name_is_no_log_on() -> None:
    with pytest.raises(ValueError, match="needs the name") as caught:
        password("", "secret", Scheme.NTLM)
    assert "secret" not in str(caught.value)


# What goes wrong


@pytest.mark.parametrize("scheme", [Scheme.NTLM, Scheme.NEGOTIATE, None])
def test_a_wrong_password_is_said_once(
    sender: Sender, server: HostileServer, keeper: Doorkeeper, scheme: Scheme | None
) -> None:
    keeper.scheme = "NTLM" if scheme is Scheme.NTLM else "Negotiate"
    with pytest.raises(
        AuthenticationRequired, match="refuses the user name 'inga' or its password"
    ) as caught:
        sender.run(credentials=[password("inga", "wrong secret", scheme)])
    assert "secret" not in f"{caught.value!r} {caught.value} {sender.told}"
    assert len(server.heard) == 3


def test_a_server_that_closes_in_the_middle_of_a_handshake_is_told_from_a_wrong_password(
    sender: Sender, server: HostileServer, keeper: Doorkeeper
) -> None:
    keeper.closes = True
    with pytest.raises(AuthenticationRequired, match="ends the connection between the legs of a handshake"):
        sender.run(credentials=[INGA])
    assert len(server.heard) == 2


def test_a_server_that_hangs_up_in_the_middle_without_a_word_is_a_broken_line(
    sender: Sender, server: HostileServer
) -> None:
    @server.on()
    def ask_and_hang_up(exchange: Exchange) -> None:
        Doorkeeper()(exchange)
        exchange.hang_up()

    with pytest.raises(TransportFailed, match="broke in the middle of a handshake"):
        sender.run(credentials=[INGA], patience=0)
    assert len(server.heard) == 2


def test_a_server_of_http_1_0_is_told_from_a_wrong_password(sender: Sender, server: HostileServer) -> None:
    keeper = Doorkeeper()

    @server.on()
    def ask(exchange: Exchange) -> None:
        challenge = keeper.judge(exchange.line, exchange.headers.get("authorization")).spelt("NTLM")
        exchange.say_plainly(401, [("WWW-Authenticate", challenge)], version="1.0")
        exchange.hang_up()

    with pytest.raises(AuthenticationRequired, match="ends the connection between the legs"):
        sender.run(credentials=[INGA])
    assert len(server.heard) == 2


def test_a_server_that_closes_whenever_all_is_said_gets_no_fragment(
    sender: Sender, server: HostileServer, keeper: Doorkeeper
) -> None:
    @server.on(Ping)
    def say_yes_and_close(exchange: Exchange) -> None:
        answer = keeper.judge(exchange.line, exchange.headers.get("authorization"))
        if answer.lets_in:
            exchange.say_plainly(
                200, [("BITS-Packet-Type", "Ack"), ("Connection", "close"), ("Content-Length", "0")]
            )
            exchange.hang_up()
        exchange.say_plainly(401, [("WWW-Authenticate", answer.spelt("NTLM")), ("Content-Length", "0")])

    @server.on(Fragment)
    def lose_it(exchange: Exchange) -> None:
        exchange.hang_up()

    server._plans.reverse()
    with pytest.raises(BitsError, match="need connections that are kept"):
        sender.run(credentials=[INGA], patience=0)
    assert len(server.heard) < 20


GARBAGE = [
    "NTLM !!!",
    "NTLM AAAA",
    "NTLM " + base64.b64encode(b"NTLMSSP\0\2\0\0\0").decode(),
    "NTLM " + base64.b64encode(b"NTLMSSP\0\2\0\0\0" + b"\xff" * 200).decode(),
    "NTLM " + base64.b64encode(os.urandom(40_000)).decode(),
    "NTLM " + base64.b64encode(b"\xa1\x84\xff\xff\xff\xff" * 100).decode(),
]


@pytest.mark.parametrize("challenge", [*GARBAGE, *(each.replace("NTLM", "Negotiate", 1) for each in GARBAGE)])
def test_a_token_that_makes_no_sense_ends_it(sender: Sender, server: HostileServer, challenge: str) -> None:
    scheme = challenge.split()[0]

    @server.on()
    def ask(exchange: Exchange) -> None:
        asked = scheme if "authorization" not in exchange.headers else challenge
        exchange.say_plainly(401, [("WWW-Authenticate", asked), ("Content-Length", "0")])

    with pytest.raises(AuthenticationRequired, match=r"makes no sense|refuses the user name"):
        sender.run(credentials=[password("inga", "pw", Scheme(scheme.lower()))])
    assert len(server.heard) <= 3


def test_a_server_that_asks_on_and_on_is_left(sender: Sender, server: HostileServer) -> None:
    """By another first answer each time, as nobody who speaks NTLM does."""

    @server.on()
    def ask(exchange: Exchange) -> None:
        keeper = Doorkeeper()
        token = base64.b64encode(b"NTLMSSP\0\1\0\0\0" + struct.pack("<I", 0xE2088297) + bytes(16)).decode()
        challenge = keeper.judge(exchange.line, f"NTLM {token}").spelt("NTLM")
        exchange.say_plainly(401, [("WWW-Authenticate", challenge), ("Content-Length", "0")])

    with pytest.raises(AuthenticationRequired):
        sender.run(credentials=[NTLM])
    assert len(server.heard) <= 4


def test_a_server_that_changes_its_mind_about_the_scheme_is_left(
    sender: Sender, server: HostileServer
) -> None:
    @server.on()
    def ask(exchange: Exchange) -> None:
        offers = ["NTLM", "Negotiate", 'Basic realm="x"', 'Digest realm="x", nonce="n", qop="auth"']
        exchange.say_plainly(
            401, [("WWW-Authenticate", offers[len(server.heard) % 4]), ("Content-Length", "0")]
        )

    with pytest.raises(AuthenticationRequired):
        sender.run(credentials=[INGA])
    assert len(server.heard) <= 5


@pytest.mark.parametrize("level", ["0", "1", "2"])
def test_ntlmv1_is_never_said(
    sender: Sender, keeper: Doorkeeper, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    monkeypatch.setenv("LM_COMPAT_LEVEL", level)
    with pytest.raises(AuthenticationRequired, match="NTLMv1"):
        sender.run(credentials=[NTLM])
    assert not keeper.legs


def test_nothing_secret_is_logged(
    sender: Sender, keeper: Doorkeeper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    sender.run(credentials=[NEGOTIATE, NTLM])
    said = [said.split()[1] for said in keeper.said if said]
    assert said
    assert not any(each in caplog.text for each in said)


# Proxies


@pytest.mark.parametrize("scheme", ["NTLM", "Negotiate"])
@pytest.mark.parametrize("tunnel", [True, False])
def test_a_proxy_is_convinced_on_the_connection_that_is_used(
    sender: Sender, server: HostileServer, scheme: str, tunnel: bool
) -> None:
    keeper = Doorkeeper(scheme)
    with contextlib.closing(Proxy(asks=keeper.ask)) as proxy:
        http = HttpOptions(proxy=ProxySettings.override(proxy.address, tunnel=tunnel))
        sender.run(http=http, credentials=[Credential(Target.PROXY, None, "inga", "Circle of Life")])
        assert sender.arrived
        assert proxy.in_vain == 0
    assert keeper.legs == [2]
    assert not any("authorization" in name for heard in server.heard for name in heard.headers)


@pytest.mark.parametrize("tunnel", [True, False])
def test_a_proxy_that_says_no_is_asked_once(sender: Sender, server: HostileServer, tunnel: bool) -> None:
    keeper = Doorkeeper()
    with contextlib.closing(Proxy(asks=keeper.ask)) as proxy:
        http = HttpOptions(proxy=ProxySettings.override(proxy.address, tunnel=tunnel))
        with pytest.raises(ProxyAuthenticationRequired, match="the proxy refuses the user name 'inga'"):
            sender.run(http=http, credentials=[Credential(Target.PROXY, Scheme.NTLM, "inga", "wrong")])
        assert len(proxy.heard) == 3
    assert server.heard == []


def test_proxy_and_server_are_each_convinced_of_their_own_user(
    sender: Sender, server: HostileServer, keeper: Doorkeeper
) -> None:
    at_proxy = Doorkeeper()
    with contextlib.closing(Proxy(asks=at_proxy.ask)) as proxy:
        http = HttpOptions(proxy=ProxySettings.override(proxy.address, tunnel=True))
        gate = Credential(Target.PROXY, Scheme.NTLM, "SALES\\inga", "Circle of Life")
        sender.run(http=http, credentials=[NTLM, gate])
    assert sender.arrived
    assert (at_proxy.users, keeper.users) == (["SALES\\inga"], ["inga"])


# TLS


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[HostileServer, HttpOptions, bytes]]:
    """A server that speaks TLS, how to trust it, and its certificate."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    der = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
    with contextlib.closing(HostileServer(tls=context, scheme="https")) as server:
        yield server, HttpOptions(tls=TlsSettings(ca_file=str(tmp_path / "ca.pem"))), der


def bindings_of(certificate: bytes) -> GssChannelBindings:
    """RFC 5929 4.1, of a certificate that is signed with SHA-256."""
    import hashlib

    return GssChannelBindings(
        application_data=b"tls-server-end-point:" + hashlib.sha256(certificate).digest()
    )


@pytest.mark.parametrize("scheme", ["NTLM", "Negotiate"])
def test_over_tls_it_is_said_to_this_servers_certificate_alone(
    sender: Sender, secure: tuple[HostileServer, HttpOptions, bytes], scheme: str
) -> None:
    sender.server, http, certificate = secure
    keeper = Doorkeeper(scheme, bindings=bindings_of(certificate))
    sender.server.on()(keeper)
    sender.run(http=http, credentials=[INGA])
    assert sender.arrived
    keeper.bindings = bindings_of(b"another")
    keeper._proved.clear()
    with pytest.raises(AuthenticationRequired):
        sender.run(http=http, credentials=[INGA])
