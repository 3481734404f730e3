"""NTLM's three messages, byte by byte (MS-NLMP 2.2)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

__all__ = ["Authenticate", "Av", "Flags", "Response", "kind_of", "read_negotiate", "write_challenge"]

_SIGNATURE = b"NTLMSSP\0"
_NEGOTIATE, _CHALLENGE, _AUTHENTICATE = 1, 2, 3
_LARGEST = 4 * 1024  # bytes; a thousand are many
_LARGEST_NEGOTIATE = 1024  # bytes: kept by each connection until its handshake is done
_VERSION = bytes((10, 0, 0, 0, 0, 0, 0, 15))  # of Windows, which nobody reads (MS-NLMP 2.2.2.10)
_BEFORE_NAMES = 64  # bytes of an AUTHENTICATE_MESSAGE before version, MIC and names
_MIC = slice(72, 88)
_BLOB = 28  # bytes of a client challenge before its pairs (MS-NLMP 2.2.2.7)


class Flags(IntFlag):
    """What the two sides agree on (MS-NLMP 2.2.2.5), as far as it matters here."""

    UNICODE = 0x1
    REQUEST_TARGET = 0x4
    SIGN = 0x10
    SEAL = 0x20
    NTLM = 0x200
    ANONYMOUS = 0x800
    ALWAYS_SIGN = 0x8000
    TARGET_TYPE_DOMAIN = 0x10000
    EXTENDED_SESSIONSECURITY = 0x80000
    TARGET_INFO = 0x800000
    VERSION = 0x2000000
    KEY_128 = 0x20000000
    KEY_EXCH = 0x40000000
    KEY_56 = 0x80000000


_AS_ASKED = (
    Flags.SIGN
    | Flags.SEAL
    | Flags.ALWAYS_SIGN
    | Flags.EXTENDED_SESSIONSECURITY
    | Flags.VERSION
    | Flags.KEY_128
    | Flags.KEY_EXCH
    | Flags.KEY_56
)


class Av(IntEnum):
    """What an attribute is about (MS-NLMP 2.2.2.1)."""

    END = 0
    COMPUTER_NAME = 1
    DOMAIN_NAME = 2
    FLAGS = 6
    TIMESTAMP = 7


def kind_of(token: bytes) -> int | None:
    """The number of the message: 1, 2 or 3; None for what is no message of NTLM."""
    if len(token) < 12 or not token.startswith(_SIGNATURE):
        return None
    (kind,) = struct.unpack_from("<I", token, 8)
    return kind if _NEGOTIATE <= kind <= _AUTHENTICATE else None


def read_negotiate(token: bytes) -> Flags:
    """What a client's NEGOTIATE_MESSAGE asks for; its names mean nothing yet. Raises ValueError."""
    if kind_of(token) != _NEGOTIATE or not 16 <= len(token) <= _LARGEST_NEGOTIATE:
        raise ValueError("no NEGOTIATE_MESSAGE")
    return Flags(struct.unpack_from("<I", token, 12)[0])


def write_challenge(asked: Flags, challenge: bytes, name: str, attributes: Mapping[int, bytes]) -> bytes:
    """Our CHALLENGE_MESSAGE to a client that asked for this (MS-NLMP 2.2.1.2, 3.2.5.1.1)."""
    flags = (
        (asked & _AS_ASKED)
        | Flags.UNICODE  # said even to curl, which does not ask and speaks it all the same
        | Flags.REQUEST_TARGET
        | Flags.NTLM
        | Flags.TARGET_TYPE_DOMAIN
        | Flags.TARGET_INFO
    )
    target = name.encode("utf-16-le")
    info = _write_attributes(attributes)
    start = 56
    return (
        struct.pack("<8sI", _SIGNATURE, _CHALLENGE)
        + struct.pack("<HHI", len(target), len(target), start)
        + struct.pack("<I8s8x", flags, challenge)
        + struct.pack("<HHI", len(info), len(info), start + len(target))
        + (_VERSION if flags & Flags.VERSION else bytes(8))
        + target
        + info
    )


@dataclass(frozen=True, slots=True)
class Authenticate:
    """A client's AUTHENTICATE_MESSAGE (MS-NLMP 2.2.1.3); `mic` is only one where the response says so.

    `zeroed` is the whole message with zeros where the MIC is.
    """

    user: str
    domain: str
    flags: Flags
    lm_response: bytes = field(repr=False)
    nt_response: bytes = field(repr=False)
    session_key: bytes = field(repr=False)
    mic: bytes = field(repr=False)
    zeroed: bytes = field(repr=False)

    @classmethod
    def read(cls, token: bytes) -> Authenticate:
        """Raises ValueError."""
        if kind_of(token) != _AUTHENTICATE or not _BEFORE_NAMES <= len(token) <= _LARGEST:
            raise ValueError("no AUTHENTICATE_MESSAGE")
        lm_response, nt_response, domain, user, _, session_key = (
            _payload(token, at) for at in range(12, 60, 8)
        )
        flags = Flags(struct.unpack_from("<I", token, 60)[0])
        if not flags & Flags.UNICODE:
            raise ValueError("names that are not in Unicode")
        return cls(
            user=_name(user),
            domain=_name(domain),
            flags=flags,
            lm_response=lm_response,
            nt_response=nt_response,
            session_key=session_key,
            mic=token[_MIC],
            zeroed=token[: _MIC.start] + bytes(16) + token[_MIC.stop :],
        )

    @property
    def is_anonymous(self) -> bool:
        """Nobody in particular (MS-NLMP 3.2.5.1.2)."""
        return bool(self.flags & Flags.ANONYMOUS) or not (self.user or self.nt_response)


@dataclass(frozen=True, slots=True)
class Response:
    """An NTLMv2_RESPONSE (MS-NLMP 2.2.2.8): a proof over `blob`, as the client spelt it."""

    proof: bytes = field(repr=False)
    blob: bytes = field(repr=False)
    attributes: Mapping[int, bytes]

    @classmethod
    def read(cls, data: bytes) -> Response:
        """Raises ValueError, for responses of NTLMv1 too."""
        proof, blob = data[:16], data[16:]
        if len(blob) < _BLOB + 4 or blob[:2] != b"\1\1":
            raise ValueError("no response of NTLMv2")
        return cls(proof, blob, _read_attributes(blob[_BLOB:]))

    @property
    def has_mic(self) -> bool:
        """The message has a MIC, as it says where nobody on the way can strike it out."""
        return bool(int.from_bytes(self.attributes.get(Av.FLAGS, b""), "little") & 0x2)


def _payload(token: bytes, at: int) -> bytes:
    """What the field at `at` points to."""
    length, _, start = struct.unpack_from("<HHI", token, at)
    if length == 0:
        return b""
    if start < _BEFORE_NAMES or start + length > len(token):
        raise ValueError("a field beyond the end")
    return token[start : start + length]


def _name(data: bytes) -> str:
    name = data.decode("utf-16-le")
    if len(name) > 300 or not name.isprintable():
        raise ValueError("a name that cannot be")
    return name


def _write_attributes(attributes: Mapping[int, bytes]) -> bytes:
    pairs = [*attributes.items(), (int(Av.END), b"")]
    return b"".join(struct.pack("<HH", number, len(value)) + value for number, value in pairs)


def _read_attributes(data: bytes) -> dict[int, bytes]:
    """The pairs up to their end; whatever follows it is the client's own affair."""
    attributes: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        number, length = struct.unpack_from("<HH", data, at)
        at += 4
        if number == Av.END:
            return attributes
        if number in attributes or at + length > len(data):
            raise ValueError("an attribute that cannot be")
        attributes[number] = data[at : at + length]
        at += length
    raise ValueError("attributes without end")
