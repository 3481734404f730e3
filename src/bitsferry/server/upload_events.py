"""What happens to uploads, for whoever wants to hear of it, as CloudEvents 1.0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from urllib.parse import quote

import msgspec

__all__ = ["CONTENT_TYPE", "Kind", "UploadEvent", "read_event", "write_event"]

CONTENT_TYPE = "application/cloudevents+json"
_PREFIX = "io.bitsferry.upload."


class Kind(StrEnum):
    """What happened; each once for an upload at most, in this order."""

    CREATING = "creating"
    """A client asks for it: the create hook may refuse. Nobody else hears of this."""
    CREATED = "created"
    REFUSED = "refused"
    COMPLETED = "completed"
    REPLIED = "replied"
    CLOSED = "closed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadEvent:
    """Something happened to the upload `session`, a GUID, at `time`, in seconds since the epoch.

    `path` is the path of its URL, percent-decoded; `file` the path of the file below the directory's folder,
    None where there is no file. `size` is what the whole file has, `received` what is held, both in bytes;
    `digest` is the whole file's, in hexadecimal by algorithm. What nobody knows is None.
    """

    kind: Kind
    session: str
    time: float
    path: str
    file: str | None = None
    user: str | None = None
    address: str | None = None
    size: int | None = None
    received: int | None = None
    reply_url: str | None = None
    reason: str | None = None
    digest: Mapping[str, str] | None = None

    @property
    def id(self) -> str:
        """The same each time this is told, also when a crash lets it be written twice."""
        return f"{self.session}-{self.kind}"


class _Data(msgspec.Struct, omit_defaults=True):
    path: str
    file: str | None = None
    user: str | None = None
    address: str | None = None
    size: int | None = None
    received: int | None = None
    reply_url: str | None = None
    reason: str | None = None
    digest: Mapping[str, str] | None = None


class _CloudEvent(msgspec.Struct):
    specversion: str
    id: str
    source: str
    type: str
    subject: str
    time: str
    datacontenttype: str
    data: _Data


_decoder = msgspec.json.Decoder(_CloudEvent)
_FACTS = _Data.__struct_fields__


def write_event(event: UploadEvent, source: str) -> bytes:
    """The event in structured JSON mode; `source` is the URL of its directory, or that URL's path."""
    moment = datetime.fromtimestamp(event.time, UTC).isoformat(timespec="milliseconds")
    return msgspec.json.encode(
        _CloudEvent(
            specversion="1.0",
            id=event.id,
            source=quote(source, safe="/:[]%"),
            type=_PREFIX + event.kind,
            subject=event.session,
            time=moment.replace("+00:00", "Z"),
            datacontenttype="application/json",
            data=_Data(**{fact: getattr(event, fact) for fact in _FACTS}),
        )
    )


def read_event(content: bytes) -> UploadEvent:
    """The event that `write_event` wrote. Raises ValueError for anything else."""
    try:
        read = _decoder.decode(content)
        time = datetime.fromisoformat(read.time).timestamp()
        kind = Kind(read.type.removeprefix(_PREFIX))
    except (msgspec.MsgspecError, OverflowError) as error:
        raise ValueError(f"this is no event: {error}") from None
    facts = {fact: getattr(read.data, fact) for fact in _FACTS}
    return UploadEvent(kind=kind, session=read.subject, time=time, **facts)
