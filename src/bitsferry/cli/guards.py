"""What the settings of a directory say about who may come in, and how they prove who they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bitsferry.access.guard import Guard
from bitsferry.access.scheme import Scheme
from bitsferry.cli import readers
from bitsferry.cli.applications import WrongKeyError

__all__ = ["GUARD_KEYS", "read_guard"]

Told = Mapping[str, Any]


def _schemes(value: Any) -> tuple[str, ...]:
    known = readers.one_of("none", *_MAKERS)
    if not isinstance(value, list) or not value:
        raise ValueError(f"write a list of some of {', '.join(map(readers.shown, ['none', *_MAKERS]))}")
    return tuple(dict.fromkeys(known(name) for name in value))


GUARD_KEYS: dict[str, readers.Reader] = {
    "auth": _schemes,
    "htpasswd": readers.path,
}

# How the scheme of each name is made of what a directory's keys say; relative paths are below the folder.
_MAKERS: dict[str, Callable[[Told, str], Scheme]] = {}

# Which scheme a key is for.
_KEY_OF = {"htpasswd": ("basic",)}


def read_guard(told: Told, folder: str) -> Guard | None:
    """The guard that the keys in `told` mean; None where anybody may come in. Raises WrongKeyError."""
    names: tuple[str, ...] = told.get("auth", ("none",))
    for key, users in _KEY_OF.items():
        if key in told and not set(users) & set(names):
            wanted = " or ".join(map(readers.shown, users))
            raise WrongKeyError(key, f"nobody is asked for it; auth = [...] needs {wanted}")
    if set(told) <= {"auth"} and set(names) == {"none"}:
        return None
    schemes = [_MAKERS[name](told, folder) for name in names if name != "none"]
    return Guard(schemes, anonymous="none" in names)
