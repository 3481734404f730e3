"""Request heads, read by llhttp, with the one verb it does not know handed over as POST."""

from __future__ import annotations

import re
from functools import lru_cache

import httptools

from bitsferry.protocol.errors import BitsError, InvalidMessage
from bitsferry.protocol.wire import METHOD

__all__ = ["Head", "HeadReader", "UnknownMethod"]

_VERB = METHOD.encode() + b" "
_PREFIX = len("BITS_")
_END = b"\r\n\r\n"
_BARE_LF = re.compile(rb"(?<!\r)\n")
_FIRST = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_EXPECTS = {"", "100-continue"}
_MOST_HEADERS = 100  # clients send a dozen


@lru_cache(maxsize=256)
def _lower(name: bytes) -> str:
    """A header's name as we keep it; clients send the same dozen all day."""
    return name.decode("latin-1").lower()


class UnknownMethod(BitsError):
    """The request's method is none HTTP knows."""

    status = 501
    hresult = None


class Head:
    """One request head, as llhttp understood it.

    `headers` has lower-case names; repeated ones are joined by commas. `length` is the body's in bytes.
    """

    __slots__ = (
        "_lines",
        "endless",
        "expects_continue",
        "headers",
        "keep_alive",
        "length",
        "method",
        "old",
        "target",
    )

    def __init__(self) -> None:
        self.method = ""
        self.target = ""
        self.headers: dict[str, str] = {}
        self.length = 0
        self.keep_alive = True
        self.old = False  # HTTP/1.0
        self.expects_continue = False
        self.endless = False  # nobody knows where its body ends
        self._lines = 0

    # What llhttp calls while it reads.

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header line."""
        self._lines += 1
        if self._lines > _MOST_HEADERS:
            raise InvalidMessage(f"the request has more than {_MOST_HEADERS} headers")
        key = _lower(name)
        text = value.decode("latin-1")
        if key in self.headers:
            if key in ("host", "content-length"):
                raise InvalidMessage(f"the request has more than one {key}")
            text = f"{self.headers[key]}, {text}"
        self.headers[key] = text


class HeadReader:
    """Finds and reads heads at the beginning of a connection's bytes; `limit` is in bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def take(self, data: bytearray) -> Head | None:
        """Remove a whole head from the front of `data` and return it; None while it is incomplete.

        Raises a BitsError for what is no head; then nothing behind it can be trusted either.
        """
        while data[:2] == b"\r\n":  # RFC 9112 2.2: an empty line before a request is to be ignored
            del data[:2]
        if not data:
            return None
        if data[0] not in _FIRST and data != b"\r":
            raise InvalidMessage("this is no HTTP request (TLS on a plain port?)")
        end = data.find(_END)
        if end < 0 or end + len(_END) > self.limit:
            self._check_beginning(data)
            return None
        raw = bytes(memoryview(data)[: end + len(_END)])
        del data[: len(raw)]
        return read_head(raw)

    def _check_beginning(self, data: bytearray) -> None:
        if len(data) >= self.limit:
            raise InvalidMessage(f"the request's head is longer than {self.limit} bytes")
        if _BARE_LF.search(data):
            raise InvalidMessage("a line of the request's head ends without a carriage return")


def read_head(raw: bytes) -> Head:
    """The head in `raw`, which ends in its empty line. Raises InvalidMessage or UnknownMethod."""
    ours = raw.startswith(_VERB)
    head = Head()
    parser = httptools.HttpRequestParser(head)
    try:
        # llhttp knows a fixed list of methods: BITS_POST is shown to it as POST.
        parser.feed_data(memoryview(raw)[_PREFIX:] if ours else raw)
    except httptools.HttpParserUpgrade:
        pass  # we stay with HTTP/1.1, which a server may
    except httptools.HttpParserCallbackError as error:
        if isinstance(error.__context__, BitsError):
            raise error.__context__ from None
        raise
    except httptools.HttpParserInvalidMethodError:
        raise UnknownMethod from None
    except httptools.HttpParserError as error:
        raise InvalidMessage(f"the request's head is malformed: {error}") from None
    head.method = METHOD if ours else parser.get_method().decode("latin-1")
    _finish(head, parser.get_http_version())
    return head


def _finish(head: Head, version: str) -> None:
    headers = head.headers
    if version not in ("1.0", "1.1"):
        raise InvalidMessage(f"HTTP/{version[:8]} is not spoken here")
    head.old = version == "1.0"
    if "host" not in headers and not head.old:
        raise InvalidMessage("the header Host is missing")
    expectation = headers.get("expect", "").strip().lower()
    if expectation not in _EXPECTS:
        raise _expectation_failed(expectation)
    head.length = int(headers.get("content-length", "0"))
    head.expects_continue = bool(expectation) and not head.old and head.length > 0
    # Where a chunked body ends, or one without a length, we do not know, and guessing is how requests are
    # smuggled: the connection ends with the answer.
    wants_length = head.method in (METHOD, "POST", "PUT", "PATCH")
    head.endless = "transfer-encoding" in headers or (wants_length and "content-length" not in headers)
    # llhttp has forgotten what it knew of this when a message without a body is over.
    wishes = {wish.strip() for wish in headers.get("connection", "").lower().split(",")}
    head.keep_alive = "close" not in wishes and (not head.old or "keep-alive" in wishes) and not head.endless


def _expectation_failed(expectation: str) -> BitsError:
    error = InvalidMessage(f"the expectation {expectation[:60]!r} cannot be met")
    error.status = 417
    return error
