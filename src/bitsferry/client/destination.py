"""The URL a file is sent to, taken apart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import quote, urldefrag, urljoin, urlsplit

__all__ = ["Destination"]

# What may stand in a request target as it is; a percent sign is the URL's own encoding (RFC 3986).
_PATH_SAFE = "/%:@!$&'()*+,;=~"
_PORTS = {"http": 80, "https": 443}
LONGEST = 2200  # characters of a URL a server names (MC-BUP 2.2.1.2)


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a file goes; `target` is path and query as they stand in the request line."""

    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, url: str, file_name: str = "") -> Destination:
        """Read a URL; one that ends in `/` names a folder, where `file_name` is the file's name.

        Raises ValueError with a sentence for the person who typed it.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{url!r} is no URL: {error}") from None
        if parts.scheme.lower() not in _PORTS or not parts.hostname:
            raise ValueError(
                f"{url!r} is no URL to send to: write http://HOST/FOLDER/ or https://HOST/FOLDER/"
            )
        if parts.username is not None or parts.password is not None:
            raise ValueError(
                "a URL with a user name in it ends up in logs: give the name with --user instead"
            )
        if parts.fragment or url.endswith("#"):
            raise ValueError(
                "a '#' ends the part of a URL that servers see: write %23 for one in a file's name"
            )
        path = quote(parts.path or "/", safe=_PATH_SAFE)
        if path.endswith("/"):
            path += quote(file_name, safe="", errors="surrogateescape")
        query = "?" + quote(parts.query, safe=_PATH_SAFE + "?") if parts.query else ""
        try:
            host = parts.hostname
            if not host.isascii():
                host = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError(f"{parts.hostname!r} cannot be the name of a host") from None
        scheme = parts.scheme.lower()
        return cls(scheme, host, _PORTS[scheme] if port is None else port, path + query)

    @property
    def authority(self) -> str:
        """The Host header: the port stands there only when it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: what is for one origin is no other's business (RFC 6454)."""
        return self.scheme, self.host.lower(), self.port

    def relative(self, reference: str) -> Destination:
        """Where a server points to from here, by a BITS-Reply-URL or a Location.

        A relative one begins in the folder of this URL. IIS writes `\\` for `/`, and characters no URL may
        have. Raises ValueError with a sentence for what leads nowhere.
        """
        reference = reference.strip(" ")
        if not reference:
            raise ValueError("no URL is given")
        if len(reference) > LONGEST:
            raise ValueError(f"the URL has {len(reference)} characters; {LONGEST} are allowed")
        if any(letter < " " or letter == "\x7f" for letter in reference):
            raise ValueError("the URL has control characters in it")
        path, mark, query = reference.partition("?")
        try:
            url = urldefrag(urljoin(str(self), path.replace("\\", "/") + mark + query)).url
            scheme = urlsplit(url).scheme
            if scheme in _PORTS:
                return Destination.parse(url)
        except ValueError:  # which would say it again, with what may be secret in it
            raise ValueError("the URL is none that can be followed") from None
        raise ValueError(f"a URL that begins with {scheme}: is neither http nor https")

    def on_host(self, host: str | None) -> Destination:
        """The same on the host a BITS-Host-Id names: port, path and query stay (MC-BUP 2.2.3.2)."""
        return self if host is None else replace(self, host=host.strip("[]"))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"
