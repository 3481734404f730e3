"""`bitsferry serve`: receives uploads until it is told to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import click

from bitsferry.cli import readers
from bitsferry.cli.logs import start_logging
from bitsferry.cli.serving import Serving, errors_told
from bitsferry.cli.settings import Settings, read_settings, read_store, settings_of_folder
from bitsferry.server.listeners import Address

__all__ = ["serve"]


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
    callback=_read_with(readers.largest),
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
    their fragment and ends; SIGHUP reads the settings again. An option overrules the settings, for every
    directory.
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

    with errors_told():
        settings = read()
        if check_config:
            count = len(settings.directories)
            click.echo(f"{config or folder}: fine, {count} director{'y' if count == 1 else 'ies'}")
            return
        start_logging(log_format)
        serving = Serving(read, settings)
        if settings.workers == 1:
            serving.alone()
        else:
            serving.with_workers()
