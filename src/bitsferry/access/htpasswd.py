"""Users and the hashes of their passwords, as htpasswd files have them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

__all__ = ["LONGEST_PASSWORD", "Users", "htpasswd_line", "kind_of_hash", "lines_of", "read_htpasswd"]

logger = logging.getLogger(__name__)

LONGEST_PASSWORD = 1024  # bytes; a longer one is wrong, so that nobody makes us hash novels

_BCRYPT_READS = 72  # bytes of a password; all implementations leave the rest out
_BCRYPT_ROUNDS = 11  # 2**11: about 0.1 s


@dataclass(frozen=True, slots=True)
class _Kind:
    """One way to hash: `looks` is how all of such a hash is spelt, `check` compares in constant time."""

    name: str
    looks: str
    check: Callable[[bytes, str], bool]
    read: Callable[[str], Any] = str
    """Raises ValueError for a hash that only looks right."""
    warning: str = ""


@dataclass(frozen=True, slots=True)
class _Entry:
    kind: _Kind
    hashed: str = field(repr=False)

    def check(self, password: bytes) -> bool:
        return self.kind.check(password, self.hashed)


class Users:
    """Names with their hashes, as the file had them when it was read."""

    def __init__(self, entries: Mapping[str, _Entry]) -> None:
        self._entries = dict(entries)
        self._all = tuple(self._entries.values())
        self._key = secrets.token_bytes(32)

    def __len__(self) -> int:
        return len(self._all)

    def check(self, name: str, password: bytes) -> bool:
        """Whether this is the password of `name`. Slow: for a thread.

        For a name that is not in the file somebody else's hash is asked, always the same one, so that it
        takes as long.
        """
        entry = self._entries.get(name)
        asked = entry or self._stand_in(name)
        return asked is not None and asked.check(password) and entry is not None

    def token(self, name: str, password: bytes) -> bytes:
        """What this name with this password is remembered by.

        The key it is made with is as old as this object: no token outlives a change of the file.
        """
        said = name.encode()
        return hmac.digest(self._key, len(said).to_bytes(4, "big") + said + password, "sha256")

    def _stand_in(self, name: str) -> _Entry | None:
        if not self._all:
            return None
        number = int.from_bytes(hmac.digest(self._key, b"?" + name.encode(), "sha256")[:8], "big")
        return self._all[number % len(self._all)]


def read_htpasswd(text: str) -> Users:
    """The users in the text of a file. Raises ValueError, which names the line and nothing that is in it."""
    entries: dict[str, _Entry] = {}
    weak: dict[str, list[int]] = {}
    for number, name, hashed in lines_of(text):
        # htpasswd itself takes what stands behind a second colon for a remark.
        hashed = hashed if hashed.startswith(_PLAIN) else hashed.partition(":")[0]
        if name in entries:
            raise ValueError(f"line {number}: this user has a line already")
        kind = _kind(hashed)
        if kind is None:
            raise ValueError(
                f"line {number}: this is no hash of a known kind ({', '.join(each.name for each in _KINDS)});"
                f" make it with: bitsferry users add FILE NAME"
            )
        try:
            kind.read(hashed)
        except (ValueError, ImportError, AttributeError):
            raise ValueError(f"line {number}: this hash ({kind.name}) cannot be used") from None
        if kind.warning:
            weak.setdefault(kind.warning, []).append(number)
        entries[name] = _Entry(kind, hashed)
    for warning, numbers in weak.items():
        logger.warning("%s", warning, extra={"lines": ",".join(map(str, numbers[:20]))})
    return Users(entries)


def lines_of(text: str) -> Iterator[tuple[int, str, str]]:
    """The number, the name and what stands behind it, of each line that is neither empty nor a remark.

    Raises ValueError, which names the line.
    """
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        name, colon, rest = line.strip().partition(":")
        if (not name and not colon) or name.startswith("#"):
            continue
        if not name or not rest:
            raise ValueError(f"line {number}: this is no name with a hash behind a colon")
        yield number, name, rest


def kind_of_hash(hashed: str) -> str:
    """What people call the kind of a hash; "unknown" for none of ours."""
    kind = _kind(hashed.partition(":")[0])
    return kind.name if kind else "unknown"


def htpasswd_line(name: str, password: bytes) -> str:
    """A line for this user, hashed by bcrypt. Raises ValueError for what bcrypt does not see all of."""
    import bcrypt

    if len(password) > _BCRYPT_READS:
        raise ValueError(f"bcrypt reads {_BCRYPT_READS} bytes of a password, and this one has more")
    hashed = bcrypt.hashpw(password, bcrypt.gensalt(_BCRYPT_ROUNDS)).decode("ascii")
    return f"{name}:{hashed.replace('$2b$', '$2y$', 1)}"  # the same, as Apache spells it


# The kinds


def _kind(hashed: str) -> _Kind | None:
    return next((kind for kind in _KINDS if re.fullmatch(kind.looks, hashed)), None)


def _bcrypt(password: bytes, hashed: str) -> bool:
    import bcrypt

    return bcrypt.checkpw(password[:_BCRYPT_READS], hashed.encode("ascii"))


def _argon2(password: bytes, hashed: str) -> bool:
    from cryptography.exceptions import InvalidKey

    try:
        _argon2id().verify_phc_encoded(password, hashed)
    except InvalidKey:
        return False
    return True


def _argon2id(hashed: str = "") -> Any:
    """What knows Argon2id. Raises ImportError or AttributeError where cryptography is too old for it."""
    known = import_module("cryptography.hazmat.primitives.kdf.argon2").Argon2id
    known.verify_phc_encoded  # noqa: B018, it raises
    return known


def _sha1(password: bytes, hashed: str) -> bool:
    told = base64.b64decode(hashed.partition("}")[2], validate=True)
    mine = hashlib.sha1(password + told[20:], usedforsecurity=False).digest()
    return hmac.compare_digest(told[:20], mine)


def _read_sha1(hashed: str) -> None:
    told = base64.b64decode(hashed.partition("}")[2], validate=True)
    if len(told) < 20 or (hashed.startswith("{SHA}") and len(told) > 20):
        raise ValueError


def _plain(password: bytes, hashed: str) -> bool:
    return hmac.compare_digest(hashed.removeprefix(_PLAIN).encode(), password)


def _crypt(name: str, looks: str, handler: str, warning: str = "") -> _Kind:
    """A kind that passlib knows; imported when it is needed."""

    def known() -> Any:
        return getattr(import_module("passlib.hash"), handler)

    return _Kind(
        name,
        looks,
        lambda password, hashed: bool(known().verify(password, hashed)),
        lambda hashed: known().from_string(hashed),
        warning,
    )


_PLAIN = "{PLAIN}"
_LETTER = r"[./0-9A-Za-z]"
_BASE64 = r"[A-Za-z0-9+/]"

_KINDS = (
    _Kind("bcrypt", rf"\$2[aby]\$(0[4-9]|[12]\d|3[01])\${_LETTER}{{53}}", _bcrypt),
    _Kind("argon2id", rf"\$argon2id\$v=19\$m=\d+,t=\d+,p=\d+\${_BASE64}+\${_BASE64}+", _argon2, _argon2id),
    _crypt("sha512-crypt", rf"\$6\$(rounds=\d+\$)?{_LETTER}{{0,16}}\${_LETTER}{{86}}", "sha512_crypt"),
    _crypt("sha256-crypt", rf"\$5\$(rounds=\d+\$)?{_LETTER}{{0,16}}\${_LETTER}{{43}}", "sha256_crypt"),
    _crypt("apr1", rf"\$apr1\${_LETTER}{{0,8}}\${_LETTER}{{22}}", "apr_md5_crypt"),
    _crypt("md5-crypt", rf"\$1\${_LETTER}{{0,8}}\${_LETTER}{{22}}", "md5_crypt"),
    _Kind("{SSHA}", rf"\{{SSHA\}}{_BASE64}+={{0,2}}", _sha1, _read_sha1),
    _Kind("{SHA}", rf"\{{SHA\}}{_BASE64}+={{0,2}}", _sha1, _read_sha1),
    _crypt(
        "DES crypt",
        rf"{_LETTER}{{13}}",
        "des_crypt",
        "passwords hashed by DES crypt have 8 characters: whatever follows them is taken for right",
    ),
    _Kind(
        _PLAIN,
        r"\{PLAIN\}.+",
        _plain,
        warning="passwords stand in plain text where everybody finds them who reads the file",
    ),
)
