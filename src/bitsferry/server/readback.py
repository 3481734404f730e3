"""Files given out again by GET and HEAD, where a directory says so."""

from __future__ import annotations

import mimetypes
import os
import re
from email.utils import formatdate, parsedate_to_datetime

from bitsferry.protocol.errors import AccessDenied, BitsError, UnknownUrl
from bitsferry.server.directory import Directories
from bitsferry.server.request import FileBody, Request, Response
from bitsferry.store.threads import in_thread

__all__ = ["answer"]

_RANGE = re.compile(r"bytes=(?:([0-9]{1,19})-([0-9]{1,19})?|-([0-9]{1,19}))")


class MethodNotAllowed(BitsError):
    """This server takes BITS_POST; it gives nothing out."""

    status = 405
    hresult = None


async def answer(directories: Directories, request: Request) -> Response:
    """The answer to a request that is no BITS packet.

    Raises AccessDenied where nothing may be read back, UnknownUrl where there is nothing.
    """
    if request.method not in ("GET", "HEAD"):
        refused = MethodNotAllowed()
        return Response(
            refused.status,
            [("Allow", "BITS_POST, GET, HEAD"), ("Content-Length", "0"), ("Server", "bitsferry")],
        )
    directory = directories.of_target(request.target)
    if directory.read_back == "nobody":
        raise AccessDenied("files of this directory may not be read back")
    place = directories.place(request.target)
    try:
        descriptor = await in_thread(place.destination.folder.open_file, place.parts)
    except (BitsError, OSError) as error:
        raise UnknownUrl("there is no such file") from error
    try:
        return _respond(request, descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def _respond(request: Request, descriptor: int) -> Response:
    figures = os.fstat(descriptor)
    size, modified = figures.st_size, int(figures.st_mtime)
    etag = f'"{figures.st_mtime_ns:x}-{size:x}"'
    headers = [
        ("Server", "bitsferry"),
        ("Accept-Ranges", "bytes"),
        ("Last-Modified", formatdate(modified, usegmt=True)),
        ("ETag", etag),
        ("X-Content-Type-Options", "nosniff"),
    ]
    if _is_stale(request, modified):
        os.close(descriptor)
        return Response(412, [*headers, ("Content-Length", "0")])
    start, stop = 0, size
    status = 200
    if (span := request.headers.get("range")) and request.headers.get("if-range", etag) == etag:
        match = _RANGE.fullmatch(span.strip())
        if match is not None:
            start, stop = _span(match, size)
            if start >= stop:
                os.close(descriptor)
                return Response(
                    416, [*headers, ("Content-Range", f"bytes */{size}"), ("Content-Length", "0")]
                )
            status = 206
            headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{size}"))
    kind = mimetypes.guess_type(request.target.split("?")[0])[0] or "application/octet-stream"
    headers += [("Content-Type", kind), ("Content-Length", str(stop - start))]
    if request.method == "HEAD":
        os.close(descriptor)
        return Response(status, headers)
    return Response(status, headers, FileBody(descriptor, start, stop - start))


def _span(match: re.Match[str], size: int) -> tuple[int, int]:
    first, last, suffix = match.groups()
    if suffix is not None:
        return max(0, size - int(suffix)), size
    return int(first), min(size, int(last) + 1 if last else size)


def _is_stale(request: Request, modified: int) -> bool:
    """If-Unmodified-Since, which Windows sends with each part of a download."""
    try:
        return modified > parsedate_to_datetime(request.headers["if-unmodified-since"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return False
