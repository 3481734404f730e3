"""What every way of telling who one is promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bitsferry.access.asker import Identity

__all__ = ["Claim", "GoOn", "Link", "NotProved", "Scheme", "credentials"]


@dataclass(slots=True, eq=False)
class Link:
    """One connection, and what is remembered of it until it ends.

    `certificate` is the client's, verified, as `ssl.SSLSocket.getpeercert` spells it; None without one.
    `memory` is the schemes' own, each under itself: a handshake under way, somebody known.
    """

    certificate: Mapping[str, Any] | None = None
    memory: dict[object, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Claim:
    """What a request says of whom it is from; `headers` has lower-case names.

    `address` is the client's, `peer` that of whoever opened the connection, another one behind a proxy we
    trust; empty on a Unix socket. `link` is None where connections cannot be told apart. `shared`: a proxy
    may send other clients' requests over the same connection. `begins`: the request asks for something new,
    and does not go on with an upload of its own. `target` has no mount's prefix, which is `mount`.
    `fronted`: whoever opened the connection is a proxy that we trust.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    address: str = ""
    peer: str = ""
    link: Link | None = None
    shared: bool = False
    begins: bool = True
    mount: str = ""
    fronted: bool = False


class NotProved(Exception):
    """What the request says is wrong; the message says why, for the log and never for the client.

    `user` is who it claims to be from, if it says that. `challenges` take the place of what the scheme asks
    otherwise. Not `counts`: no sign of somebody who guesses, such as a nonce that grew old.
    """

    def __init__(
        self,
        why: str,
        *,
        user: str | None = None,
        challenges: tuple[str, ...] = (),
        counts: bool = True,
    ) -> None:
        super().__init__(why)
        self.user = user
        self.challenges = challenges
        self.counts = counts


class GoOn(Exception):
    """A handshake goes on: `challenge` is the value of WWW-Authenticate for its next leg."""

    def __init__(self, challenge: str) -> None:
        super().__init__(challenge)
        self.challenge = challenge


class Scheme(ABC):
    """One way of telling who one is.

    Compared and hashed by identity: one object serves one directory, or several that share it.
    """

    name: ClassVar[str]
    """As it stands in the settings, under `auth`."""

    spoken: ClassVar[str] = ""
    """What Authorization begins with, in lower case; empty where the scheme reads something else."""

    binds_connection: ClassVar[bool] = False
    """What is proved, is proved for the connection (RFC 4559): not to be believed where it is shared."""

    @abstractmethod
    async def identify(self, claim: Claim) -> Identity | None:
        """Who it is; None when the request says nothing by this scheme.

        Raises NotProved, or GoOn in the middle of a handshake; a BitsError such as Busy when that cannot be
        found out now. Blocks nobody: slow hashes and files are for threads.
        """

    @abstractmethod
    def challenges(self, claim: Claim) -> tuple[str, ...]:
        """The values of WWW-Authenticate that ask for this scheme; none where nothing can be asked."""

    def claimed(self, claim: Claim) -> str | None:
        """Whom the request claims to be from, before anything is proved.

        None when it does not say, or when it is known to be right: then it needs not be slowed down.
        """
        return None


def credentials(claim: Claim, spoken: str) -> str | None:
    """What follows the scheme's name in Authorization, if it stands there, whatever its case."""
    name, _, rest = claim.headers.get("authorization", "").strip().partition(" ")
    return rest.strip() if name.lower() == spoken else None
