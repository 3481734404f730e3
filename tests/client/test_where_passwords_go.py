"""Who may hear of passwords, tickets, tokens and certificates of ours, and who may not."""

import base64
import contextlib
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from bitsferry.client.agent import NotTrusted, UserAgent
from bitsferry.client.credentials import Credential, Scheme, Target
from bitsferry.client.destination import Destination
from bitsferry.client.options import HttpOptions
from bitsferry.client.trust import TlsSettings
from bitsferry.protocol.packets import Ack, CreateSession, Fragment

from .conftest import Sender, password
from .hostile import Exchange, Get, HostileServer

INGA = "Basic " + base64.b64encode(b"inga:pw").decode()


def name_a_host(exchange: Exchange, host: str) -> None:
    ack = exchange.process()
    exchange.say(Ack(session_id=ack.session_id, protocol=ack.protocol, host_id=host))


def authorizations(server: HostileServer, host: str) -> set[str | None]:
    """What was said to this host."""
    return {
        heard.headers.get("authorization") for heard in server.heard if heard.headers["host"].startswith(host)
    }


# A host the server names


def test_the_host_a_server_names_gets_the_password_when_it_asks(
    sender: Sender, server: HostileServer
) -> None:
    @server.on(CreateSession)
    def move(exchange: Exchange) -> None:
        name_a_host(exchange, "localhost")

    @server.on()
    def ask(exchange: Exchange) -> None:
        if exchange.headers.get("authorization") == INGA:
            exchange.say(exchange.process())
        else:
            exchange.read_body()
            exchange.say(Ack(401, challenges=("Basic",)))

    sender.run(credentials=[password("inga", "pw")])
    assert sender.arrived
    assert authorizations(server, "127.0.0.1") == {None}, "it did not ask"
    assert authorizations(server, "localhost") == {None, INGA}


def test_the_host_a_server_names_has_to_prove_its_own_name(sender: Sender, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with contextlib.closing(HostileServer(tls=context, scheme="https")) as server:

        @server.on(CreateSession)
        def move(exchange: Exchange) -> None:
            name_a_host(exchange, "localhost")

        sender.server = server
        http = HttpOptions(tls=TlsSettings(ca_file=str(tmp_path / "ca.pem")))
        with pytest.raises(NotTrusted, match="certificate of localhost is not trusted"):
            sender.run(http=http, credentials=[password("", "tok.en", Scheme.BEARER)])
        assert authorizations(server, "localhost") == set()


# Certificates


@pytest.fixture
def curious(tmp_path: Path) -> Iterator[tuple[HostileServer, TlsSettings]]:
    """A server that would like to see a certificate, and how to trust it with one of ours."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    ours = tmp_path / "ours.pem"
    authority.issue_cert("inga@example.com").private_key_and_cert_chain_pem.write_to_path(str(ours))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    with contextlib.closing(HostileServer(tls=context, scheme="https")) as server:
        yield server, TlsSettings(ca_file=str(tmp_path / "ca.pem"), client_certificate=str(ours))


def test_a_certificate_of_ours_is_shown_to_the_server_and_to_no_stranger(
    curious: tuple[HostileServer, TlsSettings],
) -> None:
    server, tls = curious
    shown: list[bool] = []

    @server.on(Get)
    def look(exchange: Exchange) -> None:
        assert isinstance(exchange.line, ssl.SSLSocket)
        shown.append(bool(exchange.line.getpeercert()))
        exchange.say_plainly(404, [("Content-Length", "0")])

    where = Destination.parse(server.url())
    with contextlib.closing(UserAgent(HttpOptions(tls=tls))) as agent:
        for ours in (True, False, True):
            agent.request("GET", where, [], ours=ours).discard()
    assert shown == [True, False, True]
    assert server.connections == 3, "what one was shown must not serve the other"


# NTLM to strangers


@pytest.mark.parametrize("scheme", [Scheme.NTLM, Scheme.NEGOTIATE, Scheme.BEARER, Scheme.BASIC])
def test_a_stranger_that_asks_gets_no_answer(server: HostileServer, scheme: Scheme) -> None:
    @server.on(Get)
    def ask(exchange: Exchange) -> None:
        exchange.say_plainly(
            401,
            [("WWW-Authenticate", each) for each in ("Negotiate", "NTLM", "Bearer", "Basic")]
            + [("Content-Length", "0")],
        )

    who = Credential(Target.SERVER, scheme, "" if scheme is Scheme.BEARER else "inga", "pw")
    with contextlib.closing(UserAgent(credentials=[who])) as agent:
        answer = agent.request("GET", Destination.parse(server.url()), [], ours=False)
        answer.discard()
    assert answer.status == 401
    assert authorizations(server, "127.0.0.1") == {None}


# Everybody on this machine


@pytest.mark.skipif(sys.platform != "linux", reason="the title is blotted out on Linux only")
def test_nothing_of_a_handshake_is_seen_by_others(
    sender: Sender, server: HostileServer, tmp_path: Path
) -> None:
    pytest.importorskip("spnego", reason="pyspnego is not installed")
    from .doorkeeper import Doorkeeper

    keeper = Doorkeeper()
    seen: list[bytes] = []

    @server.on(Fragment)
    def look(exchange: Exchange) -> None:
        seen.append(Path(f"/proc/{process.pid}/cmdline").read_bytes())
        keeper(exchange)

    server.on()(keeper)
    (tmp_path / "users").write_text("SALES:inga:horse-battery\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NTLM_USER_FILE", str(tmp_path / "users"))
        command = [*("--json", "--auth", "ntlm", "--user", "SALES\\inga:horse-battery")]
        process = subprocess.Popen(
            [sys.executable, "-m", "bitsferry", "send", *command, str(sender.path), server.url()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"XDG_STATE_HOME": str(tmp_path / "state"), "NTLM_USER_FILE": os.devnull},
        )
        said, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert [json.loads(line)["event"] for line in said.splitlines()][-1] == "done"
    tokens = [each.split()[1] for each in keeper.said if each]
    assert keeper.users == ["SALES\\inga"]
    assert seen
    assert not any(secret in said + errors for secret in ("horse-battery", *tokens))
    assert not any(b"horse-battery" in title for title in seen)
