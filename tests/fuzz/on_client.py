"""What comes back from a server nobody knows: challenges, answers, files, URLs."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from bitsferry.client.agent import UserAgent
from bitsferry.client.challenges import read_challenges
from bitsferry.client.credentials import Credential
from bitsferry.client.credentials import Target as For
from bitsferry.client.destination import Destination
from bitsferry.client.digest import Digest, best_digest
from bitsferry.client.download import Download
from bitsferry.client.options import HttpOptions
from bitsferry.client.proxies import ProxySettings, ProxyUsage
from bitsferry.client.stopped import Stopped
from bitsferry.client.transport import Transport
from bitsferry.protocol.errors import BitsError
from bitsferry.protocol.packets import CreateSession, Ping

from .target import Feed, Target, target

__all__ = ["TARGETS"]

URL = Destination.parse("http://host/in/a")
DIGEST = b'Digest realm="r", nonce="n", qop="auth", algorithm=SHA-256, opaque="o", stale=true, userhash=true'
NO_PROXY = HttpOptions(proxy=ProxySettings(ProxyUsage.NO_PROXY))


@target(
    "challenges",
    DIGEST,
    b'Basic realm="a, b=\\"c\\""',
    b"NTLM TlRMTVNTUAACAAAA, Negotiate",
    b'Digest realm="r", nonce=abc==, algorithm=MD5-sess, qop="auth,auth-int", Basic realm=r',
    words=(
        b"qop=",
        b"realm=",
        b"nonce=",
        b"algorithm=",
        b"MD5",
        b"SHA-512-256",
        b", ",
        b'\\"',
        b"charset=UTF-8",
    ),
    examples=400,
)
def challenges(data: bytes) -> None:
    read = read_challenges(data.decode("latin-1").split("\n"))
    chosen = best_digest(read)
    if chosen is not None:
        digest = Digest(chosen, "anna", "secret", cnonce=lambda: "c")
        for _ in range(2):
            said = digest.authorization("BITS_POST", "/in/a")
            assert "secret" not in said
            assert not set(said) & set("\r\n\0")
            digest.goes_on(read)


class Deaf(UserAgent):
    """Every line it opens says the same, whatever is asked."""

    DIALS = 12

    def __init__(self, said: bytes) -> None:
        super().__init__(
            NO_PROXY, [Credential(For.SERVER, None, "anna", "secret")], sending=2.0, answering=2.0
        )
        self.said = said
        self.dials = 0

    def _dial(self, host: str, port: int) -> socket.socket:
        self.dials += 1
        assert self.dials <= self.DIALS, "it never gives up"
        here, there = socket.socketpair()
        there.setblocking(False)
        with suppress(BlockingIOError):
            there.send(self.said)
        there.shutdown(socket.SHUT_WR)
        self._others = [*getattr(self, "_others", []), there]
        return here

    def hang_up(self) -> None:
        self.close()
        for other in getattr(self, "_others", []):
            other.close()


def answer(status: bytes, *lines: bytes, body: bytes = b"") -> bytes:
    return (
        b"\r\n".join([b"HTTP/1.1 " + status, *lines, b"Content-Length: %d" % len(body)]) + b"\r\n\r\n" + body
    )


ACK = answer(b"200 OK", b"BITS-Packet-Type: Ack", b"BITS-Session-Id: {1}", b"Server: bitsferry")
ANSWER_WORDS = (
    *(ACK, b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.0 200\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"Set-Cookie: a=b; c\r\n", b"\r\n d", b"Location: https://other/x\r\n", b"Connection: close\r\n"),
    *(
        b"Content-Length: 5\r\n",
        b"Content-Range: bytes 0-4/5\r\n",
        b"\r\nffffffffffffffff\r\n",
        b"Content-Encoding: gzip\r\n",
    ),
)


@target(
    "answers",
    ACK + ACK,
    answer(b"401 No", b"WWW-Authenticate: " + DIGEST, body=b"who?") + ACK + ACK,
    answer(b"401 No", b'WWW-Authenticate: Basic realm="r"', b"WWW-Authenticate: Negotiate") + ACK,
    answer(b"200 OK", b"Set-Cookie: lb=1; Path=/", b"BITS-Packet-Type: Ack") + ACK,
    b"HTTP/1.1 200 OK\r\nBITS-Packet-Type: Ack\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    + ACK,
    answer(b"503 Busy", b"Retry-After: 5", body=b"<html>") + ACK,
    words=ANSWER_WORDS,
    examples=400,
)
def answers(data: bytes) -> None:
    agent = Deaf(data)
    try:
        transport = Transport(URL, agent)
        for packet in (CreateSession(), Ping(), Ping()):
            with suppress(BitsError):
                transport.send(packet)
    finally:
        agent.hang_up()


FILE = (b"Last-Modified: Mon, 18 Jun 2007 21:12:01 GMT", b'ETag: "1"')


@contextmanager
def folder() -> Iterator[Feed]:
    with TemporaryDirectory(prefix="bitsferry-test-") as name:

        def feed(data: bytes) -> None:
            agent = Deaf(data)
            path = Path(name, "file")
            download = Download(
                agent,
                URL,
                str(path),
                stop=lambda: agent.dials > 5,
                sleep=lambda seconds: None,
            )
            try:
                download.run()
                download.place()
            except (BitsError, Stopped):
                pass
            finally:
                agent.hang_up()
            assert {each.name for each in Path(name).iterdir()} <= {
                "file",
                *(each.name for each in path.parent.glob("file?*")),
            }
            for each in Path(name).iterdir():
                assert each.stat().st_size <= len(data), "more than was sent"
                each.unlink()

        yield feed


downloads = Target(
    "downloads",
    (
        answer(b"200 OK", *FILE, body=b"hello") + answer(b"200 OK", *FILE, body=b"hello"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
        + answer(b"206 Part", *FILE, b"Content-Range: bytes 0-4/5", body=b"hello"),
        answer(b"302 Found", b"Location: /b") + answer(b"200 OK", *FILE, body=b"hello"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        answer(b"404 No") + answer(b"416 No", b"Content-Range: bytes */5"),
    ),
    folder,
    words=ANSWER_WORDS,
)


@target(
    "urls",
    b"http://host/reply",
    b"../reply?x=1",
    b"\\reply\\a",
    b"//other:81/x",
    b"https://[::1]/",
    words=(b"@", b":", b"[", b"]", b"#", b"\\", b"//", b":99999"),
)
def urls(data: bytes) -> None:
    try:
        where = URL.relative(data.decode("latin-1"))
    except ValueError:
        return
    assert where.scheme in ("http", "https")
    assert where.host
    assert where.target.startswith("/")
    assert where.target.isascii()
    assert not set(where.target + where.authority) & set(" \r\n\0")


TARGETS = (challenges, answers, downloads, urls)
