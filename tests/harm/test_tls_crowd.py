"""Crowds that speak TLS, or begin to: they cost a bounded amount of memory, and hold nobody up."""

from __future__ import annotations

import socket
import ssl
from contextlib import ExitStack, suppress

import pytest
import trustme

from server import raw
from server.conftest import Serve
from server.ferry import Ferry

COUNT = 150
EACH = 96 * 1024  # bytes of memory for a connection that speaks TLS: docs/explanation/security.md
SLACK = 16 << 20

Served = tuple[Ferry, int, ssl.SSLContext]


@pytest.fixture
def served(serve: Serve) -> Served:
    """A server, the port where it speaks TLS, and how to speak to it there."""
    ferry = serve()
    authority, trust = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(trust)
    certificate = authority.issue_cert("localhost").private_key_and_cert_chain_pem
    certificate.write_to_path(str(ferry.folder / "certificate"))
    ferry.kill()
    settings = (ferry.folder / "bitsferry.toml").read_text(encoding="utf-8")
    settings = settings.replace('["127.0.0.1:0"]', '["http://127.0.0.1:0", "https://127.0.0.1:0"]')
    ferry.configure(
        settings.replace("[limits]", '[limits]\nhead_time = "3 s"') + '[tls]\ncertificate = "certificate"\n'
    )
    ferry.start()
    assert ferry.process.stdout is not None
    return ferry, int(ferry.process.stdout.readline().strip().rstrip("/").rpartition(":")[2]), trust


def hello(trust: ssl.SSLContext) -> bytes:
    """What a client begins with."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    line = trust.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        line.do_handshake()
    return outgoing.read()


def test_who_speaks_tls_costs_less_than_100_kib(served: Served) -> None:
    ferry, port, trust = served
    before = ferry.memory
    with ExitStack() as stack:
        for _ in range(COUNT):
            plain = socket.create_connection(("127.0.0.1", port))
            line = stack.enter_context(trust.wrap_socket(plain, server_hostname="localhost"))
            line.sendall(raw.ping("/in/a"))
            assert line.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert ferry.memory - before < COUNT * EACH + SLACK


def test_who_never_ends_a_handshake_costs_no_more_and_is_let_go(served: Served) -> None:
    ferry, port, trust = served
    before, said = ferry.memory, hello(trust)
    with ExitStack() as stack:
        lines = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(COUNT)]
        for line in lines:
            line.sendall(said)
        assert all(line.recv(1) for line in lines)
        assert ferry.memory - before < COUNT * EACH + SLACK
        upload = ferry.begun()
        assert upload.send(bytes(4 << 20), 1 << 20).received == 4 << 20
        for line in lines:
            line.settimeout(raw.PATIENCE)
            while line.recv(4096):
                pass
