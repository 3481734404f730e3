"""How a reply is given out: in parts, under conditions, to whom, for how long, and where it is found."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from email import message_from_bytes
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi.conversation import Exchange, block, say
from bitsferry.access.asker import Asker
from bitsferry.protocol.errors import AccessDenied, UnknownUrl
from bitsferry.protocol.notification import Answer as Said
from bitsferry.protocol.packets import BITS_1_5, CloseSession, CreateSession, Fragment
from bitsferry.protocol.ranges import ContentRange
from bitsferry.protocol.session import Session, State
from bitsferry.server import replies
from bitsferry.server.asgi import AsgiApp, Directory
from bitsferry.server.callable_backend import ReceivedUpload
from bitsferry.server.directory import Directories
from bitsferry.server.files import respond_with
from bitsferry.server.request import Body, Request, Response
from bitsferry.store.local import LocalStore
from storm.serving import free_port

from . import raw
from .applications import Application, telling
from .applications import say as app_says
from .conftest import Serve, end
from .ferry import Ferry, Upload
from .raw import Answer, Line

DATA = os.urandom(3000)
REPLY = os.urandom(100_000)
SIZE = len(REPLY)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# Parts and conditions, of any file


class NoBody(Body):
    async def into(self, receiver: object, pace: object = None) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError


Ask = Callable[..., tuple[int, dict[str, str], bytes]]


def played(response: Response) -> bytes:
    """The body as it would go out; the file is closed then, as by whoever sends it."""
    if response.body is None:
        return b""
    with os.fdopen(response.body.descriptor, "rb") as file:
        return b"".join(
            piece if isinstance(piece, bytes) else os.pread(file.fileno(), len(piece), piece.start)
            for piece in response.body.pieces
        )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(REPLY)
    os.utime(path, (1_700_000_000, 1_700_000_000.75))
    return path


@pytest.fixture
def ask(file: Path) -> Ask:
    """Status, headers and body of the answer to a request for `file`."""

    def ask(method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
        request = Request(method, "/x", named, NoBody())
        response = respond_with(os.open(file, os.O_RDONLY), request, "text/x-reply")
        body, told = played(response), dict(response.headers)
        if os.path.isdir("/proc/self/fd"):
            assert len(os.listdir("/proc/self/fd")) <= len(before), "the file stays open"
        assert len(told) == len(response.headers), "a header is there twice"
        if response.status != 304 and method != "HEAD":
            assert told["Content-Length"] == str(len(body))
        return response.status, told, body

    return ask


def parts_of(told: dict[str, str], body: bytes) -> list[tuple[str | None, str | None, bytes]]:
    """The parts of a multipart/byteranges: type, range and bytes, as somebody else's reader finds them."""
    head = f"Content-Type: {told['Content-Type']}\n\n".encode("latin-1")
    message = message_from_bytes(head + body)
    assert message.get_content_type() == "multipart/byteranges"
    found = []
    boundary = b"--" + str(message.get_boundary()).encode()
    first, *pieces, last = body.split(boundary)
    assert (first, last) == (b"", b"--\r\n")
    for piece in pieces:
        lines, _, data = piece.partition(b"\r\n\r\n")
        fields = message_from_bytes(lines.lstrip())
        assert data.endswith(b"\r\n")
        found.append((fields["Content-Type"], fields["Content-Range"], data[:-2]))
    return found


@pytest.mark.parametrize(
    "asked",
    [
        [(0, 10), (20, 30)],
        pytest.param([(50, 60), (0, 10)], id="not in order"),
        pytest.param([(0, 100), (50, 150), (60, 70)], id="overlapping"),
        pytest.param([(5, 6), (5, 6)], id="the same twice"),
        pytest.param([(0, 10), (10, 20)], id="side by side"),
        pytest.param([(0, SIZE // 2), (SIZE // 2, SIZE)], id="all of it"),
        pytest.param([(at, at + 1) for at in range(100)], id="a hundred"),
    ],
)
def test_several_parts_come_as_they_are_asked_for(ask: Ask, asked: list[tuple[int, int]]) -> None:
    text = ",".join(f"{start}-{stop - 1}" for start, stop in asked)
    status, told, body = ask(range=f"bytes={text}")
    assert status == 206
    assert "Content-Range" not in told
    assert parts_of(told, body) == [
        ("text/x-reply", f"bytes {start}-{stop - 1}/{SIZE}", REPLY[start:stop]) for start, stop in asked
    ]


@pytest.mark.parametrize("text", ["bytes=0-4, 10-14,-5,99990-", "Bytes = ,0-4 ,\t10-14,, -5,99990-200000"])
def test_they_may_be_spelt_in_every_way(ask: Ask, text: str) -> None:
    status, told, body = ask(range=text)
    assert status == 206
    wanted = [REPLY[0:5], REPLY[10:15], REPLY[-5:], REPLY[99_990:]]
    assert [data for _, _, data in parts_of(told, body)] == wanted


def test_the_only_part_that_is_there_comes_by_itself(ask: Ask) -> None:
    status, told, body = ask(range="bytes=0-4,200000-,-0")
    assert (status, told["Content-Range"], body) == (206, f"bytes 0-4/{SIZE}", REPLY[:5])


@pytest.mark.parametrize("text", ["100000-", "-0", "200000-300000,100000-100000", "9" * 30 + "-"])
def test_where_no_part_is_there_416_tells_the_size(ask: Ask, text: str) -> None:
    status, told, body = ask(range=f"bytes={text}")
    assert (status, told["Content-Range"], body) == (416, f"bytes */{SIZE}", b"")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(",".join(["0-0"] * 101), id="more than a hundred"),
        pytest.param("0-,0-", id="more than there is"),
        pytest.param("0-99998,1-2", id="one byte more than there is"),
        "5-3",
        "0-1,5-3",
        "0-1,x",
        "0-1;5-6",
        "0 - 1",
        "-",
        ",",
        "",
        "-1-2",
        "+1-2",
        "0x1-2",
        "٣-٤",
    ],
)
def test_what_is_too_much_or_not_understood_gets_the_whole_once(ask: Ask, text: str) -> None:
    status, told, body = ask(range=f"bytes={text}")
    assert (status, body, told["Content-Type"]) == (200, REPLY, "text/x-reply")


def test_an_empty_file_has_no_parts(ask: Ask, file: Path) -> None:
    file.write_bytes(b"")
    for text in ("bytes=0-", "bytes=-5", "bytes=0-0,5-6"):
        status, told, _ = ask(range=text)
        assert (status, told["Content-Length"]) == (200, "0")


def test_nobody_knows_beforehand_what_stands_between_the_parts(ask: Ask) -> None:
    one, two = (ask(range="bytes=0-1,3-4")[1]["Content-Type"] for _ in range(2))
    assert one != two


SOONER, THEN, LATER = (formatdate(1_700_000_000 + more, usegmt=True) for more in (-1, 0, 1))
WRONG = ["", "yesterday", "Mon, 99999999999999999999 Jan 2024 00:00:00 GMT", "Mon, 32 Jan 2024 00:00:00 GMT"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"if_unmodified_since": SOONER}, 412),
        ({"if_unmodified_since": THEN}, 200),
        ({"if_unmodified_since": LATER}, 200),
        ({"if_modified_since": SOONER}, 200),
        ({"if_modified_since": THEN}, 304),
        ({"if_modified_since": LATER}, 304),
        ({"if_modified_since": "Tuesday, 14-Nov-23 22:13:20 GMT"}, 304),
        ({"if_modified_since": "Tue Nov 14 22:13:20 2023"}, 304),
        ({"if_match": "*"}, 200),
        ({"if_match": "ETAG"}, 200),
        ({"if_match": '"other", ETAG'}, 200),
        ({"if_match": "W/ETAG"}, 412),
        ({"if_match": '"other"'}, 412),
        ({"if_match": ""}, 412),
        ({"if_none_match": "*"}, 304),
        ({"if_none_match": "ETAG"}, 304),
        ({"if_none_match": 'W/"a,b",W/ETAG'}, 304),
        ({"if_none_match": '"other"'}, 200),
        ({"if_match": "ETAG", "if_unmodified_since": SOONER}, 200),
        ({"if_none_match": '"other"', "if_modified_since": LATER}, 200),
        ({"if_match": '"other"', "if_none_match": "ETAG"}, 412),
        ({"if_unmodified_since": THEN, "if_none_match": "ETAG"}, 304),
        *(({name: wrong}, 200) for name in ("if_unmodified_since", "if_modified_since") for wrong in WRONG),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_conditions_are_met_in_the_order_of_http(
    ask: Ask, method: str, headers: dict[str, str], expected: int
) -> None:
    etag = ask()[1]["ETag"]
    status, told, body = ask(method, **{n: value.replace("ETAG", etag) for n, value in headers.items()})
    assert status == expected
    assert (told["ETag"], told["Last-Modified"]) == (etag, THEN)
    assert body == (REPLY if (method, expected) == ("GET", 200) else b"")


@pytest.mark.parametrize(
    ("validator", "same"),
    [
        ("ETAG", True),
        ("W/ETAG", False),
        ('"other"', False),
        (THEN, True),
        (LATER, False),
        (SOONER, False),
        ("", False),
        ("*", False),
    ],
)
def test_if_range_gives_parts_of_the_same_file_only(ask: Ask, validator: str, same: bool) -> None:
    etag = ask()[1]["ETag"]
    status, _, body = ask(range="bytes=0-9", if_range=validator.replace("ETAG", etag))
    assert (status, body) == ((206, REPLY[:10]) if same else (200, REPLY))


def test_a_condition_comes_before_a_part(ask: Ask) -> None:
    assert ask(range="bytes=0-9", if_unmodified_since=SOONER)[0] == 412
    assert ask(range="bytes=200000-", if_modified_since=THEN)[0] == 304


def test_another_file_of_the_same_size_and_time_has_another_etag(ask: Ask, file: Path) -> None:
    etag, times = ask()[1]["ETag"], (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    other = file.with_name("other")
    other.write_bytes(REPLY[::-1])
    os.utime(other, ns=times)
    other.rename(file)
    assert ask()[1]["ETag"] != etag


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"range": "bytes=3-9"},
        {"range": "bytes=3-9,20-"},
        {"range": "bytes=200000-"},
        {"if_match": '"other"'},
        {"if_none_match": "*"},
        {"accept_encoding": "gzip, identity;q=0"},
    ],
)
def test_to_head_the_answer_is_the_same_without_the_body(ask: Ask, headers: dict[str, str]) -> None:
    def shown(told: dict[str, str]) -> dict[str, str]:
        return {name: re.sub("boundary=.*", "boundary", value) for name, value in told.items()}

    got, head = ask(**headers), ask("HEAD", **headers)
    assert (head[0], shown(head[1]), head[2]) == (got[0], shown(got[1]), b"")
    assert "Content-Encoding" not in got[1]


# Replies of a server


ARRANGED = """
listen = ["127.0.0.1:0"]
store = "file:./store"

[[directory]]
url = "/"
folder = "./top"
create_folders = true
{told}

[[directory]]
url = "/a/b/"
folder = "./ab"
create_folders = true
{told}

[[directory]]
url = "/host/"
folder = "./host"
host_id = "node1.example"
{told}

[[directory]]
url = "/based/"
folder = "./based"
create_folders = true
reply_url_base = "http://127.0.0.1:{port}/stripped"
{told}

[[directory]]
url = "/back/"
folder = "./back"
read_back = "everybody"
{told}
"""


PROXY = free_port()


@pytest.fixture(scope="module")
def application() -> Iterator[Application]:
    application = Application(lambda heard: app_says(body=REPLY))
    yield application
    application.close()


@pytest.fixture(scope="module")
def arranged(tmp_path_factory: pytest.TempPathFactory, application: Application) -> Iterator[Ferry]:
    told = telling(application, "value")
    ferry = Ferry(tmp_path_factory.mktemp("replies"), ARRANGED.format(told=told, port=PROXY))
    yield ferry
    end(ferry)


@pytest.fixture
def ferry(arranged: Ferry) -> Iterator[Ferry]:
    yield arranged
    arranged.forget()


def replied(upload: Upload) -> str:
    """Its last fragment is sent; the reply URL as it stands in the Ack."""
    ack = upload.fragment(DATA)
    assert ack.verdict == (200, None)
    return ack.get("BITS-Reply-URL") or ""


def as_windows_does(destination: str, reply: str) -> str:
    """The URL Windows asks for (MC-BUP 4.2): what is relative begins at the destination's folder."""
    reply = reply.replace("\\", "/")
    if "://" in reply:
        return reply
    folder = destination.partition("?")[0].rpartition("/")[0]
    return f"{folder}/{quote(reply, safe='/%-._~')}"


def target_of(url: str) -> str:
    return urlsplit(url).path


def get(port: int, target: str, method: str = "GET", **headers: str) -> Answer:
    fields: dict[str, str | None] = {name.replace("_", "-"): value for name, value in headers.items()}
    with Line(port) as line:
        line.send(raw.request(f"{method} {target} HTTP/1.1", fields))
        return line.answer(bodiless=method == "HEAD")


def check_found(ferry: Ferry, upload: Upload, *, host: str = "127.0.0.1") -> None:
    """The reply is where Windows looks for it, as long as the upload is not closed."""
    target = target_of(as_windows_does(f"http://{host}{upload.url}", replied(upload)))
    for method, body in (("HEAD", b""), ("GET", REPLY)):
        answer = get(ferry.port, target, method, Host=host)
        assert (answer.status, answer.body, answer.get("Content-Length")) == (200, body, str(SIZE))
    assert upload.close().verdict == (200, None)
    assert get(ferry.port, target).status == 404


@pytest.mark.parametrize(
    ("under", "name"),
    [
        ("/", "file.bin"),
        ("/", "a%20folder/caf%C3%A9/file.bin"),
        ("/a/b/", "file.bin"),
        ("/a/b/", "sub/folder/file.bin"),
        ("/a/b/", "sub/%7Bbraces%7D/file.bin?a=b/c"),
        ("/a/b/", "back/file.bin"),
    ],
)
def test_a_reply_is_found_from_the_place_of_its_upload(ferry: Ferry, under: str, name: str) -> None:
    check_found(ferry, ferry.begun(under, name))


@pytest.mark.parametrize("host", ["node1.example", "front.example:8080"])
def test_a_reply_is_found_at_the_host_id_and_at_the_first_host(ferry: Ferry, host: str) -> None:
    check_found(ferry, ferry.begun("/host/"), host=host)


def test_a_reply_url_has_nothing_that_is_spelt_in_two_ways(ferry: Ferry) -> None:
    assert re.fullmatch(r"[A-Za-z0-9./-]+", replied(ferry.begun("/a/b/")))


NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
AROUND = """
daemon off;
master_process off;
error_log stderr;
pid {folder}/pid;
events {{ }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_http_version 1.1;
    server {{
        listen 127.0.0.1:{here};
        location / {{ proxy_pass http://127.0.0.1:{there}; }}
        location /cut/ {{ proxy_pass http://127.0.0.1:{there}/; }}
        location /stripped/ {{ proxy_pass http://127.0.0.1:{there}/based/; }}
        location /short/ {{ proxy_pass http://127.0.0.1:{there}/a/b/; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def proxy(arranged: Ferry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    if NGINX is None:
        pytest.skip("no nginx here")
    folder = tmp_path_factory.mktemp("nginx")
    config = folder / "nginx.conf"
    config.write_text(AROUND.format(folder=folder, here=PROXY, there=arranged.port))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(config)], stdout=log, stderr=log)
    try:
        assert raw.eventually(lambda: listens(PROXY)), (folder / "log").read_text()
        yield PROXY
    finally:
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("/a/b/one", id="a proxy that changes nothing"),
        pytest.param("/cut/a/b/two", id="a prefix is cut off"),
        pytest.param("/cut/three", id="down to the root"),
        pytest.param("/short/four", id="a prefix is added"),
        pytest.param("/short/sub%20folder/five", id="in a folder"),
        pytest.param("/stripped/six", id="absolute"),
        pytest.param("/stripped/sub/seven", id="absolute, for a file in a folder"),
    ],
)
def test_a_reply_is_found_through_a_proxy(ferry: Ferry, proxy: int, url: str) -> None:
    def ask(request: bytes) -> Answer:
        with Line(proxy) as line:
            return line.ask(request)

    session = ask(raw.create(url)).session or ""
    ack = ask(raw.fragment(url, session, DATA))
    found = as_windows_does(f"http://127.0.0.1:{proxy}{url}", ack.get("BITS-Reply-URL") or "")
    assert found.startswith(f"http://127.0.0.1:{proxy}/")
    assert get(proxy, target_of(found)).body == REPLY
    assert get(proxy, target_of(found), Range="bytes=0-9,5-14").status == 206
    assert ask(raw.close(url, session)).verdict == (200, None)
    assert get(proxy, target_of(found)).status == 404


@pytest.mark.anyio
@pytest.mark.parametrize("mounts", [[], ["/files"], ["/outer", "/in ner"]])
async def test_a_reply_is_found_below_the_mounts_of_a_larger_application(
    tmp_path: Path, mounts: list[str]
) -> None:
    ours = AsgiApp(Directory("/up/", str(tmp_path / "in"), create_folders=True), store=f"file:{tmp_path}/s")

    @ours.on_upload("/up/")
    def work(upload: ReceivedUpload) -> bytes:
        return REPLY

    app: Any = ours
    for mount in reversed(mounts):
        app = Starlette(routes=[Mount(mount, app)])
    path = "".join(mounts) + "/up/sub/file"
    target = quote(path)
    scope: dict[str, Any] = {"path": path}
    session = (await say(app, CreateSession((BITS_1_5,)), target, **scope)).session_id or ""
    ack = await say(app, Fragment(session, ContentRange(0, 5, 5)), target, b"bytes", **scope)
    found = target_of(as_windows_does(f"http://host{target}", ack.reply_url or ""))

    async def fetch(method: str = "GET", **headers: str) -> Exchange:
        exchange = Exchange(app, found, method, headers=list(headers.items()))
        exchange.scope["path"] = found.replace("%20", " ")
        exchange.bring(block(b"", more=False))
        await exchange.run()
        return exchange

    assert (await fetch()).body == REPLY
    assert (await fetch("HEAD")).told["content-length"] == str(SIZE)
    several = await fetch(range="bytes=5-9,0-4")
    assert [data for _, _, data in parts_of(proper(several.told), several.body)] == [REPLY[5:10], REPLY[:5]]
    assert int(several.told["content-length"]) == len(several.body)
    assert (await say(app, CloseSession(session), target, **scope)).status == 200
    assert (await fetch()).status == 404
    await ours.stop()


def proper(told: dict[str, str]) -> dict[str, str]:
    return {name.title(): value for name, value in told.items()}


def test_several_parts_go_over_a_connection_that_goes_on(ferry: Ferry) -> None:
    upload = ferry.begun("/a/b/")
    target = as_windows_does(upload.url, replied(upload))
    line = http.client.HTTPConnection("127.0.0.1", ferry.port, timeout=raw.PATIENCE)
    for spans in ("0-0,1-1", ",".join(f"{at}-{at + 1}" for at in range(100)), "0-49999,50000-"):
        line.request("GET", target, headers={"Range": f"bytes={spans}"})
        with line.getresponse() as answer:
            told, body = dict(answer.headers.items()), answer.read()
        wanted = [
            (int(span.split("-")[0]), int(span.split("-")[1] or SIZE - 1) + 1) for span in spans.split(",")
        ]
        assert answer.status == 206
        assert [data for _, _, data in parts_of(told, body)] == [REPLY[a:b] for a, b in wanted]
    line.close()
    assert upload.close().verdict == (200, None)


def test_a_reader_who_leaves_between_two_parts_harms_nobody(ferry: Ferry) -> None:
    upload = ferry.begun("/a/b/")
    target = as_windows_does(upload.url, replied(upload))
    for _ in range(3):
        leaving = Line(ferry.port, buffer=4096)
        leaving.send(raw.request(f"GET {target} HTTP/1.1", {"Range": "bytes=0-49999,50000-99999"}))
        leaving.break_off()
    assert get(ferry.port, target).body == REPLY
    assert upload.close().verdict == (200, None)


def test_a_reply_has_what_a_download_needs(ferry: Ferry) -> None:
    upload = ferry.begun("/a/b/")
    target = as_windows_does(upload.url, replied(upload))
    first, second = get(ferry.port, target, "HEAD"), get(ferry.port, target)
    for name in ("Content-Length", "Last-Modified", "ETag", "Accept-Ranges", "Content-Type"):
        assert first.get(name) == second.get(name) is not None
    assert first.get("Content-Type") == "application/octet-stream"
    assert (first.get("ETag") or "W/").startswith('"')
    part = get(ferry.port, target, Range="bytes=7-", If_Range=first.get("Last-Modified") or "")
    assert (part.status, part.body) == (206, REPLY[7:])
    assert upload.close().verdict == (200, None)


def test_where_replies_are_nothing_else_is_and_there_is_no_list(ferry: Ferry) -> None:
    upload = ferry.begun("/back/")
    url = as_windows_does(upload.url, replied(upload))
    folder, _, guid = url.rpartition("/")
    wrong = [
        folder,
        f"{folder}/",
        f"{folder}/{guid}/",
        f"{folder}/{guid[:-1]}{'1' if guid.endswith('0') else '0'}",
        f"{folder}/{'0' * 8}-0000-0000-0000-{'0' * 12}",
        f"{folder}/..%2F{guid}",
        f"{folder}/../replies/{guid}",
        f"/a/b/.bitsferry/replies/{guid}",
        "/back/.bitsferry",
        "/back/.bitsferry/session.json",
    ]
    for target in wrong:
        answer = get(ferry.port, target)
        assert answer.status in (400, 403, 404), target
        assert answer.body == b""
    for method in ("POST", "PUT", "DELETE"):
        assert get(ferry.port, url, method).status == 405
    assert get(ferry.port, url).body == REPLY
    assert get(ferry.port, url.replace(guid, guid.lower())).body == REPLY
    assert upload.close().verdict == (200, None)


def test_a_reply_of_no_bytes_has_no_url(serve: Serve) -> None:
    application = Application(lambda heard: app_says(body=b""))
    try:
        upload = serve(directory=telling(application, "value")).begun()
        ack = upload.fragment(DATA)
        assert (ack.status, ack.get("BITS-Reply-URL")) == (200, None)
    finally:
        application.close()


def test_fetching_a_reply_is_a_sign_of_life(serve: Serve, application: Application) -> None:
    ferry = serve(
        directory=telling(application, "value") + "session_timeout = 2", top="cleanup_interval = 0.1"
    )
    upload = ferry.begun()
    target = as_windows_does(upload.url, replied(upload))
    state = next(ferry.folder.glob("store/sessions/*/*/session.json"))
    for method in ("GET", "HEAD"):
        os.utime(state, (0, state.stat().st_mtime - 1.2))
        before = state.stat().st_mtime
        assert get(ferry.port, target, method).status == 200
        assert state.stat().st_mtime > before + 1
    os.utime(state, (0, state.stat().st_mtime - 3))
    assert raw.eventually(lambda: not state.exists())
    assert get(ferry.port, target).status == 404


def test_a_disk_that_fails_does_not_say_that_there_is_no_reply(ferry: Ferry) -> None:
    upload = ferry.begun("/a/b/")
    target = as_windows_does(upload.url, replied(upload))
    reply = next(ferry.folder.glob(f"store/sessions/*/{upload.session.strip('{}')}/reply.data"))
    aside = reply.rename(reply.with_name("aside"))
    reply.symlink_to(aside)  # what a server may not follow is an error as any other of the disk
    assert get(ferry.port, target).status == 500
    aside.replace(reply)
    assert get(ferry.port, target).body == REPLY
    assert upload.close().verdict == (200, None)


# To whom


@pytest.mark.anyio
async def test_only_who_uploaded_gets_the_reply_until_the_upload_is_over(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "store"))
    directories = Directories([Directory("/in/", str(tmp_path))])
    session = Session("A0FF5911-4144-45B3-BF27-27AFC8EC8A67", "/in/file", "somebody", 1.0)
    await store.create(session)
    Path((await store.papers(session.id)).response).write_bytes(b"reply")
    await store.keep_answer(session.id, Said())
    target = f"/in/{replies.url_of(session.id, directories.place(session.path))}"

    async def fetch(user: str | None) -> bytes:
        request = Request("GET", target, {}, NoBody())
        response = await replies.answer(directories, store, request, Asker("192.0.2.1", user))
        assert response is not None
        return played(response)

    assert await fetch("somebody") == b"reply"
    for other in (None, "somebody else", ""):
        with pytest.raises(AccessDenied):
            await fetch(other)
    for state in (State.COMPLETE, State.CANCEL):
        async with store.open(session.id) as stored:
            stored.session.state = state
            await stored.save()
        with pytest.raises(UnknownUrl):
            await fetch("somebody")
    store.close()
