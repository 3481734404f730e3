"""What the settings say about those for whom a certificate or a proxy vouches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitsferry.access.certificate import CERTIFICATE_USERS, Certificate
from bitsferry.access.fronts import UNIX
from bitsferry.access.networks import network_of
from bitsferry.access.proxied import Proxied
from bitsferry.cli import readers
from bitsferry.cli.applications import WrongKeyError
from bitsferry.cli.token_schemes import header_name

__all__ = ["VOUCHED_KEYS", "make_certificate", "make_proxied", "trusted_proxies"]


def trusted_proxies(value: Any) -> tuple[str, ...]:
    """Addresses, networks, and "unix"; none, too."""
    if value == []:
        return ()
    places = readers.texts(value)
    for place in places:
        if place != UNIX:
            network_of(place)
    return places


VOUCHED_KEYS: dict[str, readers.Reader] = {
    "certificate_user": readers.one_of(*CERTIFICATE_USERS),
    "user_header": header_name,
    "groups_header": header_name,
}
"""What may stand in a directory, with what reads it."""


def make_certificate(told: Mapping[str, Any], folder: str) -> Certificate:
    """Client certificates as `told`."""
    return Certificate(told.get("certificate_user", "CN"))


def make_proxied(told: Mapping[str, Any], folder: str) -> Proxied:
    """Proxies' words as `told`. Raises WrongKeyError."""
    if "user_header" not in told:
        raise WrongKeyError(
            "auth", '"proxy" needs user_header, in which the proxy says who it is, such as "X-Remote-User"'
        )
    return Proxied(told["user_header"], told.get("groups_header"))
