"""Negotiate with a real KDC: a ticket for the server's name, and a server that proves its own."""

import base64
import contextlib
import random
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from bitsferry.client.agent import NotTrusted
from bitsferry.client.credentials import Credential, Scheme, Target
from bitsferry.client.options import HttpOptions
from bitsferry.client.proxies import ProxySettings
from bitsferry.protocol import wire
from bitsferry.protocol.errors import AuthenticationRequired
from bitsferry.protocol.packets import Ack, CreateSession

from .conftest import MIB, Sender, password
from .hostile import Exchange, HostileServer, Proxy

pytest.importorskip("spnego", reason="pyspnego is not installed")
pytest.importorskip("krb5", reason="the packages of bitsferry[kerberos] are not installed")
pytest.importorskip("k5test", reason="k5test, or gssapi, is not installed")

import k5test

from .doorkeeper import Doorkeeper

KDC = shutil.which("krb5kdc", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
pytestmark = pytest.mark.skipif(KDC is None, reason="krb5kdc is not installed")
TICKET = password("", "", Scheme.NEGOTIATE)


@pytest.fixture(scope="module")
def kdc() -> Iterator[Any]:
    """A realm with inga, and the service HTTP on localhost."""
    realm = k5test.K5Realm(
        start_kadmind=False,
        get_creds=False,
        create_host=False,
        portbase=random.randrange(10_000, 30_000, 10),
        krb5_conf={"libdefaults": {"dns_canonicalize_hostname": "false"}},  # 127.0.0.1 is not localhost
    )
    try:
        realm.addprinc("inga@KRBTEST.COM", "Circle-of-Life")
        realm.addprinc("HTTP/localhost@KRBTEST.COM")
        realm.extract_keytab("HTTP/localhost@KRBTEST.COM", realm.keytab)
        yield realm
    finally:
        realm.stop()


@pytest.fixture(autouse=True)
def realm(kdc: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same without any tickets."""
    for name, value in kdc.env.items():
        if name.startswith("KRB5"):
            monkeypatch.setenv(name, value)
    monkeypatch.delenv("NTLM_USER_FILE", raising=False)
    subprocess.run(["kdestroy", "-q"], check=False, capture_output=True)
    return kdc


@pytest.fixture
def keeper(server: HostileServer) -> Doorkeeper:
    keeper = Doorkeeper("Negotiate")
    server.on()(keeper)
    return keeper


def url(server: HostileServer) -> str:
    """By the name there is a ticket for."""
    return f"http://localhost:{server.port}/in/file.bin"


def test_a_ticket_is_said_in_one_leg_and_once_on_a_connection(
    sender: Sender, server: HostileServer, keeper: Doorkeeper, realm: Any
) -> None:
    realm.kinit("inga@KRBTEST.COM", "Circle-of-Life")
    sender.run(url=url(server), credentials=[TICKET])
    assert sender.arrived
    assert keeper.legs == [1]
    assert keeper.users == ["inga@KRBTEST.COM"]
    assert keeper.in_vain == 0
    assert sum(said is not None for said in keeper.said) == 1


@pytest.mark.parametrize("user", ["inga", "inga@KRBTEST.COM"])
@pytest.mark.parametrize("scheme", [Scheme.NEGOTIATE, None])
def test_a_password_gets_a_ticket(
    sender: Sender, server: HostileServer, keeper: Doorkeeper, user: str, scheme: Scheme | None
) -> None:
    sender.run(url=url(server), credentials=[password(user, "Circle-of-Life", scheme)])
    assert sender.arrived
    assert keeper.users == ["inga@KRBTEST.COM"]


def test_a_server_that_wants_a_ticket_with_every_request_gets_it(
    sender: Sender, server: HostileServer, keeper: Doorkeeper, realm: Any
) -> None:
    keeper.each_time = True
    realm.kinit("inga@KRBTEST.COM", "Circle-of-Life")
    sender.run(url=url(server), credentials=[TICKET])
    assert sender.arrived
    assert keeper.in_vain <= MIB, "until it is known"
    assert len(server.fragments()) <= 8


def test_without_a_ticket_the_reason_is_told(
    sender: Sender, server: HostileServer, keeper: Doorkeeper
) -> None:
    with pytest.raises(
        AuthenticationRequired, match="has no log-on, or ticket, for Negotiate: No Kerberos cred"
    ):
        sender.run(url=url(server), credentials=[TICKET])
    assert keeper.said == [None]


def test_a_server_nobody_issues_tickets_for_is_named(
    sender: Sender, server: HostileServer, keeper: Doorkeeper, realm: Any
) -> None:
    realm.kinit("inga@KRBTEST.COM", "Circle-of-Life")
    with pytest.raises(AuthenticationRequired, match=r"HTTP/127\.0\.0\.1@KRBTEST\.COM not found"):
        sender.run(credentials=[TICKET])
    assert keeper.said == [None]


def test_a_server_that_cannot_prove_its_own_name_is_not_trusted(
    sender: Sender, server: HostileServer, keeper: Doorkeeper, realm: Any
) -> None:
    realm.kinit("inga@KRBTEST.COM", "Circle-of-Life")

    @server.on()
    def pose(exchange: Exchange) -> None:
        if "authorization" not in exchange.headers:
            exchange.say_plainly(401, [("WWW-Authenticate", "Negotiate"), ("Content-Length", "0")])
            return
        said = base64.b64decode("oYG3MIG0oAMKAQChCwYJKoZIhvcSAQICooGf") + bytes(159)
        spelt = base64.b64encode(said).decode()
        exchange.say_plainly(
            200, [*wire.write_ack(exchange.process()), ("WWW-Authenticate", f"Negotiate {spelt}")]
        )

    server._plans.reverse()
    with pytest.raises(NotTrusted, match="makes no sense, or is not true"):
        sender.run(url=url(server), credentials=[TICKET])
    assert server.fragments() == []


def test_a_host_id_gets_a_ticket_of_its_own_name(
    sender: Sender, server: HostileServer, keeper: Doorkeeper, realm: Any
) -> None:
    realm.kinit("inga@KRBTEST.COM", "Circle-of-Life")

    @server.on(CreateSession)
    def move(exchange: Exchange) -> None:
        ack = exchange.process()
        ack = Ack(session_id=ack.session_id, protocol=ack.protocol, host_id="localhost")
        exchange.say(ack)

    server._plans.reverse()
    sender.run(credentials=[TICKET])  # by an address, for which there is no ticket
    assert sender.arrived
    assert keeper.users == ["inga@KRBTEST.COM"]


def test_a_proxy_gets_a_ticket_of_its_own_name(sender: Sender, server: HostileServer, realm: Any) -> None:
    keeper = Doorkeeper("Negotiate")
    realm.kinit("inga@KRBTEST.COM", "Circle-of-Life")
    with contextlib.closing(Proxy(asks=keeper.ask)) as proxy:
        where = proxy.address.replace("127.0.0.1", "localhost")
        for tunnel in (False, True):
            http = HttpOptions(proxy=ProxySettings.override(where, tunnel=tunnel))
            sender.run(http=http, credentials=[Credential(Target.PROXY, Scheme.NEGOTIATE, "", "")])
        assert proxy.in_vain == 0
    assert sender.arrived
    assert {*keeper.users} == {"inga@KRBTEST.COM"}
    assert not any("authorization" in name for heard in server.heard for name in heard.headers)
