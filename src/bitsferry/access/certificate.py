"""Who one is by a TLS client certificate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from bitsferry.access.asker import Identity
from bitsferry.access.scheme import Claim, NotProved, Scheme
from bitsferry.access.user_name import checked_name

__all__ = ["CERTIFICATE_USERS", "Certificate", "CertificateUser", "names_of", "subject_of"]

CertificateUser = Literal["CN", "email", "DNS", "subject"]
CERTIFICATE_USERS: tuple[CertificateUser, ...] = ("CN", "email", "DNS", "subject")

# How RFC 4514 spells what OpenSSL, and ssl after it, has in long words.
_SHORT = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}

# The other names a certificate may have, as far as ssl shows what is in them: not those of Microsoft's UPN.
_ALTERNATIVES = {"DNS": "DNS", "email": "email", "URI": "URI", "IP Address": "IP"}

_ESCAPED = frozenset('",+;<>\\')


class Certificate(Scheme):
    """The certificate that the client showed when the connection began, and that was found to be right then.

    `user` says which of its names is the user's. That must be there once: who has two is nobody.
    """

    name: ClassVar[str] = "certificate"
    binds_connection: ClassVar[bool] = True

    def __init__(self, user: CertificateUser = "CN") -> None:
        self._user = user

    async def identify(self, claim: Claim) -> Identity | None:
        """See Scheme."""
        if claim.link is None or claim.link.certificate is None:
            return None
        known: Identity | None = claim.link.memory.get(self)
        if known is None:  # a certificate lasts as long as its connection
            known = self._owner(claim.link.certificate)
            claim.link.memory[self] = known
        return known

    def challenges(self, claim: Claim) -> tuple[str, ...]:
        """See Scheme: it is asked for when a connection begins, or never."""
        return ()

    def _owner(self, certificate: Mapping[str, Any]) -> Identity:
        names = tuple(names_of(certificate))
        if self._user == "subject":
            users = {subject_of(certificate)} - {""}
        else:
            users = {
                name[len(prefix) :]
                for prefix in self._prefixes()
                for name in names
                if name.startswith(prefix)
            }
        if len(users) != 1:
            count = len(users) or "no"
            raise NotProved(f"the certificate has {count} {self._user} for a user's name")
        return Identity(checked_name(users.pop()), self.name, names=frozenset(names))

    def _prefixes(self) -> tuple[str, ...]:
        # An address may stand in the subject, where it was before there were other names.
        return {"CN": ("CN=",), "DNS": ("DNS:",), "email": ("email:", "emailAddress=")}[self._user]


def names_of(certificate: Mapping[str, Any]) -> Iterator[str]:
    """What a certificate calls its owner: `CN=host1`, `O=Corp`, `DNS:host1.example`, `email:a@example`."""
    for attribute, value in _subject(certificate):
        yield f"{attribute}={value}"
    for kind, value in certificate.get("subjectAltName", ()):
        if kind in _ALTERNATIVES and isinstance(value, str):
            yield f"{_ALTERNATIVES[kind]}:{value}"


def subject_of(certificate: Mapping[str, Any]) -> str:
    """The whole subject, `CN=host1,O=Corp` (RFC 4514): what is last in the certificate comes first."""
    return ",".join(
        "+".join(f"{_SHORT.get(name, name)}={_escaped(value)}" for name, value in together)
        for together in reversed(certificate.get("subject", ()))
    )


def _subject(certificate: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for together in certificate.get("subject", ()):
        for name, value in together:
            yield _SHORT.get(name, name), value


def _escaped(value: str) -> str:
    text = "".join(f"\\{letter}" if letter in _ESCAPED else letter for letter in value)
    if text.startswith(("#", " ")):
        text = "\\" + text
    return text[:-1] + "\\ " if text.endswith(" ") and len(value) > 1 else text
