"""Clients of NTLM and Negotiate, made of pyspnego, and the scheme they talk to."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from passlib.hash import nthash

from bitsferry.access.asker import Identity
from bitsferry.access.handshake import HandshakeScheme
from bitsferry.access.nt_hashes import NtAccounts, read_nt_hashes
from bitsferry.access.scheme import Claim, GoOn, Link
from bitsferry.access.watched_file import WatchedFile

spnego = pytest.importorskip("spnego", reason="the client's side of NTLM is pyspnego's")

PASSWORDS = {"alice": "secret", "CORP\\Bob": "another secret", "Zoë": "ein Paßwort"}


def hashes(
    folder: Path, passwords: dict[str, str] = PASSWORDS, clock: Callable[[], float] = time.monotonic
) -> WatchedFile[NtAccounts]:
    """A file of these users."""
    path = folder / "nt-hashes"
    path.write_text("".join(f"{user}:{nthash.hash(secret)}\n" for user, secret in passwords.items()), "utf-8")
    return WatchedFile(str(path), read_nt_hashes, clock)


class Client:
    """One that knows a password."""

    def __init__(self, user: str = "alice", password: str = "secret", protocol: str = "ntlm") -> None:
        self.context = spnego.client(user, password, hostname="host", service="HTTP", protocol=protocol)

    def step(self, token: bytes | None = None) -> bytes:
        said = self.context.step(token)
        assert isinstance(said, bytes)
        return said


class Connection:
    """A connection to a server with one scheme."""

    def __init__(self, scheme: HandshakeScheme) -> None:
        self.scheme = scheme
        self.link = Link()

    def ask(
        self, token: bytes | None = None, *, begins: bool = False, target: str = "/in/a", **headers: str
    ) -> Identity | None:
        """What a request comes to that says `token`; raises what the scheme raises."""
        if token is not None:
            headers["authorization"] = f"{self.scheme.title} {base64.b64encode(token).decode()}"
        return asyncio.run(self.scheme.identify(self.claim(headers, begins, target)))

    def claim(self, headers: dict[str, str], begins: bool = False, target: str = "/in/a") -> Claim:
        return Claim("BITS_POST", target, headers, "192.0.2.1", "192.0.2.1", link=self.link, begins=begins)

    def challenged(self, token: bytes) -> bytes:
        """What the server says to the first leg, or a middle one."""
        with pytest.raises(GoOn) as more:
            self.ask(token)
        title, _, answer = more.value.challenge.partition(" ")
        assert title == self.scheme.title
        return base64.b64decode(answer)

    def last_leg(self, client: Client) -> bytes:
        """What `client` says last, before the server has heard it."""
        return client.step(self.challenged(client.step()))

    def meets(self, client: Client, *, begins: bool = False) -> Identity | None:
        """A whole handshake."""
        return self.ask(self.last_leg(client), begins=begins)


def all_cuts(message: bytes) -> Iterable[bytes]:
    """The beginning of a message, at every length, and it with each byte turned over."""
    for at in range(len(message)):
        yield message[:at]
        yield message[:at] + bytes((message[at] ^ 0xFF,)) + message[at + 1 :]
