"""One packet out, one Ack back, over HTTP/1.1."""

from __future__ import annotations

from collections.abc import Callable

from bitsferry.client.agent import UserAgent
from bitsferry.client.destination import Destination
from bitsferry.client.line import Line
from bitsferry.client.local_file import LocalFile
from bitsferry.protocol import wire
from bitsferry.protocol.packets import Ack, Fragment, Packet, Ping

__all__ = ["BLOCK_LENGTH", "OnBlock", "Transport"]

BLOCK_LENGTH = 4 * 1024 * 1024  # the system carries as much at once as it has room for

OnBlock = Callable[[int, int], None]
"""Called with the offset and the length of each block of the file that went out."""


class Transport:
    """The way of packets to one destination.

    Every `send` either returns the Ack or raises TransportFailed (the line), InvalidServerResponse (what
    came is no answer of a BITS server) or LocalFileChanged. The next `send` starts afresh by itself.
    """

    def __init__(
        self,
        destination: Destination,
        agent: UserAgent | None = None,
        *,
        block_length: int | Callable[[], int] = BLOCK_LENGTH,
    ) -> None:
        """`block_length` is how many bytes go out between two calls of `on_block`, at most, or says it."""
        self.destination = destination
        self.agent = agent or UserAgent()
        self.block_length = block_length
        self.answered_by = destination
        """The destination on the host that answered last: relative reply URLs start from here."""
        self.refusal = ""
        """Why nobody could say who is asking as the last answer, a 401 or 407, wanted it."""
        self.server_is_ours = False
        """Whether the other end is Bitsferry, which takes longer fragments than IIS."""

    def send(
        self,
        packet: Packet,
        file: LocalFile | None = None,
        *,
        host: str | None = None,
        on_block: OnBlock = lambda offset, length: None,
    ) -> Ack:
        """Say `packet`, to `host` instead of the URL's own if one is given, and return what is answered."""
        where = self.destination.on_host(host)
        override = self.agent.options.override_method

        def headers_of(packet: Packet) -> list[tuple[str, str]]:
            headers = [("Accept", "*/*"), *wire.write_packet(packet)]
            return [*headers, (wire.OVERRIDE, wire.METHOD)] if override else headers

        def send_body(line: Line) -> bool:
            assert isinstance(packet, Fragment)
            assert file is not None, "a fragment needs the file it is of"
            return line.send_body(
                file,
                packet.range.start,
                packet.range.stop,
                block_length=self.block_length,
                on_block=on_block,
            )

        body = send_body if isinstance(packet, Fragment) else None
        method = "POST" if override else wire.METHOD
        # A Ping finishes what NTLM and Negotiate need on a new connection (MC-BUP 2.2.4).
        greeting = headers_of(Ping()) if body is not None else ()
        response = self.agent.request(method, where, headers_of(packet), body, greeting=greeting)
        response.discard()
        self.answered_by = where
        self.refusal = response.refusal
        self.server_is_ours = response.headers.get("server", "").startswith("bitsferry")
        return wire.read_ack(response.status, response.headers)

    def close(self) -> None:
        """Hang up."""
        self.agent.close()
