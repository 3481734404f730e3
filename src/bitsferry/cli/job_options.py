"""The options that say what a job is like, the same wherever a job is made or changed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Callable
from typing import Any, TypeVar

import click

from bitsferry.cli.passwords import PROXY_SCHEMES, credential
from bitsferry.cli.quantities import parse_duration, parse_size
from bitsferry.cli.rates import parse_rates
from bitsferry.client.bandwidth import Timetable
from bitsferry.client.credentials import Credential, Scheme, Target
from bitsferry.client.job import Job, Notify, Priority
from bitsferry.client.options import parse_header
from bitsferry.client.proxies import ProxySettings, ProxyUsage
from bitsferry.client.trust import Ignore, TlsSettings
from bitsferry.protocol.errors import BitsError

__all__ = [
    "NONE",
    "changes",
    "credentials_of",
    "parsed",
    "property_options",
    "read_limit",
    "user_options",
]

NONE = "none"

Command = TypeVar("Command", bound=Callable[..., Any])


def parsed(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Make a parser that raises ValueError speak to the person who typed."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return [parse(each) for each in value]
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    return callback


def property_options(command: Command) -> Command:
    """Give a command all options of `changes`, in their order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def user_options(command: Command) -> Command:
    """Give a command the options that say who is asking, for `credentials_of`."""
    for option in reversed(_USER):
        command = option(command)
    return command


def credentials_of(options: dict[str, Any]) -> list[Credential]:
    """Whom these options mean, which are taken out of `options`. Raises click.UsageError."""
    names = ("user", "auth", "proxy_user", "proxy_auth")
    user, auth, proxy_user, proxy_auth = (options.pop(name) for name in names)
    try:
        found = (
            credential(Target.SERVER, user, None if auth is None else Scheme(auth)),
            credential(Target.PROXY, proxy_user, None if proxy_auth is None else Scheme(proxy_auth)),
        )
    except (ValueError, BitsError) as error:
        raise click.UsageError(_sentence(error)) from None
    return [each for each in found if each is not None]


def changes(options: dict[str, Any], job: Job | None = None) -> dict[str, Any]:
    """The properties these options set, of a new job or of this one; what was not said stays as it is.

    Raises click.UsageError for options that do not go together.
    """
    said = {name: value for name, value in options.items() if value not in (None, [], ())}
    settings = {name: said.pop(name) for name in _PLAIN if name in said}
    for name, nothing in _NOTHING.items():
        if settings.get(name) == NONE:
            settings[name] = nothing
    if "priority" in settings:
        settings["priority"] = Priority[settings["priority"].upper()]
    if "headers" in said:
        settings["headers"] = _headers(said["headers"])
    try:
        if any(name in said for name in ("proxy", "bypass", "tunnel")):
            settings["proxy"] = _proxy(said, job.http.proxy if job else ProxySettings())
        if any(name in said for name in (*_FILES, "ignore")):
            settings["tls"] = _tls(said, job.http.tls if job else TlsSettings())
    except BitsError as error:
        raise click.UsageError(_sentence(error)) from None
    return settings


def read_limit(text: str) -> Timetable | str:
    """A limit, or `none`. Raises ValueError."""
    return NONE if text.strip().lower() == NONE else parse_rates(text)


def _sentence(error: Exception) -> str:
    return error.message if isinstance(error, BitsError) else str(error)


def _headers(said: list[tuple[str, str] | None]) -> tuple[tuple[str, str], ...]:
    if None in said and len(said) > 1:
        raise click.UsageError("--header none takes all headers away: it stands alone")
    return tuple(header for header in said if header is not None)


def _proxy(said: dict[str, Any], before: ProxySettings) -> ProxySettings:
    usage, proxies, bypass = before.usage, before.proxies, before.bypass
    if "proxy" in said:
        usage, proxies = _USAGES.get(said["proxy"], ProxyUsage.OVERRIDE), ()
        if usage is ProxyUsage.OVERRIDE:
            proxies = tuple(said["proxy"].split())
        else:
            bypass = ()
    if "bypass" in said:
        bypass = tuple(word for word in re.split(r"[\s,]+", said["bypass"]) if word not in ("", NONE))
    if bypass and usage is not ProxyUsage.OVERRIDE:
        raise click.UsageError("--no-proxy goes with --proxy URL")
    return ProxySettings(usage, proxies, bypass, said.get("tunnel", before.tunnel))


_USAGES = {NONE: ProxyUsage.NO_PROXY, "system": ProxyUsage.PRECONFIG}

_FILES = {
    "cacert": "ca_file",
    "cert": "client_certificate",
    "key": "client_key",
    "crl": "crl_file",
}


def _tls(said: dict[str, Any], before: TlsSettings) -> TlsSettings:
    values = {name: getattr(before, name) for name in TlsSettings.__slots__}
    for option, name in _FILES.items():
        if option in said:
            values[name] = None if said[option] == NONE else os.path.abspath(said[option])
    if said.get("cert") == NONE:
        values["client_key"] = None
    if "ignore" in said:
        if NONE in said["ignore"] and len(said["ignore"]) > 1:
            raise click.UsageError("--ignore-tls none overlooks nothing: it stands alone")
        values["ignore"] = Ignore(sum(Ignore[fault.upper()] for fault in said["ignore"] if fault != NONE))
    return TlsSettings(**values)


def _parse_header(text: str) -> tuple[str, str] | None:
    return None if text == NONE else parse_header(text)


def _parse_seconds(text: str) -> int:
    return round(parse_duration(text))


def _parse_fragment(text: str) -> int | str:
    return NONE if text == NONE else parse_size(text)


def _parse_flags(text: str) -> Notify:
    """A number as Windows has it, or words."""
    if text.isdecimal():
        return Notify(int(text))
    flags = Notify(0)
    for word in text.split(","):
        name = word.strip().upper().replace("-", "_")
        if name == NONE.upper():
            name = Notify.DISABLE.name or ""
        if name not in Notify.__members__:
            raise ValueError(
                f"{word.strip()!r} is nothing to tell of: write transferred, error, none or Windows' number"
            )
        flags |= Notify[name]
    return flags


def _parse_command(text: str) -> tuple[str, ...] | str:
    """A program and its arguments; a runner may have another PATH, so the program's whole path is kept."""
    if text == NONE:
        return NONE
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.commenters = ""
    if os.name == "nt":
        lexer.escape, lexer.quotes = "", '"'
    words = list(lexer)
    program = shutil.which(words[0]) if words else None
    if program is None:
        raise ValueError(f"there is no program {words[0] if words else text!r} to run")
    return (os.path.abspath(program), *words[1:])


_PLAIN = (
    *("name", "description", "priority", "retry_delay", "no_progress_timeout", "max_download_time"),
    *("notify_flags", "notify_command", "headers_are_write_only", "override_method", "digest", "limit"),
    *("fragment_limit", "reply_path"),
)
_NOTHING: dict[str, object] = {"limit": None, "fragment_limit": None, "notify_command": ()}

_OPTIONS = [
    click.option("--description", metavar="TEXT", help="What it is for."),
    click.option(
        "--priority",
        metavar="LEVEL",
        type=click.Choice([each.name.lower() for each in Priority]),
        help="foreground (these run all at once), high, normal or low.",
    ),
    click.option(
        "--reply",
        "reply_path",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        help="Put the server's reply there.",
    ),
    click.option(
        "--retry-delay",
        metavar="TIME",
        callback=parsed(_parse_seconds),
        help="How long to wait after an error: '10 minutes'.",
    ),
    click.option(
        "--no-progress-timeout",
        metavar="TIME",
        callback=parsed(_parse_seconds),
        help="Give up after so long without headway: '14 days'; 0: after the first error.",
    ),
    click.option(
        "--max-download-time",
        metavar="TIME",
        callback=parsed(_parse_seconds),
        help="How long a download may be under way: '90 days'.",
    ),
    click.option(
        "--notify-flags",
        metavar="WORDS",
        callback=parsed(_parse_flags),
        help="What to tell of: 'transferred,error', none, or Windows' number.",
    ),
    click.option(
        "--notify-command",
        metavar="COMMAND",
        callback=parsed(_parse_command),
        help="Tell it by running this program.",
    ),
    click.option(
        "--limit",
        metavar="RATE",
        callback=parsed(read_limit),
        help="No faster than this: '2 MB/s', or '08:00-18:00 500 KB/s'.",
    ),
    click.option(
        "--fragment",
        "fragment_limit",
        metavar="SIZE",
        callback=parsed(_parse_fragment),
        help="The most to send at once, 5 KiB to 64 MiB.",
    ),
    click.option(
        "--header",
        "headers",
        metavar="'N: V'",
        multiple=True,
        callback=parsed(_parse_header),
        help="Say this header with every request.",
    ),
    click.option(
        "--write-only-headers",
        "headers_are_write_only",
        is_flag=True,
        default=None,
        help="Show the values of headers to nobody any more.",
    ),
    click.option("--proxy", metavar="URL", help="http://HOST:PORT, or none; 'system': as the system says."),
    click.option(
        "--no-proxy", "bypass", metavar="LIST", help="Hosts to reach without it: *.example.com,10.0.0.0/8"
    ),
    click.option(
        "--proxy-tunnel/--no-proxy-tunnel",
        "tunnel",
        default=None,
        help="Ask it for a tunnel for http, too.",
    ),
    click.option("--cacert", metavar="FILE", help="Trust these certificates (PEM), too."),
    click.option("--cert", metavar="FILE", help="Our own certificate (PEM), for servers that want one."),
    click.option("--key", metavar="FILE", help="Its key, if that is not in the same file."),
    click.option("--crl", metavar="FILE", help="Trust none of this list (PEM) of revoked ones."),
    click.option(
        "--ignore-tls",
        "ignore",
        type=click.Choice(["cn", "date", "ca", "usage", NONE]),
        multiple=True,
        help="Overlook this fault of the server's certificate.",
    ),
    click.option(
        "--post/--no-post",
        "override_method",
        default=None,
        help="Hide BITS_POST behind POST, if the network eats it.",
    ),
    click.option(
        "--digest/--no-digest",
        default=None,
        help="Say the file's SHA-256, for the server to compare; else to those that do.",
    ),
]

_USER = [
    click.option("--user", metavar="NAME[:PASSWORD]", help="Who asks. Passwords: $BITSFERRY_PASSWORD."),
    click.option(
        "--auth",
        type=click.Choice([scheme.value for scheme in Scheme]),
        help="How to say it; else as the server asks. Tokens: $BITSFERRY_TOKEN.",
    ),
    click.option("--proxy-user", metavar="NAME[:PASSWORD]", help="For the proxy. $BITSFERRY_PROXY_PASSWORD."),
    click.option(
        "--proxy-auth", type=click.Choice(PROXY_SCHEMES), help="How to say it there; else as it asks."
    ),
]
