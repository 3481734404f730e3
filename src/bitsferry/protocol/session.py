"""The server's half of an upload, `Session`, as the state machine of MC-BUP 3.2.5.1."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from bitsferry.protocol.digests import Digest
from bitsferry.protocol.errors import (
    AccessDenied,
    DigestMismatch,
    FileTooLarge,
    InvalidMessage,
    SessionNotFound,
)
from bitsferry.protocol.ranges import ContentRange, Placement, place

__all__ = ["Closing", "Session", "State", "normal_session_id", "spell_session_id"]

_GUID = re.compile(r"\{?([0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})\}?")


def normal_session_id(text: str) -> str:
    """The one spelling under which a session is kept: upper case, no braces.

    Raises SessionNotFound for a text that can be no id of ours.
    """
    match = _GUID.fullmatch(text)
    if match is None:
        raise SessionNotFound("the BITS-Session-Id is none this server gave out")
    return match[1].upper()


def spell_session_id(guid: str) -> str:
    """The id as Acks carry it, in braces."""
    return "{" + guid + "}"


class State(StrEnum):
    """Where a session stands (MC-BUP 3.2.1.4)."""

    RECEIVE_FRAGMENTS = "RECEIVE_FRAGMENTS"
    NOTIFY = "NOTIFY"
    """All bytes are held; the file is not in its place yet, or the application has not answered."""
    WAIT_FOR_CLOSE = "WAIT_FOR_CLOSE"
    COMPLETE = "COMPLETE"
    CANCEL = "CANCEL"


class Closing(StrEnum):
    """What a Close-Session asks of the store."""

    EMPTY_FILE = "EMPTY_FILE"
    """Create-Session was followed by Close-Session: the file has no bytes, and wants to exist."""
    FINISH = "FINISH"
    """All bytes are held but not yet in place: put them there, then release everything."""
    DISCARD = "DISCARD"
    """Bytes are missing: there are no partial files (contradiction C9 of the spec-notes)."""
    RELEASE = "RELEASE"
    """The file is in its place."""


@dataclass(slots=True)
class Session:
    """What is known of one upload, as it stands on disk.

    How many bytes are held is not written here: the store's file says it, and `held` is passed in.
    `path` is the URL's path as the client first said it, percent-decoded; `created` is in seconds since
    the epoch.
    """

    id: str
    path: str
    user: str | None
    created: float
    state: State = State.RECEIVE_FRAGMENTS
    total: int | None = None
    reply_url: str | None = None
    published: bool = False
    """The file is in its place, or the application that was told of it wants it nowhere."""
    file: str | None = None
    """The file's path below the directory's folder, with slashes, where the URL does not say it."""
    address: str = ""
    """Where the client was that began it; empty where nobody can tell."""
    repr_digest: Digest | None = None
    """The whole file's, as its client said it last."""
    will_digest: str | None = None
    """The algorithm of one the client announced, which comes with the last fragment."""
    digest: dict[str, str] = field(default_factory=dict)
    """The whole file's, as computed here, in hexadecimal by algorithm; what nobody wanted is not there."""
    unchecked: int | None = None
    """The bytes from here on do not count: the digest of the fragment they came in is yet to be compared."""

    @property
    def over(self) -> bool:
        """Nothing but a tombstone is left."""
        return self.state in (State.COMPLETE, State.CANCEL)

    def check_owner(self, path: str, user: str | None) -> None:
        """A session belongs to one user and one URL. Raises AccessDenied or InvalidMessage."""
        if user != self.user:
            raise AccessDenied("this upload belongs to another user")
        if path != self.path:
            raise InvalidMessage("this upload belongs to another URL")

    def place(self, range_: ContentRange, held: int, largest: int | None) -> Placement:
        """Which bytes of a fragment are new (MC-BUP 3.2.5.2.6).

        `largest` is the size in bytes a whole file may have. Raises SessionNotFound, FileTooLarge,
        InvalidMessage (the total changed) or OutOfStep; then the session is as it was.
        """
        if self.over:
            raise SessionNotFound("this upload has ended")
        if self.total is not None and range_.total != self.total:
            raise InvalidMessage(f"the file had {self.total} bytes before, now it has {range_.total}")
        if range_.total < held:
            # A crash may have kept the bytes and lost the total; a smaller file must not end in their place.
            raise InvalidMessage(f"{held} bytes are held of a file that now has {range_.total}")
        if largest is not None and range_.total > largest:
            raise FileTooLarge(
                f"the file has {range_.total} bytes; {largest} are the most this directory takes"
            )
        return place(range_, held)

    def start(self, total: int) -> None:
        """Remember the total the first fragment named."""
        self.total = total

    def hear(self, digest: Digest | None) -> bool:
        """A packet says the whole file's digest, or says none; returns whether that is news."""
        if digest is None or self.published or digest == self.repr_digest:
            return False
        self.repr_digest = digest
        return True

    def check(self, computed: Digest) -> None:
        """Remember what was computed of the whole file.

        Raises DigestMismatch where its client said otherwise.
        """
        said = self.repr_digest
        self.digest[computed.algorithm] = computed.hex
        if said is not None and said.algorithm == computed.algorithm and said.value != computed.value:
            raise DigestMismatch(
                f"the file's {said.algorithm} is {computed.hex}, its client said {said.hex};"
                " its bytes are held, but it is put nowhere"
            )

    def is_whole(self, held: int) -> bool:
        """All bytes are held, so the file belongs in its place now."""
        return self.total is not None and held >= self.total

    def notify(self) -> None:
        """The application is about to be told of it (MC-BUP 3.2.5.1.3)."""
        self.state = State.NOTIFY

    def publish(self, reply_url: str | None = None) -> None:
        """What was to be done is done; the last fragment's Ack may be told, again and again."""
        self.state = State.WAIT_FOR_CLOSE
        self.published = True
        self.reply_url = reply_url

    def closing(self, held: int) -> Closing:
        """What to do on Close-Session. Raises SessionNotFound when the upload was cancelled half-way.

        A Close that was done is done, however often it is said.
        """
        if self.published or self.state is State.COMPLETE:
            return Closing.RELEASE
        if self.state is State.CANCEL:
            raise SessionNotFound("this upload was given up before it was whole")
        if self.total is None and held == 0:
            return Closing.EMPTY_FILE
        return Closing.FINISH if self.is_whole(held) else Closing.DISCARD

    def end(self, state: State) -> None:
        """Only the tombstone is left, COMPLETE or CANCEL; a tombstone stays what it was."""
        if not self.over:
            self.state = state
