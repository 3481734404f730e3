"""What the servers of these tests serve; the environment says which folder."""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from bitsferry.server.asgi import AsgiApp, Directory

FOLDER = os.environ["BITSFERRY_TEST_FOLDER"]


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


alone = AsgiApp(
    Directory("/in/", f"{FOLDER}/in", read_back="everybody"),
    store=f"file:{FOLDER}/store",
    shared="BITSFERRY_TEST_SHARED" in os.environ,
)

mounted = Starlette(routes=[Route("/hello", hello), Mount("/files", alone)])
