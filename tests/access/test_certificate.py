"""Client certificates: one of their names is the user's, all of them are there for the rules."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from bitsferry.access.certificate import Certificate, CertificateUser, subject_of
from bitsferry.access.guard import Guard
from bitsferry.protocol.errors import AccessDenied

from .asking import claim, identified, refused, run

# As ssl.SSLSocket.getpeercert spells one.
HOST: dict[str, Any] = {
    "subject": (
        (("countryName", "DE"),),
        (("organizationName", "Corp, Inc."),),
        (("organizationalUnitName", "Backup"), ("userId", "17")),
        (("commonName", "host1"),),
    ),
    "subjectAltName": (
        ("DNS", "host1.corp.example"),
        ("email", "root@corp.example"),
        ("IP Address", "192.0.2.7"),
        ("othername", "<unsupported>"),
        ("DirName", ((("commonName", "host1"),),)),
    ),
}


def test_without_a_certificate_it_says_nothing() -> None:
    assert identified(Certificate(), claim()) is None


@pytest.mark.parametrize(
    ("which", "user"),
    [
        ("CN", "host1"),
        ("DNS", "host1.corp.example"),
        ("email", "root@corp.example"),
        ("subject", "CN=host1,OU=Backup+UID=17,O=Corp\\, Inc.,C=DE"),
    ],
)
def test_the_setting_says_which_name_is_the_users(which: CertificateUser, user: str) -> None:
    identity = identified(Certificate(which), claim(certificate=HOST))
    assert identity is not None
    assert (identity.user, identity.scheme) == (user, "certificate")
    assert identity.names == {
        "C=DE",
        "O=Corp, Inc.",
        "OU=Backup",
        "UID=17",
        "CN=host1",
        "DNS:host1.corp.example",
        "email:root@corp.example",
        "IP:192.0.2.7",
    }


@pytest.mark.parametrize("which", ["CN", "email", "DNS", "subject"])
def test_who_has_no_such_name_is_nobody(which: CertificateUser) -> None:
    assert str(refused(Certificate(which), claim(certificate={"subject": ()}))).startswith(
        "the certificate has no"
    )


def test_who_has_two_such_names_is_nobody() -> None:
    two = {"subject": ((("commonName", "alice"),), (("commonName", "bob"),))}
    assert "2 CN" in str(refused(Certificate(), claim(certificate=two)))
    names = {"subject": (), "subjectAltName": (("DNS", "a.example"), ("DNS", "b.example"))}
    assert "2 DNS" in str(refused(Certificate("DNS"), claim(certificate=names)))


def test_an_address_may_stand_in_the_subject_as_it_used_to() -> None:
    old = {"subject": ((("emailAddress", "a@corp.example"),),)}
    identity = identified(Certificate("email"), claim(certificate=old))
    assert identity is not None
    assert identity.user == "a@corp.example"


@pytest.mark.parametrize("odd", ["", "a\0b", "a\nb", " a", "a" * 301, "\N{RIGHT-TO-LEFT OVERRIDE}a"])
def test_a_name_that_cannot_be_shown_is_no_users(odd: str) -> None:
    refused(Certificate(), claim(certificate={"subject": ((("commonName", odd),),)}))


def test_what_has_a_meaning_in_a_subject_is_escaped() -> None:
    odd = {"subject": ((("commonName", '#1 "a",b+c;<d>\\ '),), (("organizationName", " "),))}
    assert subject_of(odd) == 'O=\\ ,CN=\\#1 \\"a\\"\\,b\\+c\\;\\<d\\>\\\\\\ '


def test_a_real_certificate_is_understood(tmp_path: Path) -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("server.example").configure_cert(server)
    authority.configure_trust(server)
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context()
    authority.configure_trust(client)
    names = ("host1.corp.example", "a@corp.example")
    authority.issue_cert(*names, common_name="host1", organization_name="Corp").configure_cert(client)
    identity = identified(Certificate(), claim(certificate=shown(client, server)))
    assert identity is not None
    assert identity.user == "host1"
    assert identity.names >= {"CN=host1", "O=Corp", "DNS:host1.corp.example", "email:a@corp.example"}


def shown(client: ssl.SSLContext, server: ssl.SSLContext) -> Any:
    """The client's certificate, as the server's half of a handshake in memory sees it."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(back, there, server_hostname="server.example")
    answering = server.wrap_bio(there, back, server_side=True)
    for half in (asking, answering) * 4:
        with suppress(ssl.SSLWantReadError):
            half.do_handshake()
    return answering.getpeercert()


def test_it_is_proved_for_a_connection_that_nobody_shares() -> None:
    guard = Guard([Certificate()])
    assert run(guard.admit(claim(certificate=HOST))) is not None
    with pytest.raises(AccessDenied, match="clients may share a connection"):
        run(guard.admit(claim(certificate=HOST, shared=True)))
    assert run(Guard([Certificate()], shares_safely=True).admit(claim(certificate=HOST, shared=True)))
    with pytest.raises(AccessDenied):
        run(guard.admit(claim()))


def test_an_empty_authorization_is_no_leg_of_its_handshake() -> None:
    assert not Guard([Certificate()]).is_handshake(claim({"authorization": ""}))
