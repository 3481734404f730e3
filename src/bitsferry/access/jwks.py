"""The public keys by which tokens are signed, from a file or from whoever signs them."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from bitsferry.access.watched_file import WatchedFile
from bitsferry.access.web_text import check_trusted_url, fetch_text
from bitsferry.protocol.errors import Busy

__all__ = ["ALGORITHMS", "FetchedKeys", "FileKeys", "KeySource", "PublicKey", "parse_keys"]

logger = logging.getLogger(__name__)

# Which kind of key signs by which algorithm. None of them has a secret that both sides know: a public key
# could be taken for it, and that one everybody knows.
ALGORITHMS = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    "ES256": "P-256",
    "ES384": "P-384",
    "ES512": "P-521",
    "EdDSA": "Ed25519",
    "Ed25519": "Ed25519",
}
"""Which kind of key signs by which algorithm."""

_SMALLEST_RSA = 2048  # bits

_KEEP = 3600.0  # seconds after which keys are fetched again, though none is missing
_PAUSE = 30.0  # seconds between two times they are


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key, and what it is for; `verify` takes an algorithm, what was signed, and the signature."""

    kid: str | None
    kind: str
    algorithm: str | None
    verify: Callable[[str, bytes, bytes], bool]

    def suits(self, kid: str | None, algorithm: str) -> bool:
        """Whether it may have signed a token whose head says this."""
        return (
            self.kind == ALGORITHMS[algorithm]
            and self.algorithm in (None, algorithm)
            and (kid is None or self.kid == kid)
        )


Keys = tuple[PublicKey, ...]


def parse_keys(text: str) -> Keys:
    """The keys of a JWK Set (RFC 7517) that sign; what is of another kind is left out.

    Raises ValueError where there is none, or a private one, and ImportError without joserfc.
    """
    try:
        listed = json.loads(text)["keys"]
        keys = [key for each in listed if isinstance(each, dict) and (key := _key(each)) is not None]
    except (KeyError, TypeError, RecursionError, json.JSONDecodeError):
        raise ValueError('it is no JWK Set, which is JSON such as {"keys": [...]}') from None
    if not keys:
        raise ValueError(f"it has no key that signs by one of {', '.join(ALGORITHMS)}")
    return tuple(keys)


def _key(said: dict[str, Any]) -> PublicKey | None:
    from joserfc.errors import JoseError
    from joserfc.jwk import JWKRegistry

    kind = said.get("kty") if said.get("kty") == "RSA" else said.get("crv")
    if kind not in ALGORITHMS.values() or said.get("kty") == "oct" or said.get("use", "sig") != "sig":
        return None
    if "d" in said:
        raise ValueError("it has a private key; only public ones belong here")
    try:
        if kind == "RSA" and len(_decoded(said["n"])) * 8 < _SMALLEST_RSA:
            return None
        key: Any = JWKRegistry.import_key(said)
        key.get_op_key("verify")
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    return PublicKey(said.get("kid"), str(kind), said.get("alg"), _verifier(key))


def _verifier(key: Any) -> Callable[[str, bytes, bytes], bool]:
    from joserfc.jws import JWSRegistry

    def verify(algorithm: str, signed: bytes, signature: bytes) -> bool:
        return JWSRegistry.algorithms[algorithm].verify(signed, signature, key)

    return verify


def _decoded(value: str) -> bytes:
    return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).lstrip(b"\0")


class KeySource(ABC):
    """Where keys come from."""

    @abstractmethod
    async def suiting(self, kid: str | None, algorithm: str) -> Keys:
        """The keys that may have signed a token; none when there is none.

        Raises Busy when that cannot be said now.
        """


class FileKeys(KeySource):
    """Keys in a file. Raises OSError and ValueError as WatchedFile does, and ImportError."""

    def __init__(self, path: str) -> None:
        self._file = WatchedFile(path, parse_keys)

    async def suiting(self, kid: str | None, algorithm: str) -> Keys:
        """See KeySource."""
        return _suiting(await self._file.value(), kid, algorithm)


class FetchedKeys(KeySource):
    """Keys at a URL, fetched when the first token comes, and again when a token names one that is not there.

    That is no more often than every half a minute; whoever comes between is told to come again, for the key
    may be a new one. While they cannot be fetched, those that are known hold.
    """

    def __init__(
        self,
        url: str,
        fetch: Callable[[str], str] = fetch_text,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`fetch` is called in a thread. Raises ValueError for a URL that cannot be meant."""
        check_trusted_url(url)
        self._url = url
        self._fetch = fetch
        self._clock = clock
        self._keys: Keys | None = None
        self._tried = -_KEEP
        self._failed: str | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def suiting(self, kid: str | None, algorithm: str) -> Keys:
        """See KeySource."""
        if self._keys is not None:
            if self._clock() - self._tried >= _KEEP:
                self._begin()  # nobody waits for it
            if found := _suiting(self._keys, kid, algorithm):
                return found
        if self._fetching is None:
            pause = self._tried + _PAUSE - self._clock()
            if pause > 0:
                raise Busy(
                    "the keys that check tokens cannot be fetched again yet", retry_after=int(pause) + 1
                )
        await asyncio.shield(self._begin())
        if self._keys is None or self._failed is not None:
            raise Busy("the keys that check tokens cannot be fetched")
        return _suiting(self._keys, kid, algorithm)

    def _begin(self) -> asyncio.Task[None]:
        """Fetch them, once for all who wait."""
        if self._fetching is None:
            self._tried = self._clock()
            self._fetching = asyncio.get_running_loop().create_task(asyncio.to_thread(self._renew))
            self._fetching.add_done_callback(self._fetched)
        return self._fetching

    def _fetched(self, fetching: asyncio.Task[None]) -> None:
        self._fetching = None

    def _renew(self) -> None:
        try:
            self._keys = parse_keys(self._fetch(self._url))
        except (OSError, ValueError, http.client.HTTPException) as error:
            said = str(error) or type(error).__name__
            if said != self._failed:
                logger.error(  # noqa: TRY400, who cannot be reached needs no traceback
                    "the keys at %s cannot be fetched; those known before hold: %s", _shown(self._url), said
                )
            self._failed = said
        else:
            self._failed = None
            logger.info("keys fetched from %s", _shown(self._url), extra={"keys": len(self._keys)})


def _suiting(keys: Iterable[PublicKey], kid: str | None, algorithm: str) -> Keys:
    return tuple(key for key in keys if key.suits(kid, algorithm))


def _shown(url: str) -> str:
    """Without the query, which may hold secrets."""
    return url.partition("?")[0]
