"""How the server and its application talk about an upload that is whole (MC-BUP 2.2.12, 2.2.13, 3.3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bitsferry.protocol.errors import BitsError, Context, InvalidMessage
from bitsferry.protocol.hresult import HResult, http_error

__all__ = [
    "LONGEST_URL",
    "Answer",
    "ApplicationFailed",
    "Dialogue",
    "Later",
    "Notification",
    "Refusal",
    "broken",
    "read_answer",
    "status_for_client",
    "write_notification",
]

LONGEST_URL = 2200  # characters of a notification URL or a reply URL (MC-BUP 2.2.1.2)
_VALUE_LIMIT = 4096  # bytes of a header's value, as everywhere in this protocol (MC-BUP 2.2.1 <2>)
_HEX = re.compile(r"(?:0x|x)?([0-9a-f]{1,8})", re.IGNORECASE)
_SECONDS = re.compile(r"[0-9]{1,9}")
_ABSOLUTE = re.compile(r"https?://[!-.0-~][!-~]*", re.IGNORECASE)

# What would mean something else to a client that talks to us: it must not log on, shrink its fragments or
# go elsewhere because an application said so. With what it gets instead.
_OURS_ALONE = {401: 502, 407: 502, 411: 400, 413: 400, 416: 400}


@dataclass(frozen=True, slots=True)
class Notification:
    """An upload is whole. By reference both paths are said, by value the file itself is the body.

    `url` is the destination as the client calls it. `key` is the same each time an application is told of
    the same upload.
    """

    url: str
    key: str
    request_path: str | None = None
    response_path: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """An application's last word on an upload: it will not be asked again (Learn, 403)."""

    status: int
    hresult: int
    message: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What an application answered.

    `copy`: the file shall appear at its destination. `static_url`: the reply is there already, for everybody.
    `has_reply`: the store holds one. `refusal`: it wants nothing to do with this upload.
    """

    copy: bool = False
    static_url: str | None = None
    has_reply: bool = False
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Later:
    """The application has taken the upload and works on it: ask again after `seconds`, at `location`."""

    seconds: float | None = None
    location: str | None = None


@dataclass(frozen=True, slots=True)
class Dialogue:
    """How far the talk with the application came; what is here is on disk.

    `since` is when it took the upload and said `later`, in seconds since the epoch.
    """

    answer: Answer | None = None
    later: Later | None = None
    since: float | None = None


class ApplicationFailed(BitsError):
    """The server's application could not answer; the context says so on the wire (MC-BUP 2.2.1.2)."""

    status = 502
    context = Context.REMOTE_APPLICATION
    transient = True

    def __init__(
        self,
        message: str = "",
        *,
        status: int | None = None,
        hresult: int | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        if status is not None:
            self.status = status
        self.hresult = hresult if hresult is not None else http_error(self.status)
        self.transient = not _is_fatal(self.status)


def _is_fatal(status: int) -> bool:
    """Whether a client gives up (Learn, handling-server-application-errors)."""
    if 300 <= status < 400:
        return status in (300, 301, 302, 303, 304, 305, 307)
    if 400 <= status < 500:
        return status not in (408, 409)
    return status in (501, 505)


def status_for_client(status: int) -> int:
    """The status an Ack has when the application said `status`: that one, if it cannot be misunderstood."""
    return _OURS_ALONE.get(status, status) if 300 <= status < 600 else 502


def write_notification(notification: Notification) -> list[tuple[str, str]]:
    """The headers of the POST; Content-Length is the sender's business (MC-BUP 2.2.12.2).

    The names are those on the wire; MC-BUP's table has other ones (spec-notes, C2).
    """
    headers = [("Accept", "*/*"), ("BITS-Original-Request-URL", notification.url)]
    if notification.request_path is not None:
        headers.append(("BITS-Request-DataFile-Name", notification.request_path))
    if notification.response_path is not None:
        headers.append(("BITS-Response-DataFile-Name", notification.response_path))
    return [*headers, ("Idempotency-Key", notification.key), ("User-Agent", "bitsferry")]


def read_answer(
    status: int, headers: Mapping[str, str], who: str = "the server's application"
) -> Answer | Later:
    """What the head of the application's answer says; `headers` has lower-case names.

    Whether there is a reply, the body or the file tells. `who` is what errors call the application. Raises
    ApplicationFailed for an answer that is no success or breaks MC-BUP 2.2.13, InvalidMessage for a reply URL
    that is too long.
    """
    for name, value in headers.items():
        if len(value) > _VALUE_LIMIT:
            raise broken(who, f"its header {name[:60]} is longer than {_VALUE_LIMIT} bytes")
    if status == 202:
        return _read_later(headers, who)
    hresult = _read_hresult(headers)
    if status == 403:
        code = http_error(403) if hresult is None else hresult
        return Answer(refusal=Refusal(403, code, f"{who} refuses this upload"))
    if not 200 <= status < 300:
        raise ApplicationFailed(
            f"{who} answered with HTTP status {status}",
            status=status_for_client(status),
            hresult=http_error(status) if hresult is None else hresult,
            retry_after=_read_seconds(headers),
        )
    url = headers.get("bits-static-response-url", "").strip() or None
    if url is not None:
        _check_static_url(url, who)
    return Answer(copy="bits-copy-file-to-destination" in headers, static_url=url)


def broken(who: str, what: str) -> ApplicationFailed:
    """The error of an application that broke the rules, which may be mended while the client waits.

    MC-BUP 3.3.5.3.2 asks for 411, after which a client gives up for good.
    """
    return ApplicationFailed(f"{who} answered against the rules: {what}", hresult=HResult.E_INVALIDARG)


def _read_later(headers: Mapping[str, str], who: str) -> Later:
    location = headers.get("location", "").strip() or None
    if location is not None and len(location) > LONGEST_URL:
        raise broken(who, f"its Location has {len(location)} characters")
    return Later(_read_seconds(headers), location)


def _check_static_url(url: str, who: str) -> None:
    if len(url) > LONGEST_URL:
        # MC-BUP 2.2.1.2 demands just this answer.
        error = InvalidMessage(f"the reply URL of {who} has {len(url)} characters; {LONGEST_URL} fit")
        error.context = Context.REMOTE_APPLICATION
        raise error
    if _ABSOLUTE.fullmatch(url) is None:
        raise broken(who, "its BITS-Static-Response-URL is no absolute URL")


def _read_hresult(headers: Mapping[str, str]) -> int | None:
    """The application's own number, which goes on to the client; 0 is none.

    Nor is the one by which a server says that it lost a session: clients would send everything again.
    """
    match = _HEX.fullmatch((headers.get("bits-error-code") or headers.get("bits-error") or "").strip())
    number = int(match[1], 16) if match else 0
    return None if number in (0, HResult.BG_E_SESSION_NOT_FOUND) else number


def _read_seconds(headers: Mapping[str, str]) -> int | None:
    text = headers.get("retry-after", "").strip()
    return int(text) if _SECONDS.fullmatch(text) else None
