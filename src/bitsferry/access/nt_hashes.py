"""A file of users and the NT hashes of their passwords."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from bitsferry.access.user_name import is_name

__all__ = ["NtAccount", "NtAccounts", "in_upper_case", "nt_hash_line", "read_nt_hashes"]

_HASH = re.compile(r"[0-9A-Fa-f]{32}")
_NO_PASSWORD = bytes.fromhex("31d6cfe0d16ae931b73c59d7e0c089c0")  # the hash of none at all


@dataclass(frozen=True, slots=True)
class NtAccount:
    """One user, as the file spells the name; the hash is as good as the password."""

    name: str
    hash: bytes = field(repr=False)


class NtAccounts:
    """All users of a file."""

    def __init__(self, accounts: Mapping[str, NtAccount]) -> None:
        """`accounts` are known by their names in upper case."""
        self._accounts = accounts

    def __len__(self) -> int:
        return len(self._accounts)

    def find(self, user: str, domain: str) -> NtAccount | None:
        r"""Whoever says to be `user` of `domain`: `DOMAIN\user` where that is known, else plain `user`."""
        names = (f"{domain}\\{user}", user)
        return next((found for name in names if (found := self._accounts.get(in_upper_case(name)))), None)


def in_upper_case(name: str) -> str:
    """A name as Windows compares it: letter by letter, so that it keeps its length."""
    return "".join(upper if len(upper := letter.upper()) == 1 else letter for letter in name)


def read_nt_hashes(text: str) -> NtAccounts:
    r"""The users in lines like `user:hash`, `DOMAIN\user:hash` or smbpasswd's `user:id:LM:NT:...`.

    Of smbpasswd's and pwdump's lines those without a password are left out, and disabled ones. Raises
    ValueError that shows nothing but the number of a line.
    """
    accounts: dict[str, NtAccount] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            account = _account(line.strip())
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if account is None:
            continue
        key = in_upper_case(account.name)
        if key in accounts:
            raise ValueError(f"line {number}: this user was named before")
        accounts[key] = account
    return NtAccounts(accounts)


def nt_hash_line(name: str, password: bytes) -> str:
    """The line of a user with this password, in UTF-8."""
    from passlib.hash import nthash

    return f"{name}:{nthash.hash(password.decode())}"


def _account(line: str) -> NtAccount | None:
    """None for somebody who cannot come in."""
    name, *fields = line.split(":")
    if not is_name(name):
        raise ValueError("what stands before the first ':' can be no user's name")
    if len(fields) == 1:
        digest = _digest(fields[0])
        if digest == _NO_PASSWORD:
            raise ValueError("the password is empty: anybody could come in")
        return NtAccount(name, digest)
    if len(fields) < 3:
        raise ValueError("write user:hash, or a whole line of smbpasswd")
    _, _, nt_hash, *others = fields
    if nt_hash.startswith(("NO PASSWORD", "XXXX", "*")) or (others and _is_disabled(others[0])):
        return None
    digest = _digest(nt_hash)
    return None if digest == _NO_PASSWORD else NtAccount(name, digest)


def _is_disabled(flags: str) -> bool:
    """Whether smbpasswd says so, as in `[DU         ]`."""
    return flags.startswith("[") and "D" in flags


def _digest(text: str) -> bytes:
    if _HASH.fullmatch(text.strip()) is None:
        raise ValueError("an NT hash has 32 hexadecimal digits")
    return bytes.fromhex(text)
