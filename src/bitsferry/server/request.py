"""A request whose body is still on its way, with the response it will get."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bitsferry.access.scheme import Link
from bitsferry.store.base import Receiver

__all__ = ["Body", "BodyInterrupted", "ConnectionLost", "FileBody", "Pace", "Request", "Response"]


class ConnectionLost(Exception):
    """The line broke inside a body; there is nobody left to answer."""


class BodyInterrupted(Exception):
    """The body was stopped at a block's edge, because somebody newer came or the server ends."""


class Pace(ABC):
    """How fast a body may be read: no more than `most` bytes at once, then a pause."""

    __slots__ = ("most",)

    most: int

    @abstractmethod
    def take(self, size: int) -> None:
        """So many bytes were read."""

    @abstractmethod
    def pause(self) -> float:
        """Seconds until more may be read; 0 when it may be now."""


class Body(ABC):
    """The bytes behind a request's head, still in the socket."""

    __slots__ = ()

    @abstractmethod
    async def into(self, receiver: Receiver, pace: Pace | None = None) -> None:
        """Push all of the body into `receiver`, block by block, as fast as `pace` allows.

        Raises ConnectionLost when the line breaks and BodyInterrupted after `stop`; what the receiver took
        before, it has. What the receiver raises passes through. No block is under way when this returns.
        """

    @abstractmethod
    def stop(self) -> None:
        """End a running `into` at the next block's edge."""


@dataclass(slots=True)
class Request:
    """One request; `headers` has lower-case names, repeated ones are joined by commas.

    `target` is the path and query as they stood on the wire, still percent-encoded, without a mount's prefix,
    which is `mount`. `client` is the peer's address without port, empty on a Unix socket. `link` is the
    connection, None where it cannot be told from others.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: Body
    client: str = ""
    scheme: str = "http"
    mount: str = ""
    link: Link | None = None


@dataclass(slots=True)
class FileBody:
    """Ranges of an open file with bytes between them; whoever sends it closes `descriptor`."""

    descriptor: int
    pieces: Sequence[range | bytes]


@dataclass(slots=True)
class Response:
    """What to answer; Content-Length is among the headers.

    `goes_on`: the next request belongs to this one, on the same connection, which is worth reading a larger
    body to its end than that of a mere refusal.
    """

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: FileBody | None = None
    goes_on: bool = False
