"""Proxies in front of the server: whom they speak for, and what they may do to connections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Self

from bitsferry.access.networks import Network, address_of, contains, network_of

__all__ = ["FORWARDED", "UNIX", "X_FORWARDED_FOR", "ForwardedHeader", "Fronts"]

ForwardedHeader = Literal["X-Forwarded-For", "Forwarded"]
X_FORWARDED_FOR: ForwardedHeader = "X-Forwarded-For"
FORWARDED: ForwardedHeader = "Forwarded"

UNIX = "unix"
"""Stands for whoever comes through a Unix socket, where others stand with their addresses."""

# What proxies say of themselves. Not all do: see Proved.
_SIGNS = ("via", "forwarded", "x-forwarded-for", "x-real-ip", "x-forwarded-proto", "x-forwarded-host")

_MOST_HOPS = 32  # proxies behind each other; nobody has so many


@dataclass(frozen=True, slots=True)
class Fronts:
    """Which proxies are believed when they name their client.

    Those in `networks`; with `unix`, whoever comes through a Unix socket, too. They say it in `header`, and
    only there: of another one nobody knows whether a proxy wrote it or the client.
    """

    networks: tuple[Network, ...] = ()
    unix: bool = False
    header: ForwardedHeader = X_FORWARDED_FOR

    @classmethod
    def of(cls, trusted: Iterable[str], header: ForwardedHeader = X_FORWARDED_FOR) -> Self:
        """Trust these addresses and networks, and "unix". Raises ValueError."""
        places = set(trusted)
        networks = sorted(map(network_of, places - {UNIX}), key=str)
        return cls(tuple(networks), UNIX in places, header)

    def trusts(self, peer: str) -> bool:
        """Whether whoever opened the connection is one of ours; "" is a Unix socket."""
        return (bool(self.networks) and contains(self.networks, peer)) if peer else self.unix

    def client(self, peer: str, headers: Mapping[str, str]) -> str:
        """The client's address: the peer's, or what a proxy we trust says.

        Read from the end, where the nearest proxy wrote: the first that is not one of ours is the client.
        Before that may stand whatever the client likes. What is no address ends it, and the last one that
        was, counts.
        """
        return self._client(peer, headers)[0] if self.trusts(peer) else peer

    def scheme(self, peer: str, headers: Mapping[str, str], own: str) -> str:
        """Whether the client said http or https: as the connection does, or as a proxy we trust says."""
        if not self.trusts(peer):
            return own
        if self.header == FORWARDED:
            said = self._client(peer, headers)[1]
        else:
            said = headers.get("x-forwarded-proto", "")
        said = said.strip().lower()
        return said if said in ("http", "https") else own

    def may_share(self, peer: str, headers: Mapping[str, str]) -> bool:
        """Whether a proxy may send requests of several clients over this connection, as far as can be told.

        Behind a Unix socket there is always one.
        """
        return not peer or self.trusts(peer) or any(sign in headers for sign in _SIGNS)

    def _client(self, peer: str, headers: Mapping[str, str]) -> tuple[str, str]:
        """The client's address, and the scheme it came by, if the proxy that names it says that."""
        client, scheme = peer, ""
        for node, said in self._hops(headers):
            if not self.trusts(client):
                break
            address = address_of(_host(node))
            if address is None:
                break
            client, scheme = str(address), said
        return client, scheme

    def _hops(self, headers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Whom each proxy had before it, from the nearest on: a node, and the scheme."""
        hops = headers.get(self.header.lower(), "").rsplit(",", _MOST_HOPS)
        for hop in reversed(hops):
            if self.header == FORWARDED:
                said = _parameters(hop)
                yield said.get("for", ""), said.get("proto", "")
            else:
                yield hop, ""


def _parameters(hop: str) -> dict[str, str]:
    """What an element of Forwarded says (RFC 7239 4); an empty one when it is none.

    A comma or semicolon between quotes is not looked for: no address and no scheme has one.
    """
    said: dict[str, str] = {}
    for pair in hop.split(";"):
        name, equals, value = pair.strip().partition("=")
        if not equals or name.lower() in said:
            return {}
        said[name.lower()] = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    return said


def _host(node: str) -> str:
    """A node without its port: `192.0.2.1:4711`, `[2001:db8::1]:4711`, `2001:db8::1`."""
    node = node.strip()
    if node.startswith("["):
        host, closed, port = node[1:].partition("]")
        return host if closed and (not port or (port[0] == ":" and port[1:].isdecimal())) else ""
    host, colon, port = node.partition(":")
    return host if colon and port.isdecimal() else node
