"""The packets a client says, the Ack a server answers."""

from __future__ import annotations

from dataclasses import dataclass

from bitsferry.protocol.digests import Digest
from bitsferry.protocol.errors import Context
from bitsferry.protocol.ranges import ContentRange

__all__ = [
    "BITS_1_5",
    "Ack",
    "CancelSession",
    "CloseSession",
    "CreateSession",
    "Fragment",
    "Packet",
    "Ping",
    "SessionPacket",
]

# The only protocol ever published: the BITS 1.5 Upload Protocol (MC-BUP 1.7.1).
BITS_1_5 = "{7df0354d-249b-430f-820d-3d2a9bef4931}"


@dataclass(frozen=True, slots=True)
class CreateSession:
    """Asks for a session; `protocols` most preferred first (MC-BUP 2.2.2).

    `repr_digest`, here and elsewhere, is the whole file's. One that is not known yet is announced by its
    algorithm, `will_digest`, so that the server may compute it beside the upload.
    """

    protocols: tuple[str, ...] = (BITS_1_5,)
    content_name: str | None = None
    repr_digest: Digest | None = None
    will_digest: str | None = None


@dataclass(frozen=True, slots=True)
class Ping:
    """Opens the connection, finishes authentication, tries a host (MC-BUP 2.2.4).

    Whether it names a session is where MC-BUP disagrees with itself (spec-notes, C3); Windows never does.
    """

    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class Fragment:
    """Carries `range` of the file in its body (MC-BUP 2.2.6), whose own digest is `content_digest`."""

    session_id: str
    range: ContentRange
    content_name: str | None = None
    repr_digest: Digest | None = None
    content_digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class CloseSession:
    """Says that the upload is over: release everything (MC-BUP 2.2.8)."""

    session_id: str
    content_name: str | None = None
    repr_digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class CancelSession:
    """Gives the upload up: delete everything (MC-BUP 2.2.10)."""

    session_id: str


SessionPacket = Fragment | CloseSession | CancelSession
Packet = CreateSession | Ping | SessionPacket


@dataclass(frozen=True, slots=True)
class Ack:
    """The answer to any packet; `received` is the next offset the server wants (MC-BUP 2.2.3 to 2.2.11).

    `host_id_fallback_timeout` and `retry_after` are in seconds.
    """

    status: int = 200
    session_id: str | None = None
    protocol: str | None = None
    host_id: str | None = None
    host_id_fallback_timeout: int | None = None
    received: int | None = None
    reply_url: str | None = None
    hresult: int | None = None
    context: Context | None = None
    retry_after: int | None = None
    accept_encoding: str | None = None
    wants_digest: str | None = None
    """The algorithm of the digest that a later request shall have, of the whole file."""
    challenges: tuple[str, ...] = ()
    """`WWW-Authenticate` values, on 401 only."""
