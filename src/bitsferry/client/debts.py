"""Tells a server that an upload is over."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from bitsferry.client.agent import UserAgent
from bitsferry.client.destination import Destination
from bitsferry.client.job import Debt
from bitsferry.client.transport import Transport
from bitsferry.protocol.packets import CreateSession
from bitsferry.protocol.upload import Upload

__all__ = ["pay"]


def pay(debt: Debt, agent: UserAgent, now: float) -> None:
    """Say the Close or Cancel that is owed. Returns when the server knows, or knows nothing of this upload.

    Raises the BitsError that says why it could not be told.
    """
    transport = Transport(Destination.parse(debt.url), agent)
    # What was sent is all there is: nothing but the last word is left to say.
    upload = Upload(debt.progress.sent, progress=replace(debt.progress))
    if debt.cancel:
        upload.cancel()
    with contextlib.closing(transport):
        while packet := upload.next_packet(now):
            if isinstance(packet, CreateSession):
                return  # the session is gone, and nobody wants another
            upload.receive(transport.send(packet, host=upload.host), now)
