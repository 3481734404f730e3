"""What the settings of a directory say about NTLM and Negotiate."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from bitsferry.access.guard import Guard
from bitsferry.access.kerberos import Keytab
from bitsferry.access.negotiate import Negotiate
from bitsferry.access.nt_hashes import NtAccounts, read_nt_hashes
from bitsferry.access.ntlm import Ntlm
from bitsferry.access.watched_file import WatchedFile
from bitsferry.cli import readers
from bitsferry.cli.applications import WrongKeyError

__all__ = ["HEAD_WITH_TICKET", "WINDOWS_KEYS", "asks_for_tickets", "make_negotiate", "make_ntlm"]

HEAD_WITH_TICKET = 64 * 1024
"""Bytes of a head with a Kerberos ticket, which names all groups of its user: what Windows sends at most."""


def _domain(value: Any) -> str:
    domain = readers.text(value).upper()
    if not re.fullmatch(r"[A-Z0-9][A-Z0-9_-]{0,14}", domain):
        raise ValueError(
            f'{readers.shown(value)} is no NetBIOS name: up to 15 letters and digits, such as "CORP"'
        )
    return domain


WINDOWS_KEYS: dict[str, readers.Reader] = {
    "nt_hashes": readers.path,
    "ntlm_domain": _domain,
    "keytab": readers.path,
}
"""What may stand in a directory, with what reads it."""


def make_ntlm(told: Mapping[str, Any], folder: str) -> Ntlm:
    """NTLM as `told`; relative paths are below `folder`. Raises WrongKeyError."""
    if "nt_hashes" not in told:
        raise WrongKeyError(
            "auth", '"ntlm" needs nt_hashes, a file of users and the NT hashes of their passwords'
        )
    return Ntlm(_nt_hashes(told, folder), told.get("ntlm_domain"))


def make_negotiate(told: Mapping[str, Any], folder: str) -> Negotiate:
    """Negotiate as `told`; relative paths are below `folder`. Raises WrongKeyError."""
    if "keytab" not in told and "nt_hashes" not in told:
        raise WrongKeyError(
            "auth", '"negotiate" needs a keytab, for Kerberos, or nt_hashes, for NTLM, or both'
        )
    return Negotiate(
        _keytab(told, folder) if "keytab" in told else None,
        _nt_hashes(told, folder) if "nt_hashes" in told else None,
        told.get("ntlm_domain"),
    )


def asks_for_tickets(guard: Guard | None) -> bool:
    """Whether clients of a directory may come with Kerberos tickets."""
    return guard is not None and any(isinstance(scheme, Negotiate) for scheme in guard.schemes)


def _nt_hashes(told: Mapping[str, Any], folder: str) -> WatchedFile[NtAccounts]:
    path = os.path.join(folder, told["nt_hashes"])
    try:
        return WatchedFile(path, read_nt_hashes)
    except OSError as error:
        raise WrongKeyError("nt_hashes", f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise WrongKeyError("nt_hashes", f"{path}, {error}") from None


def _keytab(told: Mapping[str, Any], folder: str) -> Keytab:
    try:
        return Keytab(os.path.join(folder, told["keytab"]))
    except ValueError as error:
        raise WrongKeyError("keytab", str(error)) from None
    except ImportError:
        raise WrongKeyError("keytab", "Kerberos needs more: pip install 'bitsferry[kerberos]'") from None
