"""Valid messages with something wrong in them, as hypothesis draws them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import strategies as st

__all__ = ["mutated"]

_ANYWHERE = (
    b"",
    b"\x00",
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b",",
    b"=",
    b'"',
    b"%",
    b"%2f",
    b"..",
    b"/",
    b"\xff",
)
_LARGE = (
    b"A" * 300,
    b"9" * 40,
    b"," * 200,
    b"(" * 100,
    b"18446744073709551616",
    b"-1",
    b"\xc3\xa9",
    b"\xed\xa0\x80",
)
_MOST = 64 * 1024  # bytes of an input


class _Edit(NamedTuple):
    kind: str
    at: int
    length: int
    said: bytes


def mutated(seeds: Sequence[bytes], words: Sequence[bytes] = ()) -> st.SearchStrategy[bytes]:
    """One of `seeds`, changed in a few places, or cut into another; sometimes any bytes at all."""
    said = st.sampled_from([*_ANYWHERE, *words, *words]) | st.sampled_from(_LARGE) | st.binary(max_size=8)
    edit = st.builds(
        _Edit,
        st.sampled_from(
            ["insert", "replace", "delete", "repeat", "flip", "line twice", "no line", "cut into"]
        ),
        st.integers(0, 1 << 16),
        st.integers(0, 40),
        said,
    )
    one = st.sampled_from(seeds)

    def change(data: bytes, other: bytes, edits: list[_Edit]) -> bytes:
        for each in edits:
            data = _changed(data, other, each)[:_MOST]
        return data

    return st.builds(change, one, one, st.lists(edit, max_size=5)) | st.binary(max_size=80)


def _changed(data: bytes, other: bytes, edit: _Edit) -> bytes:
    at = edit.at % (len(data) + 1)
    before, hit, after = data[:at], data[at : at + edit.length], data[at + edit.length :]
    match edit.kind:
        case "insert":
            return before + edit.said + data[at:]
        case "replace":
            return before + edit.said + after
        case "delete":
            return before + after
        case "repeat":
            return before + hit * 8 + after
        case "flip":
            return before + bytes([byte ^ (1 << edit.at % 8) for byte in hit[:1]]) + data[at + 1 :]
        case "cut into":
            return before + other[edit.at % (len(other) + 1) :]
    lines = data.splitlines(keepends=True) or [b""]
    which = edit.at % len(lines)
    times = 2 if edit.kind == "line twice" else 0
    return b"".join([*lines[:which], *lines[which : which + 1] * times, *lines[which + 1 :]])
