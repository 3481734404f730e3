"""A file is fetched whole, of one version, whatever the server and the line do; or it is said why not."""

import contextlib
import os
import ssl
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from bitsferry.client import events
from bitsferry.client.bandwidth import Limit, Timetable
from bitsferry.client.credentials import Credential, Scheme, Target
from bitsferry.client.download import Version
from bitsferry.client.stopped import Stopped
from bitsferry.client.trust import TlsSettings
from bitsferry.protocol.errors import (
    AuthenticationRequired,
    Busy,
    InsufficientRangeSupport,
    InvalidServerResponse,
    MissingFileSize,
    NoProgress,
    Refused,
    ServerFailed,
    TimedOut,
    TransportFailed,
)

from .receiving import Receiver
from .web import LONG_AGO, Exchange, WebFile, WebServer

SIZE = 1_000_003
TARGET = "/out/file.bin"
IN_2007 = "Mon, 18 Jun 2007 21:12:01 GMT"


def content(length: int = SIZE) -> bytes:
    return os.urandom(length)


@pytest.fixture
def server() -> Iterator[WebServer]:
    server = WebServer({TARGET: WebFile(content(), etag='"one"')})
    yield server
    server.close()


@pytest.fixture
def receiver(server: WebServer, tmp_path: Path) -> Receiver:
    return Receiver(server.url(), tmp_path / "file.bin")


def data(server: WebServer) -> bytes:
    return server.files[TARGET].data


# In the plain case


def test_a_file_is_fetched(receiver: Receiver, server: WebServer) -> None:
    assert receiver.run() == Version(SIZE, IN_2007, '"one"')
    assert receiver.path.read_bytes() == data(server)
    assert os.listdir(receiver.path.parent) == ["file.bin"]
    assert server.methods() == ["HEAD", "GET"]
    assert server.connections == 1


def test_it_asks_as_windows_does(receiver: Receiver, server: WebServer) -> None:
    receiver.run()
    for asked in server.asked:
        assert list(asked.headers) == ["accept", "accept-encoding", "user-agent", "host"]
        assert asked.headers["accept"] == "*/*"
        assert asked.headers["accept-encoding"] == "identity"


def test_it_tells_that_the_server_answered_and_how_much_is_there(
    receiver: Receiver, server: WebServer
) -> None:
    receiver.run()
    assert receiver.told[0] == events.Connected()
    assert all(isinstance(event, events.Receiving) for event in receiver.told[1:])
    assert receiver.received == sorted(receiver.received)
    assert receiver.told[-1] == events.Receiving(server.url(), SIZE, SIZE)


def test_a_file_of_no_bytes_is_fetched(receiver: Receiver, server: WebServer) -> None:
    server.files[TARGET] = WebFile(b"", etag='"none"')
    assert receiver.run().size == 0
    assert receiver.path.read_bytes() == b""


def test_the_size_is_saved_before_the_first_byte_comes(receiver: Receiver, server: WebServer) -> None:
    @server.on("GET")
    def look(exchange: Exchange) -> None:
        assert receiver.version == Version(SIZE, IN_2007, '"one"')
        exchange.serve()

    receiver.run()
    assert receiver.path.read_bytes() == data(server)


def test_no_byte_is_kept_of_a_version_that_was_not_saved(receiver: Receiver, server: WebServer) -> None:
    def fail(version: Version) -> None:
        assert receiver.part.read_bytes() == b""
        saved.append(version)
        if len(saved) < 3:
            raise Busy("the disk at home is full")

    saved: list[Version] = []
    receiver.save = fail
    receiver.run()
    assert receiver.path.read_bytes() == data(server)
    assert len(saved) == 3


@pytest.mark.parametrize("status", [403, 404, 405, 501])
def test_a_server_that_refuses_head_is_asked_by_get(
    receiver: Receiver, server: WebServer, status: int
) -> None:
    @server.on("HEAD")
    def refuse(exchange: Exchange) -> None:
        exchange.refuse(status)

    receiver.run()
    assert receiver.path.read_bytes() == data(server)


def test_what_head_says_of_the_size_is_not_believed(receiver: Receiver, server: WebServer) -> None:
    @server.on("HEAD")
    def say_nonsense(exchange: Exchange) -> None:
        exchange.say(200, [("Content-Length", "0")])

    receiver.run()
    assert receiver.path.read_bytes() == data(server)


def test_http_1_0_will_do(receiver: Receiver, server: WebServer) -> None:
    @server.on("HEAD")
    @server.on("GET")
    def be_old(exchange: Exchange) -> None:
        exchange.say(200, [("Content-Length", str(SIZE))], data(server), version="1.0")
        exchange.hang_up()

    receiver.run()
    assert receiver.path.read_bytes() == data(server)


# The line


def test_a_cut_costs_nothing_that_came(receiver: Receiver, server: WebServer) -> None:
    @server.on("GET", first=3)
    def cut(exchange: Exchange) -> None:
        exchange.serve(cut=100_001)

    receiver.run()
    assert receiver.path.read_bytes() == data(server)
    assert server.ranges() == [None, "bytes=100001-", "bytes=200002-", "bytes=300003-"]
    assert server.asked[2].headers["if-range"] == '"one"'
    assert server.methods().count("HEAD") == 1
    assert [retry.error.context for retry in receiver.retries] == [6, 6, 6]


def test_without_an_etag_the_date_says_which_version_is_meant(receiver: Receiver, server: WebServer) -> None:
    server.files[TARGET] = WebFile(content())

    @server.on("GET", first=1)
    def cut(exchange: Exchange) -> None:
        exchange.serve(cut=10)

    receiver.run()
    assert receiver.path.read_bytes() == data(server)
    assert server.asked[-1].headers["if-unmodified-since"] == IN_2007
    assert server.asked[-1].headers["range"] == "bytes=10-"


def test_another_process_goes_on_where_one_died(receiver: Receiver, server: WebServer) -> None:
    @server.on("GET", first=1)
    def cut(exchange: Exchange) -> None:
        exchange.serve(cut=500_000)

    with pytest.raises(TransportFailed, match="500003 bytes are missing"):
        receiver.run(patience=0)
    assert receiver.part.stat().st_size == 500_000
    receiver.run()
    assert receiver.path.read_bytes() == data(server)
    assert server.methods() == ["HEAD", "GET", "GET"]
    assert server.ranges() == [None, "bytes=500000-"]


def test_what_was_whole_already_is_not_asked_for_again(receiver: Receiver, server: WebServer) -> None:
    receiver.version = Version(SIZE, IN_2007, '"one"')
    receiver.part.write_bytes(data(server))
    receiver.run()
    assert receiver.path.read_bytes() == data(server)
    assert server.asked == []


def test_a_part_that_is_longer_than_the_file_begins_anew(receiver: Receiver, server: WebServer) -> None:
    receiver.version = Version(SIZE, IN_2007, '"one"')
    receiver.part.write_bytes(data(server) + b"more")
    receiver.run()
    assert receiver.path.read_bytes() == data(server)


def test_a_server_may_send_less_than_was_asked_for(receiver: Receiver, server: WebServer) -> None:
    receiver.version = Version(SIZE, IN_2007, '"one"')
    receiver.part.write_bytes(data(server)[:1000])

    @server.on("GET", first=1)
    def be_sparing(exchange: Exchange) -> None:
        said = [("Content-Range", f"bytes 1000-1999/{SIZE}"), ("ETag", '"one"'), ("Content-Length", "1000")]
        exchange.say(206, said, data(server)[1000:2000])

    receiver.run()
    assert receiver.path.read_bytes() == data(server)
    assert server.ranges() == ["bytes=1000-", "bytes=2000-"]


def test_patience_ends_when_nothing_comes_any_more(receiver: Receiver, server: WebServer) -> None:
    @server.on("GET")
    def send_nothing(exchange: Exchange) -> None:
        exchange.serve(cut=0)

    with pytest.raises(TransportFailed):
        receiver.run(patience=60)
    assert sum(receiver.slept) == pytest.approx(60)


def test_headway_renews_patience(receiver: Receiver, server: WebServer) -> None:
    @server.on("GET")
    def drip(exchange: Exchange) -> None:
        exchange.serve(cut=SIZE // 100)

    receiver.run(patience=2)
    assert receiver.path.read_bytes() == data(server)
    assert receiver.now > 50


def test_beginning_anew_is_no_headway(receiver: Receiver, server: WebServer) -> None:
    """A server that never says which version it sends, on a line that never lasts."""
    server.files[TARGET] = WebFile(content(), modified=None)

    @server.on("GET")
    def cut(exchange: Exchange) -> None:
        exchange.serve(cut=SIZE // 2)

    with pytest.raises(TransportFailed):
        receiver.run(patience=60)
    assert sum(receiver.slept) == pytest.approx(60)
    with pytest.raises(TransportFailed):
        receiver.run(patience=0)
    assert receiver.received == sorted(set(receiver.received))


def test_a_silent_server_is_not_waited_for_for_ever(receiver: Receiver, server: WebServer) -> None:
    @server.on("GET")
    def fall_silent(exchange: Exchange) -> None:
        exchange.say(200, [("Content-Length", str(SIZE)), ("ETag", '"one"')], data(server)[:10])
        exchange.stay_silent()

    with pytest.raises(TimedOut):
        receiver.run(patience=0, answering=0.05)
    assert receiver.part.read_bytes() == data(server)[:10]


def test_a_busy_server_is_left_alone_for_as_long_as_it_says(receiver: Receiver, server: WebServer) -> None:
    for method in ("HEAD", "GET"):

        @server.on(method, first=1)
        def be_busy(exchange: Exchange) -> None:
            exchange.refuse(503, ("Retry-After", "17"))

    receiver.run()
    assert receiver.path.read_bytes() == data(server)
    assert receiver.slept == [17.5, 17.5]
    assert [retry.error.name for retry in receiver.retries] == ["BG_E_HTTP_ERROR_503"] * 2


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_an_error_that_may_pass_is_transient(receiver: Receiver, server: WebServer, status: int) -> None:
    @server.on("GET")
    def fail(exchange: Exchange) -> None:
        exchange.refuse(status)

    with pytest.raises(ServerFailed, match=f"HTTP status {status}") as caught:
        receiver.run(patience=0)
    assert caught.value.transient
    assert caught.value.code == 0x80190000 + status


@pytest.mark.parametrize("status", [400, 403, 404, 410, 501])
def test_an_error_that_stays_ends_it_with_the_number_windows_gives(
    receiver: Receiver, server: WebServer, status: int
) -> None:
    @server.on("GET")
    def refuse(exchange: Exchange) -> None:
        exchange.refuse(status)

    receiver.url += "?key=secret"
    server.files[TARGET + "?key=secret"] = server.files[TARGET]
    with pytest.raises(Refused, match=r"/out/file\.bin") as caught:
        receiver.run()
    assert not caught.value.transient
    assert caught.value.code == 0x80190000 + status
    assert "secret" not in str(caught.value)
    assert receiver.slept == []


def test_who_asks_is_said_when_the_server_wants_to_know(receiver: Receiver, server: WebServer) -> None:
    for method in ("HEAD", "GET"):

        @server.on(method)
        def ask_back(exchange: Exchange) -> None:
            if "authorization" in exchange.asked.headers:
                exchange.serve()
            else:
                exchange.refuse(401, ("WWW-Authenticate", 'Basic realm="out"'))

    with pytest.raises(AuthenticationRequired, match="wants a user name and a password"):
        receiver.run()
    receiver.run(credentials=[Credential(Target.SERVER, Scheme.BASIC, "inga", "pw")])
    assert receiver.path.read_bytes() == data(server)


# The server's file changes


def change(server: WebServer, etag: str | None = '"two"', modified: int | None = LONG_AGO + 60) -> None:
    server.files[TARGET] = WebFile(content(), modified=modified, etag=etag)


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"etag": None},
        {"modified": LONG_AGO},
        {"modified": None},
        {"etag": None, "modified": None},
    ],
)
def test_a_file_that_changed_is_fetched_anew_and_never_mixed(
    receiver: Receiver, server: WebServer, kind: dict[str, None]
) -> None:
    @server.on("GET", first=1)
    def cut_and_change(exchange: Exchange) -> None:
        change(server, **kind)
        exchange.server.files[TARGET], after = before, exchange.server.files[TARGET]
        try:
            exchange.serve(cut=SIZE // 2)
        finally:
            exchange.server.files[TARGET] = after

    before = server.files[TARGET]
    receiver.run()
    assert receiver.path.read_bytes() == data(server) != before.data


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_a_change_is_told_as_something_that_is_tried_again(
    receiver: Receiver, server: WebServer, etag: str | None
) -> None:
    server.files[TARGET] = WebFile(content(), etag=etag)

    @server.on("GET", first=1)
    def cut(exchange: Exchange) -> None:
        exchange.serve(cut=10)

    with pytest.raises(TransportFailed):
        receiver.run(patience=0)
    change(server, etag)
    receiver.run()
    assert receiver.path.read_bytes() == data(server)
    (retry,) = receiver.retries
    assert retry.error.name == "BG_E_HTTP_ERROR_412"
    assert retry.wait == 0


@pytest.mark.parametrize("etag", ['W/"weak"', "unquoted", None])
def test_what_is_not_sure_to_be_the_same_is_fetched_anew(
    receiver: Receiver, server: WebServer, etag: str | None
) -> None:
    server.files[TARGET] = WebFile(content(), modified=None, etag=etag)

    @server.on("GET", first=1)
    def cut(exchange: Exchange) -> None:
        exchange.serve(cut=SIZE // 2)

    with pytest.raises(TransportFailed):
        receiver.run(patience=0)
    change(server, etag, None)
    receiver.run()
    assert receiver.path.read_bytes() == data(server)
    assert server.ranges() == [None, None]


def test_a_file_that_became_shorter_is_fetched_anew(receiver: Receiver, server: WebServer) -> None:
    receiver.version = Version(SIZE, IN_2007)
    receiver.part.write_bytes(data(server)[:500_000])
    server.files[TARGET] = WebFile(content(1000))
    receiver.run()
    assert receiver.path.read_bytes() == data(server)


def test_a_file_that_never_stops_changing_is_given_up_for_a_while(
    receiver: Receiver, server: WebServer
) -> None:
    @server.on("GET")
    def cut_and_change(exchange: Exchange) -> None:
        change(server, f'"{len(server.asked)}"')
        exchange.serve(cut=SIZE // 2)

    with pytest.raises(NoProgress, match="changed 5 times") as caught:
        receiver.run()
    assert caught.value.transient
    server.behave()
    receiver.run()
    assert receiver.path.read_bytes() == data(server)


def test_a_date_of_this_very_second_recognises_nothing(receiver: Receiver, server: WebServer) -> None:
    """The file may change once more in that second (RFC 9110 8.8.2.2)."""
    server.date = LONG_AGO
    server.files[TARGET] = WebFile(content())

    @server.on("GET", first=1)
    def cut_and_change(exchange: Exchange) -> None:
        try:
            exchange.serve(cut=SIZE // 2)
        finally:
            change(server, None, LONG_AGO)
            server.date = LONG_AGO + 1

    assert receiver.run().last_modified == IN_2007
    assert receiver.path.read_bytes() == data(server)
    assert receiver.path.stat().st_mtime == LONG_AGO
    assert server.ranges() == [None, None]


def test_a_part_of_nobody_knows_which_version_is_not_taken(receiver: Receiver, server: WebServer) -> None:
    @server.on("GET", first=1)
    def cut(exchange: Exchange) -> None:
        exchange.serve(cut=10)

    @server.on("GET", first=1)
    def forget_the_etag(exchange: Exchange) -> None:
        said = [("Content-Range", f"bytes 10-{SIZE - 1}/{SIZE}"), ("Content-Length", str(SIZE - 10))]
        exchange.say(206, said, bytes(SIZE - 10))

    receiver.run()
    assert receiver.path.read_bytes() == data(server)


@pytest.fixture(scope="module")
def unsteady() -> Iterator[WebServer]:
    server = WebServer()
    yield server
    server.close()


STEPS = st.tuples(
    st.sampled_from(["serve", "serve", "serve", "no ranges", "busy", "stale", "gone", "silly", "encoded"]),
    st.integers(0, 3000),  # where a body is cut
    st.booleans(),  # whether the file changes then
    st.booleans(),  # whether we stop then, and another process goes on
)


@given(
    st.lists(STEPS, max_size=12),
    st.sampled_from(["etag", "date", "both", "weak etag and date", "nothing"]),
    st.lists(st.sampled_from([3000, 2000]), min_size=13, max_size=13),
)
def test_whatever_happens_the_file_is_whole_and_of_one_version(
    unsteady: WebServer, steps: list[tuple[str, int, bool, bool]], recognised_by: str, sizes: list[int]
) -> None:
    versions = [version_of(number, size, recognised_by) for number, size in enumerate(sizes)]
    ahead, left, stops = iter(versions), iter(steps), [False]
    unsteady.behave()
    unsteady.files[TARGET] = next(ahead)

    @unsteady.on("GET")
    def do_something(exchange: Exchange) -> None:
        kind, cut, changes, stops[0] = next(left, ("serve", None, False, False))
        try:
            do(exchange, kind, cut)
        finally:
            if changes:
                unsteady.files[TARGET] = next(ahead)

    with tempfile.TemporaryDirectory() as folder:
        receiver = Receiver(unsteady.url(), Path(folder) / "file.bin")
        for _ in range(len(steps) + 1):
            try:
                receiver.run(foreground=True, stop=lambda: stops[0])
                break
            except Stopped:
                stops[0] = False
            except NoProgress:
                pass
        assert receiver.path.read_bytes() in [version.data for version in versions]


def version_of(number: int, size: int, recognised_by: str) -> WebFile:
    """Every byte of it says which one it is."""
    etag = {"etag": f'"{number}"', "both": f'"{number}"', "weak etag and date": 'W/"same"'}.get(recognised_by)
    modified = None if recognised_by in ("etag", "nothing") else LONG_AGO + number
    return WebFile(bytes([number]) * size, modified, etag)


def do(exchange: Exchange, kind: str, cut: int | None) -> None:
    match kind:
        case "serve":
            exchange.serve(cut=cut)
        case "no ranges":
            exchange.serve(cut=cut, ranges=False)
        case "busy":
            exchange.refuse(503)
        case "stale":
            exchange.refuse(412 if "range" in exchange.asked.headers else 503)
        case "gone":
            exchange.hang_up(reset=True)
        case "silly":
            exchange.say(206, [("Content-Range", "bytes 0-0/*"), ("Content-Length", "1")], b"x")
        case "encoded":
            exchange.serve(more="gzip")


# Servers that know no ranges


def test_in_the_background_an_interruption_needs_ranges(receiver: Receiver, server: WebServer) -> None:
    @server.on("GET")
    def know_no_ranges(exchange: Exchange) -> None:
        exchange.serve(ranges=False, cut=SIZE // 2 if len(server.asked) == 2 else None)

    with pytest.raises(InsufficientRangeSupport, match="cannot send the rest alone") as caught:
        receiver.run()
    assert not caught.value.transient


def test_in_the_foreground_it_begins_anew_where_there_are_no_ranges(
    receiver: Receiver, server: WebServer
) -> None:
    @server.on("GET")
    def know_no_ranges(exchange: Exchange) -> None:
        exchange.serve(ranges=False, cut=SIZE // 2 if len(server.asked) == 2 else None)

    receiver.run(foreground=True)
    assert receiver.path.read_bytes() == data(server)
    assert len(server.asked) == 3


def test_without_an_interruption_no_ranges_are_needed(receiver: Receiver, server: WebServer) -> None:
    @server.on("GET")
    def know_no_ranges(exchange: Exchange) -> None:
        exchange.serve(ranges=False)

    receiver.run()
    assert receiver.path.read_bytes() == data(server)


# Answers that are none


@pytest.mark.parametrize("more", [[], [("Content-Length", "5")]])
def test_a_server_must_say_how_long_a_file_is(
    receiver: Receiver, server: WebServer, more: list[tuple[str, str]]
) -> None:
    @server.on("HEAD")
    @server.on("GET")
    def be_dynamic(exchange: Exchange) -> None:
        exchange.say(200, [("Transfer-Encoding", "chunked"), *more], b"5\r\nhello\r\n0\r\n\r\n")

    with pytest.raises(MissingFileSize) as caught:
        receiver.run()
    assert not caught.value.transient


@pytest.mark.parametrize("length", ["", "many", "-5", "5, 5", "9" * 19, "9" * 5000])
def test_a_length_that_is_none_is_a_missing_one(receiver: Receiver, server: WebServer, length: str) -> None:
    @server.on("HEAD")
    @server.on("GET")
    def say_nonsense(exchange: Exchange) -> None:
        exchange.say(200, [("Content-Length", length)], b"hello")
        exchange.hang_up()

    with pytest.raises(MissingFileSize):
        receiver.run()


def test_a_coding_nobody_asked_for_is_refused(receiver: Receiver, server: WebServer) -> None:
    @server.on("GET")
    def compress(exchange: Exchange) -> None:
        exchange.serve(more="gzip")

    with pytest.raises(InvalidServerResponse, match="'gzip', unasked"):
        receiver.run(patience=0)
    assert receiver.part.read_bytes() == b""


@pytest.mark.parametrize(
    ("said", "length"),
    [
        ("bytes 0-0/*", 1),
        ("bytes 10-19/*", 10),
        (f"bytes 0-{SIZE - 1}/{SIZE}", SIZE),
        (f"bytes 11-{SIZE - 1}/{SIZE}", SIZE - 11),
        (f"bytes 10-{SIZE - 1}/{SIZE}", SIZE),
        (f"bytes 10-{SIZE}/{SIZE}", SIZE - 9),
        ("bytes 10-9/1000003", 0),
        ("", SIZE - 10),
    ],
)
def test_a_part_that_does_not_fit_is_not_taken(
    receiver: Receiver, server: WebServer, said: str, length: int
) -> None:
    receiver.version = Version(SIZE, IN_2007, '"one"')
    receiver.part.write_bytes(data(server)[:10])

    @server.on("GET")
    def send_something_else(exchange: Exchange) -> None:
        named = [("Content-Range", said), ("ETag", '"one"'), ("Content-Length", str(length))]
        exchange.say(206, named, bytes(length))

    with pytest.raises(InvalidServerResponse):
        receiver.run(patience=0)
    assert receiver.part.read_bytes() == data(server)[:10]


def test_several_parts_at_once_are_not_taken(receiver: Receiver, server: WebServer) -> None:
    receiver.version = Version(SIZE, IN_2007, '"one"')
    receiver.part.write_bytes(data(server)[:10])

    @server.on("GET")
    def send_parts(exchange: Exchange) -> None:
        exchange.say(
            206, [("Content-Type", "multipart/byteranges; boundary=x"), ("Content-Length", "3")], b"--x"
        )

    with pytest.raises(InvalidServerResponse):
        receiver.run(patience=0)


@pytest.mark.parametrize("status", [204, 206])
def test_an_answer_without_the_file_is_no_success(receiver: Receiver, server: WebServer, status: int) -> None:
    @server.on("GET")
    def say_something(exchange: Exchange) -> None:
        exchange.say(status, [("Content-Length", "0"), ("Content-Range", "bytes */0")])

    with pytest.raises(InvalidServerResponse, match=f"status {status}"):
        receiver.run(patience=0)


def test_more_bytes_than_were_said_are_not_taken(receiver: Receiver, server: WebServer) -> None:
    @server.on("GET")
    def babble(exchange: Exchange) -> None:
        exchange.say(200, [("Content-Length", "5")], b"hello, and more")

    receiver.run()
    assert receiver.path.read_bytes() == b"hello"


@pytest.mark.parametrize(
    "said",
    [
        [("Content-Range", f"bytes 11-{SIZE - 1}/{SIZE}"), ("ETag", '"one"')],
        [("Content-Range", f"bytes 10-{SIZE - 1}/{SIZE}"), ("ETag", '"another"')],
    ],
    ids=["misplaced", "another version"],
)
def test_a_body_that_is_not_taken_is_not_heard_as_the_next_answer(
    receiver: Receiver, server: WebServer, said: list[tuple[str, str]]
) -> None:
    receiver.version = Version(SIZE, IN_2007, '"one"')
    receiver.part.write_bytes(data(server)[:10])

    @server.on("GET", first=1)
    def send_it_late(exchange: Exchange) -> None:
        span = said[0][1].split(" ")[1].split("-")[0]
        exchange.say(206, [*said, ("Content-Length", str(SIZE - int(span)))])

    receiver.run()
    assert receiver.path.read_bytes() == data(server)
    assert server.connections == 2


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(receiver: Receiver, server: WebServer, status: int) -> None:
    server.files["/there/file.bin"] = WebFile(content())
    for method in ("HEAD", "GET"):

        @server.on(method, TARGET)
        def send_on(exchange: Exchange) -> None:
            exchange.redirect("../there/file.bin", status)

    receiver.run()
    assert receiver.path.read_bytes() == server.files["/there/file.bin"].data
    assert server.connections == 1


def test_an_interrupted_download_follows_again(receiver: Receiver, server: WebServer) -> None:
    server.files["/there"] = WebFile(content())
    for method in ("HEAD", "GET"):

        @server.on(method, TARGET)
        def send_on(exchange: Exchange) -> None:
            exchange.redirect("/there")

    @server.on("GET", "/there", first=1)
    def cut(exchange: Exchange) -> None:
        exchange.serve(cut=10)

    receiver.run()
    assert receiver.path.read_bytes() == server.files["/there"].data
    assert server.asked[-1].headers["range"] == "bytes=10-"


def test_ten_redirects_are_followed_and_eleven_are_not(receiver: Receiver, server: WebServer) -> None:
    for method in ("HEAD", "GET"):

        @server.on(method)
        def send_on(exchange: Exchange) -> None:
            target = exchange.asked.target
            number = int(target.rpartition("/")[2]) - 1
            if number < 0:
                exchange.say(200, [("Content-Length", "4")], b"here")
            else:
                exchange.redirect(f"/{number}")

    receiver.url = server.url("/10")
    receiver.run()
    assert receiver.path.read_bytes() == b"here"
    receiver.version = None
    receiver.url = server.url("/11")
    with pytest.raises(Refused, match="more than 10 redirects") as caught:
        receiver.run()
    assert caught.value.code == 0x8019012E


def test_a_circle_of_redirects_is_no_way(receiver: Receiver, server: WebServer) -> None:
    @server.on("GET")
    def send_on(exchange: Exchange) -> None:
        exchange.redirect("/a" if exchange.asked.target == "/b" else "/b")

    with pytest.raises(Refused, match="/b leads back to itself"):
        receiver.run()


def test_a_redirect_to_nowhere_is_named(receiver: Receiver, server: WebServer) -> None:
    @server.on("GET")
    def send_on(exchange: Exchange) -> None:
        exchange.redirect("ftp://elsewhere/file.bin")

    with pytest.raises(InvalidServerResponse, match=r"/out/file\.bin leads nowhere: .*ftp"):
        receiver.run(patience=0)


def test_no_redirect_leads_from_https_to_http(receiver: Receiver, server: WebServer, tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("127.0.0.1").configure_cert(context)
    secure = WebServer(tls=context)

    @secure.on("GET")
    def send_on(exchange: Exchange) -> None:
        exchange.redirect(server.url())

    receiver.url = secure.url("/safe?key=secret")
    with contextlib.closing(secure), pytest.raises(Refused, match=r"/safe leads to http:.*not safe"):
        receiver.run(tls=TlsSettings(ca_file=str(tmp_path / "ca.pem")))
    assert server.asked == []


def test_to_another_origin_goes_nothing_that_is_for_the_first(receiver: Receiver, server: WebServer) -> None:
    """Not even back at the first, where the other one sent us."""
    other = WebServer({TARGET: WebFile(content())})

    @server.on("GET", TARGET)
    def ask_back_and_send_on(exchange: Exchange) -> None:
        if "authorization" in exchange.asked.headers:
            exchange.redirect(other.url("/on?key=secret"))
        else:
            exchange.refuse(401, ("WWW-Authenticate", 'Basic realm="out"'))

    @other.on("GET")
    def send_back(exchange: Exchange) -> None:
        exchange.redirect(server.url("/back"))

    server.files["/back"] = WebFile(content())
    who = Credential(Target.SERVER, Scheme.BASIC, "inga", "pw")
    with contextlib.closing(other):
        receiver.run(headers=[("X-Ticket", "4711")], credentials=[who])
    assert receiver.path.read_bytes() == server.files["/back"].data
    assert all("x-ticket" in asked.headers for asked in server.asked if asked.target == TARGET)
    strangers = [*other.asked, *(asked for asked in server.asked if asked.target == "/back")]
    assert len(strangers) == 2
    assert all(not {"authorization", "x-ticket"} & set(asked.headers) for asked in strangers)


def test_a_url_that_is_not_ours_gets_nothing_of_ours(receiver: Receiver, server: WebServer) -> None:
    receiver.run(ours=False, headers=[("X-Ticket", "4711")])
    assert all("x-ticket" not in asked.headers for asked in server.asked)


# Stopping, and going slowly


def test_it_stops_at_the_next_block_and_keeps_what_came(receiver: Receiver, server: WebServer) -> None:
    with pytest.raises(Stopped):
        receiver.run(stop=lambda: bool(receiver.received))
    held = receiver.part.stat().st_size
    assert 0 < held == receiver.received[0] < SIZE
    receiver.run()
    assert receiver.path.read_bytes() == data(server)
    assert server.ranges() == [None, f"bytes={held}-"]


def test_it_stops_while_it_waits(receiver: Receiver, server: WebServer) -> None:
    del server.files[TARGET]

    @server.on("HEAD")
    def be_busy(exchange: Exchange) -> None:
        exchange.refuse(503)

    with pytest.raises(Stopped):
        receiver.run(stop=lambda: bool(receiver.slept))
    assert server.methods() == ["HEAD"]


def test_a_line_that_was_cut_to_stop_us_is_no_error(receiver: Receiver, server: WebServer) -> None:
    @server.on("GET")
    def cut(exchange: Exchange) -> None:
        exchange.serve(cut=0)

    with pytest.raises(Stopped):
        receiver.run(patience=0, stop=lambda: "GET" in server.methods())


def test_it_is_no_faster_than_its_limits(receiver: Receiver, server: WebServer) -> None:
    receiver.run(limits=[Limit(100_000), Limit(50_000)])
    assert receiver.path.read_bytes() == data(server)
    assert receiver.now == pytest.approx(SIZE / 50_000, abs=0.2)
    assert max(after - before for before, after in pairwise([0, *receiver.received])) == 5000


def test_while_a_limit_lets_nothing_through_nothing_is_fetched(receiver: Receiver, server: WebServer) -> None:
    limit = Limit(0)

    def open_it() -> bool:
        if len(receiver.slept) == 3:
            limit.rates = Timetable(())
        return False

    receiver.run(limits=[limit], stop=open_it)
    assert receiver.path.read_bytes() == data(server)
    assert receiver.slept == [60.0] * 3
