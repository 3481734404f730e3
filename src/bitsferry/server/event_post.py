"""An event posted to a URL, with what is answered to it."""

from __future__ import annotations

import asyncio
import io
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

from bitsferry.protocol.notification import ApplicationFailed
from bitsferry.server.outgoing import Address, Line, Waits
from bitsferry.server.upload_events import CONTENT_TYPE

__all__ = ["EventPost"]


@dataclass(frozen=True)
class EventPost:
    """Posts to `url`, an absolute one, in `threads` side by side.

    Redirects are not followed. Over https the system's authorities are trusted, or those in SSL_CERT_FILE.
    Raises ValueError for a `url` that is none.
    """

    url: str
    threads: int
    address: Address = field(init=False, repr=False)
    _tls: ssl.SSLContext | None = field(init=False, repr=False, compare=False)
    _pool: ThreadPoolExecutor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        address = Address.of(self.url)
        mine = {
            "address": address,
            "_tls": ssl.create_default_context() if address.scheme == "https" else None,
            "_pool": ThreadPoolExecutor(self.threads, thread_name_prefix="events"),
        }
        for name, value in mine.items():
            object.__setattr__(self, name, value)

    async def send(
        self, event: bytes, headers: dict[str, str], limit: float, largest: int = 0
    ) -> tuple[int, bytes]:
        """The status and the body of the answer; without a `largest` body in bytes, it is not looked at.

        Raises ApplicationFailed when there is no such answer within `limit` seconds.
        """
        try:
            async with asyncio.timeout(limit):
                return await self._send(event, headers, limit, largest)
        except TimeoutError:
            raise ApplicationFailed(f"{self.address} did not answer within {limit:g} s") from None

    async def _send(
        self, event: bytes, headers: dict[str, str], limit: float, largest: int
    ) -> tuple[int, bytes]:
        fields = {
            "Content-Type": CONTENT_TYPE,
            "Content-Length": str(len(event)),
            "Accept-Encoding": "identity",
            "Connection": "close",
            **headers,
        }
        waits = Waits(limit, limit, limit, limit)
        line = await Line.open(self.address, self._tls, waits, self._pool)
        with closing(line):
            spelt = [(name, value.encode("ascii")) for name, value in fields.items()]
            await line.say("POST", spelt, io.BytesIO(event), len(event))
            status, _ = await line.hear()
            return status, await line.read(largest) if largest else b""
