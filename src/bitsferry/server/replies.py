"""The replies of applications, given out by GET and HEAD to whoever uploaded what they reply to."""

from __future__ import annotations

import re

from bitsferry.access.asker import Asker
from bitsferry.protocol.errors import AccessDenied, SessionNotFound, UnknownUrl
from bitsferry.protocol.session import normal_session_id
from bitsferry.server.directory import Directories, Place
from bitsferry.server.files import respond_with
from bitsferry.server.request import Request, Response
from bitsferry.store.base import Store

__all__ = ["answer", "is_asked_for", "url_of"]

# Below the folder of the destination's URL, so that it is found from there through any proxy and mount. No
# upload can have such a name.
_BELOW = ".bitsferry/replies/"
_PATH = re.compile(r"(.*/)\.bitsferry/replies/([0-9A-Fa-f-]{36})(?:\?.*)?")


def url_of(guid: str, place: Place) -> str:
    """The reply URL an Ack carries: relative to the destination's, or absolute where that is set."""
    base = place.directory.reply_base
    return f"{_BELOW}{guid}" if base is None else f"{base.rstrip('/')}/{_BELOW}{guid}"


def is_asked_for(request: Request) -> bool:
    """Whether the request asks for a reply, by the id of an upload that only its user knows."""
    return _PATH.fullmatch(request.target) is not None


async def answer(directories: Directories, store: Store, request: Request, asker: Asker) -> Response | None:
    """The reply this request asks for; None where it asks for something else.

    Raises UnknownUrl where there is no reply, or not any more, AccessDenied when it is another user's, and
    StoreFailed or Busy when the disk fails: a client must not give up for that.
    """
    match = _PATH.fullmatch(request.target) if request.method in ("GET", "HEAD") else None
    if match is None:
        return None
    directory = directories.of_target(match[1])
    try:
        guid = normal_session_id(match[2])
        session = await store.read(guid)
        place = directories.place_of_path(session.path)
        if session.over or place is None or place.directory is not directory:
            raise UnknownUrl("there is no such reply, or not any more")
        if session.user != asker.user:
            raise AccessDenied("this reply belongs to another user")
        await store.touch(guid)
        descriptor = await store.open_reply(guid)
    except SessionNotFound as error:
        raise UnknownUrl("there is no such reply, or not any more") from error
    return respond_with(descriptor, request, "application/octet-stream")
