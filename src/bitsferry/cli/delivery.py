"""One run of `bitsferry send`: file after file, whatever becomes of the one before."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from bitsferry.cli import spool
from bitsferry.cli.advice import GO_ON, advise
from bitsferry.cli.arrivals import Arrivals
from bitsferry.cli.display import Display, LeftOut, Listed, Skipped, Spooling, Summary
from bitsferry.cli.sources import Found, Parcel
from bitsferry.client import events
from bitsferry.client.agent import NotTrusted
from bitsferry.client.local_file import Identity
from bitsferry.client.places import AlreadyBeingSent
from bitsferry.client.sending import Sender, places_folder
from bitsferry.protocol.errors import AuthenticationRequired, BitsError, ProxyAuthenticationRequired

__all__ = ["Delivery"]

_OF_THE_COMMAND = (AuthenticationRequired, ProxyAuthenticationRequired, NotTrusted)
"""What would go wrong with every file; and a wrong password said again and again locks an account."""


class Delivery:
    """Sends files by a `Sender` that tells `hear`, shows what happens, and counts how it ends."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self.user: str | None = None
        """Who sends, if that is said."""
        self._go_on = GO_ON
        self._arrived: Callable[[], None] = lambda: None
        self._sent = self._skipped = self._failed = self._left = self._size = 0
        self.interrupted = events.Interrupted()
        """What to show when somebody stops it."""

    @property
    def exit_code(self) -> int:
        """1: some files were refused for good. 75: another run may succeed. 0: all have arrived."""
        return 1 if self._failed else 75 if self._left else 0

    def hear(self, event: events.Event) -> None:
        """Take what the sender tells."""
        if isinstance(event, events.Done):
            self._arrived()  # before its place is forgotten: what arrived must not be sent again
            self._sent += 1
            self._size += event.size
        self._display.show(event)

    def send_one(self, sender: Sender, parcel: Parcel, reply: str | None) -> None:
        """Send one file."""
        self._try(lambda: sender.send(parcel.path, parcel.url, reply=reply))
        if not self.exit_code:
            spool.discard(parcel.path)

    def send_stream(self, sender: Sender, stream: BinaryIO, url: str, reply: str | None) -> None:
        """Send what comes out of `stream`; it is kept until it has arrived."""
        self.interrupted = events.Interrupted("nothing was sent")
        name = unquote(urlsplit(url).path.rpartition("/")[2])
        path = ""

        def keep() -> None:
            nonlocal path
            path = spool.keep(stream, name, lambda read: self._display.show(Spooling(read)))

        if self._try(keep) is None:
            command = ["bitsferry", "send", path, url]
            shown = subprocess.list2cmdline(command) if sys.platform == "win32" else shlex.join(command)
            how = f"hat came on standard input is kept. To go on, with the same options: {shown}"
            self._go_on, self.interrupted = "W" + how, events.Interrupted("w" + how)
            self.send_one(sender, Parcel(path, url, name), reply)

    def send_all(self, sender: Sender, found: Found, url: str, *, again: bool) -> None:
        """Send several files, each of which may fail; `again`, also those that an earlier run sent."""
        began, patience, hopeless = time.monotonic(), sender.patience, False
        arrivals = Arrivals(places_folder(), found.origins, url, self.user)
        if again:
            arrivals.forget()
        for each in found.left_out:
            self._failed += each.is_fault
            self._display.show(LeftOut(each.path, each.why))
        sizes = [_size(parcel.path) for parcel in found.parcels]
        self._display.show(Listed(len(sizes), sum(sizes)))
        for parcel, size in zip(found.parcels, sizes, strict=True):
            self._display.file = parcel.name
            if arrivals.has(parcel.path, parcel.url):
                self._skipped += 1
                self._display.show(Skipped(parcel.name, size))
            elif hopeless:
                self._left += 1
            else:
                error = self._send_one_of_several(sender, parcel, arrivals)
                hopeless = isinstance(error, _OF_THE_COMMAND)
                if error is None:
                    sender.patience = patience
                elif error.transient and not isinstance(error, AlreadyBeingSent):
                    sender.patience = 0.0  # it is used up: the others have one try each, until one arrives
        self._display.file = None
        if not self.exit_code:
            arrivals.forget()
        seconds = time.monotonic() - began
        self._display.show(Summary(self._sent, self._skipped, self._failed, self._left, self._size, seconds))

    def _send_one_of_several(self, sender: Sender, parcel: Parcel, arrivals: Arrivals) -> BitsError | None:
        self._arrived = lambda: None
        with contextlib.suppress(OSError):  # it is told when the file is opened
            identity = Identity.of(os.stat(parcel.path))
            self._arrived = lambda: arrivals.add(identity, parcel.url)
        return self._try(lambda: sender.send(parcel.path, parcel.url))

    def _try(self, do: Callable[[], object]) -> BitsError | None:
        try:
            do()
        except BitsError as error:
            self._left += error.transient
            self._failed += not error.transient
            advice = advise(error, user=self.user, go_on=self._go_on)
            self._display.show(events.Failed(events.Error.of(error), error.transient, advice))
            return error
        return None


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0
