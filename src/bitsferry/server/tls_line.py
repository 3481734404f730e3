"""TLS between a socket and a connection."""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
import time
from contextlib import suppress
from typing import Any, cast

from bitsferry.server.connection import Connection
from bitsferry.server.connections import Connections
from bitsferry.server.tls import Tls

__all__ = ["TlsLine"]

logger = logging.getLogger(__name__)

_HELLO = 16 * 1024  # bytes read at once while hands are shaken
_SLICE = 32 * 1024  # bytes decrypted, or encrypted, at once: OpenSSL keeps as much memory for good

_EMPTY = memoryview(b"")
_EXPIRED = "certificate has expired"

# What OpenSSL calls it, and what that means to somebody who wants it to work.
_REASONS = {
    "HTTP_REQUEST": "that is no TLS; URLs that lead here begin with https://",
    "WRONG_VERSION_NUMBER": "that is no TLS; URLs that lead here begin with https://",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no certificate was shown",
    "TLSV1_ALERT_UNKNOWN_CA": "the client does not trust our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the client does not trust our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the client does not take our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "to the client our certificate has expired",
    "UNSUPPORTED_PROTOCOL": "the client's TLS is too old",
    "NO_SHARED_CIPHER": "the client has no cipher that is safe",
}


class TlsLine(asyncio.Transport, asyncio.BufferedProtocol):
    """To the socket what a connection is, and to the connection above it what a socket is.

    asyncio has one, too. This one keeps no buffer of its own (256 KiB there, for each connection), loses
    nothing of what came before the line broke, says why hands were not shaken, and is one of the
    connections, with a deadline, from its first byte on.
    """

    __slots__ = (
        "_ahead",
        "_all",
        "_choked",
        "_client",
        "_closing",
        "_incoming",
        "_is_told",
        "_line",
        "_outgoing",
        "_over",
        "_paused",
        "_refused",
        "_scheduled",
        "_shaking",
        "_since",
        "_ssl",
        "_tls",
        "_upper",
        "deadline",
    )

    def __init__(self, connections: Connections, tls: Tls) -> None:
        super().__init__()
        self._all = connections
        self._tls = tls
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = tls.context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._upper: Connection | None = None
        self._ahead = _EMPTY  # encrypted bytes that nobody wants yet
        self._shaking = False
        self._refused = False
        self._paused = False  # above; below it is, too
        self._choked = False  # the client does not read: TLS itself has answers to give
        self._scheduled = False
        self._over = False  # the client will send no more
        self._is_told = False
        self._closing = False
        self._client = ""
        self._since = self.deadline = math.inf

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is here; it gets as much time to shake hands as for a head."""
        self._line = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._client = str(peer[0]) if isinstance(peer, tuple) else "?"
        self._since = time.monotonic()
        self.deadline = self._since + self._all.limits.head_time
        refusal = self._all.welcome(self, self._client)
        if refusal is not None:  # to say so would take a handshake, which is more than all else
            logger.warning("%s", refusal, extra={"address": self._client})
            self.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the socket's next bytes go."""
        return self._tls.block[:_HELLO] if self._upper is None else self._tls.block

    def buffer_updated(self, nbytes: int) -> None:
        """The socket's bytes are there."""
        data = self._tls.block[:nbytes]
        if self._upper is not None:
            self._decrypt(data)
        elif not self._refused:
            self._incoming.write(data)
            if self._shaking or self._all.turnstile.lets(self._client):
                self._shake_hands()
            else:
                self._line.pause_reading()
                self._all.turnstile.wait(self._client, self._turn_came)

    def eof_received(self) -> bool:
        """The client will send no more. A body that is cut is told from a whole one by its length."""
        self._over = True
        if self._upper is not None:
            self._tell_end()
        return self._upper is not None and not self._closing

    def connection_lost(self, exc: Exception | None) -> None:
        """The line is gone."""
        self._closing = True
        if self._upper is not None:
            self._upper.connection_lost(exc)
        else:
            self._all.farewell(self, self._client)
        # A connection lives on until the collector comes, which it seldom does; this is what is large.
        del self._ssl, self._incoming, self._outgoing

    def pause_writing(self) -> None:
        """The client does not read, and is not read from until it does."""
        self._choked = True
        self._line.pause_reading()
        if self._upper is not None:
            self._upper.pause_writing()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._choked = False
        if not self._paused and not self._scheduled:
            self._line.resume_reading()
        if self._upper is not None:
            self._upper.resume_writing()

    # Shaking hands

    def _turn_came(self) -> None:
        if not self._closing:
            self._line.resume_reading()
            self._shake_hands()

    def _shake_hands(self) -> None:
        self._shaking = True
        try:
            self._ssl.do_handshake()
            certificate = self._ssl.getpeercert()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._refuse(_reason(error))
            return
        if certificate and _is_over(certificate):
            # OpenSSL does not look at it again when a client goes on with an earlier session.
            self._refuse(_EXPIRED)
            return
        self._flush()
        self._all.farewell(self, self._client)
        self.deadline = math.inf
        self._upper = Connection(self._all)
        self._upper.connection_made(self)
        self._decrypt(_EMPTY)

    def _refuse(self, reason: str) -> None:
        """Send OpenSSL's alert, and read on a little, so that the client sees that and not a reset."""
        self._refused = True
        self._tls.refusals[reason] += 1
        logger.warning(
            "TLS refused: %s",
            reason,
            extra={"address": self._client, "refused": self._tls.refusals[reason]},
        )
        self._flush()
        self.deadline = time.monotonic() + self._all.limits.linger_time
        with suppress(OSError):  # the line broke already; reading will tell
            self._line.write_eof()

    # From the socket to the connection

    def _decrypt(self, data: memoryview) -> None:
        """Hand on what is in these bytes as far as it is wanted, and keep the rest."""
        upper = self._upper
        assert upper is not None
        self._ahead = data
        try:
            while not (self._paused or self._closing):
                block = upper.get_buffer(-1)
                filled = self._fill(block)
                if filled:
                    upper.buffer_updated(filled)
                if filled < len(block):
                    break
        except ssl.SSLError as error:
            logger.info("the line broke: %s", _reason(error), extra={"address": self._client})
            self.abort()
            return
        if self._ahead:
            self._ahead = memoryview(bytes(self._ahead))  # ours goes to the next connection
        self._flush()
        if self._over and not self._paused:
            self._tell_end()

    def _fill(self, block: memoryview) -> int:
        """Decrypt into a block until it is full, or no more is there. Raises ssl.SSLError."""
        filled = 0
        while filled < len(block):
            try:
                count = cast("int", self._ssl.read(len(block) - filled, block[filled:]))
            except ssl.SSLWantReadError:
                if not self._ahead:
                    break
                self._incoming.write(self._ahead[:_SLICE])
                self._ahead = self._ahead[_SLICE:]
                continue
            except ssl.SSLZeroReturnError:
                count = 0
            except ssl.SSLError:
                if filled:
                    break  # what is good is good; the error comes again
                raise
            if not count:
                self._over = True
                break
            filled += count
        return filled

    def _tell_end(self) -> None:
        if self._is_told or self._closing:
            return
        self._is_told = True
        assert self._upper is not None
        if not self._upper.eof_received():
            self.close()

    def _go_on(self) -> None:
        self._scheduled = False
        if self._paused or self._closing:
            return
        self._decrypt(self._ahead)
        if not (self._paused or self._choked or self._closing):
            self._line.resume_reading()

    # The connection calls these

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See asyncio.BaseTransport."""
        if name in ("ssl_object", "peercert"):
            line = getattr(self, "_ssl", None)
            return line if line is None or name == "ssl_object" else line.getpeercert()
        return self._line.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """See asyncio.ReadTransport."""
        self._paused = True
        self._line.pause_reading()

    def resume_reading(self) -> None:
        """See asyncio.ReadTransport."""
        if not self._paused or self._closing:
            return
        self._paused = False
        if not (self._ahead or self._incoming.pending or self._ssl.pending() or self._over):
            if not self._choked:
                self._line.resume_reading()
        elif not self._scheduled:
            self._scheduled = True
            self._all.loop.call_soon(self._go_on)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See asyncio.WriteTransport."""
        if self._closing:
            return
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._ssl.write(rest) :]
                if self._outgoing.pending >= _SLICE:
                    self._flush()
        except ssl.SSLError:
            self.abort()
        self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._line.write(self._outgoing.read())

    def can_write_eof(self) -> bool:
        """There is no half of TLS that could be closed for everybody to understand."""
        return False

    def is_closing(self) -> bool:
        """See asyncio.BaseTransport."""
        return self._closing or self._line.is_closing()

    def close(self) -> None:
        """Say what is written, and goodbye."""
        if self._closing:
            return
        with suppress(ssl.SSLError):  # what the client says to that is not waited for
            self._ssl.unwrap()
        self._flush()
        self._closing = True
        self._line.close()

    def abort(self) -> None:
        """See asyncio.WriteTransport."""
        self._closing = True
        self._line.abort()

    # Whoever keeps all connections calls these, until hands are shaken

    @property
    def waits_since(self) -> float:
        """Since when there is no request, in monotonic seconds."""
        return self._since

    def expire(self) -> None:
        """The deadline is over."""
        self.abort()

    def wind_up(self) -> None:
        """The server ends."""
        self.abort()

    def cut(self) -> None:
        """The server's patience is over."""
        self.abort()

    def drop(self) -> None:
        """No more words."""
        self.abort()


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    reason = error.reason or "no reason is known"
    return _REASONS.get(reason, reason.lower().replace("_", " "))


def _is_over(certificate: dict[str, Any]) -> bool:
    return ssl.cert_time_to_seconds(certificate["notAfter"]) < time.time()
