"""A certificate for trying out, which the server makes itself."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["SelfSigned", "names_of_host", "self_signed"]

_CERTIFICATE, _KEY = "self-signed.pem", "self-signed.key"
_VALID = timedelta(days=365)
_RENEWED = timedelta(days=30)  # before its end
_CLOCKS = timedelta(days=1)  # by which a client's clock may be slow


@dataclass(frozen=True, slots=True)
class SelfSigned:
    """Paths of a certificate and its key, in PEM form, and the bytes (DER) by which others may trust it."""

    certificate: str
    key: str
    der: bytes

    @property
    def fingerprint(self) -> str:
        """Its SHA-256, as Windows and OpenSSL show it."""
        return hashlib.sha256(self.der).digest().hex(":").upper()

    @property
    def thumbprint(self) -> str:
        """What Windows finds it by, its SHA-1."""
        return hashlib.sha1(self.der, usedforsecurity=False).hexdigest().upper()

    @property
    def base64(self) -> str:
        """The certificate in a line."""
        return base64.b64encode(self.der).decode("ascii")


def self_signed(folder: str, names: Iterable[str]) -> SelfSigned:
    """The certificate in `folder`, for hosts and addresses of these `names`; made if there is none that fits.

    It is a server's own and no authority's: whoever trusts it trusts this server, and no other certificate.
    Only the folder's owner can read the files. Raises OSError.
    """
    certificate, key = (os.path.join(folder, name) for name in (_CERTIFICATE, _KEY))
    wanted = sorted({name.lower() for name in names})
    der = _kept(certificate, key, wanted)
    if der is None:
        der = _make(certificate, key, wanted)
    return SelfSigned(certificate, key, der)


def names_of_host(listening: Iterable[str]) -> set[str]:
    """What clients may call this machine: its names and addresses, and the hosts it listens at."""
    names = {"localhost", "127.0.0.1", "::1", socket.gethostname()}
    names |= {host.partition("%")[0] for host in listening if host not in ("", "0.0.0.0", "::")}  # noqa: S104
    with suppress(OSError):
        names |= {
            str(each[4][0]).partition("%")[0] for each in socket.getaddrinfo(socket.gethostname(), None)
        }
    # The address others see us at, by asking for a way to one of theirs; nothing is sent.
    for family, other in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((other, 9))
            names.add(str(probe.getsockname()[0]))
    return names


def _kept(certificate: str, key: str, wanted: list[str]) -> bytes | None:
    """The certificate that is there, if it fits its key, will last, and has all the names."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    try:
        with open(certificate, "rb") as file:
            there = x509.load_pem_x509_certificate(file.read())
        with open(key, "rb") as file:
            public = load_pem_private_key(file.read(), None).public_key()
        form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        fits = public.public_bytes(*form) == there.public_key().public_bytes(*form)
        has = there.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (FileNotFoundError, ValueError, x509.ExtensionNotFound):
        return None
    names = {*has.get_values_for_type(x509.DNSName), *map(str, has.get_values_for_type(x509.IPAddress))}
    lasts = there.not_valid_after_utc - datetime.now(UTC) > _RENEWED
    return there.public_bytes(Encoding.DER) if fits and lasts and names >= set(wanted) else None


def _make(certificate: str, key: str, names: list[str]) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    private = ec.generate_private_key(ec.SECP256R1())  # which every Windows since Vista takes
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bitsferry, self-signed")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS)
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName(list(map(_general_name, names))), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
        .sign(private, hashes.SHA256())
    )
    secret = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _put(key, secret)
    _put(certificate, made.public_bytes(serialization.Encoding.PEM))
    return made.public_bytes(serialization.Encoding.DER)


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _put(path: str, data: bytes) -> None:
    """Whole or not at all, for its owner's eyes."""
    beside = f"{path}.new"
    with suppress(FileNotFoundError):
        os.unlink(beside)
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    os.replace(beside, path)
