"""What the settings of a directory say about Basic and Digest."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from bitsferry.access.basic import Basic
from bitsferry.access.digest import Digest
from bitsferry.access.htdigest import read_htdigest
from bitsferry.access.htpasswd import read_htpasswd
from bitsferry.access.watched_file import WatchedFile
from bitsferry.cli import readers
from bitsferry.cli.applications import WrongKeyError

__all__ = ["PASSWORD_KEYS", "make_basic", "make_digest"]

T = TypeVar("T")

PASSWORD_KEYS: dict[str, readers.Reader] = {
    "htpasswd": readers.path,
    "htdigest": readers.path,
    "realm": readers.realm,
}
"""What may stand in a directory, with what reads it."""


def make_basic(told: Mapping[str, Any], folder: str) -> Basic:
    """Basic as `told`; relative paths are below `folder`. Raises WrongKeyError."""
    return Basic(_watched("basic", "htpasswd", told, folder, read_htpasswd), _realm(told))


def make_digest(told: Mapping[str, Any], folder: str) -> Digest:
    """Digest as `told`; relative paths are below `folder`. Raises WrongKeyError."""
    realm = _realm(told)
    users = _watched("digest", "htdigest", told, folder, lambda text: read_htdigest(text, realm))
    return Digest(users, realm)


def _realm(told: Mapping[str, Any]) -> str:
    return str(told.get("realm", readers.DEFAULT_REALM))


def _watched(
    scheme: str, key: str, told: Mapping[str, Any], folder: str, parse: Callable[[str], T]
) -> WatchedFile[T]:
    if key not in told:
        raise WrongKeyError(
            "auth",
            f"{readers.shown(scheme)} needs a file of users: {key} = FILE; make one with:"
            f" bitsferry users add FILE NAME --for {scheme}",
        )
    path = os.path.join(folder, told[key])
    try:
        return WatchedFile(path, parse)
    except OSError as error:
        raise WrongKeyError(key, f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise WrongKeyError(key, f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    except ValueError as error:
        raise WrongKeyError(key, f"{path}, {error}") from None
