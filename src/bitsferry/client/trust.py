"""TLS to a server: whom we trust, who we are, which faults of a certificate we were told to overlook."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntFlag

from bitsferry.protocol.errors import BitsError, Context
from bitsferry.protocol.hresult import HResult

__all__ = ["Ignore", "InvalidTlsSettings", "TlsSettings", "Trust", "make_context", "warnings"]

ATTEMPTS = 5  # at servers that show another certificate each time, as a farm may

_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)  # X509_V_FLAG_NO_CHECK_TIME, which Python has no name for
# X509_V_ERR_*: no chain of certificates leads to one that is trusted.
_UNKNOWN_CA = {2, 18, 19, 20, 21}
_WRONG_USAGE = {26}
# What makes a certificate a "TRUSTED CERTIFICATE" (X509_CERT_AUX): good for serverAuth, whatever it says.
_FOR_SERVERS = bytes.fromhex("300c300a06082b06010505070301")


class InvalidTlsSettings(BitsError):
    """What is set for TLS cannot be used."""

    hresult = HResult.ERROR_WINHTTP_SECURE_FAILURE
    context = Context.GENERAL_TRANSPORT


class Ignore(IntFlag):
    """Faults of a server's certificate that are overlooked, by the numbers of BITS' security flags.

    Each overlooks nothing but its own fault; a certificate with two wants both.
    """

    CN = 0x2
    """It is another host's."""
    DATE = 0x4
    """It, or the list of revoked ones, is not valid yet or not any more."""
    CA = 0x8
    """Nobody we trust has signed it."""
    USAGE = 0x10
    """It is not meant for servers. OpenSSL asks that before it looks at signatures, so that Python cannot
    tell such a certificate from a forged one: this goes together with CA only."""


_NOTHING = Ignore(0)


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """How TLS is spoken; all files are in PEM form.

    `ca_file`: certificates that are trusted besides the system's: a CA's, or a server's own. The key may
    stand in the file of the client's certificate. With `crl_file`, BITS' flag 0x1, a certificate must not be
    in the list of revoked ones. Raises InvalidTlsSettings for USAGE without CA.
    """

    ca_file: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    crl_file: str | None = None
    ignore: Ignore = _NOTHING

    def __post_init__(self) -> None:
        if Ignore.USAGE in self.ignore and Ignore.CA not in self.ignore:
            raise InvalidTlsSettings(
                "a certificate that is not meant for servers cannot be told from a forged one: "
                "'usage' can only be ignored together with 'ca'"
            )
        if self.client_key is not None and self.client_certificate is None:
            raise InvalidTlsSettings("a client's key needs its certificate")


_WARNINGS = {
    Ignore.CN: "the name in the server's certificate is not checked: any host that has one can pose as it",
    Ignore.DATE: "the dates of the server's certificate are not checked: it may have expired",
    Ignore.CA: "nobody vouches for the server's certificate: whoever is on the way can pose as the server",
    Ignore.USAGE: "the server's certificate may be one that is not meant for servers",
}


def warnings(settings: TlsSettings) -> list[str]:
    """A sentence for each fault that is overlooked, to be shown whenever the settings are used."""
    return [sentence for flag, sentence in _WARNINGS.items() if flag in settings.ignore]


def make_context(settings: TlsSettings) -> ssl.SSLContext:
    """A context for clients: TLS 1.2 or newer, HTTP/1.1, trusting what the system trusts.

    The system's are OpenSSL's, SSL_CERT_FILE and SSL_CERT_DIR included, and on Windows those in its store. A
    Python from python.org on macOS has none before its `Install Certificates` was run; Windows may not have
    fetched a rare one yet: give them as `ca_file`. (The `truststore` package asks the system instead, and
    thereby knows none of the faults that `ignore` tells apart.)

    CN and DATE are in it, CA and USAGE need a `Trust`. Raises InvalidTlsSettings.
    """
    context = ssl.create_default_context()
    if settings.ca_file is not None:
        with _reading("CA file", settings.ca_file):
            context.load_verify_locations(settings.ca_file)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a server's own certificate is enough
    _configure(context, settings)
    return context


def _configure(context: ssl.SSLContext, settings: TlsSettings) -> None:
    """All but whom it trusts."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # From 3.13 on Python refuses what companies' CAs and `openssl req -x509` issue, for its form only; here
    # a certificate is as good on every Python, and as good as on Windows.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if Ignore.CN in settings.ignore:
        context.check_hostname = False
    if Ignore.DATE in settings.ignore:
        context.verify_flags |= _NO_CHECK_TIME
    if settings.crl_file is not None:
        with _reading("list of revoked certificates", settings.crl_file):
            context.load_verify_locations(settings.crl_file)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    if settings.client_certificate is not None:
        _load_client_certificate(context, settings.client_certificate, settings.client_key)


class Trust:
    """Handshakes by the same settings; remembers the certificates it was told to accept.

    Where nobody has to vouch for a certificate (CA), the one that is shown is fetched and becomes the only
    one that is trusted for its host; the handshake begins anew. So its name, its dates and its usage are
    checked as those of any other.
    """

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self._context: ssl.SSLContext | None = None
        self._accepted: dict[str, ssl.SSLContext] = {}  # by host
        self._overlooked: set[int] = set()
        if Ignore.CA in settings.ignore:
            self._overlooked |= _UNKNOWN_CA
        if Ignore.USAGE in settings.ignore:
            self._overlooked |= _WRONG_USAGE

    def handshake(
        self,
        connect: Callable[[], socket.socket],
        host: str,
        shake: Callable[[ssl.SSLSocket], None] = ssl.SSLSocket.do_handshake,
    ) -> ssl.SSLSocket:
        """TLS over a connection that `connect` makes; it may be asked for several. `shake` does what is said.

        `host` is the name or address that the certificate must be for. Raises InvalidTlsSettings, what
        `connect` raises, and OSError: as ssl.SSLCertVerificationError where the certificate has a fault.
        """
        if self._context is None:
            self._context = make_context(self._settings)
        for _ in range(ATTEMPTS - 1):
            try:
                return _speak(self._accepted.get(host, self._context), connect(), host, shake)
            except ssl.SSLCertVerificationError as error:
                if error.verify_code not in self._overlooked:
                    raise
            self._accept(self._certificate(connect(), host, shake), host)
        return _speak(self._accepted[host], connect(), host, shake)

    def _certificate(self, sock: socket.socket, host: str, shake: Callable[[ssl.SSLSocket], None]) -> bytes:
        """The certificate that is shown, from a connection that carries nothing else."""
        context = self._bare_context()  # with ours, for who wants one would not show theirs before
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with _speak(context, sock, host, shake) as line:
            shown = line.getpeercert(binary_form=True)
        assert shown is not None, "a server without a certificate has no TLS"
        return shown

    def _accept(self, certificate: bytes, host: str) -> None:
        if host not in self._accepted:
            self._accepted[host] = self._bare_context()
            self._accepted[host].verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if Ignore.USAGE not in self._settings.ignore:
            self._accepted[host].load_verify_locations(cadata=certificate)
            return
        pem = ssl.DER_cert_to_PEM_cert(certificate + _FOR_SERVERS).replace(" CERT", " TRUSTED CERT")
        # Python reads this kind from files only.
        with tempfile.TemporaryDirectory(prefix="bitsferry-") as folder:
            path = os.path.join(folder, "shown.pem")
            with open(path, "w", encoding="ascii") as file:
                file.write(pem)
            self._accepted[host].load_verify_locations(path)

    def _bare_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _configure(context, self._settings)
        return context


def _speak(
    context: ssl.SSLContext, sock: socket.socket, host: str, shake: Callable[[ssl.SSLSocket], None]
) -> ssl.SSLSocket:
    try:
        line = context.wrap_socket(
            sock, server_hostname=host.removesuffix("."), do_handshake_on_connect=False
        )
    except BaseException:
        sock.close()
        raise
    try:
        shake(line)
        return line
    except BaseException:
        line.close()
        raise


def _load_client_certificate(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    def refuse_to_ask() -> str:
        # OpenSSL would ask at the terminal, where there may be nobody.
        raise InvalidTlsSettings(
            f"the key in {key or certificate} is locked by a password: "
            "give one that is not, in a file that only you can read (openssl pkey -in KEY -out KEY2)"
        )

    with _reading("client's certificate", certificate if key is None else f"{certificate} with {key}"):
        context.load_cert_chain(certificate, key, refuse_to_ask)


@contextlib.contextmanager
def _reading(what: str, path: str) -> Iterator[None]:
    """Python's errors do not say which file."""
    try:
        yield
    except ssl.SSLError as error:
        why = "what is needed is not in it, in PEM form"
        if error.reason == "KEY_VALUES_MISMATCH":
            why = "the key belongs to another certificate"
        raise InvalidTlsSettings(f"the {what} {path} cannot be used: {why}") from error
    except OSError as error:
        raise InvalidTlsSettings(f"the {what} {path} cannot be read: {error.strerror}") from error
