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
from bitsferry.client.handshake import CannotProve, Handshake
from bitsferry.protocol.errors import (
    AuthenticationRequired,
    PasswordTooLong,
    ProxyAuthenticationRequired,
    UserNameTooLong,
)

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
    NTLM = "ntlm"
    NEGOTIATE = "negotiate"


_BY_CONNECTION = (Scheme.NEGOTIATE, Scheme.NTLM)
_STRONGEST_FIRST = (*_BY_CONNECTION, Scheme.DIGEST, Scheme.BASIC)  # as Windows chooses


@dataclass(frozen=True, slots=True)
class Credential:
    """A user name and a password for the server or the proxy; for Bearer the password is the token.

    `scheme` None: the strongest that is offered, as on Windows Negotiate before NTLM before Digest before
    Basic. With NTLM or Negotiate, no name and no password mean the log-on of this account, or its Kerberos
    ticket; names are `DOMAIN\\user`, `user@realm` or `user`. Raises UserNameTooLong and PasswordTooLong where
    Windows would, and ValueError for what cannot be said by the scheme.
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
        if self.scheme in _BY_CONNECTION and self.password and not self.user:
            raise ValueError("a password for NTLM or Negotiate needs the name of its user")

    @property
    def ways(self) -> tuple[Scheme, ...]:
        """The schemes by which it can be said, strongest first."""
        if self.scheme is not None:
            return (self.scheme,)
        bound = _BY_CONNECTION if self.user else ()  # a log-on is said only where that is asked for
        return (*bound, Scheme.DIGEST) if ":" in self.user else (*bound, Scheme.DIGEST, Scheme.BASIC)


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

    Each password is tried once. A Bearer token is said from the first request on, because many
    who want one refuse without a challenge; everything else is said only when it is asked for.

    What NTLM and Negotiate prove is proved for one connection, so it has to be told of each new one, and of
    each answer that is no challenge.
    """

    def __init__(
        self,
        credentials: Iterable[Credential],
        target: Target,
        *,
        host: str = "",
        cnonce: Callable[[], str] = new_cnonce,
    ) -> None:
        """`host` is the name by which Kerberos knows who asks.

        `cnonce` makes the client's part of a Digest; only its tests know it beforehand.
        """
        self._target = target
        self._host = host
        self._mine = [credential for credential in credentials if credential.target is target]
        self._left = [(way, credential) for credential in self._mine for way in credential.ways]
        self._cnonce = cnonce
        self._tried: Credential | None = None
        self._answer: _Answer | None = None
        self._offered: list[Challenge] = []
        self._certificate: bytes | None = None
        self._why = ""  # nothing could be said, or what was said in return was refused
        for credential in self._mine:
            if credential.scheme is Scheme.BEARER:
                self._try(Scheme.BEARER, credential, _Ready(f"Bearer {credential.password}"))
                break

    @property
    def schemes_offered(self) -> tuple[str, ...]:
        """The schemes of the last challenge, as they are spelt for people."""
        names = (_SPELT.get(challenge.scheme, challenge.scheme.title()) for challenge in self._offered)
        return tuple(dict.fromkeys(names))

    @property
    def is_open(self) -> bool:
        """Whether a handshake is to come, so that a body sent now would be sent in vain."""
        return self._handshake is not None and self._handshake.is_open

    @property
    def is_between_legs(self) -> bool:
        """Whether a handshake is under way, which ends with the connection."""
        return self._handshake is not None and self._handshake.is_between_legs

    def next_request(self) -> None:
        """A request begins that was not said yet."""
        if self._handshake is not None:
            self._handshake.next_request()

    def connected(self, certificate: bytes | None = None) -> None:
        """A connection begins; `certificate` is the server's, in DER, if TLS is spoken with it."""
        self._certificate = certificate
        if self._handshake is not None:
            self._handshake.connected(certificate)

    def authorization(self, method: str, target: str) -> str | None:
        """The value of Authorization, or Proxy-Authorization, for the next request; None: say nothing.

        `method` and `target` as they stand in the request line. To be asked once for each request that is
        sent: a Digest counts them. Raises AuthenticationRequired, or ProxyAuthenticationRequired, when
        nothing can be said any more, because a ticket ran out.
        """
        try:
            return None if self._answer is None else self._answer.authorization(method, target)
        except CannotProve as error:
            refused = AuthenticationRequired if self._target is Target.SERVER else ProxyAuthenticationRequired
            raise refused(str(error)) from None

    def challenged(self, challenges: Iterable[str], *, kept: bool = True) -> bool:
        """Take the challenges of a 401, or 407: whether it makes sense to repeat the request now.

        `challenges` are the values of WWW-Authenticate, or Proxy-Authenticate, as `http.client` reads them.
        Not `kept`: the connection ended with this answer.
        """
        self._offered = read_challenges(challenges)
        self._why = ""
        if self._goes_on():
            if kept or not self.is_between_legs:
                return True
            self._why = (
                f"the {self._target} ends the connection between the legs of a handshake, which only "
                "a connection that is kept can carry: a proxy on the way may be the reason"
            )
        if self._answer is not None and self._was_heard():
            self._left = [(way, each) for way, each in self._left if each != self._tried]
        self._answer = None
        for way in _STRONGEST_FIRST:
            for credential in [each for known, each in self._left if known is way]:
                if answer := self._answer_by(way, credential):
                    self._try(way, credential, answer)
                    return True
        return False

    def accepted(self, challenges: Iterable[str], *, good: bool) -> str | None:
        """Take an answer that asks for nothing; `good` if it gave what was wanted.

        Returns the sentence why whoever answered is not the one it should be; None: it is, or did not say.
        """
        if self._handshake is not None:
            try:
                self._handshake.accepted(read_challenges(challenges), good=good)
            except CannotProve as error:
                return str(error)
        return None

    def refusal(self) -> str:
        """The sentence for the person whose request was refused for good, after `challenged`."""
        offered = " or ".join(self.schemes_offered)
        if self._why:
            return self._why
        if self._tried is not None:
            if not self._tried.user and self._tried.scheme in _BY_CONNECTION:
                return f"the {self._target} refuses the log-on, or the ticket, of this account"
            if self._tried.scheme is Scheme.BEARER:
                return f"the {self._target} refuses the token"
            return f"the {self._target} refuses the user name {self._tried.user!r} or its password"
        if not offered:
            return f"the {self._target} wants to know who is asking, and does not say how"
        known = {*Scheme} - {Scheme.DIGEST}
        if best_digest(self._offered) is None and not any(each.scheme in known for each in self._offered):
            return (
                f"the {self._target} wants {offered}; "
                "only Negotiate, NTLM, Digest (qop auth), Basic and Bearer are known here"
            )
        if self._mine:
            given = " or ".join(dict.fromkeys(_SPELT[way] for mine in self._mine for way in mine.ways))
            return f"the {self._target} wants {offered}; what was given is for {given}"
        return f"the {self._target} wants a user name and a password ({offered})"

    @property
    def _handshake(self) -> Handshake | None:
        return self._answer if isinstance(self._answer, Handshake) else None

    def _goes_on(self) -> bool:
        try:
            return self._answer is not None and self._answer.goes_on(self._offered)
        except CannotProve as error:
            self._why = str(error)
            return False

    def _was_heard(self) -> bool:
        """Whether the password was refused: not where a handshake was offered, and then not gone on with."""
        return self._handshake is None or self._handshake.was_heard

    def _answer_by(self, way: Scheme, credential: Credential) -> _Answer | None:
        match way:
            case Scheme.DIGEST:
                return self._digest(credential)
            case Scheme.BASIC:
                return self._basic(credential)
        return self._shake_hands(way, credential)

    def _try(self, way: Scheme, credential: Credential, answer: _Answer) -> None:
        self._left.remove((way, credential))
        self._tried = credential
        self._answer = answer

    def _shake_hands(self, scheme: Scheme, credential: Credential) -> _Answer | None:
        """What cannot be said by this scheme, for want of a ticket or a package, may be by another."""
        if all(each.scheme != scheme for each in self._offered):
            return None
        user, password = credential.user, credential.password
        handshake = Handshake(scheme, user, password, asker=f"the {self._target}", host=self._host)
        handshake.connected(self._certificate)
        try:
            handshake.prepare()
        except CannotProve as error:
            self._why = self._why or str(error)
            return None
        return handshake

    def _digest(self, credential: Credential) -> _Answer | None:
        challenge = best_digest(self._offered)
        if challenge is None:
            return None
        return Digest(challenge, credential.user, credential.password, cnonce=self._cnonce)

    def _basic(self, credential: Credential) -> _Answer | None:
        if all(challenge.scheme != Scheme.BASIC for challenge in self._offered):
            return None
        said = f"{credential.user}:{credential.password}".encode()
        return _Ready("Basic " + base64.b64encode(said).decode("ascii"))


class _Answer(Protocol):
    """What is said from one challenge on; schemes of several legs go on with the next one."""

    def authorization(self, method: str, target: str) -> str | None: ...

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
