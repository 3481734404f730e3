"""Files given out again by GET and HEAD, where a directory says so."""

from __future__ import annotations

import mimetypes

from bitsferry.protocol.errors import AccessDenied, BitsError, UnknownUrl
from bitsferry.server.directory import Directories
from bitsferry.server.files import respond_with
from bitsferry.server.request import Request, Response
from bitsferry.store.threads import in_thread

__all__ = ["answer"]


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
    kind, packed = mimetypes.guess_type(place.parts[-1])
    # What is packed goes out as it is: its bytes are not of the kind that is inside.
    return respond_with(descriptor, request, kind if kind and not packed else "application/octet-stream")
