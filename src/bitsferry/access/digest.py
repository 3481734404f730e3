"""Digest: a password proved without being said (RFC 7616)."""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from bitsferry.access.asker import Identity
from bitsferry.access.htdigest import ALGORITHMS, DigestUsers, digest_of
from bitsferry.access.nonces import Nonces, Use
from bitsferry.access.scheme import Claim, NotProved, Scheme, credentials
from bitsferry.access.user_name import checked_name
from bitsferry.access.watched_file import WatchedFile

__all__ = ["Digest"]

# Of all directories, as a client goes on with the nonce it has;
# made before there are workers, which share it.
_NONCES = Nonces()

_PARAMETER = re.compile(
    r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*=[ \t]*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,\"]*))[ \t]*(?:,[ \t,]*|$)"
)
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*", re.ASCII)
_COUNT = re.compile(r"[0-9A-Fa-f]{8}")


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a request says, each value as the letters of its bytes; `user` as text."""

    user: str
    realm: str
    nonce: str
    uri: str
    algorithm: str
    count: str
    cnonce: str
    response: str


class Digest(Scheme):
    """Users of an htdigest file, by SHA-256 or MD5 with `qop=auth`, each count of a nonce once."""

    name = "digest"
    spoken = "digest"

    def __init__(self, file: WatchedFile[DigestUsers], realm: str, nonces: Nonces = _NONCES) -> None:
        self._file = file
        self._realm = realm
        self._nonces = nonces

    def challenges(self, claim: Claim) -> tuple[str, ...]:
        """See Scheme."""
        return self._challenges()

    def claimed(self, claim: Claim) -> str | None:
        """See Scheme; None, too, for whoever was right before on this connection."""
        try:
            answer = _read(claim)
        except NotProved:
            return None
        if answer is None or (claim.link is not None and claim.link.memory.get(self) == answer.user):
            return None
        return answer.user

    async def identify(self, claim: Claim) -> Identity | None:
        """See Scheme."""
        answer = _read(claim)
        if answer is None:
            return None
        if answer.realm != self._realm:
            raise NotProved("for another realm", user=answer.user)
        if not _is_for(answer.uri, claim):
            raise NotProved("for another URL", user=answer.user)
        if not self._nonces.is_good(answer.nonce):
            raise self._is_old(answer)
        users = await self._file.value()
        secret, known = users.secret(answer.algorithm, answer.user)
        if not self._is_right(answer, claim, secret) or not known:
            if claim.link is not None:
                claim.link.memory.pop(self, None)
            raise NotProved("wrong user name or password", user=answer.user)
        match self._nonces.use(answer.nonce, int(answer.count, 16)):
            case Use.FORGOTTEN:
                raise self._is_old(answer)
            case Use.SAID_BEFORE:
                # An honest client may have sent it again over a new line: with a new nonce it gets through.
                raise NotProved("said before", user=answer.user, challenges=self._challenges(stale=True))
        if claim.link is not None:
            claim.link.memory[self] = answer.user
        return Identity(answer.user, self.name, headers=(_proof_of_ours(answer, secret),))

    def _is_old(self, answer: _Answer) -> NotProved:
        """No mistake of anybody: it wants a new nonce."""
        stale = self._challenges(stale=True)
        return NotProved("a nonce that grew old", user=answer.user, challenges=stale, counts=False)

    def _is_right(self, answer: _Answer, claim: Claim, secret: str) -> bool:
        expected = _response(answer, secret, claim.method)
        return hmac.compare_digest(expected.encode(), answer.response.lower().encode("latin-1"))

    def _challenges(self, *, stale: bool = False) -> tuple[str, ...]:
        nonce = self._nonces.fresh()
        return tuple(
            f'Digest realm="{self._realm}", qop="auth", algorithm={algorithm}, nonce="{nonce}", charset=UTF-8'
            + (", stale=true" if stale else "")
            for algorithm in self._file.latest.algorithms
        )


def _response(answer: _Answer, secret: str, method: str) -> str:
    """RFC 7616 3.4.1; without a method it is the server's part (3.5)."""

    def digest(text: str) -> str:
        return digest_of(answer.algorithm, text.encode("latin-1"))

    request = digest(f"{method}:{answer.uri}")
    return digest(f"{secret}:{answer.nonce}:{answer.count}:{answer.cnonce}:auth:{request}")


def _proof_of_ours(answer: _Answer, secret: str) -> tuple[str, str]:
    cnonce = re.sub(r'(["\\])', r"\\\1", answer.cnonce)
    proof = _response(answer, secret, "")
    return "Authentication-Info", f'rspauth="{proof}", qop=auth, cnonce="{cnonce}", nc={answer.count}'


def _is_for(uri: str, claim: Claim) -> bool:
    """Proxies may make an absolute target of a path, or the other way round (RFC 7616 3.4.6)."""
    said, asked = (_ABSOLUTE.sub("", each, count=1) or "/" for each in (uri, claim.target))
    return said in (asked, claim.mount + asked)


def _read(claim: Claim) -> _Answer | None:
    """What the request says by Digest, if it does. Raises NotProved for what is none."""
    said = credentials(claim, Digest.spoken)
    return None if said is None else _answer(said)


@lru_cache(maxsize=16)  # whom it claims to be from is asked right before whether it is
def _answer(said: str) -> _Answer:
    told = _parameters(said)
    algorithm = told.get("algorithm", "MD5").upper()
    wanted = {"realm", "nonce", "uri", "nc", "cnonce", "response"}
    if not wanted <= told.keys() or told.get("qop", "").lower() != "auth" or algorithm not in ALGORITHMS:
        raise NotProved("no answer to a challenge of ours (RFC 7616)")
    if not _COUNT.fullmatch(told["nc"]) or not int(told["nc"], 16) or not told["cnonce"]:
        raise NotProved("no answer to a challenge of ours (RFC 7616)")
    return _Answer(
        user=_user(told),
        realm=told["realm"],
        nonce=told["nonce"],
        uri=told["uri"],
        algorithm=algorithm,
        count=told["nc"],
        cnonce=told["cnonce"],
        response=told["response"],
    )


def _parameters(said: str) -> dict[str, str]:
    """What is said, by lower-case names. Raises NotProved."""
    told: dict[str, str] = {}
    at = 0
    while at < len(said):
        match = _PARAMETER.match(said, at)
        if match is None or (name := match[1].lower()) in told:
            raise NotProved("malformed (RFC 7616)")
        told[name] = match[3] if match[2] is None else re.sub(r"\\(.)", r"\1", match[2])
        at = match.end()
    return told


def _user(told: dict[str, str]) -> str:
    """The name, in UTF-8; as Latin-1 where the client says it so. Raises NotProved."""
    plain, extended = told.get("username"), told.get("username*")
    if (plain is None) == (extended is None):
        raise NotProved("no user name (RFC 7616)")
    if extended is not None:
        charset, _, spelt = extended.partition("''")
        raw = unquote_to_bytes(spelt.encode("latin-1"))
        if charset.upper() != "UTF-8":
            raise NotProved("a user name in an unknown encoding (RFC 8187)")
    else:
        raw = (plain or "").encode("latin-1")
    try:
        return checked_name(raw.decode())
    except UnicodeDecodeError:
        return checked_name(raw.decode("latin-1"))
