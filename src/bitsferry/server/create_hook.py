"""A program that is asked before an upload begins, which may refuse the file or name it."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from bitsferry.protocol.errors import AccessDenied, Busy, InvalidName
from bitsferry.protocol.notification import ApplicationFailed
from bitsferry.server.event_post import EventPost
from bitsferry.server.names import check_name

__all__ = ["TIMEOUT", "CreateHook"]

TIMEOUT = 10.0  # seconds
_THREADS = 32
_LARGEST = 64 * 1024  # bytes of an answer
_WORDS = 300  # characters of a refusal in the log

# Answers of something that stands in the hook's place: it wants a login, say, or does not know the URL. They
# are no word on the upload, and a wrong 4xx kills a Windows job for good.
_NO_WORD = {401, 404, 405, 407, 408, 421, 425, 429}


class _Said(msgspec.Struct):
    name: str | None = None


@dataclass(frozen=True)
class CreateHook:
    """Asks at `url`, for `timeout` seconds at most. Raises ValueError for a `url` that is none."""

    url: str
    timeout: float = TIMEOUT
    _post: EventPost = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_post", EventPost(self.url, _THREADS))

    async def ask(self, event: bytes) -> str | None:
        """What the file shall be called, None as the client calls it.

        Raises AccessDenied when the hook refuses, Busy when it cannot be asked or makes no sense: the client
        comes again.
        """
        who = f"the create hook at {self._post.address}"
        try:
            status, body = await self._post.send(event, {}, self.timeout, _LARGEST)
        except ApplicationFailed as error:
            raise Busy(f"the create hook cannot be asked: {error.message}") from error
        if 200 <= status < 300:
            return _name(who, body)
        if 400 <= status < 500 and status not in _NO_WORD:
            words = body.decode("utf-8", "replace").strip()[:_WORDS]
            raise AccessDenied(f"{who} refuses the upload with {status}: {words or 'it does not say why'}")
        raise Busy(f"{who} answered with {status}, which says nothing about the upload")


def _name(who: str, body: bytes) -> str | None:
    if not body.strip():
        return None
    try:
        name = msgspec.json.decode(body, type=_Said).name
        if name is not None:
            check_name(name)
            if "/" in name:
                raise InvalidName(f"the name {name!r} has a '/'")
    except InvalidName as error:
        raise Busy(f"{who} wants a name that cannot be: {error.message}") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise Busy(f'{who} answered with a body that is not JSON like {{"name": "other.zip"}}') from error
    return name
