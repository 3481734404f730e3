"""A webhook: who is told of a directory's uploads, signed as Standard Webhooks has it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass, field

from bitsferry.server.event_post import EventPost
from bitsferry.server.upload_events import Kind

__all__ = ["AT_ONCE", "TOLD", "Webhook", "read_secret"]

TOLD = tuple(kind for kind in Kind if kind is not Kind.CREATING)
"""What a webhook may hear of."""

AT_ONCE = 8
_LIMIT = 15.0  # seconds for an attempt
_PREFIX = "whsec_"


def read_secret(text: str) -> bytes:
    """The key in a secret's text. Raises ValueError, which does not show it."""
    if not text.startswith(_PREFIX):
        raise ValueError(f"a secret begins with {_PREFIX}")
    try:
        secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(f"what follows {_PREFIX} in a secret is Base64") from None
    if not 24 <= len(secret) <= 64:
        raise ValueError("a secret has 24 to 64 bytes, in Base64")
    return secret


@dataclass(frozen=True)
class Webhook:
    """Whoever listens at `url` is told of these `kinds` of events.

    Raises ValueError for a `url` that is none.
    """

    url: str
    secret: bytes = field(repr=False)
    kinds: tuple[Kind, ...] = TOLD
    _post: EventPost = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_post", EventPost(self.url, AT_ONCE))

    def __str__(self) -> str:
        """For people and logs: without the query, which may hold secrets."""
        return str(self._post.address)

    async def tell(self, id_: str, event: bytes, now: float) -> int:
        """The status answered to this attempt. Raises ApplicationFailed when there is no answer."""
        timestamp = str(int(now))
        signed = f"{id_}.{timestamp}.".encode() + event
        signature = base64.b64encode(hmac.digest(self.secret, signed, hashlib.sha256)).decode("ascii")
        headers = {
            "webhook-id": id_,
            "webhook-timestamp": timestamp,
            "webhook-signature": f"v1,{signature}",
        }
        status, _ = await self._post.send(event, headers, _LIMIT)
        return status
