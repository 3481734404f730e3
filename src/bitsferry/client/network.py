"""Notices when this machine's network goes away or comes back, by asking its system for routes only."""

from __future__ import annotations

import contextlib
import ipaddress
import math
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

__all__ = ["Network", "Seen", "addresses_of", "local_address"]

RESOLVE_EVERY = 30.0  # seconds between two questions for the address of a host

# Where the ways of a machine part: by default, and into the networks that companies and VPNs use. Nothing is
# ever sent there.
_ANYWHERE = ("192.0.2.1", "2001:db8::1")
_INSIDE = ("10.0.0.1", "100.64.0.1", "172.16.0.1", "192.168.0.1", "fd00::1")

Ways = frozenset[str]
"""The local addresses from which packets go out to somewhere; none: it cannot be reached."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of the network since it was looked at last.

    `changed`: it came back, or leads another way now. `lost`: those of the hosts that cannot be reached
    because there is no network at all.
    """

    changed: bool
    lost: frozenset[str]


def local_address(address: str) -> str | None:
    """The address from which packets to `address` would go out, or None when there is no way to it.

    It asks for the route, as connecting a datagram socket does; no packet is sent.
    """
    there = ipaddress.ip_address(address)
    family = socket.AF_INET6 if there.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            here = ipaddress.ip_address(probe.getsockname()[0])
    except OSError:
        return None
    # What some systems answer instead of "no way".
    leads_nowhere = (
        here.is_unspecified
        or (here.is_loopback and not there.is_loopback)
        or (here.is_link_local and not there.is_link_local)
    )
    return None if leads_nowhere else str(here)


def addresses_of(host: str) -> list[str]:
    """The addresses of a host, none when nobody knows one. This may take a minute."""
    with contextlib.suppress(OSError, UnicodeError):
        return sorted({str(info[4][0]) for info in socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)})
    return []


class _Host:
    """A host somebody wants to reach."""

    def __init__(self, name: str) -> None:
        self.addresses: list[str] | None = None  # None: not known yet
        self.ask_at = -math.inf
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(name)
            self.addresses, self.ask_at = [name], math.inf


class Network:
    """This machine's network as far as it matters to the hosts one asks for; to be looked at by one thread.

    What it cannot see: a cable that is unplugged where nothing takes the routes away, and whether anything
    answers at the other end.
    """

    def __init__(
        self,
        *,
        route: Callable[[str], str | None] = local_address,
        resolve: Callable[[str], list[str]] = addresses_of,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._route = route
        self._resolve = resolve
        self._clock = clock
        self._hosts: dict[str, _Host] = {}
        self._before: dict[str, Ways] = {}
        self._resolver: threading.Thread | None = None

    def look(self, hosts: Iterable[str]) -> Seen:
        """What became of the network, for these hosts, since the last look. Takes no time worth mentioning:
        names are resolved by a thread, and count from when they are.
        """
        wanted = set(hosts)
        self._hosts = {name: self._hosts.get(name) or _Host(name) for name in wanted}
        self._resolve_names()
        ways = {place: self._ways([place]) for place in (*_ANYWHERE, *_INSIDE)}
        for name, host in self._hosts.items():
            if host.addresses is not None:
                ways[name] = self._ways(host.addresses)
        before, self._before = self._before, ways
        changed = any(ways[place] - before[place] for place in ways.keys() & before.keys())
        if any(ways[place] for place in _ANYWHERE):
            return Seen(changed, frozenset())
        return Seen(changed, frozenset(name for name in wanted if name in ways and not ways[name]))

    def _ways(self, addresses: Iterable[str]) -> Ways:
        return frozenset(way for address in addresses if (way := self._route(address)) is not None)

    def _resolve_names(self) -> None:
        """The system may take a minute for a name, so a thread waits for it, one for all."""
        if self._resolver is not None and self._resolver.is_alive():
            return
        now = self._clock()
        due = [(name, host) for name, host in self._hosts.items() if host.ask_at <= now]
        if not due:
            return

        def resolve() -> None:
            for name, host in due:
                # A host keeps its last known address while nobody can be asked for it.
                host.addresses = self._resolve(name) or host.addresses or []
                host.ask_at = self._clock() + RESOLVE_EVERY

        self._resolver = threading.Thread(target=resolve, name="resolver", daemon=True)
        self._resolver.start()
