"""What the settings of a directory say about the digests of its files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitsferry.cli import readers
from bitsferry.cli.applications import WrongKeyError
from bitsferry.server.hashing import lacks

__all__ = ["DIGEST_KEYS", "read_digests"]

DIGEST_KEYS: dict[str, readers.Reader] = {
    "digest": readers.one_of("none", "sha-256", "blake3"),
    "digest_file": readers.yes_or_no,
}


def read_digests(told: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a Directory that the keys in `told` mean. Raises WrongKeyError."""
    digest = told.get("digest", "none")
    if told.get("digest_file", False) and digest == "none":
        raise WrongKeyError(
            "digest_file", 'there is no digest to put into it; say which one: digest = "sha-256"'
        )
    if extra := lacks(digest):
        raise WrongKeyError("digest", f"{digest} needs more: pip install 'bitsferry[{extra}]'")
    return {**told, "digest": None if digest == "none" else digest}
