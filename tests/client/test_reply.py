"""The server's application answers an upload, and its reply is fetched before the session is closed."""

import contextlib
import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from bitsferry.client import events
from bitsferry.client.options import HttpOptions
from bitsferry.client.trust import TlsSettings
from bitsferry.protocol.errors import BitsError, InvalidServerResponse, Refused
from bitsferry.protocol.packets import Ack, CloseSession, CreateSession, Fragment, Ping
from bitsferry.protocol.wire import write_ack

from .conftest import Sender, content, password
from .hostile import Exchange, Get, HostileServer

GUID = "C85B4E0A-9EB9-4114-BFA4-8A43B4710091"
REPLY = content(10240)


def reply_at(server: HostileServer, url: str) -> None:
    """Let the last fragment's Ack say where the reply is."""

    @server.on(Fragment)
    def take(exchange: Exchange) -> None:
        ack = exchange.process()
        assert isinstance(exchange.packet, Fragment)
        is_last = ack.received == exchange.packet.range.total
        exchange.say(Ack(received=ack.received, reply_url=url if is_last else None))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "reply.bin"


def test_the_reply_is_here_before_the_session_is_closed(
    sender: Sender, server: HostileServer, path: Path
) -> None:
    server.replies["/replies/1"] = REPLY
    reply_at(server, "/replies/1")

    @server.on(CloseSession)
    def look(exchange: Exchange) -> None:
        assert path.read_bytes() == REPLY
        exchange.say(exchange.process())

    sender.run(reply=path)
    assert path.read_bytes() == REPLY
    assert server.kinds()[-2:] == ["Get", "CloseSession"]
    told = [event for event in sender.told if not isinstance(event, events.Progress | events.Receiving)]
    size = sender.path.stat().st_size
    assert told[-3:-1] == [events.Replied(str(path), len(REPLY)), events.Whole(size)]
    assert events.Receiving(server.url("/replies/1"), len(REPLY), len(REPLY)) in sender.told


def test_iis_6_answers_as_it_did_in_2007(sender: Sender, server: HostileServer, path: Path) -> None:
    """Another host, headers that are missing or odd, backslashes and braces, a reply in pieces."""
    where = f"/in/BITS-Sessions/Replies/%7B{GUID}%7D/responsefile.bin"
    server.replies[where] = REPLY
    always = [
        ("Date", "Mon, 18 Jun 2007 21:11:57 GMT"),
        ("Server", "Microsoft-IIS/6.0"),
        ("Pragma", "no-cache"),
        ("BITS-Packet-Type", "Ack"),
        ("Content-Length", "0"),
    ]

    @server.on(CreateSession)
    def create(exchange: Exchange) -> None:
        server.sessions[f"{{{GUID}}}"] = bytearray()
        chosen = [
            ("BITS-Protocol", "{7df0354d-249b-430f-820d-3d2a9bef4931}"),
            ("BITS-Session-Id", f"{{{GUID}}}"),
            ("BITS-Host-Id", "localhost"),
            ("BITS-Host-Id-Fallback-Timeout", "110"),
            ("Accept-encoding", "identity"),
        ]
        exchange.say_plainly(200, [*always, *chosen])

    @server.on(Fragment)
    def take(exchange: Exchange) -> None:
        received = exchange.process().received
        headers = [*always, ("BITS-Received-Content-Range", str(received))]
        if received == sender.path.stat().st_size:
            reply_url = rf"BITS-Sessions\Replies\{{{GUID}}}\responsefile.bin"
            headers.append(("BITS-Reply-URL", reply_url))
        exchange.say_plainly(200, headers)

    @server.on(Ping | CloseSession)
    def acknowledge(exchange: Exchange) -> None:
        exchange.process()
        exchange.say_plainly(200, always)

    @server.on(Get, first=4)
    def give_little(exchange: Exchange) -> None:
        if exchange.method == "GET":
            exchange.give(most=3000)
            exchange.hang_up()
        exchange.give()

    sender.run(reply=path)
    assert sender.arrived
    assert path.read_bytes() == REPLY
    assert server.heard[0].headers["host"] == f"127.0.0.1:{server.port}"
    assert {heard.headers["host"] for heard in server.heard[1:]} == {f"localhost:{server.port}"}
    asked = [heard for heard in server.heard if isinstance(heard.packet, Get)]
    assert {heard.target for heard in asked} == {where}
    ranges = [heard.headers.get("range") for heard in asked if heard.method == "GET"]
    assert ranges == [None, "bytes=3000-", "bytes=6000-", "bytes=9000-"]
    assert asked[0].headers["accept-encoding"] == "identity"


def test_a_reply_in_smaller_parts_than_asked_for_is_put_together(
    sender: Sender, server: HostileServer, path: Path
) -> None:
    server.replies["/replies/1"] = REPLY
    reply_at(server, "/replies/1")

    @server.on(Get)
    def give_little(exchange: Exchange) -> None:
        if exchange.method == "GET" and "range" not in exchange.headers:
            exchange.give(most=1)
            exchange.hang_up()
        if exchange.method == "GET":
            start = int(exchange.headers["range"].removeprefix("bytes=").removesuffix("-"))
            exchange.headers["range"] = f"bytes={start}-{start + 2999}"
        exchange.give()

    sender.run(reply=path)
    assert path.read_bytes() == REPLY


def test_an_interrupted_reply_goes_on_where_it_was(sender: Sender, server: HostileServer, path: Path) -> None:
    server.replies["/replies/1"] = REPLY
    reply_at(server, "/replies/1")

    @server.on(Get, first=2)
    def stall(exchange: Exchange) -> None:
        exchange.give(most=4000)
        if exchange.method == "GET":
            exchange.hang_up()

    def stop(event: events.Event) -> None:
        if isinstance(event, events.Receiving):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sender.run(reply=path, tell=stop)
    assert not path.exists()
    before = len(server.heard)
    sender.run(reply=path)
    assert path.read_bytes() == REPLY
    assert [heard.headers.get("range") for heard in server.heard[before:]] == [None, "bytes=4000-", None]
    assert server.kinds()[before:] == ["Ping", "Get", "CloseSession"]


def test_once_the_close_was_said_no_reply_is_asked_for_again(
    sender: Sender, server: HostileServer, path: Path
) -> None:
    """The server may have released it."""
    server.replies["/replies/1"] = REPLY
    reply_at(server, "/replies/1")

    @server.on(CloseSession, first=1)
    def release_and_hang_up(exchange: Exchange) -> None:
        exchange.process()
        server.replies.clear()
        exchange.hang_up()

    sender.run(reply=path)
    assert path.read_bytes() == REPLY


def test_no_reply_is_an_empty_one(sender: Sender, server: HostileServer, path: Path) -> None:
    path.write_bytes(b"of yesterday")
    sender.run(reply=path)
    assert path.read_bytes() == b""
    assert events.Replied(str(path), 0) in sender.told


def test_an_empty_file_may_have_a_reply_to(sender: Sender, server: HostileServer, path: Path) -> None:
    """There is no fragment whose Ack could name one, so it is an empty one."""
    sender.path.write_bytes(b"")
    sender.run(reply=path)
    assert sender.arrived
    assert path.read_bytes() == b""


def test_an_unwanted_reply_is_not_fetched(sender: Sender, server: HostileServer) -> None:
    reply_at(server, "/replies/1")
    sender.run()
    assert "Get" not in server.kinds()
    assert server.kinds()[-1] == "CloseSession"


def test_a_reply_that_does_not_come_is_an_error_and_the_session_stays_open(
    sender: Sender, server: HostileServer, path: Path
) -> None:
    reply_at(server, "/replies/1")
    with pytest.raises(Refused, match="has no file") as caught:
        sender.run(reply=path)
    assert not caught.value.transient
    assert server.sessions
    server.replies["/replies/1"] = REPLY
    sender.run(reply=path)
    assert path.read_bytes() == REPLY
    assert server.kinds().count("CreateSession") == 1


def test_a_busy_server_is_pinged_between_two_tries_for_the_reply(
    sender: Sender, server: HostileServer, path: Path
) -> None:
    server.replies["/replies/1"] = REPLY
    reply_at(server, "/replies/1")

    @server.on(Get, first=2)
    def be_busy(exchange: Exchange) -> None:
        exchange.say_plainly(503, [("Content-Length", "0"), ("Retry-After", "7")])

    sender.run(reply=path)
    assert path.read_bytes() == REPLY
    assert [7 <= slept <= 8 for slept in sender.clock.slept] == [True, True]
    assert server.kinds()[-6:] == ["Get", "Ping", "Get", "Ping", "Get", "Get", "CloseSession"][-6:]


@pytest.mark.parametrize("url", ["ftp://host/reply", "http://[::1/reply", "a" * 2300])
def test_a_reply_url_that_is_none_is_said_to_be_none(
    sender: Sender, server: HostileServer, path: Path, url: str
) -> None:
    reply_at(server, url)
    with pytest.raises(InvalidServerResponse, match="reply URL cannot be used"):
        sender.run(reply=path, patience=0)


@pytest.fixture
def other() -> Iterator[HostileServer]:
    """Somebody else's server."""
    with contextlib.closing(HostileServer()) as other:
        other.replies["/reply"] = REPLY
        yield other


def test_another_server_gets_no_password_no_header_and_no_cookie(
    sender: Sender, server: HostileServer, other: HostileServer, path: Path
) -> None:
    reply_at(server, other.url("/reply"))

    @server.on(CreateSession)
    def ask(exchange: Exchange) -> None:
        if "authorization" not in exchange.headers:
            exchange.say_plainly(401, write_ack(Ack(401, challenges=("Basic",))))
            return
        exchange.say_plainly(200, [*write_ack(exchange.process()), ("Set-Cookie", "node=7")])

    @other.on(Get)
    def ask_too(exchange: Exchange) -> None:
        exchange.say_plainly(401, [("WWW-Authenticate", "Basic"), ("Content-Length", "0")])

    with pytest.raises(BitsError):
        sender.run(
            reply=path,
            credentials=[password("inga", "pw")],
            http=HttpOptions(headers=(("X-Ticket", "4711"),)),
        )
    assert {heard.headers.get("x-ticket") for heard in server.heard} == {"4711"}
    said = [heard.headers for heard in other.heard]
    assert said
    for headers in said:
        assert not headers.keys() & {"authorization", "x-ticket", "cookie"}


def test_a_reply_elsewhere_is_fetched(
    sender: Sender, server: HostileServer, other: HostileServer, path: Path
) -> None:
    reply_at(server, other.url("/reply"))
    sender.run(reply=path)
    assert path.read_bytes() == REPLY


def test_a_reply_is_not_fetched_without_tls_after_an_upload_with_it(
    sender: Sender, other: HostileServer, path: Path, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with contextlib.closing(HostileServer(tls=context, scheme="https")) as secure:
        sender.server = secure
        reply_at(secure, other.url("/reply"))
        with pytest.raises(Refused, match="not safe") as caught:
            sender.run(reply=path, http=HttpOptions(tls=TlsSettings(ca_file=str(tmp_path / "ca.pem"))))
    assert not caught.value.transient
    assert other.heard == []


def test_a_reply_that_changes_while_it_comes_is_not_mixed(
    sender: Sender, server: HostileServer, path: Path
) -> None:
    server.replies["/replies/1"] = REPLY
    reply_at(server, "/replies/1")
    newer = content(9000)

    @server.on(Get, first=2)
    def give_a_part(exchange: Exchange) -> None:
        exchange.give(most=5000)
        if exchange.method == "GET":
            server.replies["/replies/1"] = newer
            exchange.hang_up()

    sender.run(reply=path)
    assert path.read_bytes() == newer


def test_a_reply_whose_rest_cannot_be_had_alone_is_fetched_from_its_beginning(
    sender: Sender, server: HostileServer, path: Path
) -> None:
    """As from an application that knows no ranges."""
    server.replies["/replies/1"] = REPLY
    reply_at(server, "/replies/1")

    @server.on(Get)
    def know_no_ranges(exchange: Exchange) -> None:
        exchange.headers.pop("range", None)
        if [heard.method for heard in server.heard].count("GET") == 1:
            exchange.give(most=5000)
            if exchange.method == "GET":
                exchange.hang_up()
        else:
            exchange.give()

    sender.run(reply=path)
    assert path.read_bytes() == REPLY


def test_a_reply_takes_the_place_of_an_older_one_at_once(
    sender: Sender, server: HostileServer, path: Path
) -> None:
    server.replies["/replies/1"] = REPLY
    reply_at(server, "/replies/1")
    path.write_bytes(b"of yesterday")

    @server.on(Get)
    def look(exchange: Exchange) -> None:
        assert path.read_bytes() == b"of yesterday"
        exchange.give()

    sender.run(reply=path)
    assert path.read_bytes() == REPLY
    assert sorted(os.listdir(path.parent)) == ["file.bin", "reply.bin", "sends"]
