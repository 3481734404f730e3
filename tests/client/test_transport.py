"""One packet out, one Ack back: also when the answer comes early, the line is old, or nobody answers."""

import contextlib
import os
import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from bitsferry.client.agent import NotTrusted, UserAgent
from bitsferry.client.destination import Destination
from bitsferry.client.local_file import LocalFile
from bitsferry.client.options import HttpOptions
from bitsferry.client.transport import Transport
from bitsferry.client.trust import TlsSettings
from bitsferry.protocol.errors import (
    AccessDenied,
    FragmentTooLarge,
    HostNotFound,
    InvalidServerResponse,
    TimedOut,
    TransportFailed,
)
from bitsferry.protocol.packets import Ack, CreateSession, Fragment, Ping
from bitsferry.protocol.ranges import ContentRange
from bitsferry.protocol.wire import ack_of_error, write_ack

from .conftest import MIB, Sender
from .hostile import Exchange, HostileServer

LENGTH = 13 * MIB
FRAGMENT = Fragment("{session}", ContentRange(0, LENGTH, LENGTH))


@pytest.fixture
def transport(server: HostileServer) -> Iterator[Transport]:
    with contextlib.closing(Transport(Destination.parse(server.url()))) as transport:
        yield transport


@pytest.fixture
def impatient(server: HostileServer) -> Iterator[Transport]:
    """Does not wait for long."""
    agent = UserAgent(sending=0.1, answering=0.2)
    with contextlib.closing(Transport(Destination.parse(server.url()), agent)) as transport:
        yield transport


@pytest.fixture
def large(tmp_path: Path) -> Iterator[LocalFile]:
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(LENGTH))
    with LocalFile(str(path)) as file:
        yield file


# Early answers


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("error", [FragmentTooLarge, AccessDenied])
def test_an_early_answer_is_heard_while_the_body_goes_out(
    transport: Transport,
    server: HostileServer,
    large: LocalFile,
    error: type[FragmentTooLarge | AccessDenied],
    reset: bool,
) -> None:
    @server.on(Fragment)
    def refuse_unread(exchange: Exchange) -> None:
        exchange.say(ack_of_error(error()))
        exchange.hang_up(reset=reset)

    assert transport.send(FRAGMENT, large).status == error.status
    assert transport.send(Ping()).status == 200


def test_an_early_answer_is_heard_when_the_server_just_stops_reading(
    impatient: Transport, server: HostileServer, large: LocalFile
) -> None:
    @server.on(Fragment)
    def refuse_and_wait(exchange: Exchange) -> None:
        exchange.say(ack_of_error(AccessDenied()))
        exchange.stay_silent()

    assert impatient.send(FRAGMENT, large).status == 403


def test_a_continue_nobody_asked_for_is_no_answer(
    transport: Transport, server: HostileServer, large: LocalFile
) -> None:
    """Old IIS says it."""

    @server.on(Fragment)
    def say_continue_first(exchange: Exchange) -> None:
        exchange.say_plainly(100)
        assert len(exchange.read_body()) == LENGTH
        exchange.say(Ack(received=LENGTH))

    assert transport.send(FRAGMENT, large).received == LENGTH


# Connections


def test_a_connection_is_kept(transport: Transport, server: HostileServer) -> None:
    for _ in range(3):
        transport.send(Ping())
    assert server.connections == 1


def test_a_connection_that_was_closed_while_idle_is_opened_again(
    transport: Transport, server: HostileServer
) -> None:
    @server.on(Ping, first=1)
    def answer_and_close(exchange: Exchange) -> None:
        exchange.say(Ack())
        exchange.hang_up()

    assert transport.send(Ping()).status == 200
    assert transport.send(Ping()).status == 200
    assert server.connections == 2


def test_a_connection_that_is_closed_the_moment_we_speak_is_opened_again(
    transport: Transport, server: HostileServer
) -> None:
    @server.on(Ping, every=2)
    def close_unanswered(exchange: Exchange) -> None:
        if server.connections == 1:
            exchange.hang_up()
        exchange.say(Ack())

    assert transport.send(Ping()).status == 200
    assert transport.send(Ping()).status == 200
    assert server.connections == 2


def test_a_fresh_connection_that_breaks_is_an_error(transport: Transport, server: HostileServer) -> None:
    @server.on(Ping)
    def close_unanswered(exchange: Exchange) -> None:
        exchange.hang_up()

    with pytest.raises(TransportFailed, match=r"127\.0\.0\.1 broke"):
        transport.send(Ping())
    assert server.connections == 1


def test_an_error_page_is_read_away(transport: Transport, server: HostileServer) -> None:
    @server.on(Ping, first=1)
    def be_a_proxy(exchange: Exchange) -> None:
        exchange.say_plainly(502, [("Content-Length", "2000")], b"x" * 2000)

    assert transport.send(Ping()).status == 502
    assert transport.send(Ping()).status == 200
    assert server.connections == 1


def test_a_long_error_page_is_not_waited_for(transport: Transport, server: HostileServer) -> None:
    @server.on(Ping, first=1)
    def be_a_proxy(exchange: Exchange) -> None:
        exchange.say_plainly(502, [("Content-Length", "1000000000")], b"x" * 100_000)

    assert transport.send(Ping()).status == 502
    assert transport.send(Ping()).status == 200
    assert server.connections == 2


# What is said


def test_cookies_go_back_to_their_server_as_long_as_we_talk(
    transport: Transport, server: HostileServer
) -> None:
    @server.on(Ping, first=1)
    def set_cookies(exchange: Exchange) -> None:
        exchange.say_plainly(
            200, [*write_ack(Ack()), ("Set-Cookie", "node=7; Path=/; HttpOnly"), ("Set-Cookie", "a=b=c")]
        )

    transport.send(Ping())
    transport.send(Ping())
    transport.send(Ping(), host="localhost")
    assert [heard.headers.get("cookie") for heard in server.heard] == [None, "node=7; a=b=c", None]


def test_the_verb_can_hide_behind_post(sender: Sender, server: HostileServer) -> None:
    sender.run(http=HttpOptions(override_method=True))
    assert sender.arrived
    assert {heard.method for heard in server.heard} == {"POST"}
    assert {heard.headers["x-http-method-override"] for heard in server.heard} == {"BITS_POST"}


def test_a_given_header_goes_with_every_packet_and_before_ours(server: HostileServer) -> None:
    options = HttpOptions(headers=(("X-Ticket", "4711"), ("user-agent", "Microsoft BITS/7.8")))
    transport = Transport(Destination.parse(server.url()), UserAgent(options))
    transport.send(CreateSession())
    transport.send(Ping())
    transport.close()
    for heard in server.heard:
        assert heard.method == "BITS_POST"
        assert heard.headers["x-ticket"] == "4711"
        assert heard.headers["user-agent"] == "Microsoft BITS/7.8"
        assert heard.headers["accept"] == "*/*"


# Silence and nonsense


def test_a_silent_server_is_not_waited_for_for_ever(impatient: Transport, server: HostileServer) -> None:
    @server.on(Ping)
    def say_nothing(exchange: Exchange) -> None:
        exchange.stay_silent()

    with pytest.raises(TimedOut, match="silent: no whole answer came within"):
        impatient.send(Ping())


def test_a_dripping_answer_is_not_waited_for_for_ever(impatient: Transport, server: HostileServer) -> None:
    @server.on(Ping)
    def drip(exchange: Exchange) -> None:
        for _ in range(200):
            exchange.say_raw(b"H")
            if exchange.stay_silent(0.01):
                break

    with pytest.raises(TimedOut, match="no whole answer"):
        impatient.send(Ping())


def test_a_server_that_takes_no_byte_is_not_waited_for_for_ever(
    impatient: Transport, server: HostileServer, large: LocalFile
) -> None:
    @server.on(Fragment)
    def read_nothing(exchange: Exchange) -> None:
        exchange.stay_silent()

    with pytest.raises(TimedOut, match="took no byte"):
        impatient.send(FRAGMENT, large)


def test_what_is_no_ack_is_no_success(transport: Transport, server: HostileServer) -> None:
    @server.on(Ping)
    def be_a_web_page(exchange: Exchange) -> None:
        exchange.say_plainly(200, [("Content-Length", "5")], b"hello")

    with pytest.raises(InvalidServerResponse, match="no BITS Ack"):
        transport.send(Ping())


def test_what_is_no_http_is_no_answer(transport: Transport, server: HostileServer) -> None:
    @server.on(Ping)
    def be_something_else(exchange: Exchange) -> None:
        exchange.say_raw(b"220 mail.example ESMTP\r\n")

    with pytest.raises(InvalidServerResponse, match="no HTTP"):
        transport.send(Ping())


@pytest.mark.parametrize("host", ["nowhere.invalid", "no..where"])
def test_an_unknown_host_is_named(host: str) -> None:
    transport = Transport(Destination.parse(f"http://{host}/in/file.bin"))
    with pytest.raises(HostNotFound, match=f"{re.escape(host)} cannot be found"):
        transport.send(Ping())


# https


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Vouches for our servers."""
    return trustme.CA()


@pytest.fixture
def tls_server(authority: trustme.CA) -> Iterator[HostileServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    server = HostileServer(tls=context, scheme="https")
    yield server
    server.close()


@pytest.fixture
def trusting(authority: trustme.CA, tmp_path: Path) -> HttpOptions:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return HttpOptions(tls=TlsSettings(ca_file=str(tmp_path / "ca.pem")))


@pytest.fixture
def tls_transport(tls_server: HostileServer, trusting: HttpOptions) -> Iterator[Transport]:
    transport = Transport(Destination.parse(tls_server.url()), UserAgent(trusting))
    yield transport
    transport.close()


def test_a_file_arrives_over_https(sender: Sender, tls_server: HostileServer, trusting: HttpOptions) -> None:
    sender.server = tls_server
    sender.run(http=trusting)
    assert sender.arrived
    assert tls_server.connections == 1


def test_an_early_answer_is_heard_over_https(
    tls_server: HostileServer, tls_transport: Transport, large: LocalFile
) -> None:
    @tls_server.on(Fragment)
    def refuse_unread(exchange: Exchange) -> None:
        exchange.say(ack_of_error(AccessDenied()))
        exchange.read_body()

    assert tls_transport.send(FRAGMENT, large).status == 403


def test_a_certificate_nobody_knows_is_refused_for_good(tls_server: HostileServer) -> None:
    transport = Transport(Destination.parse(tls_server.url()))
    with pytest.raises(NotTrusted, match=r"certificate of 127\.0\.0\.1 is not trusted") as caught:
        transport.send(Ping())
    assert not caught.value.transient


def test_https_to_an_http_port_is_said_plainly(server: HostileServer) -> None:
    transport = Transport(Destination.parse(server.url().replace("http", "https")))
    with pytest.raises(NotTrusted, match="does not speak https"):
        transport.send(Ping())


def test_without_sendfile_the_file_arrives_too(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    monkeypatch.delattr(os, "sendfile")
    sender.run()
    assert sender.arrived
