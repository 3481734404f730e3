"""What is said in headers: packets, ranges, Acks, answers of applications, events."""

from __future__ import annotations

from bitsferry.protocol import wire
from bitsferry.protocol.errors import BitsError, InvalidMessage, InvalidServerResponse
from bitsferry.protocol.notification import ApplicationFailed, read_answer
from bitsferry.protocol.packets import Packet
from bitsferry.protocol.ranges import ContentRange, place
from bitsferry.protocol.upload import Progress, State, Upload
from bitsferry.server.upload_events import Kind, UploadEvent, read_event, write_event

from .target import target

__all__ = ["TARGETS"]

SESSION = b"{A0FF5911-0000-4000-8000-000000000000}"
SPEAKS = b"{7df0354d-249b-430f-820d-3d2a9bef4931}"
HEADER_NAMES = (
    *(
        b"BITS-Packet-Type: ",
        b"BITS-Session-Id: ",
        b"Content-Range: bytes ",
        b"Content-Length: ",
        b"Content-Encoding: ",
    ),
    *(b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"Content-Name: ", b"Connection: "),
)


def headers_of(data: bytes) -> dict[str, str]:
    """Lines `Name: value` as the server keeps headers."""
    headers: dict[str, str] = {}
    for line in data.decode("latin-1").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            key = name.strip().lower()
            headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
    return headers


def is_clean(headers: list[tuple[str, str]]) -> bool:
    """Nothing a client said breaks out of a header of ours."""
    return all(name.isascii() and not set(value) & set("\r\n\0") for name, value in headers)


def is_told(error: BitsError) -> None:
    """The refusal is one that can be answered with; an application may choose to point elsewhere."""
    ack = wire.ack_of_error(error)
    assert (300 if isinstance(error, ApplicationFailed) else 400) <= ack.status <= 599
    assert is_clean(wire.write_ack(ack))


def check_packet(packet: Packet) -> None:
    """What was understood is said, and understood again, in the same way."""
    said = {name.lower(): value for name, value in wire.write_packet(packet)}
    again = wire.read_packet(said, value_limit=1 << 20)
    assert type(again) is type(packet)
    assert getattr(again, "session_id", None) == getattr(packet, "session_id", None)
    assert getattr(again, "range", None) == getattr(packet, "range", None)


@target(
    "packets",
    b"BITS-Packet-Type: Create-Session\r\nBITS-Supported-Protocols: " + SPEAKS + b"\r\nContent-Length: 0",
    b"BITS-Packet-Type: Fragment\r\nBITS-Session-Id: "
    + SESSION
    + b"\r\nContent-Range: bytes 0-4/10\r\nContent-Length: 5",
    b"BITS-Packet-Type: Fragment\r\nBITS-Session-Id: "
    + SESSION
    + b"\r\nContent-Range: bytes */0\r\nContent-Length: 0",
    b"BITS-Packet-Type: Close-Session\r\nBITS-Session-Id: "
    + SESSION
    + b"\r\nContent-Length: 0\r\nContent-Name: a",
    b"BITS-Packet-Type: Cancel-Session\r\nBITS-Session-Id: " + SESSION + b"\r\nContent-Length: 0",
    b"BITS-Packet-Type: Ping\r\nContent-Length: 0\r\nContent-Encoding: identity",
    words=HEADER_NAMES,
    examples=400,
)
def packets(data: bytes) -> None:
    headers = headers_of(data)
    try:
        packet = wire.read_packet(headers)
    except BitsError as error:
        is_told(error)
        return
    assert headers["content-length"]
    check_packet(packet)


@target(
    "ranges",
    b"bytes 0-4/10",
    b"bytes 5-9/10",
    b"bytes 0--1/0",
    b"bytes */0",
    b"bytes 0-9223372036854775806/9223372036854775807",
)
def ranges(data: bytes) -> None:
    text = data.decode("latin-1")
    try:
        range_ = ContentRange.parse(text)
    except InvalidMessage as error:
        is_told(error)
        return
    assert 0 <= range_.start <= range_.stop <= range_.total < 1 << 63
    assert ContentRange.parse(str(range_)) == range_
    for held in {0, 1, range_.start, range_.stop, range_.total}:
        try:
            placement = place(range_, held)
        except BitsError as error:
            assert held < range_.start
            is_told(error)
        else:
            assert placement.skip + placement.take == range_.length
            assert placement.skip >= 0 <= placement.take


ACK = b"200\r\nBITS-Packet-Type: Ack\r\n"


@target(
    "acks",
    b"\r\n\r\n".join(
        [
            ACK
            + b"BITS-Protocol: "
            + SPEAKS
            + b"\r\nBITS-Session-Id: "
            + SESSION
            + b"\r\nBITS-Host-Id: host\r\nBITS-Host-Id-Fallback-Timeout: 5",
            ACK,
            ACK + b"BITS-Received-Content-Range: 10",
            b"416\r\nBITS-Received-Content-Range: 5\r\nBITS-Error-Code: 0x80070057\r\nBITS-Error-Context: 5",
            ACK + b"BITS-Received-Content-Range: 20\r\nBITS-Reply-URL: http://host/reply",
            ACK,
        ]
    ),
    ACK + b"BITS-Session-Id: 1\r\n\r\n500\r\nBITS-Error: x8020001F\r\nRetry-After: 9\r\n\r\n413\r\n\r\n404",
    words=(
        *HEADER_NAMES,
        b"500\r\n",
        b"401\r\n",
        b"413\r\n",
        b"\r\n\r\n",
        b"BITS-Error-Code: 0x8020001F\r\n",
    ),
    examples=400,
)
def acks(data: bytes) -> None:
    """A server that says anything: the upload goes on, ends, or stops with an error that is ours to tell."""
    upload = Upload(20, fragment_length=8)
    for said, answer in enumerate(data.split(b"\r\n\r\n")[:60]):
        if upload.state is State.GET_REPLY:
            upload.reply_fetched()
        if upload.next_packet(float(said)) is None:
            break
        first, _, rest = answer.partition(b"\r\n")
        status = int(first) if first.isdigit() and len(first) == 3 else 200
        try:
            upload.receive(wire.read_ack(status, headers_of(rest)), float(said))
        except InvalidServerResponse:
            upload.failed(float(said))
            upload.resume()
        except BitsError:
            upload.resume()
        assert 0 <= upload.progress.sent <= upload.size
        assert isinstance(upload.progress, Progress)


@target(
    "applications",
    b"200\r\nBITS-Static-Response-URL: http://host/a\r\nBITS-Copy-File-To-Destination: 1",
    b"202\r\nLocation: http://host/later\r\nRetry-After: 5",
    b"403\r\nBITS-Error-Code: 0x80070005",
    b"503\r\nRetry-After: 9\r\nBITS-Error: x80004005",
)
def applications(data: bytes) -> None:
    first, _, rest = data.partition(b"\r\n")
    status = int(first) if first.isdigit() and len(first) == 3 else 200
    try:
        read_answer(status, headers_of(rest))
    except (ApplicationFailed, InvalidMessage) as error:
        is_told(error)


EVENT = UploadEvent(
    kind=Kind.COMPLETED,
    session="A0FF5911-0000-4000-8000-000000000000",
    time=1e9,
    path="/in/café",
    file="café",
    user="anna",
    address="192.0.2.1",
    size=8,
    received=8,
)


@target(
    "events",
    write_event(EVENT, "http://host/in/"),
    write_event(UploadEvent(kind=Kind.REFUSED, session="A", time=0.0, path="/", reason="no"), "/in/"),
    words=(
        b'"time":',
        b"null",
        b"[]",
        b"{}",
        b"9999-12-31T23:59:59Z",
        b"0001-01-01T00:00:00Z",
        b"-99:59",
        b"\\ud800",
    ),
)
def events(data: bytes) -> None:
    try:
        event = read_event(data)
    except ValueError:
        return
    assert read_event(write_event(event, "/in/")).id == event.id


TARGETS = (packets, ranges, acks, applications, events)
