"""What strangers say of who they are, and the files that say who may come in."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import struct
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bitsferry.access.asker import Identity
from bitsferry.access.fronts import FORWARDED, X_FORWARDED_FOR, Fronts
from bitsferry.access.groups import parse_groups
from bitsferry.access.guard import Guard
from bitsferry.access.htdigest import digest_lines, read_htdigest
from bitsferry.access.htpasswd import read_htpasswd
from bitsferry.access.jwks import parse_keys
from bitsferry.access.networks import address_of
from bitsferry.access.nt_hashes import read_nt_hashes
from bitsferry.access.scheme import Claim, Link
from bitsferry.access.throttle import Throttle
from bitsferry.access.tokens import parse_tokens, token_line
from bitsferry.cli.guards import read_guard
from bitsferry.client.challenges import read_challenges
from bitsferry.client.digest import Digest, best_digest
from bitsferry.protocol.digests import read_digest, read_wanted
from bitsferry.protocol.errors import AccessDenied, AuthenticationRequired, Busy, InvalidMessage, InvalidName
from bitsferry.protocol.session import Session
from bitsferry.server.names import check_name
from bitsferry.server.template import NameTemplate, folder_name

from .on_protocol import headers_of, is_clean, is_told
from .target import Feed, Target, target

__all__ = ["TARGETS"]

TOKEN = "a" * 43
HASH = "878d8014606cda29677a44efa1353fc7"  # of the password "secret", as Windows has it
KEYS = {
    "keys": [
        {
            "kty": "OKP",
            "crv": "Ed25519",
            "kid": "1",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        },
        {
            "kty": "EC",
            "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        },
    ]
}
USERS = {"anna", "anna@example"}


def write_files(folder: Path) -> dict[str, Any]:
    """Files in which anna may come in by each scheme; what the settings say of them."""
    files = {
        "htpasswd": "anna:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n",
        "htdigest": "\n".join(digest_lines("anna", "bitsferry", b"secret")),
        "nt_hashes": f"anna:{HASH}\n",
        "tokens": token_line("anna", TOKEN),
        "jwks": json.dumps(KEYS),
        "groups_file": "senders: anna\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    told: dict[str, Any] = {name: name for name in files if name != "groups_file"}
    return told | {
        "auth": ("basic", "digest", "ntlm", "negotiate", "bearer", "certificate", "proxy"),
        "jwt_issuer": "issuer",
        "jwt_audience": "us",
        "user_header": "X-Remote-User",
    }


class Door:
    """A guard that takes every scheme, and a loop for what it waits for."""

    def __init__(self, folder: Path) -> None:
        guard = read_guard(write_files(folder), str(folder), Throttle(5, 0.0))
        assert guard is not None
        self.guard: Guard = guard
        self._runner = asyncio.Runner()
        self.link = Link()

    def close(self) -> None:
        self._runner.close()

    def ask(self, headers: Mapping[str, str], *, fronted: bool = False) -> Identity | None:
        """Who they are from, None for whoever is sent away in the right way."""
        claim = Claim(
            "BITS_POST", "/in/a", headers, "192.0.2.1", "192.0.2.1", self.link, fronted=fronted, begins=False
        )
        try:
            self.guard.is_handshake(claim)
            identity = self._runner.run(self.guard.admit(claim))
        except (AuthenticationRequired, AccessDenied, Busy) as error:
            is_told(error)
            return None
        assert identity is not None
        assert identity.user in USERS or identity.scheme in ("proxy", "certificate"), identity
        assert is_clean(list(identity.headers))
        return identity

    def run(self, asking: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(asking)


@contextmanager
def opened(listen: Callable[[Door, bytes], None]) -> Iterator[Feed]:
    with TemporaryDirectory(prefix="bitsferry-test-") as folder:
        door = Door(Path(folder))

        def feed(data: bytes) -> None:
            door.link = Link()
            listen(door, data)
            assert len(door.link.memory) <= 4, "a connection remembers more and more"

        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield feed
        finally:
            logging.disable(before)
            door.close()


# Authorization, whatever it says


def say_headers(door: Door, data: bytes) -> None:
    """Requests one after the other on one connection, between empty lines."""
    answer = door_answer(door) if b"@DIGEST@" in data else ""
    for said in data.replace(b"@DIGEST@", answer.encode()).split(b"\r\n\r\n")[:6]:
        headers = headers_of(said)
        door.ask(headers, fronted="via" in headers)


def door_answer(door: Door) -> str:
    """What anna answers to a challenge of Digest."""
    claim = Claim("BITS_POST", "/in/a", {})
    challenges = [value for scheme in door.guard.schemes for value in scheme.challenges(claim)]
    chosen = best_digest(read_challenges(challenges))
    assert chosen is not None
    return Digest(chosen, "anna", "secret").authorization("BITS_POST", "/in/a")


def b64(data: bytes) -> bytes:
    return base64.b64encode(data)


TYPE_1 = b"NTLMSSP\0" + struct.pack("<II", 1, 0xE2088297) + bytes(16)

authorization = Target(
    "authorization",
    (
        b"Authorization: Basic " + b64(b"anna:secret"),
        b"Authorization: Basic " + b64(b"anna:wrong") + b"\r\n\r\nAuthorization: Basic " + b64(b"bob:x"),
        b"Authorization: @DIGEST@\r\n\r\nAuthorization: @DIGEST@",
        b'Authorization: Digest username="anna", realm="bitsferry", nonce="n", uri="/in/a", qop=auth,'
        b' nc=00000001, cnonce="c", response="d", algorithm=MD5',
        b"Authorization: Bearer " + TOKEN.encode() + b"\r\n\r\nX-API-Key: " + TOKEN.encode(),
        b"Authorization: Bearer e30.e30.AA",
        b"Authorization: NTLM " + b64(TYPE_1) + b"\r\n\r\nAuthorization: NTLM " + b64(TYPE_1),
        b"Via: 1.1 us\r\nX-Remote-User: anna\r\n\r\nX-Remote-User: eve",
    ),
    lambda: opened(say_headers),
    words=(
        *(
            b"Authorization: ",
            b"Basic ",
            b"Digest ",
            b"Negotiate ",
            b"NTLM ",
            b"Bearer ",
            b"username*=UTF-8''%ff",
        ),
        *(b"nc=00000000", b"qop=auth-int", b"====", b"\r\n\r\n", b"Via: 1\r\n", b"\\", b"YGk=", b"oQ=="),
    ),
    examples=400,
)


# Tokens of NTLM and SPNEGO, byte by byte


def field(length: int, at: int) -> bytes:
    return struct.pack("<HHI", length, length, at)


def type_3(user: bytes, response: bytes) -> bytes:
    """An AUTHENTICATE_MESSAGE whose proof is wrong."""
    at = 88
    fields = field(0, at) + field(len(response), at + len(user)) + field(0, at) + field(len(user), at)
    head = b"NTLMSSP\0" + struct.pack("<I", 3) + fields + field(0, at) + field(0, at)
    return head + struct.pack("<I", 0xE2088215) + bytes(24) + user + response


ATTRIBUTES = struct.pack("<HH", 2, 4) + b"A\0B\0" + struct.pack("<HHI", 6, 4, 2) + bytes(4)
NT_RESPONSE = bytes(16) + b"\1\1" + bytes(26) + ATTRIBUTES
TYPE_3 = type_3("anna".encode("utf-16-le"), NT_RESPONSE)
NTLM_OID = bytes.fromhex("2b06010401823702020a")
KERBEROS_OID = bytes.fromhex("2a864886f712010202")


def der(tag: int, *content: bytes) -> bytes:
    whole = b"".join(content)
    length = bytes([len(whole)]) if len(whole) < 0x80 else b"\x82" + len(whole).to_bytes(2)
    return bytes([tag]) + length + whole


def offer(mechanisms: list[bytes], token: bytes) -> bytes:
    listed = der(0xA0, der(0x30, *(der(0x06, mechanism) for mechanism in mechanisms)))
    spoken = der(0xA2, der(0x04, token)) if token else b""
    return der(0x60, der(0x06, bytes.fromhex("2b0601050502")), der(0xA0, der(0x30, listed, spoken)))


def reply(token: bytes, mic: bytes = b"") -> bytes:
    vouched = der(0xA3, der(0x04, mic)) if mic else b""
    return der(0xA1, der(0x30, der(0xA2, der(0x04, token)), vouched))


LEG = b"\n====\n"


def say_tokens(door: Door, data: bytes) -> None:
    """The legs of a handshake on one connection, with a request without one behind them."""
    for title in ("NTLM", "Negotiate"):
        door.link = Link()
        for leg in data.split(LEG)[:5]:
            identity = door.ask({"authorization": f"{title} {b64(leg).decode()}"})
            assert identity is None, "nobody here knows the password"
        assert door.ask({}) is None


handshakes = Target(
    "handshakes",
    (
        TYPE_1 + LEG + TYPE_3,
        TYPE_3,
        TYPE_1 + LEG + TYPE_1 + LEG + TYPE_3 + LEG + TYPE_3,
        offer([NTLM_OID], TYPE_1) + LEG + reply(TYPE_3, bytes(16)),
        offer([KERBEROS_OID, NTLM_OID], b"ticket") + LEG + reply(TYPE_1) + LEG + reply(TYPE_3, bytes(16)),
        offer([KERBEROS_OID], b""),
    ),
    lambda: opened(say_tokens),
    words=(
        LEG,
        b"NTLMSSP\0",
        NTLM_OID,
        KERBEROS_OID,
        b"\x84\xff\xff\xff\xff",
        b"\x80",
        b"\xff\xff\xff\x7f",
        TYPE_1,
    ),
    examples=400,
)


# JWTs, part by part


def say_jwt(door: Door, data: bytes) -> None:
    parts = (base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in data.split(b"\n", 2))
    assert door.ask({"authorization": "Bearer " + ".".join(parts)}) is None, "nobody here has the key"


CLAIMS = b'{"iss":"issuer","aud":["us"],"sub":"anna","exp":4102444800}'

jwts = Target(
    "jwts",
    (
        b'{"alg":"EdDSA","kid":"1"}\n' + CLAIMS + b"\n" + bytes(64),
        b'{"alg":"ES256"}\n' + CLAIMS + b"\n" + bytes(64),
        b'{"alg":"none"}\n' + CLAIMS + b"\n",
        b'{"alg":"HS256","crit":["exp"]}\n' + CLAIMS + b"\n" + bytes(32),
    ),
    lambda: opened(say_jwt),
    words=(
        b'"alg":',
        b'"kid":',
        b"null",
        b"[]",
        b"{}",
        b"1e999",
        b"NaN",
        b"[" * 2000,
        b'"PS512"',
        b'"ES512"',
        b'"RS256"',
    ),
)


# Proxies


@target(
    "forwarded",
    b"X-Forwarded-For: 192.0.2.9, 10.0.0.1\r\nX-Forwarded-Proto: https",
    b'Forwarded: for="[2001:db8::1]:47";proto=https;by=a, for=10.0.0.2',
    b"Forwarded: for=192.0.2.9;proto=http\r\nVia: 1.1 a",
    words=(
        b"for=",
        b"proto=",
        b"unknown",
        b"_hidden",
        b'"[',
        b"]",
        b"::ffff:10.0.0.1",
        b"%eth0",
        b"10.0.0.1, ",
    ),
    examples=400,
)
def forwarded(data: bytes) -> None:
    headers = headers_of(data)
    for header in (X_FORWARDED_FOR, FORWARDED):
        fronts = Fronts.of(["10.0.0.0/8", "unix"], header)
        for peer in ("10.0.0.1", "192.0.2.1", ""):
            client = fronts.client(peer, headers)
            assert client == peer or address_of(client) is not None
            assert fronts.scheme(peer, headers, "http") in ("http", "https")
            fronts.may_share(peer, headers)
            if peer == "192.0.2.1":
                assert client == peer, "a stranger passes for somebody else"


# Digests of files


@target(
    "digests",
    b"sha-256=:RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o=:",
    b"md5=:AAAA:, sha-512=:AAAA:;x=1, unixsum=5",
    b"sha-256=10, sha-512=0",
    words=(b":", b"sha-256=", b"sha-512=", b";a=?1", b'"\\"', b"=" * 50, b"\t,\t"),
    examples=400,
)
def digests(data: bytes) -> None:
    text = data.decode("latin-1")
    read_wanted(text)
    try:
        digest = read_digest("Repr-Digest", text)
    except InvalidMessage as error:
        is_told(error)
        return
    if digest is not None:
        assert len(digest.value) in (32, 64)
        assert read_digest("Repr-Digest", str(digest)) == digest


# Where a file lands


@target(
    "templates",
    b"{user}/{date}/{name}\nanna\n192.0.2.1\ndeep/er/a.zip",
    b"{client_address}/{session}-{time}{suffix}\nDOM\\bob\n2001:db8::1\na.b.c",
    b"{path}.in\n..\n\nCON",
    words=(
        b"{user}",
        b"{path}",
        b"{stem}",
        b"..",
        b"../",
        b"\\",
        b"\x00",
        b"\xe2\x80\xae",
        b"CON",
        b".bitsferry",
        b"{",
        b"}",
    ),
    examples=400,
)
def templates(data: bytes) -> None:
    text, user, address, path = [*data.decode("utf-8", "surrogateescape").split("\n", 3), "", "", "", ""][:4]
    try:
        said = tuple(path.split("/"))
        for name in said:
            check_name(name)
        template = NameTemplate(text)
    except (InvalidName, ValueError):
        return
    session = Session("A0FF5911-0000-4000-8000-000000000000", "/in/a", user or None, 0.0, address=address)
    with suppress(InvalidName):
        parts = template.parts(session, said)
        assert all(part not in ("", ".", "..") and not set(part) & set("/\\\0") for part in parts)
    folder = folder_name(user)
    assert folder not in ("", ".", "..")
    assert not set(folder) & set("/\\\0")


# Files


@target(
    "files-of-users",
    b"anna:$2y$04$abcdefghijklmnopqrstuuEKOJFdQYbJbHpBQWnzPvSKkqfXbQTGq\nbob:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n",
    b"a:$apr1$12345678$abcdefghijklmnopqrstuv\nb:$6$rounds=5000$salt$"
    + b"a" * 86
    + b"\nc:{SSHA}"
    + b"A" * 40,
    ("\n".join(digest_lines("anna", "r", b"x")) + "\n").encode(),
    f"anna:{HASH}\nCORP\\bob:1001:{'X' * 32}:{HASH}:[U          ]:LCT-0:\n".encode(),
    token_line("anna", TOKEN).encode() + b":2027-01-31\n# people\n",
    b'senders: anna "bob b"\nsenders: eve\n',
    json.dumps(KEYS).encode(),
    words=(
        b":",
        b"$",
        b"{PLAIN}",
        b"$argon2id$v=19$m=8,t=1,p=1$AAAA$AAAA",
        b"rounds=",
        b"9999-99-99",
        b'"',
        b"\xef\xbb\xbf",
    ),
    examples=400,
)
def files_of_users(data: bytes) -> None:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return
    readers: list[Callable[[str], object]] = [
        *(read_htpasswd, lambda text: read_htdigest(text, "r"), read_nt_hashes),
        *(parse_tokens, parse_groups, parse_keys),
    ]
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        for read in readers:
            with suppress(ValueError):
                read(text)
    finally:
        logging.disable(before)


TARGETS = (authorization, handshakes, jwts, forwarded, digests, templates, files_of_users)
