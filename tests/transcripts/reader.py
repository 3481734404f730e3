"""Reads a transcript: a real conversation kept as text.

A transcript is paragraphs with an empty line between them. Those before the first number are prose. A
numbered paragraph is the remark on the message below it; the message is a paragraph whose lines are
marked with who speaks:

    3. The whole file in one fragment.

    C> BITS_POST /upload/file.txt HTTP/1.1
    C> Content-Length: 4892
    C| 4892 bytes of the pattern "upload"

A body is not written out but given by its rule, see `pattern`.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from itertools import dropwhile
from pathlib import Path

FOLDER = Path(__file__).parent
NUMBER = re.compile(r"\d+\. ")
BODY = re.compile(r'(\d+) bytes of the pattern "(\w+)"')


class Direction(StrEnum):
    CLIENT_ASKS = "C>"
    SERVER_ANSWERS = "S<"
    SERVER_NOTIFIES = "N>"
    APPLICATION_ANSWERS = "A<"


@dataclass(frozen=True)
class Message:
    """One message as it was on the wire; only the body is not the original one, but as long."""

    number: int
    direction: Direction
    start_line: str
    headers: list[tuple[str, str]]
    body: bytes
    remark: str

    def head(self) -> bytes:
        """Start line and headers, with the empty line that ends them."""
        fields = [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([self.start_line, *fields, "", ""]).encode("ascii")

    def to_bytes(self) -> bytes:
        return self.head() + self.body


def read(name: str) -> list[Message]:
    """The messages of a transcript in the order they were spoken; ValueError if one cannot be read."""
    text = (FOLDER / f"{name}.txt").read_text(encoding="ascii")
    paragraphs = list(dropwhile(lambda prose: not NUMBER.match(prose), text.strip().split("\n\n")))
    return [
        _message(remark, spoken.split("\n"))
        for remark, spoken in zip(paragraphs[::2], paragraphs[1::2], strict=True)
    ]


def pattern(word: str, length: int) -> bytes:
    """Lines of `word` and their own offset, cut at `length`, so that a byte out of its place is seen.

    `pattern("reply", 10240)` is the whole reply of which a shorter pattern of that word is the beginning.
    """
    line = f"{word} {{:08}}\n"
    lines = (line.format(offset) for offset in range(0, length, len(line.format(0))))
    return "".join(lines).encode("ascii")[:length]


def _message(remark: str, spoken: list[str]) -> Message:
    number, _, words = remark.partition(". ")
    direction = Direction(spoken[0][:2])
    body = b""
    if spoken[-1].startswith(f"{direction[0]}| "):
        body = _body(spoken.pop()[3:])
    start_line, *fields = [_said(direction, line) for line in spoken]
    headers = [_header(field) for field in fields]
    return Message(int(number), direction, start_line, headers, body, " ".join(words.split()))


def _said(direction: Direction, line: str) -> str:
    if not line.startswith(f"{direction} "):
        raise ValueError(f"this line should begin with {direction!s} and a space: {line!r}")
    return line[3:]


def _header(field: str) -> tuple[str, str]:
    name, colon, value = field.partition(": ")
    if not colon:
        raise ValueError(f"this header line has no colon: {field!r}")
    return name, value


def _body(rule: str) -> bytes:
    if not (told := BODY.fullmatch(rule)):
        raise ValueError(f"this rule of a body is not known: {rule!r}")
    return pattern(told[2], int(told[1]))
