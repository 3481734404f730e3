"""`bitsferry serve`: receives uploads until it is told to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import click

from bitsferry.cli import readers
from bitsferry.cli.logs import start_logging
from bitsferry.cli.privileges import Account
from bitsferry.cli.serving import Serving, errors_told
from bitsferry.cli.settings import Settings, SettingsError, read_settings, read_store, settings_of_folder
from bitsferry.cli.tls import TlsOption, with_certificate
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
    help="Also [::1]:PORT, unix:/path, https://HOST:PORT; port 0: any free one. May be repeated.",
)
@click.option(
    "--tls",
    metavar="CERTIFICATE[,KEY]",
    callback=_read_with(TlsOption.parse),
    help="Speak TLS, by these files; 'self-signed': by a certificate of its own, for trying out.",
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
@click.option(
    "--user",
    "account",
    metavar="NAME[:GROUP]",
    callback=_read_with(Account.parse),
    help="Who to become, from root, when the sockets are open.",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--check-config", is_flag=True, help="Only say whether the settings are right.")
def serve(
    folder: str | None,
    config: str | None,
    listen: tuple[Address, ...],
    tls: TlsOption | None,
    allow_overwrites: bool,
    max_upload_size: int | None,
    store: str | None,
    workers: int | None,
    account: Account | None,
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
        listening = listen or settings.listen
        certified = settings.tls
        if tls is not None and tls.certificate is not None:
            certified = with_certificate(certified, tls.certificate, tls.key)
        secure = [address for address in listening if address.scheme == "https"]
        if secure and certified is None and tls is None:
            raise SettingsError(
                f"{config or folder}: listen: {secure[0]} needs a certificate: "
                "write [tls] with certificate and key, or say --tls"
            )
        return replace(
            settings,
            directories=directories,
            listen=listening,
            tls=certified,
            self_signed=tls is not None and tls.certificate is None,
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
        serving = Serving(read, settings, account, tells_trust=log_format == "text")
        if settings.workers == 1:
            serving.alone()
        else:
            serving.with_workers()
