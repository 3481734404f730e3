"""Real conversations, played back: their requests to our reader, their answers to our client."""

from __future__ import annotations

import pytest

from bitsferry.protocol.packets import (
    BITS_1_5,
    Ack,
    CloseSession,
    CreateSession,
    Fragment,
    Packet,
    Ping,
)
from bitsferry.protocol.ranges import ContentRange
from bitsferry.protocol.upload import State, Upload
from bitsferry.protocol.wire import METHOD, choose_protocol, read_ack, read_packet, write_packet
from transcripts.reader import Direction, Message, read

PLAIN_ID = "{A0FF5911-4144-45B3-BF27-27AFC8EC8A67}"
REPLY_ID = "{C85B4E0A-9EB9-4114-BFA4-8A43B4710091}"
NAME = "rfc2119.txt"
SIZE = 4892
ALL = ContentRange(0, SIZE, SIZE)


def headers(message: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in message.headers}


def asked(transcript: str) -> list[Packet]:
    """What Windows said."""
    return [read_packet(headers(m)) for m in read(transcript) if m.start_line.startswith(METHOD)]


def answered(transcript: str) -> list[Ack]:
    """What IIS answered."""
    return [
        read_ack(int(m.start_line.split()[1]), headers(m))
        for m in read(transcript)
        if m.direction is Direction.SERVER_ANSWERS and "bits-packet-type" in headers(m)
    ]


def answer_to(kind: type[Packet], transcript: str) -> Ack:
    """What IIS answered to the one packet of that kind."""
    pairs = zip(asked(transcript), answered(transcript), strict=True)
    return next(ack for packet, ack in pairs if isinstance(packet, kind))


# What Windows says


def test_the_packets_of_the_plain_upload_are_understood() -> None:
    assert asked("plain-upload") == [
        CreateSession((BITS_1_5,), NAME),
        Fragment(PLAIN_ID, ALL, NAME),
        Ping(),
        CloseSession(PLAIN_ID, NAME),
    ]


def test_the_packets_of_the_upload_reply_are_understood() -> None:
    assert asked("upload-reply") == [
        CreateSession((BITS_1_5,), NAME),
        Ping(),
        Fragment(REPLY_ID, ALL, NAME),
        CloseSession(REPLY_ID, NAME),
    ]


@pytest.mark.parametrize("transcript", ["plain-upload", "upload-reply"])
def test_windows_offers_the_protocol_we_speak(transcript: str) -> None:
    create = asked(transcript)[0]
    assert isinstance(create, CreateSession)
    assert choose_protocol(create.protocols) == BITS_1_5


@pytest.mark.parametrize("transcript", ["plain-upload", "upload-reply"])
def test_the_body_of_a_fragment_is_as_long_as_its_range(transcript: str) -> None:
    for message in read(transcript):
        if message.start_line.startswith(METHOD):
            packet = read_packet(headers(message))
            assert len(message.body) == (packet.range.length if isinstance(packet, Fragment) else 0)


@pytest.mark.parametrize("transcript", ["plain-upload", "upload-reply"])
def test_we_spell_every_packet_but_for_case_as_windows_does(transcript: str) -> None:
    """Values as on the wire, letter for letter; names in any case; other headers are HTTP's own."""
    for message in read(transcript):
        if message.start_line.startswith(METHOD):
            written = {n.lower(): value for n, value in write_packet(read_packet(headers(message)))}
            assert written.items() <= headers(message).items()
            left = set(headers(message)) - set(written)
            assert left == {"accept", "user-agent", "host", "connection"}


# What IIS answers


def test_the_answers_of_the_plain_upload_are_understood() -> None:
    assert answered("plain-upload") == [
        Ack(session_id=PLAIN_ID, protocol=BITS_1_5, accept_encoding="identity"),
        Ack(received=SIZE),
        Ack(),
        Ack(),
    ]


def test_the_answers_of_the_upload_reply_are_understood() -> None:
    assert answered("upload-reply") == [
        Ack(
            session_id=REPLY_ID,
            protocol=BITS_1_5,
            host_id="FRANKCAO8",
            host_id_fallback_timeout=110,
            accept_encoding="identity",
        ),
        Ack(),
        Ack(received=SIZE, reply_url=rf"BITS-Sessions\Replies\{REPLY_ID}\responsefile.bin"),
        Ack(),
    ]


# Our client in the place of Windows


def test_our_client_says_the_plain_upload_as_windows_did_but_for_two_things() -> None:
    """No Content-Name at Create-Session, as Windows since Vista SP1 (MC-BUP <5>), and no Ping before Close:
    the published state machine has none there, Windows seems to ping because the session had paused (<9>).
    """
    upload = Upload(SIZE, name=NAME)
    said = []
    for kind in (CreateSession, Fragment, CloseSession):
        said.append(upload.next_packet())
        upload.receive(answer_to(kind, "plain-upload"))
    assert (upload.next_packet(), upload.state) == (None, State.DONE)
    assert said == [CreateSession(), *(p for p in asked("plain-upload")[1:] if p != Ping())]


def test_a_client_that_paused_before_the_close_pings_just_where_windows_did() -> None:
    packets, acks = asked("plain-upload"), answered("plain-upload")
    upload = Upload(SIZE, name=NAME)
    said = []
    for turn, ack in enumerate(acks):
        if turn == 2:
            upload.resume()
        said.append(upload.next_packet())
        upload.receive(ack)
    assert upload.state is State.DONE
    assert said[1:] == packets[1:]


def test_our_client_says_the_upload_reply_as_windows_did() -> None:
    """Host id, Ping to it, the fragment, the reply, the Close; only Create-Session lacks a Content-Name."""
    packets, acks = asked("upload-reply"), answered("upload-reply")
    upload = Upload(SIZE, name=NAME)
    said: list[Packet | None] = []
    hosts = []
    for ack in acks:
        if upload.state is State.GET_REPLY:
            assert upload.next_packet() is None
            upload.reply_fetched()
        said.append(upload.next_packet())
        hosts.append(upload.host)
        upload.receive(ack)
    assert (upload.next_packet(), upload.state) == (None, State.DONE)
    assert said == [CreateSession(), *packets[1:]]
    assert hosts == [None, "FRANKCAO8", "FRANKCAO8", "FRANKCAO8"]


def test_the_hosts_of_the_transcript_are_those_our_client_would_speak_to() -> None:
    hosts = [headers(m)["host"] for m in read("upload-reply") if m.start_line.startswith(METHOD)]
    assert hosts == ["frankcao8", "FRANKCAO8", "FRANKCAO8", "FRANKCAO8"]


def test_the_reply_of_the_transcript_is_wanted_between_the_last_fragment_and_the_close() -> None:
    acks = answered("upload-reply")
    upload = Upload(SIZE, name=NAME)
    for ack in acks[:3]:
        upload.next_packet()
        upload.receive(ack)
    assert upload.state is State.GET_REPLY
    assert upload.progress.reply_url == acks[2].reply_url
    order = [m.start_line.split()[0] for m in read("upload-reply") if m.direction is Direction.CLIENT_ASKS]
    assert order == [METHOD, METHOD, METHOD, "GET", METHOD]


def test_all_22_traced_messages_are_there_two_of_them_bodies() -> None:
    """The record counts a fragment's body as a message of its own; we count it with its head."""
    numbers = [m.number for name in ("plain-upload", "upload-reply") for m in read(name)]
    assert numbers == [n for n in range(1, 23) if n not in (4, 15)]
