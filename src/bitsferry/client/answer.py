"""What an answer says of the file it carries, or why it carries none."""

from __future__ import annotations

import re

from bitsferry.client.agent import Response
from bitsferry.client.redirects import shown
from bitsferry.protocol import errors
from bitsferry.protocol.errors import BitsError
from bitsferry.protocol.packets import Ack
from bitsferry.protocol.ranges import LARGEST, ContentRange
from bitsferry.protocol.upload import error_of_ack

__all__ = ["error_of", "length_of", "part_of", "size_of"]

_NUMBER = re.compile(r"[0-9]{1,19}")


def length_of(response: Response) -> int | None:
    """The Content-Length, of HEAD's answer too; None when there is none that counts."""
    length = _number(response, "content-length")
    return None if length is None or length > LARGEST or "transfer-encoding" in response.headers else length


def size_of(response: Response) -> int:
    """The size of a file of which all is sent. Raises MissingFileSize."""
    _check_coding(response)
    size = length_of(response)
    if size is None:
        raise errors.MissingFileSize(f"the server does not say how long {shown(response.where)} is")
    return size


def part_of(response: Response) -> ContentRange:
    """Which part of a file is sent. Raises InvalidServerResponse for anything but one that fits its body."""
    _check_coding(response)
    said = response.headers.get("content-range", "")
    try:
        part = ContentRange.parse(said)
    except errors.InvalidMessage:
        raise errors.InvalidServerResponse(f"the server sent a part it describes by {said[:80]!r}") from None
    if length_of(response) != part.length:
        raise errors.InvalidServerResponse(f"the server sent a part of another length than {said[:80]!r}")
    return part


def _check_coding(response: Response) -> None:
    coding = response.headers.get("content-encoding", "identity").strip()
    if coding.lower() != "identity":
        raise errors.InvalidServerResponse(f"the server encoded the file as {coding[:60]!r}, unasked")


def error_of(response: Response) -> BitsError:
    """What an answer that brings nothing says; there is as much hope as for an upload (MC-BUP 3.1.5)."""
    status, url = response.status, shown(response.where)
    match status:
        case 401:
            return errors.AuthenticationRequired(response.refusal or f"the server asks who wants {url}")
        case 407:
            return errors.ProxyAuthenticationRequired(response.refusal or f"the proxy asks who wants {url}")
        case 403:
            what = f"the server refuses to give out {url}"
        case 404 | 410:
            what = f"the server has no file {url}"
        case _ if status < 300:
            return errors.InvalidServerResponse(
                f"the server answered with HTTP status {status}, not with a file"
            )
        case _:
            what = f"the server does not give out {url} (HTTP status {status})"
    transient = error_of_ack(Ack(status)).transient
    error = (errors.ServerFailed if transient else errors.Refused)(
        what, status=status, hresult=None, context=errors.Context.REMOTE_FILE, transient=transient
    )
    error.retry_after = _number(response, "retry-after")  # a date is left to our own patience
    return error


def _number(response: Response, header: str) -> int | None:
    text = response.headers.get(header, "").strip()
    return int(text) if _NUMBER.fullmatch(text) else None
