"""What happens while a file is sent, as it is told to whoever shows it; `--json` prints these."""

from __future__ import annotations

import msgspec

from bitsferry.protocol.errors import BitsError
from bitsferry.protocol.hresult import name_of, spell

__all__ = [
    "Connected",
    "Done",
    "Error",
    "Event",
    "Failed",
    "Interrupted",
    "Progress",
    "Receiving",
    "Replied",
    "Retry",
    "Started",
    "Warned",
    "Whole",
]


class _Event(msgspec.Struct, frozen=True, tag_field="event", tag=str.lower):
    """Told in the order it happens; sizes are in bytes, times in seconds."""


class Error(msgspec.Struct, frozen=True):
    """An error as Windows numbers it, and its sentence; `status` is the HTTP status of its class."""

    name: str
    hresult: str
    context: int
    status: int
    message: str

    @classmethod
    def of(cls, error: BitsError) -> Error:
        """What `error` says."""
        return cls(name_of(error.code), spell(error.code), int(error.context), error.status, error.message)


class Started(_Event, frozen=True):
    """The file is open; `sent` of its bytes were acknowledged in an earlier run.

    Not `resumable`: there is nowhere to remember this run, so another one would start over.
    """

    file: str
    url: str
    size: int
    sent: int
    resumable: bool


class Warned(_Event, frozen=True):
    """Something is allowed that is not safe."""

    message: str


class Connected(_Event, frozen=True):
    """The server answered for the first time since the start, or since the line broke."""


class Progress(_Event, frozen=True):
    """The server acknowledged `sent` bytes; those up to `offset` are out on the line.

    `until` is where the fragment in flight ends.
    """

    sent: int
    offset: int
    size: int
    until: int


class Whole(_Event, frozen=True):
    """The server has all of the file, and the reply, if one was asked for, is here.

    What is left is to tell the server that the upload is over.
    """

    size: int


class Receiving(_Event, frozen=True):
    """`received` of `size` bytes of a download or reply are safe on this side."""

    url: str
    received: int
    size: int


class Replied(_Event, frozen=True):
    """The server's application answered; its reply, `size` bytes, is at `path`."""

    path: str
    size: int


class Retry(_Event, frozen=True):
    """Something went wrong, and is tried again in `wait` seconds."""

    error: Error
    wait: float


class Done(_Event, frozen=True):
    """The file is in its place; `repeated` bytes had to go over the line more than once."""

    url: str
    size: int
    seconds: float
    repeated: int


class Interrupted(_Event, frozen=True):
    """Somebody stopped it; `advice` says how it goes on where it stopped."""

    advice: str = "run the same command again to go on"


class Failed(_Event, frozen=True):
    """It ended without success; `transient`: the same command, later, may go on where this one stopped."""

    error: Error
    transient: bool
    advice: str


Event = (
    Started
    | Warned
    | Connected
    | Progress
    | Receiving
    | Replied
    | Whole
    | Retry
    | Done
    | Interrupted
    | Failed
)
