"""Transfers and the queue for asyncio: the same, awaited."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from bitsferry.client import events
from bitsferry.client.bandwidth import Limit
from bitsferry.client.client import Client
from bitsferry.client.credentials import Credentials
from bitsferry.client.fetching import Downloaded, Fetcher
from bitsferry.client.job import Job
from bitsferry.client.options import HttpOptions
from bitsferry.client.sending import PATIENCE, Sender, Uploaded

__all__ = ["AsyncClient", "download_async", "upload_async"]

P = ParamSpec("P")
T = TypeVar("T")

LOOK = 0.1  # seconds between two looks at a job that is waited for


async def upload_async(
    path: str | os.PathLike[str],
    url: str,
    *,
    credentials: Credentials = (),
    http: HttpOptions | None = None,
    reply: str | os.PathLike[str] | None = None,
    limits: Sequence[Limit] = (),
    background: bool = False,
    fragment_limit: int | None = None,
    patience: float = PATIENCE,
    tell: Callable[[events.Event], object] = lambda event: None,
    remember_in: str | None = None,
) -> Uploaded:
    """As `upload`, awaited. `tell` is called in the event loop.

    Cancelled, it ends within a second or so, and not before nothing of it runs any more; another call goes on
    where it was.
    """
    with Sender(
        credentials=credentials,
        http=http,
        limits=limits,
        background=background,
        fragment_limit=fragment_limit,
        patience=patience,
        tell=_in_loop(tell),
        remember_in=remember_in,
    ) as sender:
        return await _in_thread(lambda: sender.send(path, url, reply=reply), sender.stop)


async def download_async(
    url: str,
    path: str | os.PathLike[str],
    *,
    credentials: Credentials = (),
    http: HttpOptions | None = None,
    limits: Sequence[Limit] = (),
    patience: float = PATIENCE,
    tell: Callable[[events.Event], object] = lambda event: None,
    remember_in: str | None = None,
) -> Downloaded:
    """As `download`, awaited; `tell` and cancelling as in `upload_async`."""
    with Fetcher(
        credentials=credentials,
        http=http,
        limits=limits,
        patience=patience,
        tell=_in_loop(tell),
        remember_in=remember_in,
    ) as fetcher:
        return await _in_thread(lambda: fetcher.fetch(url, path), fetcher.stop)


def _awaited(
    method: Callable[Concatenate[Client, P], T],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    @functools.wraps(method)
    async def awaited(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._ask(lambda client: method(client, *args, **kwargs))

    return awaited


class AsyncClient:
    """As `Client`, awaited; to be used in an `async with`."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """`path` is the queue's file; every user has one where the system keeps such things."""
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bitsferry")
        self._client: Client

    async def __aenter__(self) -> AsyncClient:
        opened: list[Client] = []
        try:
            await _settled(self._thread, lambda: opened.append(Client(self._path)))
        except BaseException:
            for client in opened:
                client.close()
            self._thread.shutdown()
            raise
        (self._client,) = opened
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the queue."""
        try:
            await self._ask(Client.close)
        finally:
            self._thread.shutdown()

    create = _awaited(Client.create)
    add = _awaited(Client.add)
    upload = _awaited(Client.upload)
    download = _awaited(Client.download)

    jobs = _awaited(Client.jobs)
    find = _awaited(Client.find)
    get = _awaited(Client.get)
    credentials = _awaited(Client.credentials)

    set = _awaited(Client.set)
    replace_remote_prefix = _awaited(Client.replace_remote_prefix)
    set_credentials = _awaited(Client.set_credentials)
    remove_credentials = _awaited(Client.remove_credentials)
    resume = _awaited(Client.resume)
    suspend = _awaited(Client.suspend)
    complete = _awaited(Client.complete)
    cancel = _awaited(Client.cancel)

    async def runner_is_working(self) -> bool:
        """Whether some process works through this queue just now."""
        return await self._ask(lambda client: client.runner_is_working)

    async def run(self, *jobs: Job | str, on_change: Callable[[Job], object] = lambda job: None) -> None:
        """Work through the queue, or these jobs only, until nothing is left to do.

        Cancelled, it ends within a second or so; what was under way is QUEUED then. `on_change` hears of
        every new state, in the event loop. Raises RunnerWorking when another process does the work.
        """
        stop, tell = threading.Event(), _in_loop(on_change)

        def run() -> None:
            with Client(self._path) as client:
                client.run(*jobs, until=stop.is_set, on_change=tell)

        await _in_thread(run, stop.set)

    async def wait(self, job: Job | str) -> Job:
        """Until the job is TRANSFERRED, in ERROR or over."""
        while True:
            try:
                return await self._ask(lambda client: client.wait(job, timeout=0))
            except TimeoutError:
                await asyncio.sleep(LOOK)

    async def _ask(self, question: Callable[[Client], T]) -> T:
        return await _settled(self._thread, lambda: question(self._client))


def _in_loop(tell: Callable[[T], object]) -> Callable[[T], None]:
    """Whatever thread calls it, `tell` is called in the event loop of now."""
    loop = asyncio.get_running_loop()

    def pass_on(what: T) -> None:
        loop.call_soon_threadsafe(tell, what)

    return pass_on


async def _in_thread(work: Callable[[], T], stop: Callable[[], None]) -> T:
    """The result of `work`, done in a thread of its own: it may take hours, and loops have few."""
    with ThreadPoolExecutor(1, thread_name_prefix="bitsferry") as thread:
        return await _settled(thread, work, stop)


async def _settled(
    thread: ThreadPoolExecutor, work: Callable[[], T], stop: Callable[[], None] = lambda: None
) -> T:
    """The result of `work`. Cancelled, it is told to `stop` and waited for.

    A thread cannot be cancelled. One that nobody waits for would go on sending, or writing, behind the back
    of whoever tries again.
    """
    future = asyncio.get_running_loop().run_in_executor(thread, work)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
            stop()
    if cancelled is not None:
        future.exception()  # seen: nobody is left to hear it
        raise cancelled
    return future.result()
