"""What comes in from the network: heads, names, conditions, whole conversations with a server."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bitsferry.access.throttle import Throttle
from bitsferry.cli.guards import read_guard
from bitsferry.protocol import wire
from bitsferry.protocol.errors import BitsError
from bitsferry.server.connections import Limits
from bitsferry.server.directory import Directories, Directory
from bitsferry.server.files import respond_with
from bitsferry.server.head import Head, HeadReader
from bitsferry.server.listeners import Listener
from bitsferry.server.request import Body, Request
from bitsferry.server.running import Server
from bitsferry.server.template import NameTemplate
from bitsferry.store.base import Receiver
from bitsferry.store.local import LocalStore
from server_parts.speaking import Speaker
from store.disks import folder_in_memory

from .on_access import TYPE_1, TYPE_3, b64, write_files
from .on_protocol import HEADER_NAMES, SPEAKS, check_packet, headers_of, is_clean, is_told
from .target import Feed, Target, target

__all__ = ["TARGETS", "World", "request"]

END = b"\r\n\r\n"
FIELDS = {name: getattr(Head(), name) for name in Head.__slots__}


def request(start: bytes, *lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([start, b"Host: h", *lines]) + END + body


def packet(kind: bytes, path: bytes, *lines: bytes, body: bytes = b"") -> bytes:
    said = [b"BITS-Packet-Type: " + kind, b"Content-Length: %d" % len(body), *lines]
    return request(b"BITS_POST " + path + b" HTTP/1.1", *said, body=body)


PING = packet(b"Ping", b"/in/a")
CREATE = packet(b"Create-Session", b"/in/a", b"BITS-Supported-Protocols: " + SPEAKS)
SESSION = b"{@SESSION@}"  # an upload to /in/a that is there
OF_SESSION = b"BITS-Session-Id: " + SESSION
HALF = packet(b"Fragment", b"/in/a", OF_SESSION, b"Content-Range: bytes 0-4/10", body=b"hello")
WHOLE = packet(b"Fragment", b"/in/a", OF_SESSION, b"Content-Range: bytes 0-4/5", body=b"hello")
CLOSE = packet(b"Close-Session", b"/in/a", OF_SESSION)
CANCEL = packet(b"Cancel-Session", b"/in/a", OF_SESSION)
VERBS = (
    b"BITS_POST ",
    b"POST ",
    b"GET ",
    b"HEAD ",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
)


# Heads


def heads_in(pieces: list[bytes]) -> tuple[list[Head], BitsError | None]:
    """What a connection would read of these pieces, and why it would stop."""
    reader, pending, heads = HeadReader(2048), bytearray(), list[Head]()
    for piece in pieces:
        pending += piece
        try:
            while head := reader.take(pending):
                heads.append(head)
                if head.endless or not head.keep_alive:
                    return heads, None
                del pending[: head.length]  # enough for bodies that are here
        except BitsError as error:
            return heads, error
        assert len(pending) < 2048
    return heads, None


def shown(head: Head) -> dict[str, Any]:
    return {name: getattr(head, name) for name in FIELDS}


@target(
    "heads",
    PING,
    CREATE + PING,
    HALF,
    request(b"GET / HTTP/1.0", b"Connection: keep-alive"),
    words=(*HEADER_NAMES, *VERBS),
    examples=400,
)
def heads(data: bytes) -> None:
    cut = zlib.crc32(data) % (len(data) + 1)
    whole, why = heads_in([data[at : at + 2047] for at in range(0, len(data), 2047)])
    for head in whole:
        assert head.method
        assert head.length >= 0
        assert is_clean(list(head.headers.items()))
        assert not set(head.target) & set(" \r\n\0")
        try:
            check_packet(wire.read_packet(head.headers))
        except BitsError as error:
            is_told(error)
    if why is not None:
        is_told(why)
    if len(data) < 2047 and all(head.length == 0 for head in whole):
        parts, why_parts = heads_in([data[:cut], data[cut:]])
        assert list(map(shown, parts)) == list(map(shown, whole)), "a cut in the stream makes a difference"
        assert (why is None) == (why_parts is None)


# Names


@contextmanager
def folders() -> Iterator[Feed]:
    with folder_in_memory() as top:
        inside, outside = top / "in", top / "outside"
        for folder in (inside / "deep" / "er", outside):
            folder.mkdir(parents=True)
        (inside / "link").symlink_to(outside)
        (inside / "up").symlink_to("..")
        (inside / "there").write_bytes(b"")
        before = sorted(path.name for path in top.iterdir())
        directories = Directories(
            [Directory("/", str(inside)), Directory("/deep/", str(inside / "deep"), create_folders=True)]
        )

        def feed(data: bytes) -> None:
            if len(os.listdir(inside)) > 500:
                for each in inside.iterdir():
                    if each.name not in ("deep", "link", "up"):
                        shutil.rmtree(each) if each.is_dir() else each.unlink()
            try:
                place = directories.place(data.decode("latin-1"))
            except BitsError as error:
                is_told(error)
                return
            path = os.path.join(place.directory.folder, *place.parts)
            assert os.path.normpath(path) == path
            assert os.path.commonpath([path, str(inside)]) == str(inside)
            assert all(len(part.encode()) <= 255 and "\0" not in part for part in place.parts)
            assert directories.place_of_path(place.path) == place
            destination = place.destination
            with suppress(BitsError, OSError), destination.folder.parent(place.parts, create=True) as folder:
                os.close(
                    os.open(
                        place.parts[-1], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, dir_fd=folder
                    )
                )
            assert sorted(each.name for each in top.iterdir()) == before
            assert not any(outside.iterdir()), path

        yield feed


names = Target(
    "names",
    (
        *(
            b"/a.zip",
            b"/deep/er/b",
            b"/deep/new/c?x=1",
            b"/caf%C3%A9",
            b"http://host:80/a",
            b"/link/a",
            b"/up/in/a",
        ),
        *(
            b"/deep/../../a",
            b"/%2e%2e/a",
            b"/..%2fa",
            b"/a%00b",
            b"/CON",
            b"/a::$DATA",
            b"/.bitsferry/a",
            b"/deep//a",
        ),
    ),
    folders,
    words=(
        b"../",
        b"%2e%2e%2f",
        b"%5c",
        b"..\\",
        b"/deep/",
        b"/link/",
        b"/up/",
        b"%00",
        b"%c0%ae",
        b"%ef%bc%8f",
        b".bitsferry",
    ),
    examples=500,
)


# Conditions and ranges of what is given out


class NoBody(Body):
    async def into(self, receiver: Receiver, pace: object = None) -> None:
        """Nothing comes."""

    def stop(self) -> None:
        """Nothing runs."""


@contextmanager
def file() -> Iterator[Feed]:
    with tempfile.TemporaryFile() as held:
        held.write(b"0123456789" * 10)
        held.flush()

        def feed(data: bytes) -> None:
            asked = Request("GET", "/a", headers_of(data), NoBody())
            response = respond_with(os.dup(held.fileno()), asked, "text/plain")
            assert response.status in (200, 206, 304, 412, 416)
            assert is_clean(response.headers)
            length = dict(response.headers).get("Content-Length")
            if response.body is None:
                assert length in (None, "0")
                return
            os.close(response.body.descriptor)
            pieces = response.body.pieces
            assert int(length or -1) == sum(map(len, pieces))
            spans = [piece for piece in pieces if isinstance(piece, range)]
            assert all(0 <= span.start < span.stop <= 100 for span in spans)
            assert sum(map(len, spans)) <= 100, "little asking makes much work"

        yield feed


given_out = Target(
    "given-out",
    (
        b"Range: bytes=0-4",
        b"Range: bytes=0-4,10-20,-5\r\nIf-Range: Mon, 18 Jun 2007 21:12:01 GMT",
        b'If-None-Match: "a", W/"b"\r\nIf-Modified-Since: Mon, 18 Jun 2007 21:12:01 GMT',
        b"If-Match: *\r\nIf-Unmodified-Since: Mon, 18 Jun 2007 21:12:01 GMT\r\nRange: bytes=50-",
    ),
    file,
    words=(b"0-0,", b"-1,", b"99-,", b"bytes=", b"9" * 39, b"Mon, 18 Jun 99999 21:12:01 +9999"),
)


# Whole conversations


class Surprises(logging.Handler):
    """Tracebacks the server wrote into its log."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.told.append(logging.Formatter().format(record))


class World:
    """A server in this process, on a real socket; what it does in vain is seen."""

    PATIENCE = 10.0  # seconds until an answer, or the end of a line, counts as missing
    TIDY_EVERY = 500  # inputs, after which the store is emptied

    def __init__(self, folder: Path, directories: Directories, user: str | None = None) -> None:
        self.store = LocalStore(str(folder / "store"), "process")
        self.server = Server(
            self.store, directories, limits=Limits(linger_time=1.0, stall_time=5.0), tidies=False
        )
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda loop, told: self.surprises.told.append(repr(told)))
        self.surprises = Surprises()
        logger = logging.getLogger("bitsferry")
        logger.addHandler(self.surprises)
        self._logger, self._propagate = logger, logger.propagate
        logger.propagate = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._address = self._listener.getsockname()
        self.loop.run_until_complete(self.server.front.start([Listener(self._listener, "")]))
        self._speaker = Speaker(self.server.service, user)
        self._welcome = 200 if user is None else 401
        self._session = ""
        self._fed = 0

    def close(self) -> None:
        self.loop.run_until_complete(self.server.front.stop(lambda: None))
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
        self.store.close()
        self._logger.removeHandler(self.surprises)
        self._logger.propagate = self._propagate

    def feed(self, data: bytes) -> None:
        """All of it over one line, in two pieces; then somebody else, who is as welcome as before."""
        self._fed += 1
        if self._fed % self.TIDY_EVERY == 0:
            self._tidy()
        self.loop.run_until_complete(self._feed(data.replace(b"@SESSION@", self.session.encode())))
        assert self.surprises.told == []
        connections = self.server.front.connections
        assert not connections.all
        assert not connections.answering
        assert not connections._by_address  # nobody is counted who is gone

    @property
    def session(self) -> str:
        """An upload to /in/a that goes on."""
        if not self._session or not self._goes_on():
            self._session = self.loop.run_until_complete(self._speaker.create("/in/a")).strip("{}")
        return self._session

    def _goes_on(self) -> bool:
        try:
            session = self.loop.run_until_complete(self.store.read(self._session))
        except BitsError:
            return False
        return not (session.over or session.published or session.total)

    def _tidy(self) -> None:
        for guid in list(self.store._open):
            self.store.forget(guid)
        for folder in Path(self.store.root, "sessions").glob("*/*"):
            shutil.rmtree(folder)
        self._session = ""

    async def _feed(self, data: bytes) -> None:
        cut = zlib.crc32(data) % (len(data) + 1)
        check_answers(await self._say([data[:cut], data[cut:]]))
        (status,) = check_answers(await self._say([PING]))
        assert status == self._welcome
        async with asyncio.timeout(self.PATIENCE):
            while self.server.front.connections.all or self.server.front.connections.answering:
                await asyncio.sleep(0)

    async def _say(self, pieces: list[bytes]) -> bytes:
        """What is answered until the server hangs up, as it does when everything is said."""
        async with asyncio.timeout(self.PATIENCE):
            reader, writer = await asyncio.open_connection(*self._address)
            heard = bytearray()
            try:
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                writer.write_eof()
                while block := await reader.read(1 << 16):
                    heard += block
            except (ConnectionError, OSError):
                pass  # it need not read what it refused
            finally:
                writer.close()
                with suppress(ConnectionError, OSError):
                    await writer.wait_closed()
        return bytes(heard)


def check_answers(heard: bytes) -> list[int]:
    """The statuses of all answers, each well-formed and without a body; the last may be cut by a reset."""
    statuses = []
    while END in heard:
        head, _, heard = heard.partition(END)
        first, *lines = head.decode("ascii").split("\r\n")
        version, status, reason = first.split(" ", 2)
        assert version == "HTTP/1.1"
        assert reason
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        assert all(
            name and name.replace("-", "").isalnum() and value.isprintable() for name, value in headers
        )
        names = [name.lower() for name, _ in headers if name != "WWW-Authenticate"]
        assert len(names) == len(set(names))
        if status != "100":
            assert dict(headers)["Content-Length"] == "0"
            statuses.append(int(status))
            assert 200 <= int(status) <= 599
    assert heard == b"", heard
    return statuses


@contextmanager
def world() -> Iterator[Feed]:
    with folder_in_memory() as folder:
        for name in ("in", "small"):
            (folder / name).mkdir()
        directories = Directories(
            [
                Directory("/in/", str(folder / "in"), allow_overwrites=True),
                Directory("/off/", str(folder / "in"), upload_enabled=False),
                Directory(
                    "/small/",
                    str(folder / "small"),
                    max_upload_size=9,
                    max_fragment_size=6,
                    create_folders=True,
                ),
            ]
        )
        server = World(folder, directories)
        try:
            yield server.feed
        finally:
            server.close()


conversations = Target(
    "conversations",
    (
        CREATE
        + HALF
        + packet(b"Fragment", b"/in/a", OF_SESSION, b"Content-Range: bytes 5-9/10", body=b"world")
        + CLOSE,
        WHOLE + WHOLE + CLOSE + CLOSE,
        HALF + CANCEL + PING,
        packet(b"Create-Session", b"/small/x/y", b"BITS-Supported-Protocols: " + SPEAKS) + PING,
        request(
            b"POST /in/a HTTP/1.1",
            b"X-HTTP-Method-Override: BITS_POST",
            b"BITS-Packet-Type: Ping",
            b"Content-Length: 0",
        ),
        request(b"GET /in/a HTTP/1.1") + request(b"HEAD /in/.bitsferry/replies/@SESSION@ HTTP/1.1") + PING,
        packet(
            b"Fragment",
            b"/in/a",
            OF_SESSION,
            b"Content-Range: bytes 0-4/5",
            b"Expect: 100-continue",
            body=b"hello",
        ),
        request(
            b"BITS_POST /in/a HTTP/1.1",
            b"BITS-Packet-Type: Fragment",
            b"Transfer-Encoding: chunked",
            body=b"5\r\nhello\r\n0\r\n\r\n",
        ),
        packet(b"Ping", b"/off/a", body=b"x" * 70_000) + PING,
    ),
    world,
    words=(*HEADER_NAMES, *VERBS, PING, CREATE, HALF, CLOSE, CANCEL, SESSION),
    examples=300,
)


# The same with a guard before it, and everything a directory can have


@contextmanager
def guarded_world() -> Iterator[Feed]:
    with folder_in_memory() as folder:
        (folder / "in").mkdir()
        guard = read_guard(write_files(folder), str(folder), Throttle(5, 0.0))
        here = Directory(
            "/in/",
            str(folder / "in"),
            guard=guard,
            digest="sha-256",
            name_template=NameTemplate("{user}/{session}/{name}"),
            sessions_per_user=1_000_000,
            user_quota=1 << 20,
            quota=1 << 30,
            requests_per_second=1e9,
            read_back="everybody",
        )
        server = World(folder, Directories([here]), user="anna")
        try:
            yield server.feed
        finally:
            server.close()


RANGE = b"Content-Range: bytes 0-4/5"
ANNA = b"Authorization: Basic " + b64(b"anna:secret")
DIGEST = b"Repr-Digest: sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:"
guarded = Target(
    "guarded",
    (
        packet(b"Ping", b"/in/a", ANNA) + PING,
        packet(b"Create-Session", b"/in/a", b"BITS-Supported-Protocols: " + SPEAKS, ANNA)
        + packet(b"Fragment", b"/in/a", OF_SESSION, RANGE, ANNA, DIGEST, body=b"hello")
        + packet(b"Close-Session", b"/in/a", OF_SESSION, ANNA),
        packet(b"Fragment", b"/in/a", OF_SESSION, b"Content-Range: bytes 0-1/5", body=b"he")
        + packet(b"Fragment", b"/in/a", OF_SESSION, b"Content-Range: bytes 0-1/5", ANNA, body=b"he"),
        packet(b"Ping", b"/in/a", b"Authorization: NTLM " + b64(TYPE_1))
        + packet(b"Ping", b"/in/a", b"Authorization: NTLM " + b64(TYPE_3))
        + PING,
        request(b"GET /in/a HTTP/1.1", ANNA) + request(b"GET /in/a HTTP/1.1"),
    ),
    guarded_world,
    words=(
        *HEADER_NAMES,
        *VERBS,
        ANNA + b"\r\n",
        DIGEST + b"\r\n",
        b"Content-Digest: sha-256=:AAAA:\r\n",
        SESSION,
    ),
    examples=200,
)

TARGETS = (heads, names, given_out, conversations, guarded)
