"""`bitsferry send`: files to a BITS server, in the foreground."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from bitsferry.cli.delivery import Delivery
from bitsferry.cli.display import choose
from bitsferry.cli.interrupts import Terminated, exit_code_of, interruptible
from bitsferry.cli.passwords import PROXY_SCHEMES, credential
from bitsferry.cli.quantities import parse_duration, parse_size
from bitsferry.cli.rates import parse_rates
from bitsferry.cli.sources import Found, find
from bitsferry.client.bandwidth import Limit, Timetable
from bitsferry.client.credentials import Scheme, Target
from bitsferry.client.destination import Destination
from bitsferry.client.options import HttpOptions, check_length, parse_header
from bitsferry.client.proxies import ProxySettings, ProxyUsage
from bitsferry.client.sending import PATIENCE, Sender
from bitsferry.client.trust import Ignore, TlsSettings, make_context
from bitsferry.protocol.errors import BitsError
from bitsferry.protocol.upload import SMALLEST_FRAGMENT

__all__ = ["send"]

LARGEST_FRAGMENT = 64 * 1024 * 1024
STANDARD_INPUT = "-"


def _parsed(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Make a parser that raises ValueError speak to the person who typed."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return tuple(parse(each) for each in value)
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    return callback


def _parse_fragment(text: str) -> int:
    length = parse_size(text)
    if not SMALLEST_FRAGMENT <= length <= LARGEST_FRAGMENT:
        raise ValueError("a fragment has 5 KiB to 64 MiB")
    return length


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.argument("url")
@click.option("--recursive", is_flag=True, help="Send what is in folders, too.")
@click.option("--all", "again", is_flag=True, help="Of several files, also those an earlier run sent.")
@click.option("--reply", metavar="FILE", help="Put the server's reply there.")
@click.option("--user", metavar="NAME[:PASSWORD]", help="Who sends. Passwords: $BITSFERRY_PASSWORD.")
@click.option(
    "--auth",
    type=click.Choice([each.value for each in Scheme]),
    help="How to say it; else as the server asks. Tokens: $BITSFERRY_TOKEN.",
)
@click.option(
    "--header",
    "headers",
    metavar="'N: V'",
    multiple=True,
    callback=_parsed(parse_header),
    help="Say this header with every request.",
)
@click.option("--limit", metavar="RATE", callback=_parsed(parse_rates), help="No faster than this: '2 MB/s'.")
@click.option("--background", is_flag=True, help="Make room for whatever else uses the line.")
@click.option(
    "--fragment",
    metavar="SIZE",
    callback=_parsed(_parse_fragment),
    help="The most to send at once, 5 KiB to 64 MiB.",
)
@click.option(
    "--retry-for",
    metavar="TIME",
    default=f"{PATIENCE:.0f} s",
    callback=_parsed(parse_duration),
    help="How long to try without headway; 5 minutes if left out.",
)
@click.option("--proxy", metavar="URL", help="http://HOST:PORT, or none; else as the system says.")
@click.option("--no-proxy", metavar="LIST", help="Hosts to reach without it: *.example.com,10.0.0.0/8")
@click.option("--proxy-user", metavar="NAME[:PASSWORD]", help="For it. $BITSFERRY_PROXY_PASSWORD.")
@click.option("--proxy-auth", type=click.Choice(PROXY_SCHEMES), help="How to say it; else as it asks.")
@click.option("--proxy-tunnel", is_flag=True, help="Ask it for a tunnel for http, too.")
@click.option("--cacert", metavar="FILE", help="Trust these certificates (PEM), too.")
@click.option("--cert", metavar="FILE", help="Our own certificate (PEM), for servers that want one.")
@click.option("--key", metavar="FILE", help="Its key, if that is not in the same file.")
@click.option(
    "--ignore-tls",
    type=click.Choice([each.name.lower() for each in Ignore if each.name]),
    multiple=True,
    help="Overlook this fault of the server's certificate.",
)
@click.option("--post", is_flag=True, help="Hide BITS_POST behind POST, if the network eats it.")
@click.option(
    "--digest/--no-digest",
    default=None,
    help="Say the file's SHA-256, for the server to compare; else to those that do.",
)
@click.option("--json", "as_json", is_flag=True, help="Tell what happens as JSON, an object a line.")
@click.option("--quiet", is_flag=True, help="Say nothing unless it fails.")
def send(
    files: tuple[str, ...],
    url: str,
    *,
    recursive: bool,
    again: bool,
    reply: str | None,
    user: str | None,
    auth: str | None,
    headers: tuple[tuple[str, str], ...],
    limit: Timetable | None,
    background: bool,
    fragment: int | None,
    retry_for: float,
    proxy: str | None,
    no_proxy: str | None,
    proxy_user: str | None,
    proxy_auth: str | None,
    proxy_tunnel: bool,
    cacert: str | None,
    cert: str | None,
    key: str | None,
    ignore_tls: tuple[str, ...],
    post: bool,
    digest: bool | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Send each FILE to URL, the place on a BITS server where it shall be.

    A URL that ends in / names a folder. FILE may be a pattern, with --recursive a folder, or - for
    standard input. Interrupted and run again, it goes on where it was.

    Exit codes: 0 done, 1 refused for good, 2 wrong usage, 75 try again later, 130 interrupted.
    """
    with choose(as_json=as_json, quiet=quiet) as display, interruptible(display.leave):
        delivery = Delivery(display)
        try:
            with _mistakes_told():
                found = _find(files, url, recursive=recursive, reply=reply)
                check_length(headers)
                proxies = _proxy(proxy, no_proxy, tunnel=proxy_tunnel)
                options = HttpOptions(headers, proxies, _tls(cacert, cert, key, ignore_tls), post, digest)
                who = credential(Target.SERVER, user, None if auth is None else Scheme(auth))
                who_to_proxy = credential(
                    Target.PROXY, proxy_user, None if proxy_auth is None else Scheme(proxy_auth)
                )
            delivery.user = None if who is None else who.user
            with Sender(
                credentials=[each for each in (who, who_to_proxy) if each is not None],
                http=options,
                limits=[] if limit is None else [Limit(limit)],
                background=background,
                fragment_limit=fragment,
                patience=retry_for,
                tell=delivery.hear,
            ) as sender:
                if found is None:
                    delivery.send_stream(sender, sys.stdin.buffer, url, reply)
                elif recursive or len(found.parcels) > 1:
                    delivery.send_all(sender, found, url, again=again)
                else:
                    delivery.send_one(sender, found.parcels[0], reply)
            code = delivery.exit_code
        except (
            KeyboardInterrupt,
            Terminated,
            click.Abort,
        ) as end:  # the last one: while it asks for a password
            display.show(delivery.interrupted)
            code = exit_code_of(end)
    sys.exit(code)


@contextmanager
def _mistakes_told() -> Iterator[None]:
    """What is wrong with the arguments ends the command as wrong usage."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except BitsError as error:
        raise click.UsageError(error.message) from None


def _find(files: tuple[str, ...], url: str, *, recursive: bool, reply: str | None) -> Found | None:
    """What shall be sent; None: standard input. Raises ValueError."""
    found = None
    if STANDARD_INPUT not in files:
        found = find(files, url, recursive=recursive)
    elif len(files) > 1:
        raise ValueError("standard input (-) is sent alone")
    elif Destination.parse(url).target.partition("?")[0].endswith("/"):
        raise ValueError(f"{url} names a folder; standard input needs a name, at the end of the URL")
    if reply is not None:
        _check_reply(reply, found)
    return found


def _check_reply(reply: str, found: Found | None) -> None:
    path = os.path.abspath(reply)
    if found is not None and len(found.parcels) != 1:
        raise ValueError("--reply is the reply to one file; there are several")
    if os.path.isdir(path) or not os.path.isdir(os.path.dirname(path)):
        raise ValueError(f"there can be no reply at {reply}: name a file in a folder that exists")
    if found is not None and os.path.exists(path) and os.path.samefile(path, found.parcels[0].path):
        raise ValueError("the reply would take the place of the file that is sent")


def _tls(cacert: str | None, cert: str | None, key: str | None, ignored: tuple[str, ...]) -> TlsSettings:
    ignore = Ignore(0)
    for name in ignored:
        ignore |= Ignore[name.upper()]
    settings = TlsSettings(ca_file=cacert, client_certificate=cert, client_key=key, ignore=ignore)
    if cacert or cert:
        make_context(settings)  # a file that cannot be used is told before anything is sent
    return settings


def _proxy(proxy: str | None, bypass: str | None, *, tunnel: bool) -> ProxySettings:
    if bypass is not None and proxy in (None, "none"):
        raise ValueError("--no-proxy goes with --proxy URL")
    if proxy is None:
        return ProxySettings(tunnel=tunnel)
    if proxy == "none":
        return ProxySettings(ProxyUsage.NO_PROXY)
    return ProxySettings.override(proxy, " ".join(re.split(r"[\s,]+", bypass or "")), tunnel=tunnel)
