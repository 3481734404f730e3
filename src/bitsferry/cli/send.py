"""`bitsferry send`: one file to one URL, in the foreground."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import click
from platformdirs import user_state_path

from bitsferry.cli.advice import advise
from bitsferry.cli.display import Display, choose
from bitsferry.cli.quantities import parse_rate
from bitsferry.client import events
from bitsferry.client.destination import Destination
from bitsferry.client.local_file import LocalFile
from bitsferry.client.pace import Limit
from bitsferry.client.places import Places
from bitsferry.client.transfer import Transfer
from bitsferry.client.transport import BLOCK_LENGTH, Credentials, Transport
from bitsferry.protocol.errors import BitsError

__all__ = ["send"]

REFUSED, TRY_AGAIN_LATER, INTERRUPTED = 1, 75, 130

PASSWORD_VARIABLE = "BITSFERRY_PASSWORD"  # noqa: S105 (its name, not its value)
_OURS = ("connection", "content-", "bits-", "expect", "transfer-encoding", "x-http-method-override")


def parse_header(text: str) -> tuple[str, str]:
    """A header as `Name: value`. Raises ValueError for one that cannot be sent with every packet."""
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not name or any(not 32 < ord(letter) < 127 for letter in name):
        raise ValueError(f"{text!r} is no header: write 'Name: value'")
    if name.lower().startswith(_OURS):
        raise ValueError(f"the header {name} belongs to the protocol")
    if len(value) > 4096 or not value.isprintable() or not value.isascii():
        raise ValueError(f"the value of {name} must be at most 4096 printable ASCII characters")
    return name, value


def parse_user(text: str) -> Credentials:
    """`NAME:PASSWORD`, or `NAME` with the password from the environment or from the keyboard."""
    name, colon, password = text.partition(":")
    if not colon:
        if PASSWORD_VARIABLE in os.environ:
            password = os.environ[PASSWORD_VARIABLE]
        elif sys.stdin.isatty():
            password = click.prompt(f"Password of {name}", hide_input=True, err=True)
        else:
            raise ValueError(f"there is no password: set {PASSWORD_VARIABLE}, or write NAME:PASSWORD")
    return Credentials(name, password)


def _parsed(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Make a parser that raises ValueError speak to the person who typed."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return [parse(each) for each in value]
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    return callback


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.argument("url")
@click.option(
    "--user",
    "credentials",
    metavar="NAME[:PASSWORD]",
    callback=_parsed(parse_user),
    help=f"Who sends. Without a password, ${PASSWORD_VARIABLE} has it, or it is asked for.",
)
@click.option(
    "--header",
    "headers",
    metavar="'N: V'",
    multiple=True,
    callback=_parsed(parse_header),
    help="Say this header with every packet.",
)
@click.option("--limit", metavar="RATE", callback=_parsed(parse_rate), help="No faster than this: '2 MB/s'.")
@click.option("--json", "as_json", is_flag=True, help="Tell what happens as JSON, an object a line.")
@click.option("--quiet", is_flag=True, help="Say nothing unless it fails.")
def send(
    file: str,
    url: str,
    credentials: Credentials | None,
    headers: list[tuple[str, str]],
    limit: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Send FILE to URL, the place on a BITS server where it shall be.

    A URL that ends in / names a folder. Interrupted and run again, it goes on where it was.

    Exit codes: 0 done, 1 refused for good, 2 wrong usage, 75 try again later, 130 interrupted.
    """
    try:
        destination = Destination.parse(url, os.path.basename(os.path.abspath(file)))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'URL'") from None
    pace = Limit(limit) if limit else None
    transport = Transport(
        destination,
        headers=headers,
        credentials=credentials,
        block_length=pace.block_length if pace else BLOCK_LENGTH,
    )
    user = credentials.user if credentials else None
    with choose(as_json=as_json, quiet=quiet) as display:
        sys.exit(_send(file, transport, user, pace, display))


def _send(path: str, transport: Transport, user: str | None, limit: Limit | None, display: Display) -> int:
    """Carry the file; the exit code says how it ended."""
    places = Places(str(user_state_path("bitsferry", appauthor=False) / "sends"))
    try:
        with LocalFile(path) as file, places.take(file.path, str(transport.destination)) as place:
            Transfer(file, transport, place, user=user, limit=limit, tell=display.show).run()
    except BitsError as error:
        display.show(events.Failed(events.Error.of(error), error.transient, advise(error, user=user)))
        return TRY_AGAIN_LATER if error.transient else REFUSED
    except KeyboardInterrupt:
        display.show(events.Interrupted())
        return INTERRUPTED
    finally:
        transport.close()
    return 0
