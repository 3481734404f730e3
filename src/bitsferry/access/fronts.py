"""Proxies in front of the server: whom they speak for, and what they may do to connections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Fronts"]

# What proxies say of themselves. Not all do: see Proved.
_SIGNS = ("via", "forwarded", "x-forwarded-for", "x-real-ip", "x-forwarded-proto", "x-forwarded-host")


@dataclass(frozen=True, slots=True)
class Fronts:
    """Which proxies are believed when they name their client."""

    def trusts(self, peer: str) -> bool:
        """Whether whoever opened the connection is one of ours."""
        return False

    def client(self, peer: str, headers: Mapping[str, str]) -> str:
        """The client's address: the peer's, or what a proxy we trust says."""
        return peer

    def may_share(self, peer: str, headers: Mapping[str, str]) -> bool:
        """Whether a proxy may send requests of several clients over this connection, as far as can be told.

        Behind a Unix socket there is always one.
        """
        return not peer or self.trusts(peer) or any(sign in headers for sign in _SIGNS)
