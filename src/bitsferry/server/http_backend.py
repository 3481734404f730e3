"""Applications reached by HTTP or HTTPS, told of a whole upload by reference or by value (MC-BUP 3.3)."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field, replace
from urllib.parse import urldefrag, urljoin

from bitsferry.protocol.notification import (
    LONGEST_URL,
    Answer,
    ApplicationFailed,
    Later,
    Notification,
    broken,
    read_answer,
    write_notification,
)
from bitsferry.server.backend import Backend, WholeUpload
from bitsferry.server.outgoing import Address, Line, Waits, escaped, too_large
from bitsferry.store.threads import in_thread

__all__ = ["LARGEST_REPLY", "HttpBackend", "Trust", "basic", "bearer"]

LARGEST_REPLY = 1 << 30
_AT_ONCE = 32  # talks with one application; others wait, so that it meets no more than it may stand
_VISIBLE = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom a TLS line trusts, and who we are there; all are paths of PEM files.

    `ca` holds the authorities to trust instead of the system's. `key` may be left out when `certificate`
    holds the key, too.
    """

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None

    def context(self) -> ssl.SSLContext:
        """Raises OSError, SSLError among them, for files that cannot be used."""
        context = ssl.create_default_context(cafile=self.ca)
        # Else some Pythons take a line that was cut for one that ended, and half a reply for a whole one.
        context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
        if self.certificate is not None:
            # An encrypted key must not ask for its password at somebody's terminal.
            context.load_cert_chain(self.certificate, self.key, password=lambda: "")
        return context


def basic(user: str, password: str) -> str:
    """The Authorization of a name and a password (RFC 7617). Raises ValueError for a name that cannot be."""
    if not user or ":" in user or not user.isprintable():
        raise ValueError("a user's name has at least one letter, no colon and no control characters")
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


def bearer(token: str) -> str:
    """The Authorization of a token (RFC 6750). Raises ValueError for a text that can be none."""
    if _VISIBLE.fullmatch(token) is None:
        raise ValueError("a token has visible ASCII characters, no spaces")
    return f"Bearer {token}"


@dataclass(frozen=True)
class HttpBackend(Backend):
    """The application at `url`, an absolute one; the query of an upload's URL is appended to it.

    By reference it hears where the file lies and where its reply belongs. By value the file is the body of
    the POST, and the body of the answer is the reply. Replies have `largest_reply` bytes at most. Redirects
    are not followed. `authorization`, and the certificate of `trust`, are for the origin of `url` only.

    Raises ValueError for a `url` that is none, OSError for files of `trust` that cannot be used.
    """

    url: str
    by_value: bool = False
    authorization: str | None = field(default=None, repr=False)
    trust: Trust = field(default_factory=Trust)
    largest_reply: int = LARGEST_REPLY
    waits: Waits = field(default_factory=Waits)
    _origin: tuple[str, str, int] = field(init=False, repr=False, compare=False)
    _tls: ssl.SSLContext | None = field(init=False, repr=False, compare=False)
    _pool: ThreadPoolExecutor = field(init=False, repr=False, compare=False)
    _room: asyncio.Semaphore = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.url) > LONGEST_URL:
            raise ValueError(f"the URL has {len(self.url)} characters; {LONGEST_URL} are the most")
        address = Address.of(self.url)
        # Threads of its own: an application may take minutes, and the disk's threads must not wait for it.
        mine = {
            "_origin": address.origin,
            "_tls": self.trust.context() if address.scheme == "https" else None,
            "_pool": ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="application"),
            "_room": asyncio.Semaphore(_AT_ONCE),
        }
        for name, value in mine.items():
            object.__setattr__(self, name, value)

    async def tell(self, upload: WholeUpload) -> Answer | Later:
        """See Backend."""
        url = self.url
        if upload.query:
            url += ("&" if "?" in url else "?") + escaped(upload.query)
        about = _about(upload)
        if not self.by_value:
            about = replace(about, request_path=upload.file, response_path=upload.reply)
        return await self._ask("POST", url, about, upload)

    async def ask_again(self, upload: WholeUpload, later: Later) -> Answer | Later:
        """See Backend. An application that knows nothing of the upload any more is told again."""
        if later.location is None:
            return await self.tell(upload)
        try:
            return await self._ask("GET", later.location, _about(upload), upload)
        except ApplicationFailed as error:
            if error.status not in (404, 410):
                raise
        await in_thread(_remove, upload.reply)  # what it may have written before it forgot
        return await self.tell(upload)

    async def _ask(self, method: str, url: str, about: Notification, upload: WholeUpload) -> Answer | Later:
        """What is answered to one request; a reply by value is then where it belongs."""
        address = Address.of(url)
        has_body = self.by_value and method == "POST"
        headers = self._headers(about, address, upload.size if has_body else 0)
        async with self._room:
            with await in_thread(open, upload.file, "rb") if has_body else nullcontext() as body:
                line = await Line.open(address, self._tls_to(address), self.waits, self._pool)
                with closing(line):
                    await line.say(method, headers, body, upload.size)
                    said = read_answer(*await line.hear(), line.who)
                    if isinstance(said, Answer) and said.refusal is None:
                        await self._receive(line, said, upload)
        if isinstance(said, Later) and said.location is not None:
            return replace(said, location=_absolute(said.location, url, line.who))
        return said

    def _tls_to(self, address: Address) -> ssl.SSLContext | None:
        if address.scheme == "http":
            return None
        return self._tls if address.origin == self._origin else Trust(self.trust.ca).context()

    def _headers(self, about: Notification, address: Address, length: int) -> list[tuple[str, bytes]]:
        headers = [(name, os.fsencode(value)) for name, value in write_notification(about)]
        headers.append(("Accept-Encoding", b"identity"))
        if self.authorization is not None and address.origin == self._origin:
            headers.append(("Authorization", self.authorization.encode()))
        return [*headers, ("Content-Length", b"%d" % length), ("Connection", b"close")]

    async def _receive(self, line: Line, said: Answer, upload: WholeUpload) -> None:
        """The rest of an answer. By reference it says nothing, but when it ends the reply is written."""
        if self.by_value and said.static_url is None:
            await line.receive(self.largest_reply, upload.reply)
        else:
            await line.receive(self.largest_reply)
            if await in_thread(_size_of, upload.reply) > self.largest_reply:
                raise too_large(line.who, self.largest_reply)


def _about(upload: WholeUpload) -> Notification:
    return Notification(escaped(upload.url), upload.id)


def _absolute(location: str, asked: str, who: str) -> str:
    """The URL a Location means, in the answer to a request for `asked`."""
    url = urldefrag(urljoin(asked, location)).url
    try:
        Address.of(url)
    except ValueError as error:
        raise broken(who, f"its Location cannot be: {error}") from error
    return url


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _size_of(path: str) -> int:
    with suppress(FileNotFoundError):
        return os.lstat(path).st_size
    return 0
