"""What the settings of a directory say about tokens."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from bitsferry.access.bearer import API_KEY_HEADER, Bearer
from bitsferry.access.jwks import FetchedKeys, FileKeys, KeySource
from bitsferry.access.jwt import Jwt
from bitsferry.access.tokens import TokenFile, parse_tokens
from bitsferry.access.watched_file import WatchedFile
from bitsferry.access.web_text import check_trusted_url
from bitsferry.cli import readers
from bitsferry.cli.applications import WrongKeyError

__all__ = ["TOKEN_KEYS", "header_name", "make_bearer", "opened"]

T = TypeVar("T")

_URL = re.compile(r"https?:", re.IGNORECASE)


def header_name(value: Any) -> str:
    """The name of a header. A proxy may take one with '_' for another with '-', or drop it."""
    name = readers.text(value)
    if not re.fullmatch(r"[A-Za-z0-9-]{1,60}", name):
        raise ValueError(f"{readers.shown(name)} is no name of a header, of letters, digits and '-'")
    return name


def _jwks(value: Any) -> str:
    if not _URL.match(readers.text(value)):
        return readers.path(value)
    check_trusted_url(value)
    return readers.text(value)


def _word(value: Any) -> str:
    if not readers.text(value):
        raise ValueError("this must not be empty")
    return readers.text(value)


TOKEN_KEYS: dict[str, readers.Reader] = {
    "tokens": readers.path,
    "api_key_header": header_name,
    "jwks": _jwks,
    "jwt_issuer": _word,
    "jwt_audience": _word,
    "jwt_user_claim": _word,
    "jwt_groups_claim": _word,
}
"""What may stand in a directory, with what reads it."""


def make_bearer(told: Mapping[str, Any], folder: str) -> Bearer:
    """Bearer as `told`; relative paths are below `folder`. Raises WrongKeyError."""
    if "tokens" not in told and "jwks" not in told:
        raise WrongKeyError(
            "auth", '"bearer" needs tokens, a file of them, or jwks, the keys that sign them, or both'
        )
    return Bearer(
        _tokens(told, folder) if "tokens" in told else None,
        _jwt(told, folder),
        realm=told.get("realm", readers.DEFAULT_REALM),
        api_key_header=told.get("api_key_header", API_KEY_HEADER),
    )


def opened(key: str, path: str, open_: Callable[[str], T]) -> T:
    """What `open_` makes of the file that `key` names. Raises WrongKeyError."""
    try:
        return open_(path)
    except OSError as error:
        raise WrongKeyError(key, f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise WrongKeyError(key, f"{path} is not UTF-8: save it as UTF-8") from None
    except ValueError as error:
        raise WrongKeyError(key, f"{path}: {error}") from None


def _tokens(told: Mapping[str, Any], folder: str) -> TokenFile:
    path = os.path.join(folder, told["tokens"])
    return opened("tokens", path, lambda path: WatchedFile(path, parse_tokens))


def _jwt(told: Mapping[str, Any], folder: str) -> Jwt | None:
    if "jwks" not in told:
        for key in sorted(key for key in told if key.startswith("jwt_")):
            raise WrongKeyError(key, "there is no jwks; say where the keys are that sign tokens")
        return None
    if importlib.util.find_spec("joserfc") is None:
        raise WrongKeyError("jwks", "tokens that are signed need more: pip install 'bitsferry[jwt]'")
    for key, why in (
        ("jwt_issuer", "say whose tokens count, by their iss"),
        ("jwt_audience", "say what stands in aud, or a token for another service would do"),
    ):
        if key not in told:
            raise WrongKeyError("jwks", f"there is no {key}; {why}")
    return Jwt(
        _keys(told["jwks"], folder),
        issuer=told["jwt_issuer"],
        audience=told["jwt_audience"],
        user_claim=told.get("jwt_user_claim", "sub"),
        groups_claim=told.get("jwt_groups_claim"),
    )


def _keys(where: str, folder: str) -> KeySource:
    if _URL.match(where):
        return FetchedKeys(where)
    return opened("jwks", os.path.join(folder, where), FileKeys)
