"""How the requests of a transfer are made: headers of its own, the proxy, TLS, the verb, a digest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from bitsferry.client.proxies import ProxySettings
from bitsferry.client.trust import TlsSettings

__all__ = ["LONGEST_HEADERS", "HttpOptions", "parse_header"]

LONGEST_HEADERS = 16_384  # characters of all custom headers, line ends included (Learn, SetCustomHeaders)
LONGEST_VALUE = 4096  # MC-BUP 2.2.1 <2>
_OURS = ("connection", "content-", "bits-", "expect", "transfer-encoding", "x-http-method-override")


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """What is the same for every request of a transfer. `headers` may hold secrets: they are not shown.

    `override_method`: say POST and X-HTTP-Method-Override, for networks that eat the verb BITS_POST.
    `digest`: say the SHA-256 of a file that is sent (Repr-Digest, RFC 9530), so that the server compares it
    before the file appears; None: to servers that do, as Bitsferry does.
    """

    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    proxy: ProxySettings = field(default_factory=ProxySettings)
    tls: TlsSettings = field(default_factory=TlsSettings)
    override_method: bool = False
    digest: bool | None = None


def parse_header(text: str) -> tuple[str, str]:
    """A header as `Name: value`. Raises ValueError for one that cannot be sent with every packet."""
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not name or any(not 32 < ord(letter) < 127 for letter in name):
        # What stands there may be a secret: it is not said again.
        raise ValueError("this is no header: write 'Name: value'")
    if name.lower().startswith(_OURS):
        raise ValueError(f"the header {name} belongs to the protocol")
    if len(value) > LONGEST_VALUE or not value.isprintable() or not value.isascii():
        raise ValueError(f"the value of {name} must be at most {LONGEST_VALUE} printable ASCII characters")
    return name, value


def check_length(headers: Iterable[tuple[str, str]]) -> None:
    """Raises ValueError when the headers are together longer than BITS allows."""
    length = sum(len(f"{name}: {value}\r\n") for name, value in headers)
    if length > LONGEST_HEADERS:
        raise ValueError(f"the headers have {length} characters together; {LONGEST_HEADERS} are allowed")
