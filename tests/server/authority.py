"""Certificates for tests: whose they are, what is wrong with them."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from .raw import Line


class Authority:
    """A CA whose files are in `folder`: its own certificate, what it issues, what it revoked."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.file = str(folder / f"{name}.pem")
        self.ca.cert_pem.write_to_path(self.file)
        self._revoked: list[int] = []

    def issue(self, file: str, *names: str, expired: bool = False, key: str | None = None) -> str:
        """The path of a certificate with its key, or apart from it in the file `key`."""
        before = datetime.now(UTC) - timedelta(days=20)
        leaf = self.ca.issue_cert(
            *names,
            common_name=names[0],
            not_before=before,
            not_after=before + timedelta(days=10 if expired else 100),
        )
        return self._write(leaf, file, key)

    def _write(self, leaf: trustme.LeafCert, file: str, key: str | None) -> str:
        path = self.folder / file
        certificate, secret = leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes()
        if key is not None:
            (self.folder / key).write_bytes(secret)
            secret = b""
        path.write_bytes(secret + certificate)
        return str(path)

    def issue_for_servers_only(self, file: str, name: str) -> str:
        """One that is not for clients."""
        path = self.issue(file, name)
        text = Path(path).read_bytes()
        there = x509.load_pem_x509_certificate(text)
        builder = x509.CertificateBuilder(
            there.issuer,
            there.subject,
            there.public_key(),
            there.serial_number,
            there.not_valid_before_utc,
            there.not_valid_after_utc,
            [each for each in there.extensions if not isinstance(each.value, x509.ExtendedKeyUsage)],
        ).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=True)
        signed = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        Path(path).write_bytes(text[: text.index(b"-----BEGIN CERT")] + signed)
        return path

    @property
    def _key(self) -> ec.EllipticCurvePrivateKey:
        key = serialization.load_pem_private_key(self.ca.private_key_pem.bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key

    def revoke(self, *files: str) -> str:
        """The path of the list with these certificates, and all before."""
        for file in files:
            self._revoked.append(x509.load_pem_x509_certificate(Path(file).read_bytes()).serial_number)
        now = datetime.now(UTC)
        own = x509.load_pem_x509_certificate(self.ca.cert_pem.bytes())
        builder = x509.CertificateRevocationListBuilder(
            own.subject, now - timedelta(days=1), now + timedelta(days=1)
        )
        for number in self._revoked:
            entry = x509.RevokedCertificateBuilder(number, now - timedelta(days=1)).build()
            builder = builder.add_revoked_certificate(entry)
        path = self.folder / "revoked.pem"
        signed = builder.sign(self._key, hashes.SHA256())
        path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        return str(path)

    def trust(
        self, certificate: str | None = None, *, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ) -> ssl.SSLContext:
        """A client's context, with a certificate to show."""
        context = ssl.create_default_context(cafile=self.file)
        context.maximum_version = newest
        if certificate is not None:
            context.load_cert_chain(certificate)
        return context


class SecureLine(Line):
    """A line over TLS; what it shows of the server is `certificate`."""

    def __init__(
        self,
        port: int,
        context: ssl.SSLContext,
        name: str = "localhost",
        session: ssl.SSLSession | None = None,
    ) -> None:
        super().__init__(port)
        try:
            self.tls = context.wrap_socket(self.socket, server_hostname=name, session=session)
        except BaseException:
            self.socket.close()
            raise
        self.socket = self.tls

    @property
    def certificate(self) -> str:
        """The common name of the server's."""
        shown = self.tls.getpeercert()
        assert shown is not None
        return next(str(pair[0][1]) for pair in shown["subject"] if pair[0][0] == "commonName")
