"""Who may upload to a directory, of those who are known."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bitsferry.access.asker import Identity
from bitsferry.access.groups import GroupFile
from bitsferry.access.networks import Network, address_of, contains
from bitsferry.protocol.errors import AccessDenied

__all__ = ["Names", "Rules"]

# To Windows, Alice and ALICE are the same, and a client chooses how a ticket spells it.
_WHATEVER_CASE = frozenset({"ntlm", "negotiate"})


class Names:
    """Users by name: exactly so, but those a Windows scheme proved whatever their case."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._exact = frozenset(names)
        self._folded = frozenset(name.lower() for name in self._exact)

    def __bool__(self) -> bool:
        return bool(self._exact)

    def __contains__(self, identity: Identity) -> bool:
        if identity.scheme in _WHATEVER_CASE:
            return identity.user.lower() in self._folded
        return identity.user in self._exact


class Rules:
    """Nothing is asked unless it is set.

    The address must be in one of `networks`, if there are any, and in none of `deny_networks`. The user must
    not be one of `deny_users`. If there are `users`, `groups` or `certificates`, one of them must fit:
    a user's name, a group from `group_file` or of the proof itself, a name in the certificate, where `*`
    stands for any letters.
    """

    def __init__(
        self,
        *,
        users: Iterable[str] = (),
        groups: Iterable[str] = (),
        certificates: Iterable[str] = (),
        networks: Iterable[Network] = (),
        deny_users: Iterable[str] = (),
        deny_networks: Iterable[Network] = (),
        group_file: GroupFile | None = None,
    ) -> None:
        self._users = Names(users)
        self._groups = frozenset(groups)
        self._certificates = tuple(map(_pattern, certificates))
        self._networks = tuple(networks)
        self._deny_users = Names(deny_users)
        self._deny_networks = tuple(deny_networks)
        self._group_file = group_file
        self._chooses = bool(self._users or self._groups or self._certificates)
        self.want_somebody = bool(self._chooses or self._deny_users)
        """There is nothing for those who do not say who they are."""

    def check_address(self, address: str) -> None:
        """Raises AccessDenied for an address nobody may come from.

        One that is not known, as behind a proxy that does not say it, is in no network that may.
        """
        if not self._networks and not self._deny_networks:
            return
        if address_of(address) is None:
            raise AccessDenied("the client's address is not known, and this directory asks for it")
        if self._networks and not contains(self._networks, address):
            raise AccessDenied(f"nobody may come from {address}: it is in none of allow_networks")
        if contains(self._deny_networks, address):
            raise AccessDenied(f"nobody may come from {address}: it is in deny_networks")

    async def check(self, identity: Identity | None) -> None:
        """Raises AccessDenied for somebody who may not."""
        if not self.want_somebody:
            return
        if identity is None:
            raise AccessDenied("this directory is for those who say who they are")
        if identity in self._deny_users:
            raise AccessDenied(f"{identity.user} may not come in: deny_users has the name")
        if self._chooses and not await self._is_chosen(identity):
            raise AccessDenied(f"{identity.user} may not come in: no rule of the directory names this user")

    async def _is_chosen(self, identity: Identity) -> bool:
        if identity in self._users:
            return True
        if any(pattern.fullmatch(name) for pattern in self._certificates for name in identity.names):
            return True
        return bool(self._groups and self._groups & await self._groups_of(identity))

    async def _groups_of(self, identity: Identity) -> frozenset[str]:
        if self._group_file is None:
            return identity.groups
        known = await self._group_file.value()
        return identity.groups | known.of(identity.user, whatever_case=identity.scheme in _WHATEVER_CASE)


def _pattern(wanted: str) -> re.Pattern[str]:
    """What fits `CN=*.corp.example`, whatever its case, as names of hosts and of X.500 compare."""
    flags = re.IGNORECASE | re.ASCII | re.DOTALL
    return re.compile(".*".join(map(re.escape, wanted.split("*"))), flags)
