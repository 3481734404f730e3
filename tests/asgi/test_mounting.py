"""Which file a request means, whoever cut the URL's prefix off, or did not."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from bitsferry.protocol.packets import BITS_1_5, CloseSession, CreateSession, Fragment
from bitsferry.protocol.ranges import ContentRange
from bitsferry.server.asgi import AsgiApp, Directory

from .conversation import LOST, Exchange, block, say, speaking

pytestmark = pytest.mark.anyio

CREATE = CreateSession((BITS_1_5,))


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[AsgiApp]:
    app = AsgiApp(Directory("/in/", str(tmp_path)))
    yield app
    await app.stop()


@pytest.mark.parametrize(
    ("path", "raw_path", "root_path"),
    [
        ("/in/a b", b"/in/a%20b", ""),
        ("/in/a b", None, ""),
        pytest.param("/files/in/a b", b"/files/in/a%20b", "/files", id="the path has the prefix"),
        pytest.param("/in/a b", b"/files/in/a%20b", "/files", id="only the raw path has it"),
        pytest.param("/in/a b", b"/in/a%20b", "/files", id="a proxy cut it off"),
        pytest.param("/files/in/a b", None, "/files", id="no raw path"),
        pytest.param("/in/a b", None, "/files", id="no raw path, no prefix"),
        pytest.param("/x/y/in/a b", b"/x/y/in/a%20b", "/x/y/", id="two mounts, a slash behind"),
        pytest.param("/ä ö/in/a b", b"/%C3%A4%20%C3%B6/in/a%20b", "/ä ö", id="escapes"),
        pytest.param("/in/in/a b", b"/in/in/a%20b", "/in", id="a prefix like a directory"),
        pytest.param("/in/a b", b"/in/a%20b?x=y", "", id="a raw path with a query"),
    ],
)
async def test_a_request_means_the_same_file(
    app: AsgiApp, tmp_path: Path, path: str, raw_path: bytes | None, root_path: str
) -> None:
    scope: dict[str, Any] = {"path": path, "raw_path": raw_path, "root_path": root_path}
    session = (await say(app, CREATE, **scope)).session_id
    assert (await say(app, CloseSession(session or ""), **scope)).status == 200
    assert (tmp_path / "a b").exists()


async def test_escapes_are_undone_once(app: AsgiApp, tmp_path: Path) -> None:
    session = (await say(app, CREATE, path="/in/100%20", raw_path=b"/in/100%2520")).session_id
    await say(app, CloseSession(session or ""), path="/in/100%20", raw_path=b"/in/100%2520")
    assert (tmp_path / "100%20").exists()


@pytest.mark.parametrize("raw", [b"/in/..%2Fx", b"/in/%2E%2E/x", b"/in/a%00", b"/in/%FF", b"/in/a%2Fb", b"*"])
async def test_a_path_that_leads_elsewhere_is_refused(app: AsgiApp, raw: bytes) -> None:
    assert (await say(app, CREATE, path="/in/a", raw_path=raw)).status == 400


async def test_a_prefix_is_cut_off_at_a_slash_only(app: AsgiApp) -> None:
    ack = await say(app, CREATE, path="/filesin/a", raw_path=b"/filesin/a", root_path="/files")
    assert ack.status == 404


# Starlette


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "mount-in-asgi.md"


@pytest.mark.parametrize("example", re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
def test_the_examples_of_the_documentation_can_be_run(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(example, {})


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


@pytest.fixture(params=["plain", "behind middleware"])
def host(request: pytest.FixtureRequest, app: AsgiApp) -> Starlette:
    """An application of somebody else's, with ours two mounts below."""
    middleware = [Middleware(BaseHTTPMiddleware, dispatch=pass_on)] if request.param != "plain" else []
    inner = Mount("/b c", app)
    return Starlette(routes=[Route("/hello", hello), Mount("/a", routes=[inner])], middleware=middleware)


async def test_a_file_arrives_through_starlette_beside_another_route(host: Starlette, tmp_path: Path) -> None:
    target = "/a/b%20c/in/caf%C3%A9"
    scope: dict[str, Any] = {"path": "/a/b c/in/café"}
    session = (await say(host, CREATE, target, **scope)).session_id or ""
    ack = await say(host, Fragment(session, ContentRange(0, 3, 3)), target, b"abc", **scope)
    assert (ack.status, ack.received) == (200, 3)
    assert (await say(host, CloseSession(session), target, **scope)).status == 200
    assert (tmp_path / "café").read_bytes() == b"abc"
    other = Exchange(host, "/hello", "GET")
    other.bring(block(b"", more=False))
    await other.run()
    assert other.body == b"hello"


async def test_a_disconnect_comes_through_starlette_and_costs_no_byte(host: Starlette) -> None:
    target = "/a/b%20c/in/file"
    scope: dict[str, Any] = {"path": "/a/b c/in/file"}
    session = (await say(host, CREATE, target, **scope)).session_id or ""
    cut = speaking(host, Fragment(session, ContentRange(0, 1000, 1000)), target, **scope)
    cut.bring(block(b"x" * 300), LOST)
    with suppress(RuntimeError):  # what BaseHTTPMiddleware makes of an application that says nothing
        await cut.run()
    ack = await say(host, Fragment(session, ContentRange(999, 1000, 1000)), target, b"?", **scope)
    assert (ack.status, ack.received) == (416, 300)
