"""Answers to a Digest challenge, by which a password is proved without being said (RFC 7616)."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterable
from urllib.parse import quote

from bitsferry.client.challenges import Challenge

__all__ = ["Digest", "best_digest", "new_cnonce"]

# Strongest first; where Python's hashlib lacks one, it is not known here either.
_ALGORITHMS = {"SHA-512-256": "sha512_256", "SHA-256": "sha256", "MD5": "md5"}
_STRENGTH = [name for name, known in _ALGORITHMS.items() if known in hashlib.algorithms_available]
_SESSION = "-SESS"


def new_cnonce() -> str:
    """128 random bits, spelt for a header."""
    return secrets.token_urlsafe(16)


def best_digest(offered: Iterable[Challenge]) -> Challenge | None:
    """The strongest Digest challenge that can be answered; of equals, the first."""
    return min(
        filter(_is_known, offered), key=lambda challenge: _STRENGTH.index(_hash(challenge)), default=None
    )


def _algorithm(challenge: Challenge) -> str:
    return challenge.parameters.get("algorithm", "MD5").upper()


def _hash(challenge: Challenge) -> str:
    return _algorithm(challenge).removesuffix(_SESSION)


def _is_known(challenge: Challenge) -> bool:
    """Of the protections only `auth` is known: `auth-int` wants a fragment read before it is sent."""
    if challenge.scheme != "digest" or not {"realm", "nonce"} <= challenge.parameters.keys():
        return False
    qop = challenge.parameters.get("qop")
    if qop is None:  # RFC 2069, which has no sessions
        return _algorithm(challenge) in _STRENGTH
    return _hash(challenge) in _STRENGTH and "auth" in re.split(r"[\s,]+", qop.lower())


class Digest:
    """A user's answers, one for each request, to one server's challenge and to those that renew it."""

    def __init__(
        self, challenge: Challenge, user: str, password: str, *, cnonce: Callable[[], str] = new_cnonce
    ) -> None:
        """`challenge` is one of `best_digest`."""
        self._user = user
        self._password = password
        self._make_cnonce = cnonce
        self._in_vain = False  # whether a nonce replaced one that had never been good
        self._begin(challenge)

    def _begin(self, challenge: Challenge) -> None:
        self._challenge = challenge
        self._cnonce = self._make_cnonce()  # one for each nonce: the key of a -sess is made of both
        self._count = 0

    def goes_on(self, offered: Iterable[Challenge]) -> bool:
        """Whether a 401 after an answer wants another nonce only, and not another password.

        It does when the nonce was good before: nonces expire, and servers that restart do not say `stale`.
        A first answer is stale where the machines of a farm have nonces of their own: that may be so once.
        """
        challenge = best_digest(offered)
        if challenge is None or challenge.parameters["nonce"] == self._challenge.parameters["nonce"]:
            return False
        was_good = self._count > 1
        stale = challenge.parameters.get("stale", "").lower() == "true"
        if not was_good and (self._in_vain or not stale):
            return False
        self._in_vain = not was_good
        self._begin(challenge)
        return True

    def authorization(self, method: str, target: str) -> str:
        """The value of Authorization for the next request; `target` as it stands in the request line."""
        asked = self._challenge.parameters
        self._count += 1
        count = f"{self._count:08x}"
        realm, nonce = asked["realm"].encode("latin-1"), asked["nonce"]
        user = self._user.encode()
        secret = self._digest(b":".join([user, realm, self._password.encode()]))
        if _algorithm(self._challenge).endswith(_SESSION):
            secret = self._digest(f"{secret}:{nonce}:{self._cnonce}".encode("latin-1"))
        request = self._digest(f"{method}:{target}".encode("latin-1"))
        between = f":{count}:{self._cnonce}:auth:" if "qop" in asked else ":"
        response = self._digest(f"{secret}:{nonce}{between}{request}".encode("latin-1"))

        hides_user = asked.get("userhash", "").lower() == "true"
        if hides_user:
            name = f"username={_quoted(self._digest(user + b':' + realm))}"
        elif not self._user.isascii() and asked.get("charset", "").lower() == "utf-8":
            name = f"username*=UTF-8''{quote(user, safe='')}"
        else:
            name = f"username={_quoted(user.decode('latin-1'))}"
        said = [name, f"realm={_quoted(asked['realm'])}", f"uri={_quoted(target)}"]
        if "algorithm" in asked:
            said.append(f"algorithm={asked['algorithm']}")
        said.append(f"nonce={_quoted(nonce)}")
        if "qop" in asked:
            said += [f"nc={count}", f"cnonce={_quoted(self._cnonce)}", "qop=auth"]
        said.append(f'response="{response}"')
        if "opaque" in asked:
            said.append(f"opaque={_quoted(asked['opaque'])}")
        if hides_user:
            said.append("userhash=true")
        return "Digest " + ", ".join(said)

    def _digest(self, data: bytes) -> str:
        # MD5 is what many servers still ask for; it is not chosen where they offer better.
        return hashlib.new(_ALGORITHMS[_hash(self._challenge)], data, usedforsecurity=False).hexdigest()


def _quoted(text: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
