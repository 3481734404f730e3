"""`bitsferry serve`: receives uploads until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Literal

import click

from bitsferry.cli.logs import start_logging
from bitsferry.cli.settings import (
    Settings,
    SettingsError,
    read_largest,
    read_settings,
    read_store,
    settings_of_folder,
)
from bitsferry.cli.workers import supervise
from bitsferry.protocol.errors import BitsError
from bitsferry.server.directory import Directories
from bitsferry.server.listeners import Address, ListenError, inherited, notify, open_listeners
from bitsferry.server.running import Server
from bitsferry.store.location import open_store

__all__ = ["serve"]

logger = logging.getLogger(__name__)

FAILED, USAGE = 1, 2


def _read_with(read: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Make what reads a setting read an option."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return tuple(read(each) for each in value)
            return None if value is None else read(value)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    return callback


@click.command()
@click.argument("folder", required=False)
@click.option("--config", metavar="FILE", help="Settings; see docs/reference/settings.md.")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    multiple=True,
    callback=_read_with(Address.parse),
    help="Also [::1]:PORT and unix:/path; port 0: any free one. May be repeated.",
)
@click.option("--allow-overwrites", is_flag=True, help="Let an upload replace a file that is there.")
@click.option(
    "--max-upload-size",
    metavar="SIZE",
    callback=_read_with(read_largest),
    help="The largest file taken, such as '10 GB'.",
)
@click.option(
    "--store",
    metavar="URL",
    callback=_read_with(read_store),
    help="Where unfinished uploads live, such as file:/var/lib/bitsferry.",
)
@click.option(
    "--workers", metavar="N", type=click.IntRange(1, 64), help="How many processes serve; 1 if left out."
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--check-config", is_flag=True, help="Only say whether the settings are right.")
def serve(
    folder: str | None,
    config: str | None,
    listen: tuple[Address, ...],
    allow_overwrites: bool,
    max_upload_size: int | None,
    store: str | None,
    workers: int | None,
    log_format: Literal["text", "json"],
    check_config: bool,
) -> None:
    """Receive what BITS clients upload, into FOLDER, or as --config FILE says.

    Prints a line 'listening on URL' for each address when it is ready. SIGTERM lets running uploads finish
    their fragment and ends; SIGHUP reads the settings again. What an option says here counts for every
    directory of the settings, and more than what they say.
    """
    if (folder is None) == (config is None):
        raise click.UsageError("name a FOLDER to receive into, or a settings file with --config FILE")

    def read() -> Settings:
        settings = read_settings(config) if config is not None else settings_of_folder(folder or "")
        directories = tuple(
            replace(
                directory,
                allow_overwrites=directory.allow_overwrites or allow_overwrites,
                max_upload_size=max_upload_size or directory.max_upload_size,
            )
            for directory in settings.directories
        )
        return replace(
            settings,
            directories=directories,
            listen=listen or settings.listen,
            store=store or settings.store,
            workers=workers or settings.workers,
        )

    with _errors_told():
        settings = read()
        if check_config:
            count = len(settings.directories)
            click.echo(f"{config or folder}: fine, {count} director{'y' if count == 1 else 'ies'}")
            return
        start_logging(log_format)
        _raise_descriptor_limit()
        _make_folders(settings)
        serving = _Serving(read, settings)
        if settings.workers == 1:
            serving.alone()
        else:
            serving.with_workers()


@contextmanager
def _errors_told() -> Iterator[None]:
    """What a person can mend ends the process with a sentence, not with a traceback."""
    try:
        yield
    except (SettingsError, ListenError, BitsError) as error:
        message = error.message if isinstance(error, BitsError) else str(error)
        click.echo(f"bitsferry: {message}", err=True)
        sys.exit(USAGE if isinstance(error, SettingsError) else FAILED)


class _Serving:
    """A server's life: opened with settings, renewed by SIGHUP, ended by SIGTERM or SIGINT."""

    def __init__(self, read: Callable[[], Settings], settings: Settings) -> None:
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
        with _errors_told():
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
        store = open_store(self._settings.store, self._settings.durability, shared=shared)
        server = Server(store, Directories(()), shared=shared, tidies=tidies)
        self._renew(server)
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        interrupts = 0

        def interrupt() -> None:
            nonlocal interrupts
            interrupts += 1
            stop.set()
            if interrupts > 1:
                server.hurry()

        def renew() -> None:
            if reload():
                self._renew(server)

        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGINT, interrupt)
        loop.add_signal_handler(signal.SIGHUP, renew)
        if lifeline is not None:
            loop.add_reader(lifeline, stop.set)
        await server.start(self._listeners)
        ready()
        await stop.wait()
        if lifeline is not None:
            loop.remove_reader(lifeline)
        stopping()
        await server.stop()

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
