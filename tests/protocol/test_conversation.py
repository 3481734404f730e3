"""Both halves of the protocol, `Upload` and `Session`, talk over a line that loses things.

The promise: the file arrives byte for byte, or the client says why not; never a success without the file.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bitsferry.protocol.errors import (
    AccessDenied,
    BitsError,
    Busy,
    DestinationExists,
    FragmentTooLarge,
    Refused,
    SessionNotFound,
)
from bitsferry.protocol.packets import (
    Ack,
    CancelSession,
    CloseSession,
    CreateSession,
    Fragment,
    Packet,
    Ping,
)
from bitsferry.protocol.session import Closing, Session, State, normal_session_id, spell_session_id
from bitsferry.protocol.upload import Progress, Upload
from bitsferry.protocol.upload import State as Stand
from bitsferry.protocol.wire import (
    ack_of_error,
    choose_protocol,
    read_ack,
    read_packet,
    write_ack,
    write_packet,
)

PATH = "/in/file"


class LineBroke(Exception):
    """The request or the answer went nowhere."""


@dataclass
class Server:
    """The smallest server that keeps its word: sessions in a dict, bytes in bytearrays, one destination."""

    overwrites: bool = True
    replies: bool = False
    fragment_limit: int | None = None
    file: bytes | None = None
    sessions: dict[str, Session] = field(default_factory=dict)
    held: dict[str, bytearray] = field(default_factory=dict)

    def answer(self, packet: Packet, body: bytes) -> Ack:
        match packet:
            case CreateSession(protocols):
                return self._create(choose_protocol(protocols))
            case Ping():
                return Ack()
            case Fragment(session_id):
                return self._fragment(self._session(session_id), packet, body)
            case CloseSession(session_id):
                return self._close(self._session(session_id))
            case CancelSession(session_id):
                self._session(session_id).end(State.CANCEL)
                return Ack()

    def reply(self, url: str) -> bytes | None:
        session = self.sessions.get(url)
        return None if session is None or session.over else b"well done"

    def forget(self) -> None:
        self.sessions.clear()
        self.held.clear()

    def _session(self, session_id: str) -> Session:
        guid = normal_session_id(session_id)
        if guid not in self.sessions:
            raise SessionNotFound
        return self.sessions[guid]

    def _create(self, protocol: str) -> Ack:
        if self.file is not None and not self.overwrites:
            raise DestinationExists
        guid = f"00000000-0000-0000-0000-{random.getrandbits(48):012X}"
        self.sessions[guid] = Session(guid, PATH, None, created=0.0)
        self.held[guid] = bytearray()
        return Ack(session_id=spell_session_id(guid), protocol=protocol)

    def _fragment(self, session: Session, packet: Fragment, body: bytes) -> Ack:
        if self.fragment_limit is not None and packet.range.length > self.fragment_limit:
            raise FragmentTooLarge
        held = self.held[session.id]
        placement = session.place(packet.range, len(held), None)
        session.start(packet.range.total)
        held += body[placement.skip :]
        if len(body) < packet.range.length:
            raise LineBroke
        if not session.published and session.is_whole(len(held)):
            self._publish(session)
        return Ack(received=len(held), reply_url=session.reply_url)

    def _close(self, session: Session) -> Ack:
        if session.closing(len(self.held[session.id])) in (Closing.EMPTY_FILE, Closing.FINISH):
            self._publish(session)
        session.end(State.COMPLETE)
        return Ack()

    def _publish(self, session: Session) -> None:
        if self.file is not None and not self.overwrites:
            raise DestinationExists
        self.file = bytes(self.held[session.id])
        session.publish(session.id if self.replies else None)


@dataclass
class Client:
    """Carries a file as the real one does: saves its progress after every answer, waits for nothing."""

    content: bytes
    fragment_length: int = 10
    upload: Upload = field(init=False)
    saved: Progress = field(default_factory=Progress)
    reply: bytes | None = None

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """The machine went down: nothing is left but what was saved."""
        self.upload = Upload(
            len(self.content), progress=replace(self.saved), fragment_length=self.fragment_length
        )

    def step(self, line: Line, event: str) -> bool:
        """Say one packet or fetch the reply; False when all is over. Raises what ends it for good."""
        if event == "client restarts":
            self.restart()
        packet = self.upload.next_packet()
        try:
            if packet is not None:
                self.upload.receive(line.carry(packet, self.content, event))
            elif self.upload.state is Stand.GET_REPLY:
                self._fetch_reply(line)
            else:
                return False
        except LineBroke:
            self.upload.failed()
            self.upload.resume()
        except BitsError as error:
            if not error.transient:
                raise
            self.upload.resume()
        self.saved = replace(self.upload.progress)
        return True

    def _fetch_reply(self, line: Line) -> None:
        url = self.upload.progress.reply_url
        assert url is not None
        self.reply = line.server.reply(url)
        self.upload.reply_fetched()


@dataclass
class Line:
    """What is between them: everything crosses it as headers and bytes, if it crosses it."""

    server: Server
    carried: list[tuple[list[tuple[str, str]], bytes]] = field(default_factory=list)
    promised: dict[str, int] = field(default_factory=dict)

    def carry(self, packet: Packet, content: bytes, event: str) -> Ack:
        headers, body = write_packet(packet), b""
        if isinstance(packet, Fragment):
            body = content[packet.range.start : packet.range.stop]
        match event.split():
            case ["request", "lost"]:
                raise LineBroke
            case ["body", "cut", eighths]:
                body = body[: len(body) * int(eighths) // 8]
                self._ask(headers, body)
                raise LineBroke
            case ["server", "forgets"]:
                self.server.forget()
                self.promised.clear()
            case ["server", "busy"]:
                return self._tell(ack_of_error(Busy()))
            case ["old", "request", "arrives"] if self.carried:
                try:
                    self._ask(*random.choice(self.carried))
                except LineBroke:
                    pass
        self.carried.append((headers, body))
        ack = self._ask(headers, body)
        if event == "request repeated":
            ack = self._ask(headers, body)
        if event == "answer lost":
            raise LineBroke
        return self._tell(ack)

    def _ask(self, headers: list[tuple[str, str]], body: bytes) -> Ack:
        packet = read_packet({name.lower(): value for name, value in headers})
        try:
            ack = self.server.answer(packet, body)
        except BitsError as error:
            ack = ack_of_error(error)
        if isinstance(packet, Fragment) and ack.received is not None:
            before = self.promised.get(packet.session_id, 0)
            assert ack.received >= before, "the held offset moved back"
            self.promised[packet.session_id] = ack.received
        return ack

    def _tell(self, ack: Ack) -> Ack:
        return read_ack(ack.status, {name.lower(): value for name, value in write_ack(ack)})


HARMLESS = ["fine", "request lost", "answer lost", "request repeated", "old request arrives", "server busy"]
CUTS = [f"body cut {eighths}" for eighths in range(8)]
REBIRTHS = ["client restarts", "server forgets"]
happenings = st.lists(st.sampled_from(HARMLESS + CUTS + REBIRTHS), max_size=40)
contents = st.binary(max_size=60) | st.integers(0, 60).map(lambda size: bytes(range(size)))


def converse(client: Client, server: Server, events: list[str]) -> BitsError | None:
    """Let them talk until the client is at its end; the error that ended it, if one did.

    After `events` nothing goes wrong any more, so it must end soon.
    """
    before = server.file
    line = Line(server)
    fragments = len(client.content) // min(client.fragment_length, server.fragment_limit or 1 << 30)
    bound = (len(events) + 2) * (fragments + 10)
    for turn in range(bound):
        try:
            going_on = client.step(line, events[turn] if turn < len(events) else "fine")
        except BitsError as error:
            assert server.file in (before, client.content)
            return error
        assert server.file in (before, client.content), "a file that nobody sent is at the destination"
        assert all(client.content.startswith(held) for held in server.held.values())
        if not going_on:
            return None
    raise AssertionError(f"still talking after {bound} packets")


@given(contents, st.integers(1, 20), happenings, st.none() | st.just(b"an older file"), st.booleans())
@example(b"", 1, ["fine", "request lost", "fine", "server forgets"], None, False)
@example(b"", 1, ["fine", "server busy", "server forgets"], None, False)
@example(b"", 1, ["fine", "answer lost", "fine", "server forgets"], None, False)
@example(b"abc", 1, ["fine", "fine", "fine", "answer lost"], None, True)
@example(b"abc", 3, ["fine", "answer lost", "client restarts"], b"an older file", True)
@example(b"abc", 1, ["server forgets"] * 40, None, False)
def test_the_file_arrives_byte_for_byte_whatever_the_line_does(
    content: bytes, fragment_length: int, events: list[str], older: bytes | None, replies: bool
) -> None:
    server = Server(file=older, replies=replies)
    client = Client(content, fragment_length)
    assert converse(client, server, events) is None
    assert client.upload.state is Stand.DONE
    assert server.file == content


@given(contents, st.integers(1, 20), happenings, st.none() | st.just(b"an older file"))
@example(b"", 1, ["fine", "request lost", "fine", "server forgets"], None)
def test_where_nothing_may_be_overwritten_the_client_has_the_file_there_or_says_why_not(
    content: bytes, fragment_length: int, events: list[str], older: bytes | None
) -> None:
    server = Server(file=older, overwrites=False)
    client = Client(content, fragment_length)
    error = converse(client, server, events)
    if error is None:
        assert client.upload.state is Stand.DONE
        assert older is None
        assert server.file == content
    else:
        assert isinstance(error, AccessDenied)
        assert client.upload.state is not Stand.DONE
        assert server.file == (content if older is None else older)


@given(contents, st.integers(1, 20), st.lists(st.sampled_from(HARMLESS + CUTS), max_size=40))
def test_a_line_that_only_loses_things_never_costs_a_session_nor_an_upload(
    content: bytes, fragment_length: int, events: list[str]
) -> None:
    server = Server(overwrites=False)
    client = Client(content, fragment_length)
    assert converse(client, server, events) is None
    assert server.file == content


@given(
    st.binary(min_size=1, max_size=60),
    st.integers(1, 20),
    st.lists(st.sampled_from([*HARMLESS, *CUTS, "client restarts"]), max_size=40),
)
@example(b"abc", 3, ["fine", "fine", "fine", "answer lost"])
@example(b"abc", 3, ["fine", "fine", "fine", "answer lost", "client restarts"])
def test_a_reply_is_always_fetched_while_the_server_still_has_it(
    content: bytes, fragment_length: int, events: list[str]
) -> None:
    client = Client(content, fragment_length)
    assert converse(client, Server(replies=True), events) is None
    assert client.reply == b"well done"


@given(
    st.integers(0, 60_000),
    st.integers(1_000, 30_000),
    st.sampled_from([1, 5_119, 5_120, 7_000, 100_000]),
    happenings,
)
def test_a_server_that_wants_smaller_fragments_gets_them_down_to_five_kilobytes(
    size: int, fragment_length: int, fragment_limit: int, events: list[str]
) -> None:
    content = random.Random(size).randbytes(size)
    server = Server(fragment_limit=fragment_limit)
    client = Client(content, fragment_length)
    error = converse(client, server, events)
    if error is None:
        assert server.file == content
    else:
        assert isinstance(error, Refused)
        assert error.status == 413
        assert fragment_limit < 5 * 1024


@given(contents, st.integers(1, 20), happenings, st.integers(0, 20), st.booleans())
def test_a_cancel_ends_the_talk_and_never_leaves_half_a_file(
    content: bytes, fragment_length: int, events: list[str], after: int, replies: bool
) -> None:
    server = Server(replies=replies)
    client, line = Client(content, fragment_length), Line(server)
    for event in events[:after]:
        client.step(line, event)
    client.upload.cancel()
    told = client.upload.progress.session_id
    for event in [*[event for event in events[after:] if event != "client restarts"], "fine", "fine"]:
        client.step(line, event)
    assert client.upload.state in (Stand.CANCELLED, Stand.DONE)
    assert server.file in (None, content)
    if told is not None and normal_session_id(told) in server.sessions:
        assert server.sessions[normal_session_id(told)].over


@given(st.data(), st.binary(max_size=30), st.binary(max_size=30))
def test_of_two_files_for_one_url_the_first_to_finish_wins_and_the_other_is_told(
    data: st.DataObject, one: bytes, other: bytes
) -> None:
    server = Server(overwrites=False)
    line = Line(server)
    racing = [Client(one, 7), Client(other, 7)]
    told: list[Client] = []
    while racing:
        client = data.draw(st.sampled_from(racing))
        try:
            if not client.step(line, "fine"):
                racing.remove(client)
                assert server.file == client.content
        except AccessDenied:
            racing.remove(client)
            told.append(client)
    assert len(told) == 1


def test_what_arrived_of_a_broken_fragment_counts() -> None:
    server, client = Server(), Client(bytes(range(60)), fragment_length=40)
    line = Line(server)
    for event in ["fine", "body cut 4"]:
        client.step(line, event)
    assert [len(held) for held in server.held.values()] == [20]
    assert converse(client, server, []) is None
    assert server.file == bytes(range(60))


@pytest.mark.parametrize("size", [0, 1])
def test_a_file_takes_no_more_packets_than_it_must(size: int) -> None:
    client, line, steps = Client(bytes(size)), Line(Server()), 0
    while client.step(line, "fine"):
        steps += 1
    assert steps == 2 + size
