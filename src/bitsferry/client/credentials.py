"""What a client can say about who it is, and whether saying it makes sense."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from bitsferry.client.challenges import Challenge, read_challenges
from bitsferry.client.digest import Digest, best_digest, new_cnonce
from bitsferry.protocol.errors import PasswordTooLong, UserNameTooLong

__all__ = ["Authenticator", "Credential", "Credentials", "Scheme", "Target", "credentials_of"]

LONGEST_USER = 300  # characters, as IBackgroundCopyJob2::SetCredentials takes them
LONGEST_PASSWORD = 65_535

_SPELT = {"basic": "Basic", "digest": "Digest", "bearer": "Bearer", "ntlm": "NTLM", "negotiate": "Negotiate"}
_BEARER_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # RFC 6750 2.1


class Target(StrEnum):
    """Who asks."""

    SERVER = "server"
    PROXY = "proxy"


class Scheme(StrEnum):
    """How it is said."""

    BASIC = "basic"
    DIGEST = "digest"
    BEARER = "bearer"


@dataclass(frozen=True, slots=True)
class Credential:
    """A user name and a password for the server or the proxy; for Bearer the password is the token.

    `scheme` None: the strongest that is offered, Digest before Basic. Raises UserNameTooLong and
    PasswordTooLong where Windows would, and ValueError for what cannot be said by the scheme.
    """

    target: Target
    scheme: Scheme | None
    user: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.user) > LONGEST_USER:
            raise UserNameTooLong(
                f"a user name has at most {LONGEST_USER} characters, not {len(self.user):,}"
            )
        if len(self.password) > LONGEST_PASSWORD:
            raise PasswordTooLong(
                f"a password has at most {LONGEST_PASSWORD:,} characters, not {len(self.password):,}"
            )
        if re.search(r"[\x00-\x1f\x7f]", self.user):
            raise ValueError("a user name has no line breaks or other control characters in it")
        if not _is_text(self.user) or not _is_text(self.password):
            raise ValueError("a user name or a password that is no Unicode text cannot be said by HTTP")
        if self.scheme is Scheme.BASIC and ":" in self.user:
            raise ValueError("a user name with a colon cannot be said by Basic (RFC 7617)")
        if self.scheme is Scheme.BEARER and not _BEARER_TOKEN.fullmatch(self.password):
            raise ValueError("a Bearer token consists of letters, digits and -._~+/ only (RFC 6750)")

    @property
    def ways(self) -> tuple[Scheme, ...]:
        """The schemes by which it can be said, strongest first."""
        if self.scheme is not None:
            return (self.scheme,)
        return (Scheme.DIGEST,) if ":" in self.user else (Scheme.DIGEST, Scheme.BASIC)


Credentials = Iterable[Credential] | tuple[str, str]
"""Any number of them; or just the name and the password of a user of the server."""


def credentials_of(given: Credentials) -> list[Credential]:
    """Both forms as the longer one."""
    match given:
        case (str(user), str(password)):
            return [Credential(Target.SERVER, None, user, password)]
    return list(given)


class Authenticator:
    """Answers one server, or one proxy, for as long as a job runs.

    Each credential is tried once. A Bearer token is said from the first request on, because many
    who want one refuse without a challenge; everything else is said only when it is asked for.
    """

    def __init__(
        self,
        credentials: Iterable[Credential],
        target: Target,
        *,
        cnonce: Callable[[], str] = new_cnonce,
    ) -> None:
        """`cnonce` makes the client's part of a Digest; only its tests know it beforehand."""
        self._target = target
        self._mine = [credential for credential in credentials if credential.target is target]
        self._left = list(self._mine)
        self._cnonce = cnonce
        self._tried: Credential | None = None
        self._answer: _Answer | None = None
        self._offered: list[Challenge] = []
        for credential in self._mine:
            if credential.scheme is Scheme.BEARER:
                self._try(credential, _Ready(f"Bearer {credential.password}"))
                break

    @property
    def schemes_offered(self) -> tuple[str, ...]:
        """The schemes of the last challenge, as they are spelt for people."""
        names = (_SPELT.get(challenge.scheme, challenge.scheme.title()) for challenge in self._offered)
        return tuple(dict.fromkeys(names))

    def authorization(self, method: str, target: str) -> str | None:
        """The value of Authorization, or Proxy-Authorization, for the next request; None: say nothing.

        `method` and `target` as they stand in the request line. To be asked once for each request that is
        sent: a Digest counts them.
        """
        return None if self._answer is None else self._answer.authorization(method, target)

    def challenged(self, challenges: Iterable[str]) -> bool:
        """Take the challenges of a 401, or 407: whether it makes sense to repeat the request now.

        `challenges` are the values of WWW-Authenticate, or Proxy-Authenticate, as `http.client` reads them.
        """
        self._offered = read_challenges(challenges)
        if self._answer is not None and self._answer.goes_on(self._offered):
            return True
        self._answer = None
        for make in (self._digest, self._basic):
            for credential in self._left:
                if answer := make(credential):
                    self._try(credential, answer)
                    return True
        return False

    def refusal(self) -> str:
        """The sentence for the person whose request was refused for good, after `challenged`."""
        offered = " or ".join(self.schemes_offered)
        if self._tried is not None:
            if self._tried.scheme is Scheme.BEARER:
                return f"the {self._target} refuses the token"
            return f"the {self._target} refuses the user name {self._tried.user!r} or its password"
        if not offered:
            return f"the {self._target} wants to know who is asking, and does not say how"
        simple = any(challenge.scheme in (Scheme.BASIC, Scheme.BEARER) for challenge in self._offered)
        if not simple and best_digest(self._offered) is None:
            return (
                f"the {self._target} wants {offered}; only Basic, Digest (qop auth) and Bearer are known here"
            )
        if self._mine:
            given = " or ".join(dict.fromkeys(_SPELT[way] for mine in self._mine for way in mine.ways))
            return f"the {self._target} wants {offered}; what was given is for {given}"
        return f"the {self._target} wants a user name and a password ({offered})"

    def _try(self, credential: Credential, answer: _Answer) -> None:
        self._left.remove(credential)
        self._tried = credential
        self._answer = answer

    def _digest(self, credential: Credential) -> _Answer | None:
        challenge = best_digest(self._offered)
        if challenge is None or Scheme.DIGEST not in credential.ways:
            return None
        return Digest(challenge, credential.user, credential.password, cnonce=self._cnonce)

    def _basic(self, credential: Credential) -> _Answer | None:
        offered = any(challenge.scheme == Scheme.BASIC for challenge in self._offered)
        if not offered or Scheme.BASIC not in credential.ways:
            return None
        said = f"{credential.user}:{credential.password}".encode()
        return _Ready("Basic " + base64.b64encode(said).decode("ascii"))


class _Answer(Protocol):
    """What is said from one challenge on; schemes of several legs go on with the next one."""

    def authorization(self, method: str, target: str) -> str: ...

    def goes_on(self, offered: list[Challenge]) -> bool: ...


class _Ready:
    """The same for every request: refused once, it is refused."""

    def __init__(self, value: str) -> None:
        self._value = value

    def authorization(self, method: str, target: str) -> str:
        return self._value

    def goes_on(self, offered: list[Challenge]) -> bool:
        return False


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of a command line that were no UTF-8
        return False
    return True
