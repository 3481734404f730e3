"""Users of Digest and what their passwords come down to, as htdigest files have them."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping

from bitsferry.access.htpasswd import lines_of

__all__ = ["ALGORITHMS", "DigestUsers", "digest_lines", "digest_of", "read_htdigest"]

ALGORITHMS = {"SHA-256": "sha256", "MD5": "md5"}
"""What hashlib calls those we know, strongest first. The file tells them by the length of the hash."""

_HASH = {re.compile(r"[0-9a-fA-F]{64}"): "SHA-256", re.compile(r"[0-9a-fA-F]{32}"): "MD5"}


class DigestUsers:
    """The users of one realm, as the file had them when it was read."""

    def __init__(self, secrets_of: Mapping[str, Mapping[str, str]]) -> None:
        """`secrets_of` has by algorithm and name the hash of name, realm and password."""
        self._secrets = secrets_of
        self._nobody = secrets.token_hex(32)

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Those that somebody here can use, strongest first; all where nobody is."""
        return tuple(name for name in ALGORITHMS if self._secrets.get(name)) or tuple(ALGORITHMS)

    def secret(self, algorithm: str, name: str) -> tuple[str, bool]:
        """The hash, and whether it is one; a name that is not here has another one nobody knows."""
        known = self._secrets.get(algorithm, {}).get(name)
        return known or self._nobody, known is not None


def read_htdigest(text: str, realm: str) -> DigestUsers:
    """The users of `realm` in the text of a file, those of others left out.

    Raises ValueError, which names the line and nothing secret that is in it.
    """
    found: dict[str, dict[str, str]] = {}
    others: set[str] = set()
    for number, name, rest in lines_of(text):
        whose, colon, hashed = rest.rpartition(":")
        algorithm = _algorithm(hashed)
        if not colon or algorithm is None:
            raise ValueError(f"line {number}: this is no name:realm:hash with a hash by MD5 or SHA-256")
        if whose != realm:
            others.add(whose)
        elif name in found.setdefault(algorithm, {}):
            raise ValueError(f"line {number}: this user has a line of this kind ({algorithm}) already")
        else:
            found[algorithm][name] = hashed.lower()
    if others and not found:
        raise ValueError(
            f'all of its users are of another realm than "{realm}"; realm = "{min(others)}" would fit'
        )
    return DigestUsers(found)


def digest_lines(name: str, realm: str, password: bytes) -> list[str]:
    """The lines for this user, one for each algorithm."""
    said = f"{name}:{realm}:".encode() + password
    return [f"{name}:{realm}:{digest_of(algorithm, said)}" for algorithm in ALGORITHMS]


def digest_of(algorithm: str, data: bytes) -> str:
    """The hash of `data`, spelt in hexadecimal."""
    # MD5 is all that Windows speaks.
    return hashlib.new(ALGORITHMS[algorithm], data, usedforsecurity=False).hexdigest()


def _algorithm(hashed: str) -> str | None:
    return next((name for spelt, name in _HASH.items() if spelt.fullmatch(hashed)), None)
