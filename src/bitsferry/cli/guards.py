"""What the settings of a directory say about who may come in, and how they prove who they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bitsferry.access.guard import Guard
from bitsferry.access.scheme import Scheme
from bitsferry.access.throttle import Throttle
from bitsferry.cli import readers
from bitsferry.cli.applications import WrongKeyError
from bitsferry.cli.password_schemes import PASSWORD_KEYS, make_basic, make_digest
from bitsferry.cli.rules import RULE_KEYS, read_rules
from bitsferry.cli.token_schemes import TOKEN_KEYS, make_bearer
from bitsferry.cli.vouched_schemes import VOUCHED_KEYS, make_certificate, make_proxied
from bitsferry.cli.windows_schemes import WINDOWS_KEYS, make_negotiate, make_ntlm

__all__ = ["GUARD_KEYS", "read_guard"]

Told = Mapping[str, Any]


def _schemes(value: Any) -> tuple[str, ...]:
    known = readers.one_of("none", *_MAKERS)
    if not isinstance(value, list) or not value:
        raise ValueError(f"write a list of some of {', '.join(map(readers.shown, ['none', *_MAKERS]))}")
    return tuple(dict.fromkeys(known(name) for name in value))


GUARD_KEYS: dict[str, readers.Reader] = {
    "auth": _schemes,
    **PASSWORD_KEYS,
    **WINDOWS_KEYS,
    "one_client_per_connection": readers.yes_or_no,
    **TOKEN_KEYS,
    **VOUCHED_KEYS,
    **RULE_KEYS,
}

# How the scheme of each name is made of what a directory's keys say; relative paths are below the folder.
_MAKERS: dict[str, Callable[[Told, str], Scheme]] = {
    "basic": make_basic,
    "digest": make_digest,
    "ntlm": make_ntlm,
    "negotiate": make_negotiate,
    "bearer": make_bearer,
    "certificate": make_certificate,
    "proxy": make_proxied,
}

# Which scheme a key is for.
_KEY_OF = {
    "htpasswd": ("basic",),
    "htdigest": ("digest",),
    "realm": ("basic", "digest", "bearer"),
    "nt_hashes": ("ntlm", "negotiate"),
    "ntlm_domain": ("ntlm", "negotiate"),
    "keytab": ("negotiate",),
    "one_client_per_connection": ("ntlm", "negotiate", "certificate"),
    **dict.fromkeys(TOKEN_KEYS, ("bearer",)),
    "certificate_user": ("certificate",),
    "allow_certificates": ("certificate",),
    "user_header": ("proxy",),
    "groups_header": ("proxy",),
}


def read_guard(told: Told, folder: str, throttle: Throttle | None = None) -> Guard | None:
    """The guard that the keys in `told` mean; None where anybody may come in. Raises WrongKeyError."""
    names: tuple[str, ...] = told.get("auth", ("none",))
    for key, users in _KEY_OF.items():
        if key in told and not set(users) & set(names):
            wanted = " or ".join(map(readers.shown, users))
            raise WrongKeyError(key, f"nobody is asked for it; auth = [...] needs {wanted}")
    if set(told) <= {"auth"} and set(names) == {"none"}:
        return None
    schemes = [_MAKERS[name](told, folder) for name in names if name != "none"]
    anonymous = "none" in names
    return Guard(
        schemes,
        anonymous=anonymous,
        rules=read_rules(told, folder, anonymous=anonymous),
        throttle=throttle,
        shares_safely=told.get("one_client_per_connection", False),
    )
