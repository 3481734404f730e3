"""`bitsferry serve`: receives uploads until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Literal

import click

from bitsferry.cli.logs import start_logging
from bitsferry.cli.quantities import parse_size
from bitsferry.cli.settings import Settings, SettingsError, read_settings, settings_of_folder
from bitsferry.cli.workers import supervise
from bitsferry.protocol.errors import BitsError
from bitsferry.server.directory import Directories
from bitsferry.server.listeners import Listener, ListenError, inherited, notify, open_listener
from bitsferry.server.running import Server
from bitsferry.store.location import open_store

__all__ = ["serve"]

logger = logging.getLogger(__name__)


def _size(ctx: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_size(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.argument("folder", required=False)
@click.option("--config", metavar="FILE", help="Settings; see docs/reference/settings.md.")
@click.option(
    "--listen", metavar="HOST:PORT", multiple=True, help="Also [::1]:PORT and unix:/path; port 0: any."
)
@click.option("--allow-overwrites", is_flag=True, help="Let an upload replace a file that is there.")
@click.option(
    "--max-upload-size", metavar="SIZE", callback=_size, help="The largest file taken, such as '10 GB'."
)
@click.option(
    "--store", metavar="URL", help="Where unfinished uploads live, such as file:/var/lib/bitsferry."
)
@click.option(
    "--workers", metavar="N", type=click.IntRange(1, 64), help="How many processes serve (default 1)."
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--check-config", is_flag=True, help="Only say whether the settings are right.")
def serve(
    folder: str | None,
    config: str | None,
    listen: tuple[str, ...],
    allow_overwrites: bool,
    max_upload_size: int | None,
    store: str | None,
    workers: int | None,
    log_format: Literal["text", "json"],
    check_config: bool,
) -> None:
    """Receive what BITS clients upload, into FOLDER, or as --config FILE says.

    Prints a line 'listening on URL' for each address when it is ready. SIGTERM lets running uploads finish
    their fragment and ends; SIGHUP reads the settings again.
    """
    if (folder is None) == (config is None):
        raise click.UsageError("name a FOLDER to receive into, or a settings file with --config FILE")

    def settings() -> Settings:
        read = read_settings(config) if config is not None else settings_of_folder(folder or "")
        directories = tuple(
            replace(
                directory,
                allow_overwrites=directory.allow_overwrites or allow_overwrites,
                max_upload_size=directory.max_upload_size if max_upload_size is None else max_upload_size,
            )
            for directory in read.directories
        )
        return replace(
            read,
            directories=directories,
            listen=listen or read.listen,
            store=store or read.store,
            workers=workers or read.workers,
        )

    try:
        first = settings()
        if check_config:
            click.echo(
                f"{config or folder}: fine, {len(first.directories)} director{_y(len(first.directories))}"
            )
            return
        start_logging(log_format)
        _raise_descriptor_limit()
        _make_folders(first)
        listeners = inherited() or [one for address in first.listen for one in open_listener(address)]
        served = _Served(settings, first, listeners)
        if first.workers == 1:
            served.run()
        else:
            supervise(first.workers, served.run_worker, ready=served.tell_ready)
    except (SettingsError, ListenError, BitsError, ValueError) as error:
        message = error.message if isinstance(error, BitsError) else str(error)
        click.echo(f"bitsferry: {message}", err=True)
        sys.exit(2 if isinstance(error, (SettingsError, ValueError)) else 1)
    for listener in listeners:
        listener.close()


def _y(count: int) -> str:
    return "y" if count == 1 else "ies"


class _Served:
    """What one process serves, with the signals that end and renew it."""

    def __init__(self, settings: Callable[[], Settings], first: Settings, listeners: list[Listener]) -> None:
        self._settings = settings
        self._first = first
        self._listeners = listeners

    def run(self) -> None:
        """Serve as the only process."""
        asyncio.run(self._serve(shared=False, tidies=True, ready=self.tell_ready))

    def run_worker(self, number: int, ready: Callable[[], None]) -> None:
        """Serve as one of several processes."""
        asyncio.run(self._serve(shared=True, tidies=number == 0, ready=ready))

    def tell_ready(self) -> None:
        """Say so to whoever waits for it."""
        for listener in self._listeners:
            click.echo(f"listening on {listener.url}")
        sys.stdout.flush()
        notify("READY=1")

    async def _serve(self, *, shared: bool, tidies: bool, ready: Callable[[], None]) -> None:
        first = self._first
        server = Server(
            open_store(first.store, first.durability, shared=shared),
            Directories(first.directories),
            limits=first.limits,
            shared=shared,
            tidies=tidies,
            method_override=first.method_override,
            header_value_limit=first.header_value_size,
            cleanup_interval=first.cleanup_interval,
        )
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload, server)
        await server.start(self._listeners)
        ready()
        await stop.wait()
        notify("STOPPING=1")
        logger.info("stopping")
        await server.stop()

    def _reload(self, server: Server) -> None:
        """New directories and limits; open sessions, listeners and the store stay as they are."""
        notify("RELOADING=1")
        try:
            new = self._settings()
            _make_folders(new)
        except (SettingsError, BitsError) as error:
            logger.error("the settings stay as they were: %s", error)  # noqa: TRY400, no traceback for a typo
        else:
            server.service.directories = Directories(new.directories)
            server.front.limits = new.limits
            server.janitor.interval = new.cleanup_interval
            if (new.listen, new.store, new.durability) != (
                self._first.listen,
                self._first.store,
                self._first.durability,
            ):
                logger.warning("listen, store and durability change only with a restart")
            logger.info("settings read again", extra={"directories": len(new.directories)})
        notify("READY=1")


def _make_folders(settings: Settings) -> None:
    for directory in settings.directories:
        try:
            os.makedirs(directory.folder, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"the folder {directory.folder} cannot be used: {error.strerror}") from error


def _raise_descriptor_limit() -> None:
    """Thousands of connections and open files need as many descriptors as the system allows."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
