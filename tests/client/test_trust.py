"""A server is trusted for good reasons; of a certificate's faults only those named are overlooked."""

import contextlib
import itertools
import pickle
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bitsferry.client.trust import Ignore, InvalidTlsSettings, TlsSettings, Trust, make_context, warnings

NONE = Ignore(0)
CN, DATE, CA, USAGE = Ignore.CN, Ignore.DATE, Ignore.CA, Ignore.USAGE
HELLO = b"hello"
Key = ec.EllipticCurvePrivateKey


class Server:
    """Says hello to everybody by TLS, showing one of its certificates after the other."""

    def __init__(self, *contexts: ssl.SSLContext) -> None:
        self.contexts = list(contexts)
        self.connections = 0
        self._is_closing = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            with sock:
                if self._is_closing:
                    return
                sock.settimeout(10)
                context = self.contexts[self.connections % len(self.contexts)]
                self.connections += 1
                with contextlib.suppress(OSError), context.wrap_socket(sock, server_side=True) as line:
                    line.sendall(HELLO)
                    line.recv(1)  # until the other end hangs up

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def close(self) -> None:
        self._is_closing = True
        self.connect().close()
        self._thread.join()
        self._listener.close()


Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with contextlib.ExitStack() as servers:

        def start(*contexts: ssl.SSLContext) -> Server:
            server = Server(*contexts)
            servers.callback(server.close)
            return server

        yield start


class Authority:
    """A CA that also issues what no CA should."""

    def __init__(self, folder: Path, name: str = "ours") -> None:
        self.ca = trustme.CA()
        self.folder = folder
        self.file = str(folder / f"{name}.pem")
        self.ca.cert_pem.write_to_path(self.file)
        self.certificate = x509.load_pem_x509_certificate(self.ca.cert_pem.bytes())
        key = serialization.load_pem_private_key(self.ca.private_key_pem.bytes(), None)
        assert isinstance(key, Key)
        self.key = key

    def context(self, fault: Ignore = NONE) -> ssl.SSLContext:
        """A server whose certificate has these faults and no others."""
        if CA in fault:
            return Authority(self.folder, "theirs").context(fault & ~CA)
        leaf = self.ca.issue_cert(
            *(["other.example"] if CN in fault else ["localhost", "127.0.0.1"]),
            not_before=now(-20),
            not_after=now(-10 if DATE in fault else 10),
        )
        certificate = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())
        if USAGE in fault:
            certificate = resigned(certificate, self.key, usage=ExtendedKeyUsageOID.EMAIL_PROTECTION)
        return server_context(certificate, leaf.private_key_pem.bytes(), self.folder)


def now(days: int) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def resigned(
    certificate: x509.Certificate, key: Key, usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH
) -> x509.Certificate:
    builder = x509.CertificateBuilder(
        certificate.issuer,
        certificate.subject,
        certificate.public_key(),
        certificate.serial_number,
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.ExtendedKeyUsage):
            value = x509.ExtendedKeyUsage([usage])
        builder = builder.add_extension(value, extension.critical)
    return builder.sign(key, hashes.SHA256())


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def server_context(certificate: x509.Certificate, key: bytes, folder: Path) -> ssl.SSLContext:
    path = folder / f"{certificate.serial_number}.pem"
    path.write_bytes(key + pem(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def self_signed(folder: Path) -> tuple[ssl.SSLContext, str]:
    """As `openssl req -x509` makes them: a CA that vouches for itself, without a key usage."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    aki = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ski)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now(-1), now(1)
    )
    for extension in (x509.BasicConstraints(True, None), ski, aki):
        builder = builder.add_extension(extension, isinstance(extension, x509.BasicConstraints))
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    certificate = builder.add_extension(names, False).sign(key, hashes.SHA256())
    path = folder / f"self-{certificate.serial_number}.pem"
    path.write_bytes(pem(certificate))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return server_context(certificate, private, folder), str(path)


@pytest.fixture(autouse=True)
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that trusts nobody."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def greeting(trust: Trust, server: Server, host: str = "localhost") -> bytes:
    with trust.handshake(server.connect, host) as line:
        return line.recv(100)


def is_welcome(server: Server, settings: TlsSettings, host: str = "localhost") -> bool:
    try:
        return greeting(Trust(settings), server, host) == HELLO
    except ssl.SSLCertVerificationError:
        return False


# Whom we trust


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost.", "127.0.0.1"])
def test_a_server_of_a_trusted_ca_is_trusted_by_its_names(
    serve: Serve, authority: Authority, host: str
) -> None:
    server = serve(authority.context())
    assert is_welcome(server, TlsSettings(ca_file=authority.file), host)
    assert server.connections == 1


def test_a_server_of_an_unknown_ca_is_not(serve: Serve, authority: Authority) -> None:
    assert not is_welcome(serve(authority.context()), TlsSettings())


def test_the_ca_file_comes_to_those_of_the_system_and_does_not_take_their_place(
    serve: Serve, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", authority.file)
    server = serve(authority.context())
    assert is_welcome(server, TlsSettings())
    assert is_welcome(server, TlsSettings(ca_file=Authority(tmp_path, "another").file))


def test_a_servers_own_certificate_may_be_the_one_that_is_trusted(serve: Serve, tmp_path: Path) -> None:
    context, path = self_signed(tmp_path)
    server = serve(context)
    assert is_welcome(server, TlsSettings(ca_file=path))
    assert not is_welcome(server, TlsSettings(ca_file=path), "127.0.0.1")


def test_tls_is_modern_and_speaks_of_http_1_1(serve: Serve, authority: Authority) -> None:
    settings = TlsSettings(ca_file=authority.file)
    assert make_context(settings).minimum_version == ssl.TLSVersion.TLSv1_2
    context = authority.context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with Trust(settings).handshake(serve(context).connect, "localhost") as line:
        assert line.selected_alpn_protocol() == "http/1.1"


def test_what_speaks_no_tls_is_an_error_of_tls() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def connect() -> socket.socket:
            sock = socket.create_connection(listener.getsockname(), timeout=10)
            other, _ = listener.accept()
            with other:
                other.sendall(b"HTTP/1.1 400 What?\r\n\r\n")
            return sock

        with pytest.raises(ssl.SSLError):
            Trust(TlsSettings(ignore=CA | USAGE | CN | DATE)).handshake(connect, "localhost")


# Which faults are overlooked

EVERY_FAULT = [CN, DATE, CA, USAGE]
WAYS = [CN, DATE, CA, CN | DATE, CN | CA, DATE | CA, CN | DATE | CA, CA | USAGE, CN | DATE | CA | USAGE]


@pytest.mark.parametrize("ignore", WAYS, ids=str)
@pytest.mark.parametrize("fault", EVERY_FAULT, ids=str)
def test_a_fault_is_overlooked_by_its_own_flag_and_by_no_other(
    serve: Serve, authority: Authority, fault: Ignore, ignore: Ignore
) -> None:
    settings = TlsSettings(ca_file=authority.file, ignore=ignore)
    assert is_welcome(serve(authority.context(fault)), settings) == (fault in ignore)


@pytest.mark.parametrize("ignore", WAYS, ids=str)
@pytest.mark.parametrize("faults", [*itertools.combinations(EVERY_FAULT, 2)], ids=str)
def test_two_faults_want_two_flags(
    serve: Serve, authority: Authority, faults: tuple[Ignore, Ignore], ignore: Ignore
) -> None:
    fault = faults[0] | faults[1]
    settings = TlsSettings(ca_file=authority.file, ignore=ignore)
    assert is_welcome(serve(authority.context(fault)), settings) == (fault in ignore)


@pytest.mark.parametrize("ignore", [CN, DATE, CA, CN | DATE | CA], ids=str)
def test_a_forged_certificate_is_never_overlooked(
    serve: Serve, authority: Authority, tmp_path: Path, ignore: Ignore
) -> None:
    """One that says it is from a CA we trust, and is not."""
    leaf = authority.ca.issue_cert("localhost")
    genuine = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())
    forged = resigned(genuine, ec.generate_private_key(ec.SECP256R1()))
    server = serve(server_context(forged, leaf.private_key_pem.bytes(), tmp_path))
    assert not is_welcome(server, TlsSettings(ca_file=authority.file, ignore=ignore))


def test_a_certificate_with_no_fault_needs_no_second_look(serve: Serve, authority: Authority) -> None:
    server = serve(authority.context())
    assert is_welcome(server, TlsSettings(ca_file=authority.file, ignore=CN | DATE | CA | USAGE))
    assert server.connections == 1


@pytest.mark.parametrize("ignore", [CA, CA | USAGE], ids=str)
def test_what_was_overlooked_once_is_remembered(serve: Serve, authority: Authority, ignore: Ignore) -> None:
    server = serve(authority.context())
    trust = Trust(TlsSettings(ignore=ignore))
    assert greeting(trust, server) == HELLO
    first = server.connections
    assert greeting(trust, server) == HELLO
    assert (first, server.connections) == (3, 4)


def test_a_certificate_by_an_unknown_intermediate_is_overlooked_too(serve: Serve, tmp_path: Path) -> None:
    leaf = trustme.CA().create_child_ca().issue_cert("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    server = serve(context)
    assert is_welcome(server, TlsSettings(ignore=CA))
    assert not is_welcome(server, TlsSettings(ignore=CA), "127.0.0.1")


def test_a_certificate_that_vouches_for_itself_is_overlooked_too(serve: Serve, tmp_path: Path) -> None:
    server = serve(self_signed(tmp_path)[0])
    assert not is_welcome(server, TlsSettings())
    assert is_welcome(server, TlsSettings(ignore=CA))
    assert not is_welcome(server, TlsSettings(ignore=CA), "127.0.0.1")


def test_a_farm_may_show_a_certificate_of_each_of_its_machines(serve: Serve, tmp_path: Path) -> None:
    server = serve(*(self_signed(tmp_path)[0] for _ in range(3)))
    trust = Trust(TlsSettings(ignore=CA))
    assert [greeting(trust, server) for _ in range(6)] == [HELLO] * 6


def test_a_server_that_is_somebody_else_every_time_is_given_up(serve: Serve, tmp_path: Path) -> None:
    server = serve(*(self_signed(tmp_path)[0] for _ in range(20)))
    with pytest.raises(ssl.SSLCertVerificationError):
        greeting(Trust(TlsSettings(ignore=CA)), server)


def test_a_wrong_usage_cannot_be_overlooked_alone() -> None:
    for ignore in (USAGE, USAGE | CN | DATE):
        with pytest.raises(InvalidTlsSettings, match="'usage' can only be ignored together with 'ca'"):
            TlsSettings(ignore=ignore)


def test_the_flags_have_the_numbers_of_windows() -> None:
    assert {flag.name: flag.value for flag in Ignore} == {"CN": 0x2, "DATE": 0x4, "CA": 0x8, "USAGE": 0x10}


def test_every_flag_comes_with_its_warning() -> None:
    assert warnings(TlsSettings(ca_file="x")) == []
    assert len(warnings(TlsSettings(ignore=CN | DATE | CA | USAGE))) == 4
    assert warnings(TlsSettings(ignore=DATE)) == [
        "the dates of the server's certificate are not checked: it may have expired"
    ]


# Revoked certificates


def revocation_list(authority: Authority, serial: int, *, until: datetime) -> str:
    revoked = x509.RevokedCertificateBuilder(serial, now(-1)).build()
    builder = x509.CertificateRevocationListBuilder(authority.certificate.subject, now(-10), until)
    path = authority.folder / "revoked.crl"
    signed = builder.add_revoked_certificate(revoked).sign(authority.key, hashes.SHA256())
    path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return str(path)


def test_a_revoked_certificate_is_refused_by_whoever_has_the_list(serve: Serve, authority: Authority) -> None:
    leaf = authority.ca.issue_cert("localhost")
    certificate = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())
    revoked = serve(server_context(certificate, leaf.private_key_pem.bytes(), authority.folder))
    good = serve(authority.context())
    crl = revocation_list(authority, certificate.serial_number, until=now(1))
    for ignore in (NONE, CN, DATE, CA):
        settings = TlsSettings(ca_file=authority.file, crl_file=crl, ignore=ignore)
        assert is_welcome(good, settings)
        assert not is_welcome(revoked, settings)
    assert is_welcome(revoked, TlsSettings(ca_file=authority.file))


def test_a_list_of_revoked_certificates_that_is_too_old_is_good_only_where_dates_are_overlooked(
    serve: Serve, authority: Authority
) -> None:
    server = serve(authority.context())
    crl = revocation_list(authority, 1, until=now(-1))
    assert not is_welcome(server, TlsSettings(ca_file=authority.file, crl_file=crl))
    assert is_welcome(server, TlsSettings(ca_file=authority.file, crl_file=crl, ignore=DATE))


def test_whether_an_unknown_ca_revoked_a_certificate_is_unknown(serve: Serve, authority: Authority) -> None:
    server = serve(authority.context(CA))
    crl = revocation_list(authority, 1, until=now(1))
    assert not is_welcome(server, TlsSettings(ca_file=authority.file, crl_file=crl, ignore=CA))


# Who we are


@pytest.fixture
def client(authority: Authority, tmp_path: Path) -> tuple[str, str]:
    """The files of a client's certificate and its key."""
    leaf = authority.ca.issue_cert("client@example.com")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    leaf.private_key_pem.write_to_path(tmp_path / "client.key")
    return str(tmp_path / "client.pem"), str(tmp_path / "client.key")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=str)
@pytest.mark.parametrize("ignore", [NONE, CA], ids=str)
def test_a_server_that_asks_who_we_are_is_shown_our_certificate(
    serve: Serve, authority: Authority, client: tuple[str, str], version: ssl.TLSVersion, ignore: Ignore
) -> None:
    context = authority.context(ignore)
    context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    authority.ca.configure_trust(context)
    server = serve(context)
    settings = TlsSettings(authority.file, *client, ignore=ignore)
    assert is_welcome(server, settings)
    with pytest.raises(OSError):
        assert greeting(Trust(TlsSettings(authority.file, ignore=ignore)), server) == HELLO


def test_a_key_may_stand_in_the_file_of_its_certificate(tmp_path: Path, client: tuple[str, str]) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(b"".join(Path(path).read_bytes() for path in client))
    make_context(TlsSettings(client_certificate=str(both)))


# What cannot be used


def test_a_locked_key_is_refused_instead_of_asking_for_its_password(
    tmp_path: Path, client: tuple[str, str]
) -> None:
    key = serialization.load_pem_private_key(Path(client[1]).read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(InvalidTlsSettings, match=r"locked\.key is locked by a password"):
        make_context(TlsSettings(client_certificate=client[0], client_key=str(locked)))


@pytest.mark.parametrize("setting", ["ca_file", "crl_file", "client_certificate"])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, setting: str) -> None:
    missing, nonsense = str(tmp_path / "missing.pem"), tmp_path / "nonsense.pem"
    nonsense.write_bytes(b"nonsense")
    with pytest.raises(InvalidTlsSettings, match=r"missing\.pem cannot be read: No such file"):
        make_context(msgspec.convert({setting: missing}, TlsSettings))
    with pytest.raises(InvalidTlsSettings, match=r"nonsense\.pem cannot be used: .* PEM form"):
        make_context(msgspec.convert({setting: str(nonsense)}, TlsSettings))


def test_a_key_that_belongs_to_another_certificate_is_said_so(
    authority: Authority, tmp_path: Path, client: tuple[str, str]
) -> None:
    other = tmp_path / "other.key"
    authority.ca.issue_cert("other@example.com").private_key_pem.write_to_path(other)
    with pytest.raises(InvalidTlsSettings, match="the key belongs to another certificate"):
        make_context(TlsSettings(client_certificate=client[0], client_key=str(other)))


def test_a_key_without_a_certificate_is_refused() -> None:
    with pytest.raises(InvalidTlsSettings, match="needs its certificate"):
        TlsSettings(client_key="x")


def test_settings_can_be_kept_as_plain_values() -> None:
    settings = TlsSettings("ca", "certificate", "key", "crl", CN | CA | USAGE)
    assert msgspec.json.decode(msgspec.json.encode(settings), type=TlsSettings) == settings
    assert pickle.loads(pickle.dumps(settings)) == settings
