"""Where a command gets passwords from: the environment, the system's keyring, the person at the keyboard."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

import click

from bitsferry.client.credential_store import system_keyring
from bitsferry.client.credentials import Credential, Scheme, Target
from bitsferry.client.handshake import missing

__all__ = ["PROXY_SCHEMES", "credential", "hide"]

PROXY_SCHEMES = [each.value for each in Scheme if each is not Scheme.BEARER]
"""How a proxy may be told who is asking."""

_VARIABLES = {Target.SERVER: "BITSFERRY_PASSWORD", Target.PROXY: "BITSFERRY_PROXY_PASSWORD"}
_TOKEN = "BITSFERRY_TOKEN"  # noqa: S105 (its name, not its value)
_KEYRING = "bitsferry"  # the service whose passwords are ours: keyring set bitsferry NAME


def credential(target: Target, user: str | None, scheme: Scheme | None) -> Credential | None:
    """What `--user` and `--auth` mean; `user` may have its password with it, as NAME:PASSWORD.

    NTLM and Negotiate without a name mean the log-on, or the Kerberos ticket, of who runs the command. Raises
    ValueError with a sentence when something is missing or cannot be said.
    """
    if scheme is Scheme.BEARER:
        if user is not None:
            raise ValueError("a token says who you are: leave the name out")
        return Credential(target, scheme, "", _secret(_TOKEN, "token"))
    if scheme in (Scheme.NTLM, Scheme.NEGOTIATE):
        if why := missing(scheme, user or ""):
            raise ValueError(why)
        if user is None:
            return Credential(target, scheme, "", "")
    if user is None:
        if scheme is not None:
            option = "--user" if target is Target.SERVER else "--proxy-user"
            raise ValueError(f"{scheme} needs a name: say who you are with {option} NAME")
        return None
    name, colon, password = user.partition(":")
    if colon:
        hide(name + colon, password)
    else:
        password = _secret(_VARIABLES[target], f"password of {name}", name)
    return Credential(target, scheme, name, password)


def _secret(variable: str, what: str, name: str | None = None) -> str:
    if variable in os.environ:
        return os.environ[variable]
    if name is not None and (kept := _kept(name)) is not None:
        return kept
    if not sys.stdin.isatty():
        raise ValueError(f"the {what} is missing: set {variable}")
    secret: str = click.prompt(what[0].upper() + what[1:], hide_input=True, err=True)
    return secret


def _kept(name: str) -> str | None:
    """From the system's keyring, if there is one and it is open."""
    with contextlib.suppress(Exception):  # what a broken one raises nobody knows
        ring = system_keyring()
        return None if ring is None else ring.get_password(_KEYRING, name)
    return None


def hide(before: str, secret: str) -> None:
    """Blot a secret, which stands after `before`, out of this process's title, where everybody reads it.

    On Linux only; elsewhere, and in the moment before, it can be seen: the environment is the better place.
    """
    if sys.platform != "linux":
        return
    known, hidden = os.fsencode(before), os.fsencode(secret)
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open("/proc/self/stat", "rb") as file:
            numbers = file.read().rpartition(b")")[2].split()
        start, stop = int(numbers[45]), int(numbers[46])  # arg_start and arg_end, proc(5)
        with open("/proc/self/cmdline", "rb") as file:
            title = file.read()
        at = title.find(known + hidden)
        if at >= 0 and len(title) == stop - start:
            ctypes.memset(start + at + len(known), ord("*"), len(hidden))
