"""A request for a file, followed to where the file is."""

from __future__ import annotations

from collections.abc import Sequence

from bitsferry.client.agent import Response, UserAgent
from bitsferry.client.destination import Destination
from bitsferry.protocol.errors import Context, InvalidServerResponse, Refused

__all__ = ["request", "shown"]

MOST = 10
_REDIRECTS = (301, 302, 303, 307, 308)


def request(
    agent: UserAgent, method: str, where: Destination, headers: Sequence[tuple[str, str]], *, ours: bool
) -> Response:
    """The first answer that is no redirect; `method` is GET or HEAD, which no redirect changes.

    Where another origin is named, and from there on, nothing is said that is for the first server only.
    Raises what `UserAgent.request` does, Refused for a way that is too long, goes in a circle or from https
    to http, and InvalidServerResponse for one that leads nowhere.
    """
    start, passed = where, [where]
    while True:
        response = agent.request(method, where, headers, ours=ours)
        if response.status not in _REDIRECTS:
            return response
        response.discard()
        where = _next(response)
        if where in passed:
            raise _refused(response.status, f"{shown(where)} leads back to itself by redirects")
        if len(passed) > MOST:
            raise _refused(response.status, f"{shown(start)} leads on and on: more than {MOST} redirects")
        passed.append(where)
        ours = ours and where.origin == start.origin


def shown(where: Destination) -> str:
    """A URL for people, without its query: there may be a key in it."""
    return str(where).partition("?")[0]


def _next(response: Response) -> Destination:
    here = response.where
    try:
        there = here.relative(response.headers.get("location", ""))
    except ValueError as error:
        raise InvalidServerResponse(f"the redirect at {shown(here)} leads nowhere: {error}") from None
    if here.scheme == "https" and there.scheme != "https":
        raise _refused(
            response.status, f"{shown(here)} leads to {shown(there)}, which is not safe as it is (https)"
        )
    return there


def _refused(status: int, message: str) -> Refused:
    return Refused(message, status=status, hresult=None, context=Context.REMOTE_FILE, transient=False)
