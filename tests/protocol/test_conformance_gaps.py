"""Requirements of the specification no other test holds; docs/reference/conformance.md names them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bitsferry.protocol.packets import BITS_1_5, Ack, Fragment
from bitsferry.protocol.ranges import LARGEST, ContentRange
from bitsferry.protocol.upload import Progress, Upload
from bitsferry.protocol.wire import read_ack, write_packet

ID = "{A0FF5911-4144-45B3-BF27-27AFC8EC8A67}"


def fragments(upload: Upload) -> Iterator[Fragment]:
    """What the client sends when the server takes everything."""
    upload.next_packet()
    upload.receive(Ack(session_id=ID, protocol=BITS_1_5))
    while isinstance(packet := upload.next_packet(), Fragment):
        yield packet
        upload.receive(Ack(received=packet.range.stop))


def test_unknown_headers_of_an_ack_are_ignored() -> None:
    headers = {"bits-packet-type": "Ack", "bits-received-content-range": "4892"}
    unknown = {"x-powered-by": "ASP.NET", "bits-colour": "blue", "etag": '"1"'}
    assert read_ack(200, headers | unknown) == read_ack(200, headers) == Ack(received=4892)


@pytest.mark.parametrize("size", [1, 999, 1000, 1001, 10**9 + 7])
def test_every_fragment_names_the_same_total_and_begins_where_the_last_one_ended(size: int) -> None:
    at = 0
    for fragment in fragments(Upload(size, fragment_length=max(1000, size // 50))):
        assert (fragment.session_id, fragment.range.start, fragment.range.total) == (ID, at, size)
        at = fragment.range.stop
    assert at == size


def test_the_client_counts_in_64_bits() -> None:
    upload = Upload(LARGEST, progress=Progress(ID, sent=LARGEST - 1000), fragment_length=600)
    ranges = [fragment.range for fragment in fragments(upload)]
    middle = LARGEST - 400
    assert ranges == [
        ContentRange(LARGEST - 1000, middle, LARGEST),
        ContentRange(middle, LARGEST, LARGEST),
    ]


def test_a_range_counts_from_zero_and_its_last_byte_belongs_to_it() -> None:
    first, last = (dict(write_packet(fragment)) for fragment in fragments(Upload(10, fragment_length=6)))
    assert (first["Content-Range"], first["Content-Length"]) == ("bytes 0-5/10", "6")
    assert (last["Content-Range"], last["Content-Length"]) == ("bytes 6-9/10", "4")
