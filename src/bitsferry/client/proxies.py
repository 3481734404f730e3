"""Which proxy the way to a server leads through."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import unquote, urlsplit

from bitsferry.protocol.errors import InvalidProxy

__all__ = ["Proxy", "ProxySettings", "ProxyUsage", "proxy_for"]

LONGEST_LIST = 4000  # characters, as IBackgroundCopyJob::SetProxySettings takes them
DEFAULT_PORT = 80

# [proto=][proto://]host[:port] (Learn, SetProxySettings)
_ENTRY = re.compile(r"(?:(?P<for>[a-z][a-z0-9+.-]*)=)?(?P<url>[^=]+)", re.IGNORECASE)
_HOST = re.compile(r"[^\s/?#@\[\]:*<>=,;\"\\]+")
_LOCAL = "<local>"


class ProxyUsage(StrEnum):
    """Where the proxy is taken from, by the names of BG_JOB_PROXY_USAGE.

    Nothing here can detect one (WPAD) or runs the scripts that choose one (PAC): AUTODETECT is PRECONFIG.
    """

    PRECONFIG = "preconfig"
    NO_PROXY = "no_proxy"
    OVERRIDE = "override"
    AUTODETECT = "autodetect"


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where a proxy listens, for HTTP without TLS; name and password if its URL had them."""

    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """The proxy settings of a job.

    `proxies` and `bypass` are what Windows separates by spaces; they go with OVERRIDE only. A proxy is
    written `[proto=][http://]host[:port]`, where `proto` is the scheme of the URLs it is for; what is passed
    by is a name, `*.example.com`, `.example.com`, an address or network, with or without a port, or `<local>`
    for names without a dot. `tunnel`: ask the proxy for a tunnel (CONNECT) for http too, as always for https.

    Raises InvalidProxy for what Windows or we cannot use.
    """

    usage: ProxyUsage = ProxyUsage.PRECONFIG
    proxies: tuple[str, ...] = ()
    bypass: tuple[str, ...] = ()
    tunnel: bool = False

    def __post_init__(self) -> None:
        if self.usage is not ProxyUsage.OVERRIDE and (self.proxies or self.bypass):
            raise InvalidProxy("a list of proxies, or of hosts to reach without one, goes with OVERRIDE only")
        if self.usage is ProxyUsage.OVERRIDE and not self.proxies:
            raise InvalidProxy("OVERRIDE needs at least one proxy: write HOST:PORT")
        for name, entries in (("proxies", self.proxies), ("hosts to reach without a proxy", self.bypass)):
            if len(" ".join(entries)) > LONGEST_LIST:
                raise InvalidProxy(f"the list of {name} has more than {LONGEST_LIST:,} characters")
        for entry in self.proxies:
            _read_entry(entry)
        for entry in self.bypass:
            if not _can_match(entry):
                raise InvalidProxy(f"{entry!r} is no host: write a name, *.NAME, an address or <local>")

    @classmethod
    def override(cls, proxies: str, bypass: str = "", *, tunnel: bool = False) -> ProxySettings:
        """Read lists as people and Windows write them, separated by spaces. Raises InvalidProxy."""
        return cls(ProxyUsage.OVERRIDE, tuple(proxies.split()), tuple(bypass.split()), tunnel)


def proxy_for(
    settings: ProxySettings, scheme: str, host: str, port: int, environ: Mapping[str, str] = os.environ
) -> Proxy | None:
    """The proxy on the way to `host`, or None for the straight way. Raises InvalidProxy.

    PRECONFIG reads, as curl does, http_proxy, https_proxy, all_proxy and no_proxy in lower or upper case (no
    http_proxy in a CGI script); on Windows and macOS the system's settings where no variable says anything.
    A proxy without a port is taken at 80. `localhost` is a host like any other: who wants it reached
    straight lists it.
    """
    host = host.strip("[]").rstrip(".").lower()
    match settings.usage:
        case ProxyUsage.NO_PROXY:
            return None
        case ProxyUsage.OVERRIDE:
            if any(_matches(entry, host, port) for entry in settings.bypass):
                return None
            return _first_for(scheme, settings.proxies)
    if any(_variable(environ, name) is not None for name in ("http_proxy", "https_proxy", "all_proxy")):
        return _from_environment(scheme, host, port, environ)
    return _from_system(scheme, host)


def _first_for(scheme: str, entries: Iterable[str]) -> Proxy | None:
    """One that is for this scheme goes before one that is for all."""
    read = [_read_entry(entry) for entry in entries]
    return next((proxy for wanted in (scheme, None) for only, proxy in read if only == wanted), None)


def _read_entry(entry: str) -> tuple[str | None, Proxy]:
    """The scheme of the URLs the proxy is for, None for all, and the proxy."""
    parts = _ENTRY.fullmatch(entry)
    if parts is None:
        raise InvalidProxy("a proxy is written HOST:PORT, or http=HOST:PORT for URLs of one scheme")
    proxy = _read_proxy(parts["url"], "the list of proxies")
    if proxy.user is not None or proxy.password is not None:
        raise InvalidProxy("a list of proxies is shown to people: give name and password as credentials")
    return parts["for"] and parts["for"].lower(), proxy


def _read_proxy(url: str, source: str) -> Proxy:
    """Read a proxy's URL; `source` names where it comes from, for it may hold a password and is not shown."""
    if "://" not in url:
        url = "http://" + url
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        readable = _is_address(host) if ":" in host else _HOST.fullmatch(host) is not None
    except ValueError:
        readable = False
    if not readable or parts.path.strip("/") or parts.query or parts.fragment or port == 0:
        raise InvalidProxy(f"a proxy in {source} cannot be read: write http://HOST:PORT")
    if parts.scheme != "http":
        raise InvalidProxy(
            f"{source} names a proxy of {parts.scheme}; only those that speak HTTP without TLS are known here"
        )
    user, password = parts.username, parts.password
    return Proxy(
        host,
        DEFAULT_PORT if port is None else port,
        None if user is None else unquote(user),
        None if password is None else unquote(password),
    )


# The system's proxy


def _from_environment(scheme: str, host: str, port: int, environ: Mapping[str, str]) -> Proxy | None:
    for name in (f"{scheme}_proxy", "all_proxy"):
        url = _variable(environ, name)
        if url is not None:
            break
    if not url:  # empty: no proxy, whatever all_proxy says
        return None
    avoided = re.split(r"[\s,]+", _variable(environ, "no_proxy") or "")
    if any(_matches_in_no_proxy(entry, host, port) for entry in avoided if entry):
        return None
    return _read_proxy(url, name)


def _variable(environ: Mapping[str, str], name: str) -> str | None:
    # In a CGI script HTTP_PROXY is what the header `Proxy` of a request is called.
    if name == "http_proxy" and "REQUEST_METHOD" in environ:
        return None
    value = environ.get(name, environ.get(name.upper()))
    return None if value is None else value.strip()


if sys.platform in ("win32", "darwin"):

    def _from_system(scheme: str, host: str) -> Proxy | None:
        url = urllib.request.getproxies().get(scheme)
        if not url or urllib.request.proxy_bypass(host):
            return None
        return _read_proxy(url, "the system's settings")

else:

    def _from_system(scheme: str, host: str) -> Proxy | None:
        return None


# Which hosts are reached without


def _matches(entry: str, host: str, port: int) -> bool:
    """Whether a bypass list's entry means this host; `*` stands for anything."""
    entry = entry.lower()
    if entry == _LOCAL:
        return "." not in host and ":" not in host
    name, only_port = _split_port(entry)
    if only_port not in (None, port):
        return False
    if (network := _network(name)) is not None:
        return _is_address(host) and ipaddress.ip_address(host) in network
    if name.startswith("."):
        return host.endswith(name)
    return re.fullmatch(".*".join(map(re.escape, name.split("*"))), host) is not None


def _matches_in_no_proxy(entry: str, host: str, port: int) -> bool:
    """As curl: a name means everything under it as well, with or without a dot before it."""
    entry = entry.lower()
    if _matches(entry, host, port):
        return True
    name = entry.removeprefix(".")
    return not _is_address(host) and (_matches(name, host, port) or _matches("." + name, host, port))


def _can_match(entry: str) -> bool:
    if entry.lower() == _LOCAL:
        return True
    name, _ = _split_port(entry)
    return _network(name) is not None or _HOST.fullmatch(name.replace("*", "x")) is not None


def _split_port(entry: str) -> tuple[str, int | None]:
    """`host:port` taken apart; an IPv6 address with a port stands in brackets."""
    parts = re.fullmatch(r"\[(?P<v6>[^\]]*)\](?::(?P<a>\d+))?|(?P<name>[^:]*):(?P<b>\d+)", entry)
    if parts is None:
        return entry, None
    port = parts["a"] or parts["b"]
    return (parts["name"] if parts["v6"] is None else parts["v6"]), None if port is None else int(port)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """An address is a network of one."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
