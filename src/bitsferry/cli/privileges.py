"""Becoming an ordinary user, once what only root may do is done."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

__all__ = ["Account", "PrivilegesError", "become"]


class PrivilegesError(Exception):
    """The process cannot become that user; the message says why."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine, with the group that its files get."""

    name: str
    user: int
    group: int
    home: str

    @classmethod
    def parse(cls, text: str) -> Account:
        """`NAME` or `NAME:GROUP`, or their numbers. Raises ValueError."""
        try:
            import grp
            import pwd
        except ImportError:
            raise ValueError("this system has no users to become") from None
        name, colon, group = text.partition(":")
        try:
            user = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
        except KeyError:
            raise ValueError(f"there is no user {name!r}; useradd --system {name} makes one") from None
        number = user.pw_gid
        if colon:
            try:
                number = (grp.getgrgid(int(group)) if group.isdecimal() else grp.getgrnam(group)).gr_gid
            except KeyError:
                raise ValueError(f"there is no group {group!r}") from None
        if user.pw_uid == 0:
            raise ValueError(f"{name!r} is root, and root's rights are to be given up")
        return cls(user.pw_name, user.pw_uid, number, user.pw_dir)


def become(account: Account) -> None:
    """Give up root's rights for good: user, groups, capabilities. Raises PrivilegesError.

    For whom we are already there is nothing to do.
    """
    if os.geteuid() != 0:
        if (os.geteuid(), os.getegid()) != (account.user, account.group):
            raise PrivilegesError(f"only root can become {account.name}: start as root, or without --user")
        return
    try:
        os.initgroups(account.name, account.group)
        os.setresgid(account.group, account.group, account.group)
        os.setresuid(account.user, account.user, account.user)
    except OSError as error:
        raise PrivilegesError(f"the process cannot become {account.name}: {error.strerror}") from error
    if _can_go_back() or _capabilities():
        raise PrivilegesError(f"the process became {account.name}, but root's rights did not go")
    for file in (os.__file__, __file__):
        if not os.access(file, os.R_OK):
            raise PrivilegesError(
                f"{account.name} may not read the program itself, such as {file}: install it where all may"
            )
    os.environ.update(HOME=account.home, USER=account.name, LOGNAME=account.name)


def _can_go_back() -> bool:
    with suppress(PermissionError):
        os.setresuid(0, 0, 0)
        return True
    return 0 in (*os.getresuid(), *os.getresgid(), *os.getgroups())


def _capabilities() -> int:
    """Those the process has, or could take, on Linux."""
    with suppress(OSError), open("/proc/self/status", encoding="utf-8", errors="replace") as status:
        fields = dict(line.split(":", 1) for line in status)
        return int(fields["CapPrm"], 16) | int(fields["CapEff"], 16) | int(fields.get("CapAmb", "0"), 16)
    return 0
