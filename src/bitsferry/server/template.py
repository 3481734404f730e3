"""Where a new upload's file lands, by a pattern such as `{user}/{date}/{name}`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from bitsferry.protocol.errors import InvalidName
from bitsferry.protocol.session import Session
from bitsferry.server.names import check_name

__all__ = ["ANONYMOUS", "NameTemplate", "folder_name"]

ANONYMOUS = "anonymous"
"""Stands for whoever did not have to say a name; a user who is called so is escaped."""

_LOCAL = "local"  # stands for the address of a client that came through a Unix socket
_FIELD = re.compile(r"\{([^{}]*)\}")
_FIELDS = ("name", "stem", "suffix", "path", "user", "client_address", "session", "date", "time")
_PLAIN = "-_.@+=,() "  # beside letters and digits
_SAMPLE = Session("A0FF5911-0000-4000-8000-000000000000", "/file", "user", 0.0, address="192.0.2.1")


@dataclass(frozen=True, slots=True)
class NameTemplate:
    """Fields in braces stand for what is known of an upload; everything else stands for itself.

    `{name}` is the last part of the URL, `{stem}` and `{suffix}` are its halves, `{path}` is all of the URL
    below the directory. `{user}`, `{client_address}`, `{session}`, `{date}` and `{time}` (UTC) are part of
    one name each, whatever stands in them. Raises ValueError for a template that names no file.
    """

    text: str

    def __post_init__(self) -> None:
        for field in _FIELD.findall(self.text):
            if field not in _FIELDS:
                known = ", ".join(f"{{{name}}}" for name in _FIELDS)
                raise ValueError(f"there is no {{{field}}} in a name template; there are {known}")
        if set("{}") & set(_FIELD.sub("", self.text)):
            raise ValueError(f"{self.text!r} has a brace that is not around a field, such as {{name}}")
        for name in ("file.zip", "file"):
            try:
                self.parts(_SAMPLE, (name,))
            except InvalidName as error:
                raise ValueError(f"{self.text!r} is no place for a file {name!r}: {error.message}") from None

    def parts(self, session: Session, said: tuple[str, ...]) -> tuple[str, ...]:
        """The names below the directory's folder, of an upload to where the URL says `said`.

        Raises InvalidName where what is filled in makes a name that may not be.
        """
        values = _values(session, said)
        names = tuple(_FIELD.sub(lambda field: values[field[1]], self.text).split("/"))
        for name in names:
            check_name(name)
        return names


def _values(session: Session, said: tuple[str, ...]) -> Mapping[str, str]:
    begun = datetime.fromtimestamp(session.created, UTC)
    address = folder_name(session.address.replace(":", "-")) if session.address else _LOCAL
    user = ANONYMOUS if session.user is None else folder_name(session.user)
    stem, suffix = os.path.splitext(said[-1])
    values = (
        *(said[-1], stem, suffix, "/".join(said)),
        *(user, address, session.id, f"{begun:%Y-%m-%d}", f"{begun:%H%M%S}"),
    )
    return dict(zip(_FIELDS, values, strict=True))


def folder_name(user: str) -> str:
    r"""`user` as one name that every system can store; no two users have the same.

    What a name cannot have is percent-escaped: `DOMAIN\alice` is `DOMAIN%5Calice`.
    """
    if not user:
        return "%"
    name = "".join(char if char.isalnum() or char in _PLAIN else _escape(char) for char in user)
    if name[-1] in ". ":
        name = name[:-1] + _escape(name[-1])
    if name[0] in ". " or name.lower() == ANONYMOUS or not _may_be(name):
        name = _escape(name[0]) + name[1:]
    return name


def _escape(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))


def _may_be(name: str) -> bool:
    try:
        check_name(name)
    except InvalidName:
        return False
    return True
