"""Every decision of the spec-notes that is the server's, one by one.

Those on replies and notifications (C10, C14, C31) wait for the server to have some, another user's session
for it to know users.
"""

from __future__ import annotations

import os
import resource
import sys
import time

import pytest

from bitsferry.protocol.hresult import HResult

from . import raw
from .conftest import Serve, settings
from .ferry import Ferry, Upload
from .raw import GUID, Line

E_INVALIDARG = HResult.E_INVALIDARG
E_ACCESSDENIED = HResult.E_ACCESSDENIED
NOT_FOUND = (500, HResult.BG_E_SESSION_NOT_FOUND)
FINE = (200, None)
INVALID = (400, E_INVALIDARG)
DENIED = (403, E_ACCESSDENIED)
NOBODY = "{01234567-89AB-4DEF-8123-456789ABCDEF}"


# C1, C3, C4: what stands in an Ack


def test_c1_an_error_is_told_in_both_headers_by_the_same_eight_upper_case_digits(line: Line) -> None:
    answer = line.ask(raw.close("/in/a", NOBODY))
    assert answer.all("BITS-Error-Code") == answer.all("BITS-Error") == ["0x8020001F"]
    assert answer.all("BITS-Error-Context") == ["0x5"]


def test_c3_a_ping_needs_no_session_id(line: Line) -> None:
    assert line.ask(raw.ping("/in/a")).verdict == FINE


def test_c4_every_ack_to_a_packet_of_a_known_session_names_the_session(upload: Upload) -> None:
    half = upload.fragment(b"half", total=8)
    gap = upload.fragment(b"gap", at=5, total=8)
    other_total = upload.fragment(b"half", at=4, total=9)
    whole = upload.fragment(b"half", at=4, total=8)
    answers = [half, gap, other_total, whole, upload.close(), upload.close(), upload.cancel()]
    assert {answer.session for answer in answers} == {upload.session}


def test_answers_are_http_1_1_and_bodiless_acks_errors_included(server: Ferry, upload: Upload) -> None:
    url, line = upload.url, upload.line
    answers = [
        upload.create(),
        upload.ping(),
        upload.fragment(b"gap", at=1, total=8),
        line.ask(raw.ping("/off/a")),
        line.ask(raw.ping("/nowhere-%FF")),
        line.ask(raw.create("/in/no-such-folder/a")),
        line.ask(raw.packet("Fragment", url, {"Content-Range": None})),
        line.ask(raw.close(url, NOBODY)),
        line.ask(raw.ping(url, bits_packet_type="Pong")),
        upload.fragment(b"all"),
        upload.close(),
    ]
    assert [answer.status for answer in answers] == [200, 200, 416, 501, 400, 404, 400, 500, 400, 200, 200]
    for answer in answers:
        assert answer.is_ack
        assert answer.all("Server") == ["bitsferry"]
        assert answer.get("Date")
    with server.line() as other:
        assert other.ask(raw.packet("Ping", url, {"Content-Length": None})).is_ack
    with server.line() as other:
        assert other.ask(b"this is not HTTP\r\n\r\n").is_ack


# C5 and the gap: where a fragment belongs


def test_c5_a_fragment_that_overlaps_is_trimmed_and_never_overwrites(upload: Upload) -> None:
    upload.fragment(b"first", total=10)
    assert upload.fragment(b"XXXsecon", at=2, total=10).received == 10
    assert upload.file.read_bytes() == b"firstsecon"


def test_c5_a_wholly_old_fragment_gets_200_and_the_offset_never_moves_back(upload: Upload) -> None:
    upload.fragment(b"0123456", total=10)
    for at, data in ((0, b"XX"), (3, b"X"), (0, b"XXXXXXX")):
        old = upload.fragment(data, at=at, total=10)
        assert (old.verdict, old.received) == (FINE, 7)
    upload.fragment(b"789", at=7)
    assert upload.file.read_bytes() == b"0123456789"


@pytest.mark.parametrize("held", [0, 4])
def test_a_gap_gets_416_with_the_offset_wanted_and_the_upload_goes_on_there(
    upload: Upload, held: int
) -> None:
    data = b"0123456789"
    if held:
        upload.fragment(data[:held], total=10)
    gap = upload.fragment(data[held + 1 :], at=held + 1, total=10)
    assert (gap.verdict, gap.received) == ((416, None), held)
    assert upload.fragment(data[held:], at=held).received == 10
    assert upload.file.read_bytes() == data


# C6, C13: what is there already


def test_c6_a_destination_that_exists_is_refused_at_create_session(server: Ferry) -> None:
    upload = server.upload()
    upload.file.write_bytes(b"mine")
    assert upload.create().verdict == DENIED


def test_c6_a_destination_that_appeared_meanwhile_is_refused_at_the_last_fragment(upload: Upload) -> None:
    upload.fragment(b"half", total=8)
    upload.file.write_bytes(b"mine")
    last = upload.fragment(b"half", at=4)
    assert (last.verdict, last.received) == (DENIED, 8)
    assert upload.file.read_bytes() == b"mine"


def test_c13_a_directory_that_allows_overwrites_replaces_what_is_there(server: Ferry) -> None:
    upload = server.upload("/over/")
    upload.file.write_bytes(b"old")
    assert upload.create().verdict == FINE
    assert upload.fragment(b"new").verdict == FINE
    assert upload.file.read_bytes() == b"new"


def test_c13_whoever_has_the_replaced_file_open_goes_on_reading_the_old_one(server: Ferry) -> None:
    upload = server.upload("/over/")
    upload.file.write_bytes(b"old")
    with upload.file.open("rb") as reader:
        upload.create()
        upload.fragment(b"new")
        assert reader.read() == b"old"


# C7: too large


def test_c7_a_file_over_the_limit_is_refused_at_its_first_fragment_and_nothing_is_stored(
    server: Ferry,
) -> None:
    upload = server.begun("/small/")
    refused = upload.fragment(b"12345", total=1001)
    assert refused.verdict == (500, HResult.BG_E_TOO_LARGE)
    assert upload.held(1000) == 0


def test_c7_a_file_as_large_as_the_limit_is_taken(server: Ferry) -> None:
    upload = server.begun("/small/")
    upload.send(bytes(1000), 600)
    assert upload.file.read_bytes() == bytes(1000)


def test_c7_a_fragment_over_the_limit_gets_413_and_smaller_ones_go_on(server: Ferry) -> None:
    upload = server.begun("/small/")
    assert upload.fragment(bytes(601), total=900).verdict == (413, None)
    assert upload.fragment(bytes(600), total=900).verdict == FINE
    assert upload.fragment(bytes(300), at=600).verdict == FINE


def test_c7_after_413_the_connection_is_usable_or_was_closed_with_the_ack(server: Ferry) -> None:
    upload = server.begun("/small/")
    refused = upload.fragment(bytes(700), total=1000)
    assert refused.verdict == (413, None)
    assert not refused.closes
    assert upload.send(bytes(1000), 500).verdict == FINE


# C8: disk full


def test_c8_on_a_full_disk_what_was_acknowledged_stays_and_the_upload_goes_on_when_there_is_room(
    serve: Serve,
) -> None:
    ferry = serve()
    _largest_file(ferry, 100_000)
    data = os.urandom(150_000)
    upload = ferry.begun()
    assert upload.fragment(data[:60_000], total=len(data)).received == 60_000
    full = upload.fragment(data[60_000:120_000], at=60_000, total=len(data))
    assert full.verdict == (500, HResult.ERROR_DISK_FULL)
    assert full.received is not None
    assert full.received >= 60_000
    _largest_file(ferry, resource.RLIM_INFINITY)
    held = upload.held(len(data))
    assert 60_000 <= held <= 100_000
    assert upload.fragment(data[held:], at=held).received == len(data)
    assert upload.file.read_bytes() == data


def _largest_file(ferry: Ferry, size: int) -> None:
    """The server's disk, as far as its process can see, is full when a file has `size` bytes."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux can change another process's limits")
    resource.prlimit(ferry.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_c8_a_directory_over_its_quota_is_full_too_but_not_for_smaller_files(server: Ferry) -> None:
    upload = server.begun("/quota/")
    assert upload.fragment(b"first", total=2_000_000).verdict == (500, HResult.ERROR_DISK_FULL)
    assert upload.held() == 0
    assert server.begun("/quota/").fragment(b"small").verdict == FINE


# C9 and the file without a byte


def test_c9_a_close_before_the_last_byte_deletes_what_was_received(upload: Upload, server: Ferry) -> None:
    upload.fragment(b"half", total=8)
    closed = upload.close()
    assert (closed.verdict, closed.session) == (FINE, upload.session)
    assert not upload.file.exists()
    assert upload.fragment(b"half", at=4).verdict == NOT_FOUND


@pytest.mark.parametrize("content_range", ["bytes 0--1/0", "bytes */0"])
def test_an_empty_fragment_makes_an_empty_file(upload: Upload, content_range: str) -> None:
    answer = upload.fragment(b"", content_range=content_range)
    assert (answer.verdict, answer.received) == (FINE, 0)
    assert upload.file.read_bytes() == b""
    assert upload.close().verdict == FINE
    assert upload.file.read_bytes() == b""


def test_a_close_without_any_fragment_makes_an_empty_file(upload: Upload) -> None:
    assert not upload.file.exists()
    assert upload.close().verdict == FINE
    assert upload.file.read_bytes() == b""


def test_a_close_without_any_fragment_does_not_replace_what_is_there(upload: Upload) -> None:
    upload.file.write_bytes(b"mine")
    assert upload.close().verdict == DENIED
    assert upload.file.read_bytes() == b"mine"


# Messages that are refused


@pytest.mark.parametrize(
    "content_range",
    [
        "bytes 0-3/*",
        "bytes */4",
        "bytes 0-1,2-3/4",
        "bytes 0-1/4, bytes 2-3/4",
        "bytes 3-0/4",
        "bytes 0-4/4",
        "bytes 0-3/3",
        "bytes a-b/4",
        "bytes -4/4",
        "bytes 0-/4",
        "bytes 0-3",
        "0-3/4",
        "lines 0-3/4",
        "bytes=0-3/4",
        "bytes 0-3/99999999999999999999",
        "bytes \u0660-3/4".encode().decode("latin-1"),
        "",
    ],
)
def test_a_range_that_is_none_gets_400_and_nothing_is_stored(upload: Upload, content_range: str) -> None:
    assert upload.fragment(b"data", content_range=content_range).verdict == INVALID
    assert upload.held() == 0


def test_a_fragment_without_a_range_gets_400(upload: Upload) -> None:
    assert upload.fragment(b"data", content_range=None).verdict == INVALID
    assert upload.held() == 0


def test_a_chunked_body_gets_400_and_nothing_is_stored(server: Ferry, upload: Upload) -> None:
    chunked = raw.fragment(
        upload.url,
        upload.session,
        b"4\r\ndata\r\n0\r\n\r\n",
        content_length=None,
        transfer_encoding="chunked",
    )
    with server.line() as line:
        refused = line.ask(chunked)
        assert refused.verdict == INVALID
        assert line.is_closed()
    assert upload.held() == 0


def test_c18_a_missing_content_length_gets_411_and_nothing_is_stored(server: Ferry, upload: Upload) -> None:
    with server.line() as line:
        refused = line.ask(raw.fragment(upload.url, upload.session, b"data", content_length=None))
        assert refused.verdict == (411, E_INVALIDARG)
        assert line.is_closed()
    assert upload.held() == 0


@pytest.mark.parametrize("content_range", ["bytes 0-2/9", "bytes 0-4/9", "bytes 0--1/0"])
def test_a_body_that_differs_from_its_range_in_length_gets_400_and_nothing_is_stored(
    upload: Upload, content_range: str
) -> None:
    assert upload.fragment(b"data", content_range=content_range).verdict == INVALID
    assert upload.held() == 0


def test_another_total_gets_400_and_the_session_keeps_its_first(upload: Upload) -> None:
    upload.fragment(b"half", total=8)
    for total in (7, 9):
        refused = upload.fragment(b"hal", at=4, total=total)
        assert (refused.verdict, refused.received) == (INVALID, 4)
    assert upload.fragment(b"half", at=4, total=8).received == 8
    assert upload.file.read_bytes() == b"halfhalf"


@pytest.mark.parametrize("encoding", ["gzip", "xpress", "identity, gzip", "x"])
def test_an_unannounced_content_encoding_gets_415_and_nothing_is_stored(
    upload: Upload, encoding: str
) -> None:
    assert upload.fragment(b"data", content_encoding=encoding).verdict == (415, E_INVALIDARG)
    assert upload.held() == 0


def test_the_announced_content_encoding_is_taken(server: Ferry) -> None:
    upload = server.upload()
    announced = upload.create().get("Accept-Encoding")
    assert upload.fragment(b"data", content_encoding=announced).verdict == FINE


@pytest.mark.parametrize("kind", ["Pong", "Ack", "Create Session", "", None])
def test_an_unknown_packet_type_gets_400(line: Line, kind: str | None) -> None:
    assert line.ask(raw.packet(kind, "/in/a")).verdict == INVALID
    assert line.ask(raw.ping("/in/a")).verdict == FINE


@pytest.mark.parametrize("kind", ["Create-Session", "Ping", "Close-Session", "Cancel-Session"])
def test_a_body_where_none_belongs_gets_400_and_is_read_away(upload: Upload, kind: str) -> None:
    headers: dict[str, str | None] = {"BITS-Session-Id": upload.session, "BITS-Supported-Protocols": GUID}
    body = raw.cancel(upload.url, upload.session) * 100
    assert len(body) < 64 * 1024
    assert upload.line.ask(raw.packet(kind, upload.url, headers, body)).verdict == INVALID
    assert upload.fragment(b"still here").received == 10


def test_a_body_over_64_kib_where_none_belongs_gets_400_and_the_connection_closes(server: Ferry) -> None:
    with server.line() as line:
        refused = line.ask(raw.packet("Ping", "/in/a", body=bytes(64 * 1024 + 1)))
        assert refused.verdict == INVALID
        assert refused.closes
        assert line.is_closed()


def test_a_header_value_over_4_kib_gets_400(line: Line) -> None:
    assert line.ask(raw.ping("/in/a", x_large="x" * 4096)).verdict == FINE
    assert line.ask(raw.ping("/in/a", x_large="x" * 4097)).verdict == INVALID


# Broken lines


def test_every_byte_that_arrived_before_the_line_broke_counts(server: Ferry, upload: Upload) -> None:
    data = os.urandom(100_000)
    with server.line() as line:
        line.send(raw.fragment(upload.url, upload.session, data)[:-50_000])
    server.catch_up()
    assert upload.held(len(data)) == 50_000
    upload.fragment(data[50_000:], at=50_000)
    assert upload.file.read_bytes() == data


# C12: sessions that are gone


def test_c12_a_close_or_cancel_of_a_closed_session_gets_200_while_it_is_remembered(upload: Upload) -> None:
    upload.fragment(b"whole")
    assert upload.close().verdict == FINE
    assert upload.close().verdict == FINE
    assert upload.cancel().verdict == FINE
    assert upload.file.read_bytes() == b"whole"


def test_c12_a_session_that_is_no_longer_remembered_is_not_found(serve: Serve) -> None:
    ferry = serve(directory="session_timeout = 1", top="cleanup_interval = 0.1")
    closed, cancelled = ferry.begun(), ferry.begun()
    closed.fragment(b"whole")
    assert (closed.close().verdict, cancelled.cancel().verdict) == (FINE, FINE)
    assert raw.eventually(lambda: closed.close().verdict == NOT_FOUND)
    assert raw.eventually(lambda: cancelled.cancel().verdict == NOT_FOUND)


def test_c24_any_packet_of_a_session_keeps_it_alive_and_a_silent_one_expires(serve: Serve) -> None:
    ferry = serve(directory="session_timeout = 2", top="cleanup_interval = 0.1")
    silent, growing, repeating, pinging = (ferry.begun() for _ in range(4))
    for upload in (silent, repeating, pinging):
        upload.fragment(b"half", total=8)
    for at in range(16):
        assert growing.fragment(b"x", at=at, total=100).verdict == FINE
        assert repeating.fragment(b"half", total=8).verdict == FINE
        assert pinging.line.ask(raw.ping(pinging.url, bits_session_id=pinging.session)).verdict == FINE
        time.sleep(0.2)
    assert pinging.fragment(b"half", at=4).received == 8
    assert silent.fragment(b"half", at=4).verdict == NOT_FOUND


# C16: when the file appears


def test_c16_the_file_is_there_before_the_ack_of_the_last_fragment_and_not_before_that(
    server: Ferry, upload: Upload
) -> None:
    before = server.files
    data = os.urandom(300_000)
    for at in range(0, 250_000, 50_000):
        upload.fragment(data[at : at + 50_000], at=at, total=len(data))
        assert server.files == before
    upload.fragment(data[250_000:], at=250_000)
    assert upload.file.read_bytes() == data
    assert server.files - before == {f"in/{upload.file.name}"}


def test_c16_a_cancel_after_the_last_fragment_leaves_the_file(upload: Upload) -> None:
    upload.fragment(b"whole")
    assert upload.cancel().verdict == FINE
    assert upload.file.read_bytes() == b"whole"
    assert upload.fragment(b"whole").verdict == NOT_FOUND


def test_c16_a_cancel_before_it_leaves_nothing(server: Ferry, upload: Upload) -> None:
    before = server.files
    upload.fragment(b"half", total=8)
    assert upload.cancel().verdict == FINE
    assert server.files == before
    assert upload.fragment(b"half", at=4).verdict == NOT_FOUND


def test_the_file_is_not_put_in_place_twice(upload: Upload) -> None:
    upload.fragment(b"whole")
    upload.file.unlink()
    upload.file.write_bytes(b"the application's own")
    repeated = upload.fragment(b"whole")
    assert (repeated.verdict, repeated.received) == (FINE, 5)
    assert upload.close().verdict == FINE
    assert upload.file.read_bytes() == b"the application's own"


# C17, C20, sessions and protocols


def test_c17_create_session_gets_200_with_protocol_session_and_encoding(server: Ferry) -> None:
    answer = server.upload().create()
    assert answer.verdict == FINE
    assert answer.get("BITS-Protocol") == GUID
    assert answer.get("Accept-Encoding") == "identity"
    assert answer.session


def test_c20_a_directory_where_uploads_are_off_gets_501_for_every_packet(line: Line) -> None:
    url = "/off/a"
    packets = [
        raw.ping(url),
        raw.create(url),
        raw.fragment(url, NOBODY, b"data"),
        raw.close(url, NOBODY),
        raw.cancel(url, NOBODY),
    ]
    assert [line.ask(packet).verdict for packet in packets] == [(501, E_ACCESSDENIED)] * 5


def test_a_session_id_is_an_upper_case_guid_in_braces_and_never_the_same_twice(server: Ferry) -> None:
    ids = {server.begun().session for _ in range(20)}
    assert len(ids) == 20
    for session in ids:
        assert (session[0], session[-1], len(session)) == ("{", "}", 38)
        assert set(session[1:-1]) <= set("0123456789ABCDEF-")
        assert session[15] == "4", "a random one"


def test_a_session_id_is_compared_without_regard_to_case_or_braces(upload: Upload) -> None:
    given = upload.session
    for at, spelling in enumerate([given.lower(), given[1:-1], given[1:-1].lower(), given]):
        upload.session = spelling
        assert upload.fragment(b"x", at=at, total=5).received == at + 1


def test_a_session_belongs_to_its_path_and_another_gets_400(server: Ferry, upload: Upload) -> None:
    other = server.upload()
    for packet in (
        raw.fragment(other.url, upload.session, b"data"),
        raw.close(other.url, upload.session),
        raw.cancel(other.url, upload.session),
    ):
        assert other.line.ask(packet).verdict == INVALID
    assert not other.file.exists()
    assert upload.fragment(b"data").verdict == FINE


def test_a_path_is_the_same_however_it_is_spelt(server: Ferry, upload: Upload) -> None:
    upload.fragment(b"ab", total=6)
    plain = upload.url
    upload.url = plain.replace("f", "%66", 1)
    assert upload.fragment(b"cd", at=2, total=6).received == 4
    upload.url = f"http://127.0.0.1:{server.port}{plain}?query"
    assert upload.fragment(b"ef", at=4, total=6).received == 6


@pytest.mark.parametrize(
    "offer",
    [
        GUID,
        GUID.upper(),
        f"{NOBODY} {GUID}",
        f"{NOBODY},{GUID}",
        f"{NOBODY} , {GUID}",
        f"{GUID} {NOBODY}",
        " ".join([NOBODY] * 99 + [GUID]),
    ],
)
def test_our_protocol_is_chosen_in_any_case_between_spaces_or_commas(server: Ferry, offer: str) -> None:
    upload = server.upload()
    answer = upload.line.ask(raw.create(upload.url, bits_supported_protocols=offer))
    assert answer.verdict == FINE
    assert answer.get("BITS-Protocol") == GUID


@pytest.mark.parametrize(
    "offer", [None, "", NOBODY, "anything", GUID[:-1], " ".join([NOBODY] * 100 + [GUID])]
)
def test_without_our_protocol_among_the_first_hundred_create_session_gets_400(
    server: Ferry, offer: str | None
) -> None:
    upload = server.upload()
    answer = upload.line.ask(raw.create(upload.url, bits_supported_protocols=offer))
    assert answer.verdict == INVALID
    assert answer.session is None


@pytest.mark.parametrize(
    "session", ["{}", "nobody", "'; --", NOBODY[:-2] + "}", "{" + NOBODY + "}", "../../x", "x" * 4000]
)
def test_a_malformed_session_id_is_an_unknown_one(line: Line, session: str) -> None:
    for ask in (raw.close, raw.cancel):
        assert line.ask(ask("/in/a", session)).verdict == NOT_FOUND
    assert line.ask(raw.fragment("/in/a", session, b"data")).verdict == NOT_FOUND


@pytest.mark.parametrize("session", ["", None])
def test_a_missing_session_id_gets_400(line: Line, session: str | None) -> None:
    for ask in (raw.close, raw.cancel):
        assert line.ask(ask("/in/a", NOBODY, bits_session_id=session)).verdict == INVALID
    fragment = raw.fragment("/in/a", NOBODY, b"data", bits_session_id=session)
    assert line.ask(fragment).verdict == INVALID


# The method, redirects, cookies


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "x-http-method-override"])
@pytest.mark.parametrize("verb", ["BITS_POST", "bits_post"])
def test_a_post_that_says_bits_post_is_one(upload: Upload, name: str, verb: str) -> None:
    def overridden(packet: bytes) -> bytes:
        return packet.removeprefix(b"BITS_").replace(b"Host:", f"{name}: {verb}\r\nHost:".encode(), 1)

    fragment = overridden(raw.fragment(upload.url, upload.session, b"data"))
    assert upload.line.ask(fragment).received == 4
    assert upload.line.ask(overridden(raw.close(upload.url, upload.session))).is_ack
    assert upload.file.read_bytes() == b"data"


def test_a_post_that_says_bits_post_is_none_where_that_is_switched_off(serve: Serve) -> None:
    ferry = serve(top="method_override = false")
    ping = raw.ping("/in/a", x_http_method_override="BITS_POST")
    with ferry.line() as line:
        assert line.ask(ping).status == 200, "the verb itself needs no override"
        assert line.ask(ping.removeprefix(b"BITS_")).status == 405


@pytest.mark.parametrize("url", ["/", "/in", "/in/", "/in//", "/in/a/", "http://127.0.0.1", "/IN/a"])
def test_a_bits_post_is_never_redirected(line: Line, url: str) -> None:
    answer = line.ask(raw.create(url))
    assert 400 <= answer.status < 500
    assert answer.get("Location") is None


def test_cookies_are_ignored_and_none_are_given(upload: Upload) -> None:
    answer = upload.fragment(b"data", cookie="session={}; BITS-Session-Id=" + NOBODY)
    assert answer.received == 4
    assert answer.get("Set-Cookie") is None


# Several at once


def test_of_several_sessions_for_one_destination_the_first_to_finish_wins(server: Ferry) -> None:
    first = server.begun()
    second = server.begun(name=first.file.name)
    first.fragment(b"fir", total=5)
    second.fragment(b"sec", total=6)
    assert second.fragment(b"ond", at=3).verdict == FINE
    late = first.fragment(b"st", at=3)
    assert (late.verdict, late.received) == (DENIED, 5)
    assert first.cancel().verdict == FINE
    assert second.file.read_bytes() == b"second"


def test_where_overwriting_is_allowed_the_last_to_finish_wins(server: Ferry) -> None:
    first = server.begun("/over/")
    second = server.begun("/over/", first.file.name)
    assert second.fragment(b"second").verdict == FINE
    assert first.fragment(b"first").verdict == FINE
    assert first.file.read_bytes() == b"first"


def test_of_two_requests_of_one_session_the_newer_wins_and_what_the_older_stored_counts(
    server: Ferry, upload: Upload
) -> None:
    data = os.urandom(400_000)
    begun = time.monotonic()
    with server.line() as older:
        older.send(raw.fragment(upload.url, upload.session, data)[:-200_000])
        server.catch_up()
        newer = upload.fragment(data[100_000:], at=100_000)
        assert newer.received == len(data)
        interrupted = older.answer()
        assert interrupted.verdict == (503, None)
        assert interrupted.get("Retry-After")
    assert time.monotonic() - begun < 5
    assert upload.file.read_bytes() == data


def test_over_the_limit_of_sessions_create_session_gets_503_until_one_ends(serve: Serve) -> None:
    ferry = serve(directory="sessions_per_user = 2")
    first, _second, third = ferry.begun(), ferry.begun(), ferry.upload()
    refused = third.create()
    assert (refused.verdict, refused.session) == ((503, None), None)
    assert int(refused.get("Retry-After") or 0) > 0
    assert first.cancel().verdict == FINE
    assert third.create().verdict == FINE


# Busy, draining, the store gone


def test_a_busy_server_says_503_with_retry_after(serve: Serve) -> None:
    ferry = serve(limits="connections = 1")
    with ferry.line() as line, ferry.line() as too_many:
        refused = too_many.answer()
        assert refused.verdict == (503, None)
        assert int(refused.get("Retry-After") or 0) > 0
        assert too_many.is_closed() or refused.closes
        assert line.ask(raw.ping("/in/a")).verdict == FINE


def test_a_server_that_ends_finishes_the_fragment_it_is_receiving(serve: Serve) -> None:
    ferry = serve()
    upload = ferry.begun()
    fragment = raw.fragment(upload.url, upload.session, b"whole")
    upload.line.send(fragment[:-2])
    ferry.catch_up()
    ferry.terminate()
    assert raw.eventually(lambda: not ferry.is_listening)
    upload.line.send(fragment[-2:])
    assert upload.line.answer().received == 5
    assert upload.file.read_bytes() == b"whole"
    assert ferry.ended() == 0


def test_a_server_that_ends_and_cannot_wait_says_503_and_keeps_what_arrived(serve: Serve) -> None:
    ferry = serve(limits="drain_time = 0.2")
    upload, idle = ferry.begun(), ferry.line()
    upload.line.send(raw.fragment(upload.url, upload.session, b"0123456789")[:-6])
    ferry.catch_up()
    ferry.terminate()
    cut = upload.line.answer()
    assert cut.verdict == (503, None)
    assert cut.get("Retry-After")
    with idle:
        assert idle.is_closed()
    upload.line.hang_up()
    assert ferry.ended() == 0
    ferry.start()
    upload.call_again()
    assert upload.held(10) == 4


def test_a_server_that_ends_does_not_wait_for_clients_that_do_not_listen(serve: Serve) -> None:
    ferry = serve(limits="drain_time = 0.2\nlinger_time = 0.2")
    with Line(ferry.port, buffer=16 * 1024) as deaf, ferry.line() as slow:
        deaf.send_what_is_taken(raw.ping("/in/a") * 50_000)
        slow.send(raw.ping("/in/a")[:-1])
        ferry.terminate()
        assert ferry.ended() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_store_that_is_gone_for_a_while_loses_no_upload(serve: Serve, workers: int) -> None:
    ferry = serve(top=f"workers = {workers}")
    upload = ferry.begun()
    upload.fragment(b"half", total=8)
    other = ferry.upload()
    store, elsewhere = ferry.folder / "store", ferry.folder / "log.unmounted"
    store.rename(elsewhere)
    refused, failed = other.create(), upload.fragment(b"half", at=4)
    elsewhere.rename(store)
    assert refused.verdict == (503, None)
    assert refused.get("Retry-After")
    assert failed.status >= 500
    assert failed.error != HResult.BG_E_SESSION_NOT_FOUND
    assert upload.fragment(b"half", at=4).received == 8
    assert upload.file.read_bytes() == b"halfhalf"


# Host id


def test_a_directory_with_a_host_id_names_it_at_create_session_only(server: Ferry) -> None:
    upload = server.upload("/host/")
    created = upload.create()
    assert created.get("BITS-Host-Id") == "node1.example"
    assert created.get("BITS-Host-Id-Fallback-Timeout") == "110"
    later = [upload.ping(), upload.fragment(b"data"), upload.close()]
    assert [answer.get("BITS-Host-Id") for answer in later] == [None, None, None]


def test_a_directory_without_one_says_nothing_of_hosts(server: Ferry) -> None:
    created = server.upload().create()
    assert created.get("BITS-Host-Id") is None
    assert created.get("BITS-Host-Id-Fallback-Timeout") is None


# The order of checks


def test_order_of_checks_form_before_rights_before_session_before_range(line: Line) -> None:
    unknown = raw.fragment("/in/a", NOBODY, b"data", at=7)
    assert line.ask(unknown).verdict == NOT_FOUND, "session before range"
    disabled = raw.fragment("/off/a", NOBODY, b"data", at=7)
    assert line.ask(disabled).verdict == (501, E_ACCESSDENIED), "rights before session"
    malformed = raw.fragment("/off/a", NOBODY, b"data", content_range="bytes 7-8/99")
    assert line.ask(malformed).verdict == INVALID, "form before rights"
    encoded = raw.fragment("/off/a", NOBODY, b"data", content_encoding="gzip")
    assert line.ask(encoded).verdict == (415, E_INVALIDARG), "form before rights"
    no_protocol = raw.create("/off/a", bits_supported_protocols=NOBODY)
    assert line.ask(no_protocol).verdict == INVALID, "form before rights"
    no_length = raw.packet("Close-Session", "/off/a", {"Content-Length": None})
    assert line.ask(no_length).verdict == (411, E_INVALIDARG), "form before rights"


# Settings read again


def test_uploads_switched_off_in_the_middle_get_501_and_go_on_when_switched_on(serve: Serve) -> None:
    ferry = serve()
    upload = ferry.begun()
    upload.fragment(b"half", total=8)
    ferry.configure(settings(directory="upload_enabled = false"))
    ferry.reload()
    assert raw.eventually(lambda: upload.ping().status == 501)
    assert upload.fragment(b"half", at=4).verdict == (501, E_ACCESSDENIED)
    ferry.configure(settings())
    ferry.reload()
    assert raw.eventually(lambda: upload.ping().status == 200)
    assert upload.fragment(b"half", at=4).received == 8
