"""A server's certificates, and whose it wants to see: read from files, and again when they change."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

__all__ = ["ServerTls", "Tls", "UnusableTls"]

logger = logging.getLogger(__name__)

_BLOCK = 256 * 1024  # encrypted bytes read from a socket at once
_PAUSE = 2.0  # seconds between two looks at the files

# Forward secrecy only, for TLS 1.2. The last two are all that Windows 8.1 and Server 2012 R2 have for a
# certificate with an RSA key. Those of TLS 1.3 are all good, and OpenSSL's choice.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES+SHA384:ECDHE+AES+SHA256"


class UnusableTls(ValueError):
    """A file cannot be used; the message says which and why, `key` what it was given as."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True, slots=True)
class ServerTls:
    """Who a server is to its clients over TLS, and whether they have to show a certificate, too.

    `certificates` are paths of files in PEM form, each of a certificate, with those of its issuers behind it,
    and of its key, or None where that stands in the same file. A client gets the one that has the name it
    asked for, or the first. `client_certificates` are not asked for, "optional" or "required"; `client_ca`
    are the authorities that may have issued them, `client_crl` the lists of those they revoked. `minimum` is
    the oldest version of TLS that is spoken.

    Raises UnusableTls, which is a ValueError, for what cannot be meant; files are read when a server starts.
    """

    certificates: tuple[tuple[str, str | None], ...]
    client_certificates: Literal["optional", "required"] | None = None
    client_ca: str | None = None
    client_crl: str | None = None
    minimum: Literal["1.2", "1.3"] = "1.2"

    def __post_init__(self) -> None:
        if not self.certificates:
            raise UnusableTls("certificate", "a server needs a certificate")
        if self.client_certificates is None:
            for key in ("client_ca", "client_crl"):
                if getattr(self, key) is not None:
                    raise UnusableTls(
                        key, 'nobody is asked for a certificate: client_certificates is "required" for that'
                    )
        elif self.client_ca is None:
            raise UnusableTls(
                "client_certificates", "client_ca has to say which authorities may have issued them"
            )

    @property
    def files(self) -> tuple[str, ...]:
        """All of them."""
        named = [path for pair in self.certificates for path in pair]
        return tuple(path for path in [*named, self.client_ca, self.client_crl] if path is not None)


_Stamps = tuple[tuple[int, int, int] | None, ...]


class Tls:
    """What new connections shake hands with, never much older than its files.

    `refusals` counts the handshakes that failed, by reason. Raises UnusableTls. Later a file that cannot be
    used changes nothing: what was known before holds, and the log says so.
    """

    def __init__(self, settings: ServerTls) -> None:
        self.block = memoryview(bytearray(_BLOCK))  # what every connection reads into, one at a time
        self.refusals: Counter[str] = Counter()
        self._use(settings)

    def _use(self, settings: ServerTls) -> None:
        self._stamps = _stamps(settings)
        self._failed: tuple[_Stamps, str] | None = None
        self.context = _context(settings)
        self.settings = settings

    def renew(self, settings: ServerTls) -> None:
        """From the next connection on, be like this; running ones stay as they are."""
        if settings is self.settings:
            return  # as at the beginning; who we have become since need not be able to read the files
        try:
            self._use(settings)
        except UnusableTls as error:
            logger.error("TLS stays as it was: %s", error)  # noqa: TRY400, a wrong file needs no traceback

    async def watch(self) -> None:
        """Look at the files every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(_PAUSE)
            await self.look()

    async def look(self) -> None:
        """Use the files if they changed.

        A certificate and its key change one after the other, and do not fit for a moment: what is wrong is
        only told when the next look finds it unchanged.
        """
        settings = self.settings
        stamps = await asyncio.to_thread(_stamps, settings)
        if stamps == self._stamps:
            return
        try:
            context = await asyncio.to_thread(_context, settings)
        except UnusableTls as error:
            if self._failed == (stamps, ""):
                logger.error(  # noqa: TRY400, a wrong file needs no traceback
                    "TLS stays as it was: %s", error
                )
                self._failed = (stamps, str(error))
            elif self._failed != (stamps, str(error)):
                self._failed = (stamps, "")
            return
        if settings is self.settings:
            self.context, self._stamps, self._failed = context, stamps, None
            logger.info("the files for TLS changed; new connections get what is in them now")


def _stamps(settings: ServerTls) -> _Stamps:
    return tuple(map(_stamp, settings.files))


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        figures = os.stat(path)
    except OSError:
        return None
    return figures.st_ino, figures.st_mtime_ns, figures.st_size


def _context(settings: ServerTls) -> ssl.SSLContext:
    """A context for servers, which chooses between the certificates by name. Raises UnusableTls."""
    contexts = [_with_certificate(settings, *pair) for pair in settings.certificates]
    if len(contexts) > 1:
        by_name: dict[str, ssl.SSLContext] = {}
        for context, (certificate, _) in zip(contexts, settings.certificates, strict=True):
            with _reading("certificate", certificate):
                for name in _names(certificate):
                    by_name.setdefault(name, context)

        def choose(line: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            name = (name or "").lower()
            any_in_its_domain = "*." + name.partition(".")[2]
            chosen = by_name.get(name) or by_name.get(any_in_its_domain)
            if chosen is not None:
                line.context = chosen

        contexts[0].sni_callback = choose
    return contexts[0]


def _with_certificate(settings: ServerTls, certificate: str, key: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    newest_only = settings.minimum == "1.3"
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if newest_only else ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    for path in (certificate, key):
        if path is not None:
            _check_readable("certificate" if path == certificate else "key", path)
    with _reading("certificate" if key is None else "key", certificate, key):
        context.load_cert_chain(certificate, key, lambda: _refuse_to_ask(key or certificate))
    if settings.client_certificates is not None:
        _ask_clients(context, settings)
    return context


def _ask_clients(context: ssl.SSLContext, settings: ServerTls) -> None:
    required = settings.client_certificates == "required"
    context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    assert settings.client_ca is not None, "see ServerTls"
    _check_readable("client_ca", settings.client_ca)
    with _reading("client_ca", settings.client_ca):
        context.load_verify_locations(settings.client_ca)
    authorities = context.cert_store_stats()["x509"]
    if not authorities:
        raise UnusableTls("client_ca", f"{settings.client_ca} cannot be used: there is no certificate in it")
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an authority below the root is enough
    if settings.client_crl is not None:
        _check_readable("client_crl", settings.client_crl)
        with _reading("client_crl", settings.client_crl):
            context.load_verify_locations(settings.client_crl)
        there = context.cert_store_stats()
        if not there["crl"] or there["x509"] > authorities:  # that would be trusted from now on
            raise UnusableTls(
                "client_crl",
                f"{settings.client_crl} cannot be used: it must have lists of revoked certificates, "
                "and nothing else",
            )
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _names(certificate: str) -> Iterator[str]:
    """The hosts a certificate is for, in lower case."""
    from cryptography import x509

    with open(certificate, "rb") as file:
        read = x509.load_pem_x509_certificate(file.read())
    try:
        names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        yield from (name.lower() for name in names.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        for attribute in read.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME):
            yield str(attribute.value).lower()


def _refuse_to_ask(path: str) -> str:
    # OpenSSL would ask at the terminal, where there may be nobody.
    raise UnusableTls(
        "key",
        f"the key in {path} is locked by a password: give one that is not, in a file that only the "
        "server's account can read (openssl pkey -in KEY -out KEY2)",
    )


def _check_readable(key: str, path: str) -> None:
    """Python's errors do not say which file."""
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise UnusableTls(key, f"{path} cannot be read: {error.strerror}") from None


@contextmanager
def _reading(key: str, *paths: str | None) -> Iterator[None]:
    shown = " with ".join(path for path in paths if path is not None)
    try:
        yield
    except ssl.SSLError as error:
        why = "what is needed is not in it, in PEM form"
        if error.reason == "KEY_VALUES_MISMATCH":
            why = "the key belongs to another certificate"
        elif error.reason in ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"):
            why = "its key or its signature is too weak to be safe"
        raise UnusableTls(key, f"{shown} cannot be used: {why}") from None
    except OSError as error:
        raise UnusableTls(key, f"{shown} cannot be read: {error.strerror}") from None
    except UnusableTls:
        raise
    except ValueError:
        raise UnusableTls(key, f"{shown} cannot be used: that is not what is in it") from None
