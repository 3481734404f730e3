"""What happens while a file is sent, as it is told to whoever shows it; `--json` prints just these."""

from __future__ import annotations

import msgspec

from bitsferry.protocol.errors import BitsError
from bitsferry.protocol.hresult import name_of, spell

__all__ = ["Done", "Error", "Event", "Failed", "Interrupted", "Progress", "Retry", "Started"]


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


class Progress(_Event, frozen=True):
    """The server acknowledged `sent` bytes; those up to `offset` are out on the line."""

    sent: int
    offset: int
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
    """Somebody stopped it; the same command goes on where it stopped."""


class Failed(_Event, frozen=True):
    """It ended without success; `transient`: the same command, later, may go on where this one stopped."""

    error: Error
    transient: bool
    advice: str


Event = Started | Progress | Retry | Done | Interrupted | Failed
