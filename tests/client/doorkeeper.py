"""Asks whoever comes by NTLM or Negotiate, on each connection anew, before a hostile server or at a proxy."""

import base64
import socket
from dataclasses import dataclass, field
from typing import Any

import spnego
from spnego.channel_bindings import GssChannelBindings

from bitsferry.protocol import wire
from bitsferry.protocol.packets import Fragment

from .hostile import Exchange


@dataclass
class Answer:
    """What a doorkeeper says to what was said by whoever came."""

    token: bytes = b""
    lets_in: bool = False

    def spelt(self, scheme: str) -> str:
        return f"{scheme} {base64.b64encode(self.token).decode()}" if self.token else scheme


@dataclass
class Doorkeeper:
    """A trick for `HostileServer.on`; what a connection has proved is forgotten with it.

    `each_time`: what was proved is forgotten after each request. `asks_again`: once, after so many requests
    that were let in. `closes`: every connection on which it asks. `before` is what it offers first.
    """

    scheme: str = "NTLM"
    bindings: GssChannelBindings | None = None
    each_time: bool = False
    closes: bool = False
    asks_again: int | None = None
    before: tuple[str, ...] = ()
    legs: list[int] = field(default_factory=list)
    users: list[str | None] = field(default_factory=list)
    in_vain: int = 0
    """Bytes of fragments that came with a request that was not let in."""
    let_in: int = 0
    said: list[str | None] = field(default_factory=list)
    _under_way: dict[socket.socket, tuple[Any, int]] = field(default_factory=dict)
    _proved: set[socket.socket] = field(default_factory=set)

    def __call__(self, exchange: Exchange) -> None:
        said = exchange.headers.get("authorization")
        self.said.append(said)
        answer = self.judge(exchange.line, said)
        if answer.lets_in:
            self.let_in += 1
            ack = exchange.process()
            last = [("WWW-Authenticate", answer.spelt(self.scheme))] if answer.token else []
            exchange.say_plainly(ack.status, [*wire.write_ack(ack), *last])
            return
        if isinstance(exchange.packet, Fragment):
            self.in_vain += len(exchange.read_body())
        asked = [("WWW-Authenticate", each) for each in (*self.before, answer.spelt(self.scheme))]
        if self.closes:
            asked.append(("Connection", "close"))
        exchange.say_plainly(401, [*asked, ("Content-Length", "0")])
        if self.closes:
            exchange.hang_up()

    def ask(self, line: socket.socket, said: str | None) -> str | None:
        """For a `Proxy`: its challenge, or None for whoever is let in."""
        answer = self.judge(line, said)
        return None if answer.lets_in else answer.spelt(self.scheme)

    def judge(self, line: socket.socket, said: str | None) -> Answer:
        if said is None and line in self._proved:
            if self.let_in != self.asks_again:
                return Answer(lets_in=True)
            self.asks_again = None
            self._proved.discard(line)
            return Answer()
        scheme, _, spelt = (said or "").partition(" ")
        if scheme != self.scheme:
            return Answer()
        context, legs = self._under_way.pop(line, (None, 0))
        if context is None:
            context = spnego.server(
                hostname="localhost",
                service="HTTP",
                protocol=self.scheme.lower(),
                channel_bindings=self.bindings,
            )
        try:
            token = context.step(base64.b64decode(spelt)) or b""
        except Exception:
            return Answer()
        if not context.complete:
            self._under_way[line] = context, legs + 1
            return Answer(token)
        self.legs.append(legs + 1)
        self.users.append(context.client_principal)
        if not self.each_time:
            self._proved.add(line)
        return Answer(token, lets_in=True)
