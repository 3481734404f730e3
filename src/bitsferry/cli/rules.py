"""What the settings of a directory say about who may come in, of those who are known."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from bitsferry.access.groups import parse_groups
from bitsferry.access.networks import Network, network_of
from bitsferry.access.rules import Rules
from bitsferry.access.watched_file import WatchedFile
from bitsferry.cli import readers
from bitsferry.cli.applications import WrongKeyError
from bitsferry.cli.token_schemes import opened

__all__ = ["RULE_KEYS", "read_rules"]

_CERTIFICATE_NAME = re.compile(r"(?:[A-Za-z][A-Za-z0-9.]*=|(?:DNS|email|URI|IP):).+", re.DOTALL)

# By which anybody is asked for a name.
_WHO = ("allow_users", "allow_groups", "allow_certificates", "deny_users")


def _networks(value: Any) -> tuple[Network, ...]:
    return tuple(map(network_of, readers.texts(value)))


def _certificates(value: Any) -> tuple[str, ...]:
    names = readers.texts(value)
    for name in names:
        if not _CERTIFICATE_NAME.fullmatch(name):
            raise ValueError(
                f"{readers.shown(name)} is no name of a certificate: write one as CN=host*.corp.example,"
                " O=Corp, DNS:*.corp.example, email:*@corp.example, URI:… or IP:…"
            )
    return names


RULE_KEYS: dict[str, readers.Reader] = {
    "allow_users": readers.texts,
    "allow_groups": readers.texts,
    "groups": readers.path,
    "allow_certificates": _certificates,
    "allow_networks": _networks,
    "deny_users": readers.texts,
    "deny_networks": _networks,
}
"""What may stand in a directory about rules, with what reads it."""


def read_rules(told: Mapping[str, Any], folder: str, *, anonymous: bool) -> Rules:
    """The rules as `told`; relative paths are below `folder`. Raises WrongKeyError.

    `anonymous`: nobody has to say who they are.
    """
    for key in _WHO:
        if key in told and anonymous:
            raise WrongKeyError(key, 'auth lets in those who do not say who they are: leave out "none" there')
    if "groups" in told and "allow_groups" not in told:
        raise WrongKeyError("groups", "no group is asked for; write allow_groups, too")
    sources = ("groups", "jwt_groups_claim", "groups_header")
    if "allow_groups" in told and not any(source in told for source in sources):
        raise WrongKeyError("allow_groups", f"nothing says who is in a group: write {', or '.join(sources)}")
    group_file = None
    if "groups" in told:
        path = os.path.join(folder, told["groups"])
        group_file = opened("groups", path, lambda path: WatchedFile(path, parse_groups))
    return Rules(
        users=told.get("allow_users", ()),
        groups=told.get("allow_groups", ()),
        certificates=told.get("allow_certificates", ()),
        networks=told.get("allow_networks", ()),
        deny_users=told.get("deny_users", ()),
        deny_networks=told.get("deny_networks", ()),
        group_file=group_file,
    )
