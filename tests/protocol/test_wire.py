"""The promises of the wire: how packets and Acks are spelt, and what becomes of any other spelling."""

import dataclasses
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsferry.protocol import errors
from bitsferry.protocol.digests import ALGORITHMS, Digest
from bitsferry.protocol.errors import (
    BitsError,
    Context,
    InvalidMessage,
    InvalidServerResponse,
    LengthRequired,
    NoCommonProtocol,
    UnsupportedEncoding,
)
from bitsferry.protocol.packets import (
    BITS_1_5,
    Ack,
    CancelSession,
    CloseSession,
    CreateSession,
    Fragment,
    Packet,
    Ping,
)
from bitsferry.protocol.ranges import LARGEST, ContentRange
from bitsferry.protocol.wire import (
    ack_of_error,
    choose_protocol,
    read_ack,
    read_packet,
    write_ack,
    write_packet,
)

ID = "{A0FF5911-4144-45B3-BF27-27AFC8EC8A67}"
ANOTHER_PROTOCOL = "{00000000-0000-0000-0000-000000000001}"

FRAGMENT = {
    "bits-packet-type": "Fragment",
    "bits-session-id": ID,
    "content-range": "bytes 0-99/1000",
    "content-length": "100",
}
BODILESS = ["Create-Session", "Ping", "Close-Session", "Cancel-Session"]


def bodiless(kind: str, length: str = "0") -> dict[str, str]:
    return {
        "bits-packet-type": kind,
        "bits-session-id": ID,
        "bits-supported-protocols": BITS_1_5,
        "content-length": length,
    }


def without(headers: dict[str, str], name: str) -> dict[str, str]:
    return {n: value for n, value in headers.items() if n != name}


def over_the_line(headers: list[tuple[str, str]]) -> dict[str, str]:
    """As the other side reads them: names in lower case, repeated ones joined."""
    read: dict[str, str] = {}
    for name, value in headers:
        read[name.lower()] = f"{read[name.lower()]}, {value}" if name.lower() in read else value
    return read


visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=100)
session_ids = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=100).filter(
    lambda text: text == text.strip()
)
names = st.text(
    st.characters(codec="ascii", categories=["L", "N", "P", "S"], exclude_characters='\\/:*?"<>|'),
    min_size=1,
    max_size=260,
)
content_ranges = st.builds(
    lambda start, length, rest: ContentRange(start, start + length, start + length + rest),
    st.integers(0, LARGEST // 4),
    st.integers(1, LARGEST // 4),
    st.integers(0, LARGEST // 4),
) | st.just(ContentRange(0, 0, 0))
digests = st.none() | st.sampled_from(list(ALGORITHMS.items())).flatmap(
    lambda known: st.builds(Digest, st.just(known[0]), st.binary(min_size=known[1], max_size=known[1]))
)
algorithms = st.none() | st.sampled_from(list(ALGORITHMS))
guids = st.uuids().map(lambda guid: "{" + str(guid) + "}")

packets = st.one_of(
    st.builds(
        CreateSession,
        st.lists(guids, min_size=1, max_size=100).map(tuple),
        st.none() | names,
        digests,
        algorithms,
    ),
    st.just(Ping()),
    st.builds(Fragment, session_ids, content_ranges, st.none() | names, digests, digests),
    st.builds(CloseSession, session_ids, st.none() | names, digests),
    st.builds(CancelSession, session_ids),
)
seconds = st.none() | st.integers(0, 2**32 - 1)
acks = st.builds(
    Ack,
    status=st.sampled_from([200, 201, 400, 401, 403, 404, 411, 413, 415, 416, 500, 501, 503]),
    session_id=st.none() | session_ids,
    protocol=st.none() | guids,
    host_id=visible,
    host_id_fallback_timeout=seconds,
    received=st.none() | st.integers(0, LARGEST),
    reply_url=st.none() | visible,
    hresult=st.integers(1, 2**32 - 1),
    context=st.sampled_from([None, Context.REMOTE_FILE, Context.REMOTE_APPLICATION]),
    retry_after=seconds,
    accept_encoding=st.none() | st.just("identity"),
    wants_digest=algorithms,
)


# Round trips


@given(packets)
def test_a_packet_arrives_as_it_was_said(packet: Packet) -> None:
    assert read_packet(over_the_line(write_packet(packet))) == packet


@given(acks)
def test_an_ack_arrives_as_it_was_said(ack: Ack) -> None:
    assert read_ack(ack.status, over_the_line(write_ack(ack))) == ack


@given(packets)
def test_every_packet_has_its_type_and_its_length_and_none_has_an_encoding(packet: Packet) -> None:
    written = over_the_line(write_packet(packet))
    assert written["bits-packet-type"].lower().replace("-", "") == type(packet).__name__.lower()
    length = packet.range.length if isinstance(packet, Fragment) else 0
    assert written["content-length"] == str(length)
    assert not {"content-encoding", "transfer-encoding"} & set(written)


@given(acks)
def test_every_ack_is_an_ack_without_a_body_that_nobody_may_keep(ack: Ack) -> None:
    written = write_ack(ack)
    for header in [
        ("BITS-Packet-Type", "Ack"),
        ("Content-Length", "0"),
        ("Pragma", "no-cache"),
        ("Server", "bitsferry"),
    ]:
        assert written.count(header) == 1


@given(st.text(max_size=300) | names)
def test_no_name_of_a_file_can_spoil_a_packet(name: str) -> None:
    written = write_packet(CloseSession(ID, name))
    assert all(len(value) <= 4096 and value.isascii() and value.isprintable() for _, value in written)
    said = read_packet(over_the_line(written))
    assert said in (CloseSession(ID, name), CloseSession(ID, None))


@pytest.mark.parametrize(
    "name", ["", "a/b", "a\\b", "a:b", "a*", "a?", 'a"', "a<b", "a>b", "a|b", "ä", "a\r\nb", "a" * 261]
)
def test_a_name_the_header_cannot_hold_is_left_out(name: str) -> None:
    assert "Content-Name" not in dict(write_packet(CloseSession(ID, name)))


def test_a_name_may_have_260_characters_and_inner_spaces() -> None:
    name = "a name.txt".ljust(260, "t")
    assert dict(write_packet(CloseSession(ID, name)))["Content-Name"] == name


# Packets, read


@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title, " {} ".format])
@pytest.mark.parametrize("kind", BODILESS)
def test_a_packet_type_is_read_in_any_case(kind: str, spell: type[str]) -> None:
    packet = read_packet(bodiless(spell(kind)))
    assert type(packet).__name__ == kind.replace("-", "")


def test_c3_a_ping_needs_no_session_id() -> None:
    assert read_packet({"bits-packet-type": "Ping", "content-length": "0"}) == Ping()


def test_c19_content_name_may_stand_anywhere_or_nowhere() -> None:
    for kind in BODILESS:
        read_packet({**bodiless(kind), "content-name": "rfc2119.txt"})
    assert read_packet(FRAGMENT) == Fragment(ID, ContentRange(0, 100, 1000))
    assert read_packet({**FRAGMENT, "content-name": "x"}) == Fragment(ID, ContentRange(0, 100, 1000), "x")


def test_c25_protocols_are_separated_by_spaces_or_commas() -> None:
    for separator in (" ", "  ", ",", ", ", " ,\t"):
        offered = f"{ANOTHER_PROTOCOL}{separator}{BITS_1_5}"
        packet = read_packet({**bodiless("Create-Session"), "bits-supported-protocols": offered})
        assert packet == CreateSession((ANOTHER_PROTOCOL, BITS_1_5))


def test_a_hundred_protocols_are_read_and_no_more() -> None:
    offered = " ".join([ANOTHER_PROTOCOL] * 100 + [BITS_1_5])
    packet = read_packet({**bodiless("Create-Session"), "bits-supported-protocols": offered})
    assert isinstance(packet, CreateSession)
    assert len(packet.protocols) == 100
    with pytest.raises(NoCommonProtocol):
        choose_protocol(packet.protocols)


@pytest.mark.parametrize("offered", [BITS_1_5, BITS_1_5.upper(), BITS_1_5.title()])
def test_the_common_protocol_is_found_in_any_case(offered: str) -> None:
    assert choose_protocol([ANOTHER_PROTOCOL, offered]) == BITS_1_5


@pytest.mark.parametrize("offered", [[], [""], [ANOTHER_PROTOCOL], [BITS_1_5.strip("{}")]])
def test_without_a_common_protocol_there_is_no_session(offered: list[str]) -> None:
    with pytest.raises(NoCommonProtocol):
        choose_protocol(offered)


@pytest.mark.parametrize("offered", ["", "  "])
def test_a_client_must_offer_a_protocol(offered: str) -> None:
    with pytest.raises(InvalidMessage):
        read_packet({**bodiless("Create-Session"), "bits-supported-protocols": offered})


@pytest.mark.parametrize("name", ["bits-packet-type", "bits-session-id", "content-range"])
def test_a_fragment_without_what_it_needs_is_invalid(name: str) -> None:
    with pytest.raises(InvalidMessage):
        read_packet(without(FRAGMENT, name))


@pytest.mark.parametrize("kind", ["Close-Session", "Cancel-Session", "Fragment"])
@pytest.mark.parametrize("session_id", [None, "", " "])
def test_a_packet_of_a_session_without_its_id_is_invalid(kind: str, session_id: str | None) -> None:
    headers = without({**FRAGMENT, **bodiless(kind), "content-range": "bytes */0"}, "bits-session-id")
    if session_id is not None:
        headers["bits-session-id"] = session_id
    with pytest.raises(InvalidMessage):
        read_packet(headers)


@pytest.mark.parametrize("kind", [*BODILESS, "Fragment"])
def test_c18_a_missing_length_is_a_411(kind: str) -> None:
    with pytest.raises(LengthRequired) as missing:
        read_packet(without({**FRAGMENT, "bits-packet-type": kind}, "content-length"))
    assert missing.value.status == 411


@pytest.mark.parametrize("length", ["", "-1", "+1", "1.0", "0x10", "1e3", "100, 100", "٣", "9" * 21])
def test_a_length_that_is_no_number_is_invalid(length: str) -> None:
    with pytest.raises(InvalidMessage):
        read_packet({**FRAGMENT, "content-length": length})


@pytest.mark.parametrize("length", ["0", "99", "101", "1000"])
def test_a_body_and_a_range_of_different_lengths_are_invalid(length: str) -> None:
    with pytest.raises(InvalidMessage):
        read_packet({**FRAGMENT, "content-length": length})


@pytest.mark.parametrize("range_", ["bytes 0-99/*", "bytes 0-49/1000, bytes 50-99/1000", "bytes 0-99"])
def test_an_unknown_total_or_several_ranges_are_invalid(range_: str) -> None:
    with pytest.raises(InvalidMessage):
        read_packet({**FRAGMENT, "content-range": range_})


@pytest.mark.parametrize("coding", ["chunked", "identity", ""])
def test_a_chunked_body_is_invalid_even_with_a_length(coding: str) -> None:
    with pytest.raises(InvalidMessage):
        read_packet({**FRAGMENT, "transfer-encoding": coding})
    with pytest.raises(InvalidMessage):
        read_packet(without({**FRAGMENT, "transfer-encoding": coding}, "content-length"))


@pytest.mark.parametrize("encoding", ["gzip", "identity, gzip", "xpress", ""])
def test_an_unannounced_encoding_is_a_415(encoding: str) -> None:
    with pytest.raises(UnsupportedEncoding) as refused:
        read_packet({**FRAGMENT, "content-encoding": encoding})
    assert refused.value.status == 415


def test_identity_is_no_encoding() -> None:
    assert read_packet({**FRAGMENT, "content-encoding": "Identity"}) == read_packet(FRAGMENT)


@pytest.mark.parametrize("kind", ["Ack", "", "Create_Session", "Fragments", "Ping, Ping", "\x00"])
def test_an_unknown_packet_type_is_invalid(kind: str) -> None:
    with pytest.raises(InvalidMessage):
        read_packet({**bodiless(kind), "content-range": "bytes */0"})


@pytest.mark.parametrize("kind", BODILESS)
def test_only_a_fragment_has_a_body(kind: str) -> None:
    with pytest.raises(InvalidMessage):
        read_packet(bodiless(kind, length="1"))


@pytest.mark.parametrize("name", ["content-name", "bits-session-id", "x-unknown"])
def test_a_header_over_four_kilobytes_is_invalid_and_one_of_four_is_not(name: str) -> None:
    read_packet({**FRAGMENT, name: "x" * 4096})
    with pytest.raises(InvalidMessage):
        read_packet({**FRAGMENT, name: "x" * 4097})


def test_unknown_headers_are_ignored() -> None:
    assert read_packet({**FRAGMENT, "x-custom": "y", "accept": "*/*"}) == read_packet(FRAGMENT)


HEADER_NAMES = [
    "bits-packet-type",
    "bits-session-id",
    "bits-supported-protocols",
    "bits-protocol",
    "bits-host-id",
    "bits-host-id-fallback-timeout",
    "bits-received-content-range",
    "bits-reply-url",
    "bits-error-code",
    "bits-error",
    "bits-error-context",
    "content-length",
    "content-range",
    "content-name",
    "content-encoding",
    "transfer-encoding",
    "retry-after",
    "accept-encoding",
]
header_texts = st.one_of(
    st.text(),
    st.text(st.characters(max_codepoint=0xFF)),
    st.text(string.digits + "-/*bytes ,{}xABCDEF\t"),
    st.sampled_from([*BODILESS, "Fragment", "Ack", "0", "100", ID, BITS_1_5, "bytes 0-99/1000", "identity"]),
)
any_headers = st.dictionaries(st.sampled_from(HEADER_NAMES), header_texts)
nearly_right = st.sampled_from([FRAGMENT, *(bodiless(kind) for kind in BODILESS)])


@given(nearly_right, any_headers, st.sets(st.sampled_from(HEADER_NAMES), max_size=2))
def test_any_headers_are_a_packet_or_an_invalid_message(
    right: dict[str, str], wrong: dict[str, str], left_out: set[str]
) -> None:
    headers = {name: value for name, value in {**right, **wrong}.items() if name not in left_out}
    try:
        packet = read_packet(headers)
    except InvalidMessage as refused:
        ack = ack_of_error(refused)
        assert (ack.status in (400, 411, 415), ack.hresult, ack.context) == (True, 0x80070057, 5)
        return
    if isinstance(packet, Fragment):
        assert packet.range.length == int(headers["content-length"])
    else:
        assert int(headers["content-length"]) == 0


# Acks, written


def test_c1_an_error_is_told_under_both_names_in_hexadecimal() -> None:
    written = write_ack(ack_of_error(errors.SessionNotFound()))
    assert ("BITS-Error-Code", "0x8020001F") in written
    assert ("BITS-Error", "0x8020001F") in written
    assert ("BITS-Error-Context", "0x5") in written


def test_an_error_the_status_says_already_has_no_error_headers() -> None:
    for error in (errors.OutOfStep(50), errors.Busy(), errors.UnknownUrl(), errors.FragmentTooLarge()):
        assert not [name for name, _ in write_ack(ack_of_error(error)) if name.startswith("BITS-Error")]


def test_a_success_has_no_error_headers() -> None:
    assert not [name for name, _ in write_ack(Ack()) if name.startswith("BITS-Error")]


def test_a_fallback_timeout_is_told_only_with_its_host() -> None:
    assert "BITS-Host-Id-Fallback-Timeout" not in dict(write_ack(Ack(host_id_fallback_timeout=110)))


def test_an_unauthorized_client_is_told_every_way_in() -> None:
    ack = ack_of_error(errors.AuthenticationRequired(challenges=("NTLM", 'Basic realm="in"')))
    told = [value for name, value in write_ack(ack) if name == "WWW-Authenticate"]
    assert told == ["NTLM", 'Basic realm="in"']


def test_an_error_of_a_session_names_it_and_what_is_held() -> None:
    error = errors.DiskFull()
    error.session_id, error.held = ID, 100
    ack = ack_of_error(error)
    assert (ack.session_id, ack.received, ack.status) == (ID, 100, 500)


def test_a_busy_server_says_when_to_come_back() -> None:
    assert ("Retry-After", "10") in write_ack(ack_of_error(errors.Busy()))


@given(st.integers(0, LARGEST))
def test_a_gap_always_says_the_wanted_offset(held: int) -> None:
    written = over_the_line(write_ack(ack_of_error(errors.OutOfStep(held))))
    assert written["bits-received-content-range"] == str(held)


# Acks, read

AN_ACK = {"bits-packet-type": "Ack", "content-length": "0"}


@pytest.mark.parametrize("kind", ["Ack", "ACK", "ack", " Ack "])
def test_an_ack_is_one_in_any_case(kind: str) -> None:
    assert read_ack(200, {"bits-packet-type": kind}) == Ack()


@pytest.mark.parametrize("name", ["bits-error-code", "bits-error"])
@pytest.mark.parametrize("text", ["0x8020001F", "x8020001F", "8020001F", "0X8020001f", " 0x8020001f "])
def test_c1_the_client_reads_either_name_and_any_prefix(name: str, text: str) -> None:
    assert read_ack(500, {**AN_ACK, name: text}).hresult == 0x8020001F


def test_c1_the_context_may_be_missing() -> None:
    assert read_ack(500, {**AN_ACK, "bits-error": "0x80070070"}).context is None


@pytest.mark.parametrize(
    ("text", "context"),
    [("0x5", 5), ("5", 5), ("x7", 7), ("0x00000007", 7), ("0x4", None), ("", None), ("server", None)],
)
def test_only_the_two_contexts_that_are_legal_on_the_wire_are_read(text: str, context: int | None) -> None:
    assert read_ack(500, {**AN_ACK, "bits-error-context": text}).context == context


@pytest.mark.parametrize("text", ["0x0", "0", "", "0x123456789", "error", "-1"])
def test_an_error_number_that_says_nothing_is_none(text: str) -> None:
    assert read_ack(500, {**AN_ACK, "bits-error-code": text}).hresult is None


def test_c4_an_ack_needs_no_session_id() -> None:
    assert read_ack(200, {**AN_ACK, "bits-received-content-range": "4892"}) == Ack(received=4892)


def test_c26_a_session_id_is_opaque() -> None:
    assert read_ack(200, {**AN_ACK, "bits-session-id": "a b;c=D/é"}).session_id == "a b;c=D/é"


def test_a_session_id_no_request_could_carry_is_refused() -> None:
    assert read_ack(200, {**AN_ACK, "bits-session-id": "x" * 4096}).session_id == "x" * 4096
    with pytest.raises(InvalidServerResponse):
        read_ack(200, {**AN_ACK, "bits-session-id": "x" * 4097})


def test_c10_an_empty_reply_url_is_none() -> None:
    assert read_ack(200, {**AN_ACK, "bits-reply-url": " "}).reply_url is None


@pytest.mark.parametrize("status", [200, 201, 204, 206])
@pytest.mark.parametrize("headers", [{}, {"bits-packet-type": "Ping"}, {"content-type": "text/html"}])
def test_a_success_that_is_no_ack_is_discarded(status: int, headers: dict[str, str]) -> None:
    with pytest.raises(InvalidServerResponse):
        read_ack(status, headers)


@pytest.mark.parametrize("status", [300, 301, 302, 307, 308, 400, 401, 404, 407, 413, 502, 503, 504])
def test_a_redirect_or_an_error_may_come_from_a_proxy_that_knows_no_bits(status: int) -> None:
    assert read_ack(status, {"content-type": "text/html"}) == Ack(status)


@pytest.mark.parametrize("name", ["bits-received-content-range", "bits-host-id-fallback-timeout"])
@pytest.mark.parametrize("text", ["-1", "4892-", "0x10", "1.5", "0-4891", "٣", "9" * 21])
def test_a_number_that_is_none_breaks_the_protocol(name: str, text: str) -> None:
    with pytest.raises(InvalidServerResponse):
        read_ack(200, {**AN_ACK, name: text})


@pytest.mark.parametrize("text", ["Wed, 21 Oct 2026 07:28:00 GMT", "", "soon", "-5"])
def test_a_time_to_come_back_that_is_no_number_is_left_to_the_clients_patience(text: str) -> None:
    assert read_ack(503, {"retry-after": text}).retry_after is None


@given(st.integers(100, 599), any_headers)
def test_any_headers_are_an_ack_or_an_invalid_answer(status: int, headers: dict[str, str]) -> None:
    try:
        ack = read_ack(status, headers)
    except InvalidServerResponse:
        return
    assert ack.status == status
    for field in (ack.received, ack.host_id_fallback_timeout, ack.retry_after):
        assert field is None or field >= 0
    assert "" not in (ack.session_id, ack.reply_url, ack.host_id, ack.protocol)


@given(acks)
def test_nothing_of_an_ack_is_needed_but_its_type(ack: Ack) -> None:
    for name in over_the_line(write_ack(ack)):
        left = without(over_the_line(write_ack(ack)), name)
        if name == "bits-packet-type" and ack.status < 300:
            with pytest.raises(InvalidServerResponse):
                read_ack(ack.status, left)
        else:
            assert isinstance(read_ack(ack.status, left), Ack)


def test_every_field_of_an_ack_has_its_place_in_these_round_trips() -> None:
    told = {field.name for field in dataclasses.fields(Ack)}
    assert told == {
        "status", "session_id", "protocol", "host_id", "host_id_fallback_timeout", "received", "reply_url",
        "hresult", "context", "retry_after", "accept_encoding", "wants_digest", "challenges",
    }  # fmt: skip


def test_an_invalid_message_is_one_family() -> None:
    family = (LengthRequired, NoCommonProtocol, UnsupportedEncoding)
    assert all(issubclass(kind, InvalidMessage) and issubclass(kind, BitsError) for kind in family)
