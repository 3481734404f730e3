"""A small text, such as a list of keys, from a web server we trust."""

from __future__ import annotations

import http.client
import ipaddress
import ssl
import time
from urllib.parse import SplitResult, urlsplit

__all__ = ["check_trusted_url", "fetch_text"]

_WAIT = 10.0  # seconds without a byte
_TIME = 20.0  # seconds for the whole body
_LARGEST = 1024 * 1024  # bytes
_BLOCK = 64 * 1024


def check_trusted_url(url: str) -> None:
    """Raises ValueError for a URL from which nothing can be believed; it does not show the URL.

    That is one without https, but on this machine.
    """
    parts = _split(url)
    if parts.scheme == "http" and not _is_here(parts.hostname or ""):
        raise ValueError("what comes by http:// can be changed on the way: write https://")


def fetch_text(url: str) -> str:
    """What is at the URL, which is at most 1 MiB; redirects are not followed.

    Blocks for about half a minute at most; the certificate is checked against the system's authorities, or
    those in SSL_CERT_FILE. Raises OSError, HTTPException, or ValueError for what is no text.
    """
    parts = _split(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        trust = ssl.create_default_context()
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=_WAIT, context=trust
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_WAIT)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request("GET", target, headers={"Accept": "application/json", "User-Agent": "bitsferry"})
        response = connection.getresponse()
        if response.status != 200:
            raise OSError(f"it answered {response.status}")
        return _read(response).decode("utf-8")
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse) -> bytes:
    end = time.monotonic() + _TIME
    body = bytearray()
    while block := response.read1(_BLOCK):
        body += block
        if len(body) > _LARGEST:
            raise OSError(f"it is larger than {_LARGEST} bytes")
        if time.monotonic() > end:
            raise OSError(f"it was not here after {_TIME:.0f} seconds")
    return bytes(body)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("a URL begins with https:// and a host, and has no spaces")
    if "@" in parts.netloc or "#" in url:
        raise ValueError("a URL to fetch from has no name, no password and no '#'")
    return parts


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
