"""What the settings and options of a server say of TLS."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, replace
from typing import Any

from bitsferry.cli import readers
from bitsferry.server.self_signed import SelfSigned
from bitsferry.server.tls import ServerTls, Tls, UnusableTls

__all__ = ["TLS_KEYS", "TlsOption", "WrongTlsError", "read_tls", "with_certificate", "words_of_trust"]

_SELF_SIGNED = "self-signed"

TLS_KEYS: dict[str, readers.Reader] = {
    "certificate": readers.path,
    "key": readers.path,
    "client_certificates": readers.one_of("optional", "required"),
    "client_ca": readers.path,
    "client_crl": readers.path,
    "minimum": readers.one_of("1.2", "1.3"),
}

_OF_EACH = ("certificate", "key")


class WrongTlsError(Exception):
    """What stands at `key` of the table with this number is wrong; no key: the whole table is."""

    def __init__(self, number: int, key: str | None, message: str) -> None:
        super().__init__(message if key is None else f"{key}: {message}")
        self.number = number
        self.key = key


def read_tls(tables: list[dict[str, Any]], folder: str) -> ServerTls:
    """What `[tls]`, or several `[[tls]]`, mean; relative paths are below the folder.

    The files are tried. Raises WrongTlsError.
    """
    for number, table in enumerate(tables):
        if "certificate" not in table:
            raise WrongTlsError(number, None, "this [tls] has no certificate")
        for key in table:
            if number and key not in _OF_EACH:
                raise WrongTlsError(
                    number, key, "it is the same for all names, and belongs into the first [[tls]]"
                )

    def path(table: dict[str, Any], key: str) -> str | None:
        return os.path.join(folder, table[key]) if key in table else None

    first = tables[0]
    others = {key: first[key] for key in ("client_certificates", "minimum") if key in first}
    pairs = [(os.path.join(folder, table["certificate"]), path(table, "key")) for table in tables]
    for number, pair in enumerate(pairs):
        _try(ServerTls((pair,)), number, tables)
    try:
        tls = ServerTls(
            tuple(pairs), client_ca=path(first, "client_ca"), client_crl=path(first, "client_crl"), **others
        )
    except UnusableTls as error:
        raise WrongTlsError(0, error.key, str(error)) from None
    _try(tls, 0, tables)
    return tls


def _try(tls: ServerTls, number: int, tables: list[dict[str, Any]]) -> None:
    try:
        Tls(tls)
    except UnusableTls as error:
        key = error.key if error.key in tables[number] else "certificate"
        raise WrongTlsError(number, key, str(error)) from None


@dataclass(frozen=True, slots=True)
class TlsOption:
    """What follows `--tls`: `self-signed`, or a certificate's file and, behind a comma, its key's."""

    certificate: str | None
    key: str | None = None

    @classmethod
    def parse(cls, text: str) -> TlsOption:
        """Raises ValueError."""
        if text == _SELF_SIGNED:
            return cls(None)
        certificate, comma, key = text.partition(",")
        if not certificate or (comma and not key):
            raise ValueError(f"{text!r} is neither {_SELF_SIGNED!r} nor CERTIFICATE or CERTIFICATE,KEY")
        option = cls(os.path.abspath(certificate), os.path.abspath(key) if key else None)
        Tls(ServerTls(((os.path.abspath(certificate), option.key),)))
        return option


def with_certificate(tls: ServerTls | None, certificate: str, key: str | None) -> ServerTls:
    """The settings with this certificate instead of theirs."""
    pair = (certificate, key)
    return ServerTls((pair,)) if tls is None else replace(tls, certificates=(pair,))


def words_of_trust(own: SelfSigned, urls: list[str]) -> str:
    """How to make others trust a self-signed certificate, to be pasted there."""
    url = next((url for url in urls if url.startswith("https:")), "https://receiver/")
    for every in ("0.0.0.0", "[::]"):  # noqa: S104, it is told, not bound to
        url = url.replace(f"//{every}:", f"//{socket.gethostname()}:")
    return f"""\
The certificate is self-signed, for trying out. Its SHA-256 fingerprint:
  {own.fingerprint}
To trust it on Windows, paste this line into a PowerShell that runs as administrator:
  $f = "$env:TEMP\\bitsferry.cer"; \
[IO.File]::WriteAllBytes($f, [Convert]::FromBase64String('{own.base64}')); \
Import-Certificate -FilePath $f -CertStoreLocation Cert:\\LocalMachine\\Root
To trust nobody any more, there:
  Remove-Item Cert:\\LocalMachine\\Root\\{own.thumbprint}
Elsewhere, with a copy of {own.certificate}:
  bitsferry send FILE {url} --cacert self-signed.pem
  curl --cacert self-signed.pem {url}
"""
