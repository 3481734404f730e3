"""The promises of `ContentRange` and `place`: which bytes a fragment carries and which of them are new."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsferry.protocol.errors import InvalidMessage, OutOfStep
from bitsferry.protocol.ranges import LARGEST, ContentRange, Placement, place


@st.composite
def ranges(draw: st.DrawFn, largest: int = LARGEST) -> ContentRange:
    """Any range of a file that has bytes."""
    total = draw(st.integers(1, largest))
    start = draw(st.integers(0, total - 1))
    return ContentRange(start, draw(st.integers(start + 1, total)), total)


def test_a_range_is_inclusive_on_the_wire_and_half_open_with_us() -> None:
    assert ContentRange.parse("bytes 0-4891/4892") == ContentRange(0, 4892, 4892)
    assert str(ContentRange(128, 213, 1000)) == "bytes 128-212/1000"


@given(ranges())
def test_what_is_written_is_read_again(range_: ContentRange) -> None:
    assert ContentRange.parse(str(range_)) == range_


@pytest.mark.parametrize("text", ["Bytes 0-9/10", "BYTES 0-9/10", "bytes  0-9/10", " bytes\t0-9/10 "])
def test_the_unit_is_read_in_any_case_with_any_space(text: str) -> None:
    assert ContentRange.parse(text) == ContentRange(0, 10, 10)


@pytest.mark.parametrize("text", ["bytes 0--1/0", "bytes */0", "Bytes  */0"])
def test_an_empty_file_may_be_said_in_two_ways(text: str) -> None:
    assert ContentRange.parse(text) == ContentRange(0, 0, 0)


def test_an_empty_file_can_be_written_and_read() -> None:
    empty = ContentRange(0, 0, 0)
    assert str(empty) == "bytes */0"
    assert ContentRange.parse(str(empty)) == empty


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bytes",
        "bytes 0-9",
        "0-9/10",
        "items 0-9/10",
        "bytes=0-9/10",
        "bytes 0-9/*",  # the total is needed to know the last fragment
        "bytes */10",
        "bytes */*",
        "bytes -9/10",
        "bytes 0-/10",
        "bytes 0--1/10",
        "bytes 5--1/0",
        "bytes 9-0/10",
        "bytes 0-10/10",
        "bytes 0-0/0",
        "bytes -1-9/10",
        "bytes +0-9/10",
        "bytes 0x0-0x9/10",
        "bytes 0-9/10, 20-29/30",
        "bytes 0-1,4-5/10",
        "bytes 0-9/10 ; q=1",
        "bytes 0-9/10\r\nX: y",
        "bytes \u0660-\u0669/10",  # digits, but not RFC 2616's
        f"bytes 0-9/{LARGEST + 1}",
        f"bytes 0-{LARGEST}/{LARGEST}",
        "bytes 0-9/" + "9" * 21,
        "bytes 0-9/" + "9" * 5000,
    ],
)
def test_anything_but_one_whole_range_with_a_known_total_is_refused(text: str) -> None:
    with pytest.raises(InvalidMessage):
        ContentRange.parse(text)


def test_a_file_may_be_as_large_as_any_file_system_can_count() -> None:
    assert ContentRange.parse("bytes 0-0/9223372036854775807").total == 2**63 - 1 == LARGEST
    assert ContentRange.parse(f"bytes {LARGEST - 1}-{LARGEST - 1}/{LARGEST}").length == 1


@given(
    st.text()
    | st.from_regex(
        r"[Bb]ytes [0-9\-*]{1,25}(-[0-9]{0,25})?/[0-9*]{1,25}",
        fullmatch=True,
        alphabet=st.characters(codec="ascii"),
    )
)
def test_any_text_is_a_sound_range_or_an_invalid_message(text: str) -> None:
    try:
        range_ = ContentRange.parse(text)
    except InvalidMessage:
        return
    assert 0 <= range_.start <= range_.stop <= range_.total <= LARGEST
    assert range_.length > 0 or range_.total == 0


def test_a_fragment_at_the_wanted_offset_is_all_new() -> None:
    assert place(ContentRange(100, 200, 1000), held=100) == Placement(skip=0, take=100)


def test_c5_what_is_held_already_is_skipped() -> None:
    assert place(ContentRange(50, 151, 1000), held=101) == Placement(skip=51, take=50)


def test_c5_a_wholly_old_fragment_brings_nothing() -> None:
    assert place(ContentRange(0, 100, 1000), held=500) == Placement(skip=100, take=0)


def test_a_gap_is_refused_with_the_offset_we_want() -> None:
    with pytest.raises(OutOfStep) as gap:
        place(ContentRange(101, 200, 1000), held=100)
    assert gap.value.held == 100


def test_an_empty_file_has_its_place() -> None:
    assert place(ContentRange(0, 0, 0), held=0) == Placement(skip=0, take=0)


@given(ranges(largest=1000), st.integers(0, 1000))
def test_the_held_offset_never_moves_back_nor_over_a_gap(range_: ContentRange, held: int) -> None:
    if range_.start > held:
        with pytest.raises(OutOfStep) as gap:
            place(range_, held)
        assert gap.value.held == held
        return
    placement = place(range_, held)
    assert placement.skip >= 0
    assert placement.take >= 0
    assert placement.skip + placement.take == range_.length
    assert held + placement.take == max(held, range_.stop)
    if placement.take:
        assert range_.start + placement.skip == held


@given(st.data(), st.binary(min_size=1, max_size=60))
def test_fragments_in_any_order_never_make_anything_but_the_beginning_of_the_file(
    data: st.DataObject, content: bytes
) -> None:
    held = bytearray()
    for _ in range(data.draw(st.integers(0, 20))):
        start = data.draw(st.integers(0, len(content) - 1))
        stop = data.draw(st.integers(start + 1, len(content)))
        try:
            placement = place(ContentRange(start, stop, len(content)), len(held))
        except OutOfStep:
            continue
        held += content[start:stop][placement.skip :]
        assert content.startswith(held)
