"""Addresses of the internet, as people, sockets and proxies write them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

__all__ = ["Network", "address_of", "contains", "network_of"]

Network = IPv4Network | IPv6Network

_LONGEST = 100  # characters of an address with its zone


def address_of(text: str) -> IPv4Address | IPv6Address | None:
    """The address in `text`, without its zone; one of IPv4 that is dressed as IPv6's is IPv4's again.

    None when it is no address.
    """
    return _address_of(text) if len(text) <= _LONGEST else None


@lru_cache(maxsize=1024)  # a file comes in a thousand fragments from one address
def _address_of(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def network_of(text: str) -> Network:
    """The network in `text`, such as `10.0.0.0/8`, or the one address.

    Raises ValueError with a sentence that says what would be right.
    """
    try:
        network = ip_network(text)
    except ValueError:
        raise ValueError(f'"{text[:80]}" is {_what_else(text)}') from None
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError(f'"{text}" is of IPv4: write it as such, without ::ffff:')
    return network


def _what_else(text: str) -> str:
    try:
        return f"an address inside a network: write {ip_network(text, strict=False)}, or the address alone"
    except ValueError:
        return "no address and no network such as 10.0.0.0/8 or 2001:db8::/32"


def contains(networks: Iterable[Network], text: str) -> bool:
    """Whether the address in `text` is one, and in one of the networks."""
    address = address_of(text)
    return address is not None and any(address in network for network in networks)
