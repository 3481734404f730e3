"""Digests of a file or of a message, as RFC 9530 spells them."""

from __future__ import annotations

import base64
import re
from binascii import Error as NoBase64
from collections.abc import Iterator
from dataclasses import dataclass

from bitsferry.protocol.errors import InvalidMessage

__all__ = ["ALGORITHMS", "Digest", "read_digest", "read_wanted", "write_wanted"]

ALGORITHMS = {"sha-512": 64, "sha-256": 32}
"""Those a digest is checked by, strongest first, with how many bytes it then has (RFC 9530, 5)."""


@dataclass(frozen=True, slots=True)
class Digest:
    """What `algorithm` makes of some bytes."""

    algorithm: str
    value: bytes

    @property
    def hex(self) -> str:
        """The value as people compare it."""
        return self.value.hex()

    def __str__(self) -> str:
        return f"{self.algorithm}=:{base64.b64encode(self.value).decode('ascii')}:"


# A dictionary of structured fields (RFC 8941, 3.2) without lists, which no digest is. Nothing is read twice:
# what a stranger writes costs its length. Groups are not possessive, which Python 3.11.2 gets wrong.
_KEY = r"[a-z*][a-z0-9_.*-]*"
_BARE = r"""(?: :[A-Za-z0-9+/=]*: | "(?:[ !\#-\[\]-~]|\\["\\])*" | \?[01]
    | -?[0-9]{1,15}(?:\.[0-9]{1,3})? | [A-Za-z*][!\#$%&'*+.^_`|~0-9A-Za-z:/-]* )"""
_MEMBER = re.compile(rf"({_KEY}) (?:=({_BARE}))?", re.VERBOSE)
_PARAMETER = re.compile(rf";[ ]*{_KEY} (?:={_BARE})?", re.VERBOSE)
_BETWEEN = re.compile(r"[ \t]*+,[ \t]*+")


def read_digest(name: str, field: str) -> Digest | None:
    """The strongest digest in the field `name`; None when it has none by an algorithm we trust.

    Raises InvalidMessage for a field that is none of RFC 9530, with the sentence its writer needs.
    """
    try:
        told = dict(_members(field))
        for algorithm, length in ALGORITHMS.items():
            if algorithm in told:
                return Digest(algorithm, _bytes(algorithm, told[algorithm], length))
    except ValueError as error:
        raise InvalidMessage(
            f"the header {name} is not as RFC 9530 has it, such as sha-256=:BASE64: ({error})"
        ) from None
    return None


def _members(field: str) -> Iterator[tuple[str, str | None]]:
    """Keys with their values; None is one that can be no digest. Raises ValueError."""
    field = field.strip(" ")
    at = 0
    while field:
        member = _MEMBER.match(field, at)
        if member is None:
            raise ValueError(f"{field[at : at + 20]!r} is no such member")
        yield member[1], member[2]
        at = member.end()
        while parameter := _PARAMETER.match(field, at):
            at = parameter.end()
        if at == len(field):
            return
        between = _BETWEEN.match(field, at)
        if between is None:
            raise ValueError(f"{field[at : at + 20]!r} follows where a comma belongs")
        at = between.end()


def _bytes(algorithm: str, value: str | None, length: int) -> bytes:
    if value is None or not value.startswith(":"):
        raise ValueError(f"{algorithm} is no base64 between colons")
    text = value.strip(":").rstrip("=")
    try:
        read = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except NoBase64:
        raise ValueError(f"{algorithm} is no base64") from None
    if len(read) != length:
        raise ValueError(f"{algorithm} has {length} bytes, not {len(read)}")
    return read


def write_wanted(algorithm: str) -> str:
    """Want-Repr-Digest, where nothing but `algorithm` is wanted."""
    return f"{algorithm}=10"


def read_wanted(field: str) -> str | None:
    """The algorithm Want-Repr-Digest likes best, of those we know; None where it wants or says none.

    What is wanted alike goes by strength.
    """
    try:
        told = dict(_members(field))
    except ValueError:
        return None
    weights = {name: int(value) for name, value in told.items() if value is not None and value.isdecimal()}
    wanted = [name for name in ALGORITHMS if weights.get(name, 0) > 0]
    return max(wanted, key=weights.__getitem__, default=None)
