"""Who is asking."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Asker"]


@dataclass(frozen=True, slots=True)
class Asker:
    """Whoever sent a request: `user` is None where nobody had to say a name; `address` is for the log.

    `origin` is the server as the asker calls it, such as `http://host:8080`, with a mount's prefix; empty
    where it did not say.
    """

    address: str
    user: str | None = None
    origin: str = ""
