"""Requirements of the specification no other test holds; docs/reference/conformance.md names them."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from bitsferry.client import agent
from bitsferry.client.agent import UserAgent
from bitsferry.client.destination import Destination
from bitsferry.client.transport import Transport
from bitsferry.protocol.errors import BitsError, TimedOut
from bitsferry.protocol.packets import Ack, CreateSession, Fragment, Ping
from bitsferry.protocol.wire import write_ack

from .conftest import Sender
from .hostile import Exchange, HostileServer

PATIENCE = 10.0  # seconds until a test gives up


def answer_one(listener: socket.socket) -> bytes:
    """The head of one request, which is answered with an Ack."""
    line, _ = listener.accept()
    with line:
        line.settimeout(PATIENCE)
        head = b""
        while b"\r\n\r\n" not in head:
            head += line.recv(4096)
        fields = "".join(f"{name}: {value}\r\n" for name, value in write_ack(Ack()))
        line.sendall(f"HTTP/1.1 200 OK\r\n{fields}\r\n".encode())
    return head


def test_a_packet_is_a_bits_post_to_the_url_in_http_1_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:
        listener.settimeout(PATIENCE)
        heard = pool.submit(answer_one, listener)
        port = listener.getsockname()[1]
        transport = Transport(Destination.parse(f"http://127.0.0.1:{port}/in/a%20b.bin?account=1"))
        transport.send(Ping())
        transport.close()
        first, *fields = heard.result().decode().removesuffix("\r\n\r\n").split("\r\n")
    assert first == "BITS_POST /in/a%20b.bin?account=1 HTTP/1.1"
    assert "BITS-Packet-Type: Ping" in fields
    assert f"Host: 127.0.0.1:{port}" in fields


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(sender: Sender, server: HostileServer, status: int) -> None:
    @server.on(CreateSession)
    def send_elsewhere(exchange: Exchange) -> None:
        exchange.say_plainly(status, [("Location", server.url("/elsewhere")), ("Content-Length", "0")])

    with pytest.raises(BitsError) as caught:
        sender.run()
    assert not caught.value.transient
    assert "redirect" in caught.value.message
    assert [heard.target for heard in server.heard] == ["/in/file.bin"]


def test_a_request_may_take_two_minutes_to_send_and_five_to_be_answered() -> None:
    assert (agent.SENDING, agent.ANSWERING) == (120, 300)


def test_after_a_time_out_the_upload_goes_on(sender: Sender, server: HostileServer) -> None:
    @server.on(Fragment, first=1)
    def say_nothing(exchange: Exchange) -> None:
        exchange.process()
        exchange.stay_silent(1)
        exchange.hang_up()

    sender.run(agent=UserAgent(answering=0.5))
    assert sender.arrived
    assert "silent" in sender.retries[0].error.message
    assert sender.retries[0].error.hresult == f"0x{TimedOut().code:08X}"
    assert server.kinds()[:4] == ["CreateSession", "Fragment", "Ping", "Fragment"]
