"""An open file as the answer to a GET or HEAD: whole, or the parts that were asked for."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime

from bitsferry.server.request import FileBody, Request, Response

__all__ = ["respond_with"]

_MOST_RANGES = 100
_SPAN = re.compile(r"(?:([0-9]{1,40})-([0-9]{1,40})?|-([0-9]{1,40}))")
_ETAG = re.compile(r'(?:W/)?"[^"]*"')


def respond_with(descriptor: int, request: Request, kind: str) -> Response:
    """The answer to a GET or HEAD of this file, which is closed when it was sent; `kind` is its Content-Type.

    Conditions are met in the order of RFC 9110 13.2.2. To HEAD the answer is the same without the body, that
    to a part included (MC-BUP 2.3).
    """
    try:
        response = _respond(request, descriptor, kind)
    except BaseException:
        os.close(descriptor)
        raise
    if request.method == "HEAD":
        response.body = None
    if response.body is None:
        os.close(descriptor)
    return response


def _respond(request: Request, descriptor: int, kind: str) -> Response:
    figures = os.fstat(descriptor)
    size, modified = figures.st_size, int(figures.st_mtime)
    etag = f'"{figures.st_ino:x}-{figures.st_mtime_ns:x}-{size:x}"'
    headers = [
        ("Server", "bitsferry"),
        ("Accept-Ranges", "bytes"),
        ("Last-Modified", formatdate(modified, usegmt=True)),
        ("ETag", etag),
        ("X-Content-Type-Options", "nosniff"),
    ]
    status = _condition(request.headers, etag, modified)
    if status == 304:
        return Response(304, headers)
    if status == 412:
        return Response(412, [*headers, ("Content-Length", "0")])
    spans = _spans(request.headers, etag, modified, size)
    if spans is None:
        headers += [("Content-Type", kind), ("Content-Length", str(size))]
        return Response(200, headers, FileBody(descriptor, [range(size)]))
    if not spans:
        return Response(416, [*headers, ("Content-Range", f"bytes */{size}"), ("Content-Length", "0")])
    if len(spans) == 1:
        span = spans[0]
        headers += [
            ("Content-Range", _content_range(span, size)),
            ("Content-Type", kind),
            ("Content-Length", str(len(span))),
        ]
        return Response(206, headers, FileBody(descriptor, list(spans)))
    # Whoever wrote the file must not have known what stands between its parts.
    boundary = os.urandom(16).hex()
    pieces = _multipart(spans, size, kind, boundary)
    headers += [
        ("Content-Type", f"multipart/byteranges; boundary={boundary}"),
        ("Content-Length", str(sum(map(len, pieces)))),
    ]
    return Response(206, headers, FileBody(descriptor, pieces))


# Conditions


def _condition(headers: Mapping[str, str], etag: str, modified: int) -> int | None:
    """The status instead of success, if a condition asks for it; Windows sends If-Unmodified-Since."""
    if "if-match" in headers:
        if headers["if-match"].strip() != "*" and etag not in _ETAG.findall(headers["if-match"]):
            return 412
    elif (date := _date(headers, "if-unmodified-since")) is not None and modified > date:
        return 412
    if "if-none-match" in headers:
        # Here a weak one counts as much as a strong one, and ours are all strong.
        known = [each.removeprefix("W/") for each in _ETAG.findall(headers["if-none-match"])]
        if headers["if-none-match"].strip() == "*" or etag in known:
            return 304
    elif (date := _date(headers, "if-modified-since")) is not None and modified <= date:
        return 304
    return None


def _date(headers: Mapping[str, str], name: str) -> int | None:
    """Seconds since the epoch; None for a header that is not there or no date."""
    try:
        date = parsedate_to_datetime(headers[name])
        return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())
    except (LookupError, ValueError, TypeError, OverflowError):
        return None


# Ranges


def _spans(headers: Mapping[str, str], etag: str, modified: int, size: int) -> list[range] | None:
    """The parts to give out, in the order they were asked for; none of those there are: 416. None: all.

    A Range that is not understood is no Range (RFC 9110 14.2); so is one of nothing, and one of parts that
    are many, or together longer than the file, by which little asking would make much work.
    """
    unit, _, asked = headers.get("range", "").partition("=")
    if unit.strip().lower() != "bytes" or size == 0 or not _is_same(headers, etag, modified):
        return None
    texts = [text for each in asked.split(",") if (text := each.strip())]
    matches = [_SPAN.fullmatch(text) for text in texts[: _MOST_RANGES + 1]]
    if not 0 < len(matches) <= _MOST_RANGES:
        return None
    spans = []
    for match in matches:
        if match is None:
            return None
        first, last, suffix = (None if digits is None else int(digits) for digits in match.groups())
        if first is not None and last is not None and last < first:
            return None
        start = max(0, size - (suffix or 0)) if first is None else first
        stop = size if last is None else min(size, last + 1)
        if start < stop:
            spans.append(range(start, stop))
    return spans if sum(map(len, spans)) <= size else None


def _is_same(headers: Mapping[str, str], etag: str, modified: int) -> bool:
    """If-Range: the parts go with those of the same file only. A weak ETag never is the same."""
    wanted = headers.get("if-range", etag).strip()
    return wanted == etag or (not wanted.endswith('"') and _date(headers, "if-range") == modified)


def _content_range(span: range, size: int) -> str:
    return f"bytes {span.start}-{span.stop - 1}/{size}"


def _multipart(spans: list[range], size: int, kind: str, boundary: str) -> list[bytes | range]:
    """Parts as they were asked for, none merged with another (RFC 9110 14.6, MC-BUP 2.3)."""
    pieces: list[bytes | range] = []
    for span in spans:
        line = "\r\n" if pieces else ""
        head = f"{line}--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: {_content_range(span, size)}"
        pieces += [f"{head}\r\n\r\n".encode("latin-1"), span]
    return [*pieces, f"\r\n--{boundary}--\r\n".encode("latin-1")]
