"""Who is asking, once that is settled."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address

from bitsferry.access.networks import address_of

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
    where it did not say. `scheme` is the name of the one by which the user was proved.
    """

    address: str
    user: str | None = None
    origin: str = ""
    scheme: str | None = None

    @property
    def counted_as(self) -> str:
        """Under what limits count: the user or, where nobody said a name, the address.

        Of IPv6 it is the network of 64 bits, in which a client may change its address as it likes.
        """
        if self.user is not None:
            return f"user {self.user}"
        address = address_of(self.address)
        if isinstance(address, IPv6Address):
            return f"address {IPv6Address(int(address) >> 64 << 64)}/64"
        return f"address {address or self.address}"
