"""Who is asking, once that is settled."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Asker", "Identity"]


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody who proved to be `user`, by the scheme of this name.

    `groups` are those the proof itself names, as a token may. `names` are what a certificate says of its
    owner, such as `CN=host1` or `DNS:host1.example`. `headers` belong into the answer: the server's part of a
    mutual proof.
    """

    user: str
    scheme: str
    groups: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Asker:
    """Whoever sent a request: `user` is None where nobody had to say a name; `address` is the client's.

    `origin` is the server as the asker calls it, such as `http://host:8080`, with a mount's prefix; empty
    where it did not say.
    """

    address: str
    user: str | None = None
    origin: str = ""
