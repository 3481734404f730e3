"""A server inside a Python program."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeVar

from bitsferry.access.fronts import Fronts
from bitsferry.server import running
from bitsferry.server.callable_backend import Function
from bitsferry.server.connections import Limits
from bitsferry.server.directory import Directory
from bitsferry.server.listeners import Address, Listener, open_listeners
from bitsferry.server.plan import Plan
from bitsferry.server.tls import ServerTls, Tls
from bitsferry.store.local import Durability

__all__ = ["Server"]

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Function)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Server:
    """Receives uploads for as long as the program wants: in asyncio, in a thread beside, or as all it does.

    It serves `folder` at `/`, or `directories`. `listen` is an address or several: `"0.0.0.0:8080"`,
    `"[::1]:8080"`, `"unix:/run/ferry"`; port 0 is any free one, which `urls` then tells. Unfinished uploads
    live in `store`, a folder; it may be left out for a single directory, whose folder then holds it, hidden.
    `durability`: what is acknowledged survives a cut of the "power", or only the end of the "process".

    `trusted_proxies` are addresses and networks of proxies that say in X-Forwarded-For who asks, and "unix"
    for those that come through a Unix socket.

    With `tls` it speaks TLS wherever it listens, but at `"http://127.0.0.1:8080"` and at Unix sockets.

    Raises ValueError for what cannot be meant. Nothing is touched before it starts; stopped, it may be
    started again.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        directories: Iterable[Directory] = (),
        listen: str | Iterable[str] = "127.0.0.1:0",
        store: str | os.PathLike[str] | None = None,
        durability: Durability = "power",
        limits: Limits | None = None,
        trusted_proxies: Iterable[str] = (),
        tls: ServerTls | None = None,
    ) -> None:
        served = tuple(directories)
        if (folder is None) == (not served):
            raise ValueError("name a folder to receive into, or directories")
        if folder is not None:
            served = (Directory("/", os.path.abspath(folder)),)
        self._plan = Plan(served, None if store is None else os.fspath(store), durability)
        addresses = (listen,) if isinstance(listen, str) else tuple(listen)
        self._addresses = [Address.parse(address) for address in addresses]
        if tls is None and any(address.scheme == "https" for address in self._addresses):
            raise ValueError("to listen at https:// a server needs a certificate: tls=ServerTls(...)")
        self._tls = tls
        self._limits = limits
        self._fronts = Fronts.of(trusted_proxies)
        self._server: running.Server | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._listeners: list[Listener] = []

    def on_upload(self, url: str = "/", *, keep: bool = True, at_once: int = 32) -> Callable[[F], F]:
        """Let a function answer every upload to `url` and below: a decorator, for plain and async functions.

        It is called with a ReceivedUpload when the last byte is here and safe. What it returns is its reply:
        bytes, the Path of a file, a Reply, or None. It may raise RefuseUpload or TryLater; anything else is a
        failure, after which it is called again when the client tries again. So it is after a crash; then `id`
        tells whether it did its work before. After a success the file appears at its destination, if `keep`.

        A plain function is called in a thread, `at_once` of them side by side. Raises ValueError for a URL
        that is not served or answered already, RuntimeError when the server runs.
        """
        return self._plan.on_upload(url, keep=keep, at_once=at_once)

    @property
    def urls(self) -> tuple[str, ...]:
        """Where it listens, such as `http://127.0.0.1:8080/`; empty while it does not run."""
        return tuple(listener.url for listener in self._listeners)

    # In asyncio

    async def start(self) -> None:
        """Listen; returns at once.

        Raises StoreFailed for folders that cannot be used, UnusableTls, which is a ValueError, for files,
        ListenError, RuntimeError when it runs already.
        """
        store, directories = self._plan.open()
        try:
            tls = None if self._tls is None else Tls(self._tls)
            for address in self._addresses:
                self._listeners += open_listeners(address, has_tls=tls is not None)
            server = running.Server(store, directories, limits=self._limits, fronts=self._fronts, tls=tls)
            await server.start(self._listeners)
        except BaseException:
            self._close_listeners()
            self._plan.close(store)
            raise
        self._server = server
        for url in self.urls:
            logger.info("listening on %s", url)

    async def stop(self) -> None:
        """Let running uploads finish their fragment, for the limits' drain time, and end.

        An async function at work is cancelled then; its upload is told again later. Does nothing when it does
        not run. Whoever is cancelled while waiting does not keep it from ending.
        """
        server, self._server = self._server, None
        if server is not None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop(server))
        if self._stopping is not None:
            # A function that stops its own server is cancelled by that: it must not be what is waited for.
            await asyncio.shield(self._stopping)

    async def _stop(self, server: running.Server) -> None:
        for listener in self._listeners:
            listener.withdraw()
        await server.stop()
        self._close_listeners()
        self._plan.close(server.store)
        self._stopping = None

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # Without asyncio

    def serve_forever(self) -> None:
        """Serve until SIGINT, which is Ctrl-C, or SIGTERM; for the main thread, else it raises RuntimeError.

        A second signal is impatience: running requests are waited for no longer. Raises what `start` does.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("only the main thread hears signals; elsewhere, use running()")
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        try:
            asyncio.run(self._serve_until_told())
        finally:
            for number, handler in before.items():
                if handler is not None:  # else it was set by somebody who is not Python
                    signal.signal(number, handler)

    async def _serve_until_told(self) -> None:
        await self.start()
        loop, server, told = asyncio.get_running_loop(), self._server, asyncio.Event()
        assert server is not None

        def tell() -> None:
            if told.is_set():
                server.hurry()
            told.set()

        for number in _SIGNALS:
            loop.add_signal_handler(number, tell)
        try:
            await told.wait()
        finally:
            await self.stop()

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Serve in a thread until the end of the `with`. Raises what `start` does."""
        started: Future[Callable[[], object]] = Future()
        serving = self._serve_in_thread(started)
        thread = threading.Thread(target=asyncio.run, args=(serving,), name="bitsferry", daemon=True)
        thread.start()
        try:
            stop = started.result()
        except Exception:
            thread.join()
            raise
        try:
            yield self
        finally:
            stop()
            thread.join()

    async def _serve_in_thread(self, started: Future[Callable[[], object]]) -> None:
        loop, told = asyncio.get_running_loop(), asyncio.Event()
        try:
            await self.start()
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(lambda: loop.call_soon_threadsafe(told.set))
        await told.wait()
        await self.stop()
