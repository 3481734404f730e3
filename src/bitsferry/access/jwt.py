"""Tokens that somebody else signed, JWTs."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from bitsferry.access.jwks import ALGORITHMS, KeySource
from bitsferry.access.scheme import NotProved
from bitsferry.access.user_name import checked_name

__all__ = ["Jwt", "looks_like_jwt"]

_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_LEEWAY = 60.0  # seconds by which clocks may differ
_END_OF_TIME = 1e12  # seconds; beyond is a mistake, or none of the numbers there are
_MOST_KEYS = 10  # tried for a token that does not say which


def looks_like_jwt(token: str) -> bool:
    """Whether it has the three parts of a signed one, whatever is in them."""
    return _SHAPE.fullmatch(token) is not None


class Jwt:
    """Tokens (RFC 7519) that `issuer` signed by one of `keys`, for `audience`, and that have an end.

    `user_claim` is who it was signed for; `groups_claim`, if there is one, has that user's groups.
    """

    def __init__(
        self,
        keys: KeySource,
        *,
        issuer: str,
        audience: str,
        user_claim: str = "sub",
        groups_claim: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._user_claim = user_claim
        self._groups_claim = groups_claim
        self._clock = clock

    async def owner(self, token: str) -> tuple[str, frozenset[str]]:
        """Whom the token is for, with that one's groups.

        Raises NotProved, and Busy when its key cannot be had now.
        """
        head, said, signature = (_bytes(part) for part in token.split("."))
        header, claims = _object(head), _object(said)
        self._check_purpose(claims)
        await self._check_signature(header, token.rpartition(".")[0].encode("ascii"), signature)
        # Only now it is known who speaks.
        user = claims.get(self._user_claim)
        if not isinstance(user, str):
            raise NotProved(f"the token has no {self._user_claim} that could be a user's name")
        checked_name(user)
        self._check_time(claims, user)
        return user, self._groups(claims)

    def _check_purpose(self, claims: Mapping[str, Any]) -> None:
        """Whoever it is from: for whom, and from whom does it say that it is?"""
        if claims.get("iss") != self._issuer:
            raise NotProved("the token is from another issuer")
        audience = claims.get("aud")
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise NotProved("the token is for another audience")

    async def _check_signature(self, header: Mapping[str, Any], signed: bytes, signature: bytes) -> None:
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise NotProved("the token is signed by no algorithm that has a public key")
        if "crit" in header:
            raise NotProved("the token asks for more than is understood here (RFC 7515 4.1.11)")
        if not isinstance(kid, str | None):
            raise NotProved("the token names its key by no text")
        keys = await self._keys.suiting(kid, algorithm)
        if not keys:
            raise NotProved("the token is signed by a key that is not known")
        if not any(key.verify(algorithm, signed, signature) for key in keys[:_MOST_KEYS]):
            raise NotProved("the token's signature is wrong")

    def _check_time(self, claims: Mapping[str, Any], user: str) -> None:
        now = self._clock()
        if _moment(claims.get("exp"), "exp", user) + _LEEWAY <= now:
            raise NotProved("the token is expired", user=user)
        if "nbf" in claims and _moment(claims["nbf"], "nbf", user) - _LEEWAY > now:
            raise NotProved("the token is not valid yet", user=user)

    def _groups(self, claims: Mapping[str, Any]) -> frozenset[str]:
        said = claims.get(self._groups_claim) if self._groups_claim is not None else None
        each = said if isinstance(said, list) else [said]
        return frozenset(group for group in each if isinstance(group, str) and group)


def _bytes(part: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise NotProved("the token is damaged") from None


def _object(said: bytes) -> dict[str, Any]:
    try:
        value = json.loads(said)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise NotProved("the token is damaged")
    return value


def _moment(value: object, claim: str, user: str) -> float:
    """A time in seconds since 1970."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _END_OF_TIME:
        raise NotProved(f"the token has no {claim} that is a time", user=user)
    return value
