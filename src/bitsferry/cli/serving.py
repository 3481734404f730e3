"""A server's life in its process or processes: made ready, renewed, ended."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace

import click

from bitsferry.cli.settings import Settings, SettingsError
from bitsferry.cli.workers import supervise
from bitsferry.protocol.errors import BitsError
from bitsferry.server.directory import Directories
from bitsferry.server.listeners import ListenError, inherited, notify, open_listeners
from bitsferry.server.running import Server
from bitsferry.store.location import open_store

__all__ = ["Serving", "errors_told"]

logger = logging.getLogger(__name__)

FAILED, USAGE = 1, 2


@contextmanager
def errors_told() -> Iterator[None]:
    """What a person can mend ends the process with a sentence, not with a traceback."""
    try:
        yield
    except (SettingsError, ListenError, BitsError) as error:
        message = error.message if isinstance(error, BitsError) else str(error)
        click.echo(f"bitsferry: {message}", err=True)
        sys.exit(USAGE if isinstance(error, SettingsError) else FAILED)


class Serving:
    """A server's life: opened with settings, renewed by SIGHUP, ended by SIGTERM or SIGINT."""

    def __init__(self, read: Callable[[], Settings], settings: Settings) -> None:
        """`read` reads the settings again. Raises SettingsError and ListenError."""
        _raise_descriptor_limit()
        _make_folders(settings)
        self._read = read
        self._settings = settings
        self._listeners = inherited() or [
            listener for address in settings.listen for listener in open_listeners(address)
        ]

    def alone(self) -> None:
        """Serve in this process."""
        asyncio.run(self._serve(self._ready, self._reload, self._stopping))

    def with_workers(self) -> None:
        """Serve in several processes, and watch them from this one."""

        def stopping() -> None:
            self._stopping()
            for listener in self._listeners:
                listener.close()  # as long as anybody has it open, the system takes connections in

        if not supervise(
            self._settings.workers, self._work, ready=self._ready, reload=self._reload, stopping=stopping
        ):
            sys.exit(FAILED)

    def _work(self, number: int, ready: Callable[[], None], lifeline: int) -> None:
        """Be one of several processes, whose parent talks to the world."""
        with errors_told():
            asyncio.run(
                self._serve(
                    ready, self._read_again, lambda: None, shared=True, tidies=number == 0, lifeline=lifeline
                )
            )

    async def _serve(
        self,
        ready: Callable[[], None],
        reload: Callable[[], bool],
        stopping: Callable[[], None],
        *,
        shared: bool = False,
        tidies: bool = True,
        lifeline: int | None = None,
    ) -> None:
        settings = self._settings
        with closing(open_store(settings.store, settings.durability, shared=shared)) as store:
            server = Server(store, Directories(()), shared=shared, tidies=tidies)
            self._renew(server)
            loop, stop = asyncio.get_running_loop(), asyncio.Event()
            interrupted = False

            def interrupt() -> None:
                nonlocal interrupted
                if interrupted:
                    server.hurry()
                interrupted = True
                stop.set()

            def renew() -> None:
                if reload():
                    self._renew(server)

            loop.add_signal_handler(signal.SIGTERM, stop.set)
            loop.add_signal_handler(signal.SIGINT, interrupt)
            loop.add_signal_handler(signal.SIGHUP, renew)
            if lifeline is not None:
                loop.add_reader(lifeline, stop.set)
            await server.start(self._listeners)
            _calm_the_collector()
            ready()
            await stop.wait()
            if lifeline is not None:
                loop.remove_reader(lifeline)
            stopping()
            await server.stop()
            await _end_of_all_work()

    def _renew(self, server: Server) -> None:
        settings = self._settings
        server.renew(
            Directories(settings.directories),
            limits=settings.limits,
            method_override=settings.method_override,
            header_value_limit=settings.header_value_size,
            cleanup_interval=settings.cleanup_interval,
        )

    def _ready(self) -> None:
        """Say so to whoever waits for it."""
        for listener in self._listeners:
            click.echo(f"listening on {listener.url}")
        sys.stdout.flush()
        notify("READY=1")

    def _stopping(self) -> None:
        notify("STOPPING=1")
        logger.info("stopping")
        for listener in self._listeners:
            listener.withdraw()

    def _reload(self) -> bool:
        """New settings, if they are right; the log says so, or why not."""
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            return self._read_again(tell=True)
        finally:
            notify("READY=1")

    def _read_again(self, *, tell: bool = False) -> bool:
        """Directories and limits may change; listeners, workers and store stay as they are."""
        old = self._settings
        try:
            new = self._read()
            _make_folders(new)
        except SettingsError as error:
            logger.error("the settings stay as they were: %s", error)  # noqa: TRY400, a typo needs no traceback
            return False
        lasting = ("listen", "store", "durability", "workers")
        changed = [name for name in lasting if getattr(new, name) != getattr(old, name)]
        if tell and changed:
            logger.warning("these change with a restart only: %s", ", ".join(changed))
        if tell:
            logger.info("settings read again", extra={"directories": len(new.directories)})
        self._settings = replace(new, **{name: getattr(old, name) for name in lasting})
        return True


async def _end_of_all_work() -> None:
    """Return when no request is at work, those included whose client is gone."""
    working = asyncio.all_tasks() - {asyncio.current_task()}
    if working:
        await asyncio.wait(working)


def _calm_the_collector() -> None:
    """A request leaves no circles behind: looking for them every 700 objects cost 8 % of a small fragment."""
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)


def _make_folders(settings: Settings) -> None:
    """Make the folders of the directories. Raises SettingsError where files cannot be put there."""
    for directory in settings.directories:
        folder = directory.folder
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            reason = "it is no folder" if isinstance(error, FileExistsError) else error.strerror
            raise SettingsError(f"the folder {folder} cannot be used: {reason}") from error
        if directory.upload_enabled and not os.access(folder, os.W_OK | os.X_OK):
            raise SettingsError(
                f"the folder {folder} cannot be used: the server's account may not write there"
            )


def _raise_descriptor_limit() -> None:
    """Thousands of connections and open files need as many descriptors as the system allows."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
