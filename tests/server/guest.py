"""A client made of http.client, for servers inside the test's own process."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from http.client import HTTPConnection
from types import TracebackType
from typing import Self
from urllib.parse import quote, urljoin, urlsplit

from .raw import GUID

_names = itertools.count(1)


@dataclass(frozen=True)
class Heard:
    """An answer; `context` is where its error arose."""

    status: int
    context: str | None
    retry_after: str | None
    received: str | None
    reply_url: str | None
    session: str | None
    code: str | None
    body: bytes = b""

    @property
    def is_failure_of_application(self) -> bool:
        """One after which a client comes again (MC-BUP 2.2.1.2)."""
        return self.status >= 500 and self.status not in (501, 505) and self.context == "0x7"

    @property
    def is_wait(self) -> bool:
        """The application is not done yet."""
        return self.status == 503 and self.is_failure_of_application and int(self.retry_after or 0) >= 1


class Guest:
    """One upload of `data` to `target`, over a connection of its own; used in a `with`."""

    def __init__(self, server: str, target: str, data: bytes = b"some bytes", session: str = "") -> None:
        self.url = urljoin(server, quote(target))
        self._data = data
        self._line = HTTPConnection(urlsplit(server).netloc, timeout=20)
        self.session = session

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.close()

    def begin(self) -> None:
        """A session, if there is none yet."""
        if not self.session:
            begun = self.say("Create-Session", BITS_Supported_Protocols=GUID)
            assert begun.status == 200, begun
            self.session = begun.session or ""

    def send(self) -> Heard:
        """All of it in one fragment; said again, the same fragment again."""
        self.begin()
        return self.say("Fragment", self._data, Content_Range=self._range)

    def send_and_hang_up(self) -> None:
        """The same, without waiting for an answer."""
        self.begin()
        self._request("Fragment", self._data, {"Content-Range": self._range})
        self._line.close()

    @property
    def _range(self) -> str:
        return f"bytes 0-{len(self._data) - 1}/{len(self._data)}"

    def close(self) -> Heard:
        return self.say("Close-Session")

    def cancel(self) -> Heard:
        return self.say("Cancel-Session")

    def say(self, kind: str, body: bytes = b"", **headers: str) -> Heard:
        self._request(kind, body, {name.replace("_", "-"): each for name, each in headers.items()})
        return self._answer()

    def fetch(self, reply_url: str | None) -> bytes:
        """The reply."""
        assert reply_url is not None
        self._line.request("GET", urlsplit(urljoin(self.url, reply_url)).path)
        heard = self._answer()
        assert heard.status == 200
        return heard.body

    def _request(self, kind: str, body: bytes, headers: dict[str, str]) -> None:
        fields = {"BITS-Packet-Type": kind} | headers
        if self.session:
            fields["BITS-Session-Id"] = self.session
        self._line.request("BITS_POST", urlsplit(self.url).path, body, fields)

    def _answer(self) -> Heard:
        answer = self._line.getresponse()
        return Heard(
            status=answer.status,
            context=answer.getheader("BITS-Error-Context"),
            retry_after=answer.getheader("Retry-After"),
            received=answer.getheader("BITS-Received-Content-Range"),
            reply_url=answer.getheader("BITS-Reply-URL"),
            session=answer.getheader("BITS-Session-Id"),
            code=answer.getheader("BITS-Error-Code"),
            body=answer.read(),
        )


def fresh(name: str) -> str:
    """A name nobody had before."""
    return f"{name}-{next(_names)}"
