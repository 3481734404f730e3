"""A program that serves as `bitsferry serve` does, again and again, without being loaded each time.

It reads the arguments as a JSON list per line, forks, tells the server's number, and how it ended. Its
janitor rests, and there is one thread for the disk and one for each application, so that a request makes the
same system calls every time.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from bitsferry.cli.serve import serve as bitsferry
from bitsferry.server import http_backend
from bitsferry.server.janitor import Janitor
from bitsferry.store import threads


def main() -> None:
    for arguments in sys.stdin:
        server = os.fork()
        if server == 0:
            serve(json.loads(arguments))
        say(f"pid {server}")
        _, status = os.waitpid(server, 0)
        say(f"ended {os.waitstatus_to_exitcode(status)}")


def serve(arguments: list[str]) -> None:
    threads._pool = ThreadPoolExecutor(1)
    http_backend.ThreadPoolExecutor = one_thread  # type: ignore[attr-defined,assignment]
    Janitor.run = rest  # type: ignore[method-assign,assignment]
    try:
        bitsferry(arguments)
    finally:
        os._exit(1)


def one_thread(most: int, *, thread_name_prefix: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix)


async def rest(janitor: Janitor) -> None:
    await asyncio.Event().wait()


def say(what: str) -> None:
    os.write(1, f"{what}\n".encode())


if __name__ == "__main__":
    main()
