"""Whoever listens at a webhook: what it heard, with signatures checked as Standard Webhooks has them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass
from typing import Any

from . import raw
from .applications import Answering, Application, Heard, say

KEY = bytes(range(32))
SECRET = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="  # the same in Base64


@dataclass(frozen=True)
class Told:
    """One attempt to tell an event."""

    id: str
    event: dict[str, Any]

    @property
    def kind(self) -> str:
        """`completed` of io.bitsferry.upload.completed."""
        prefix, _, kind = self.event["type"].rpartition(".")
        assert prefix == "io.bitsferry.upload"
        return str(kind)


class Receiver(Application):
    """Answers 200 until it is told otherwise; `told` is every attempt so far, `kinds` what they were."""

    def __init__(self, answer: Answering | bytes = say(), **options: Any) -> None:  # noqa: B008
        super().__init__(answer if callable(answer) else lambda heard: answer, **options)

    def answers(self, answer: Answering | bytes) -> None:
        """From now on."""
        self.answer = answer if callable(answer) else lambda heard: answer

    @property
    def told(self) -> list[Told]:
        return [told(heard) for heard in self.heard]

    @property
    def kinds(self) -> list[str]:
        return [each.kind for each in self.told]

    def hears(self, *kinds: str) -> list[dict[str, Any]]:
        """The events it heard, which are of these kinds, once that many came."""
        raw.eventually(lambda: len(self.heard) >= len(kinds))
        assert self.kinds == list(kinds)
        return [each.event for each in self.told]


def told(heard: Heard) -> Told:
    """What a request tells; the signature must be right."""
    assert heard.method == "POST"
    assert heard.get("Content-Type") == "application/cloudevents+json"
    id_, timestamp = heard.get("webhook-id") or "", heard.get("webhook-timestamp") or ""
    assert abs(time.time() - int(timestamp)) < 60
    digest = hmac.new(KEY, f"{id_}.{timestamp}.".encode() + heard.body, hashlib.sha256).digest()
    assert heard.get("webhook-signature") == "v1," + base64.b64encode(digest).decode()
    event = json.loads(heard.body)
    assert event["id"] == id_
    return Told(id_, event)
