"""SPNEGO's tokens: which mechanisms there are to choose from, what they say to each other (RFC 4178)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ACCEPTED", "INCOMPLETE", "KERBEROS", "MIC_WANTED", "NTLM", "Offer", "Reply", "is_offer"]

# Object identifiers, as DER has them.
_SPNEGO = bytes.fromhex("2b0601050502")
KERBEROS = (bytes.fromhex("2a864886f712010202"), bytes.fromhex("2a864882f712010202"))  # Microsoft's second
NTLM = bytes.fromhex("2b06010401823702020a")

# negState
ACCEPTED, INCOMPLETE, _REJECTED, MIC_WANTED = range(4)

# Tags
_SEQUENCE, _OID, _OCTETS, _ENUMERATED = 0x30, 0x06, 0x04, 0x0A
_APPLICATION, _INIT, _RESPONSE = 0x60, 0xA0, 0xA1
_LONGEST_LIST = 512  # bytes of mechanisms; Windows has five


def is_offer(token: bytes) -> bool:
    """Whether it may be the first token of a client: SPNEGO's, or a mechanism's own (RFC 2743 3.1)."""
    return token[:1] == bytes((_APPLICATION,))


@dataclass(frozen=True, slots=True)
class Offer:
    """What a client begins with: its mechanisms, the best one first, and a token of the first one.

    `listed` is the list as it was on the wire, over which `mic` is made.
    """

    mechanisms: tuple[bytes, ...]
    listed: bytes
    token: bytes = b""
    mic: bytes = b""

    @classmethod
    def read(cls, token: bytes) -> Offer:
        """Raises ValueError."""
        mechanism, inner = mechanism_of(token)
        if mechanism != _SPNEGO:
            return cls((mechanism,), b"", token)
        fields = _fields(_only(_only(inner, _INIT), _SEQUENCE))
        listed = fields.get(0, b"")
        mechanisms, rest = [], _only(listed, _SEQUENCE)
        while rest:
            mechanism, rest = _take(rest, _OID)
            mechanisms.append(mechanism)
        if not mechanisms or len(listed) > _LONGEST_LIST:
            raise ValueError("no list of mechanisms")
        # Microsoft's NegTokenInit2 has hints where the MIC is otherwise; no client has a MIC this early.
        return cls(tuple(mechanisms), listed, _octets(fields.get(2)))

    @property
    def is_bare(self) -> bool:
        """The token is a mechanism's own, without SPNEGO around it."""
        return not self.listed


@dataclass(frozen=True, slots=True)
class Reply:
    """What either side says after that; an empty field is left out."""

    state: int | None = None
    mechanism: bytes = b""
    token: bytes = b""
    mic: bytes = b""

    @classmethod
    def read(cls, token: bytes) -> Reply:
        """Raises ValueError."""
        fields = _fields(_only(_only(token, _RESPONSE), _SEQUENCE))
        return cls(token=_octets(fields.get(2)), mic=_octets(fields.get(3)))

    def write(self) -> bytes:
        """It, as it goes over the wire."""
        fields = (
            b"" if self.state is None else _put(_ENUMERATED, bytes((self.state,))),
            self.mechanism and _put(_OID, self.mechanism),
            self.token and _put(_OCTETS, self.token),
            self.mic and _put(_OCTETS, self.mic),
        )
        spelt = b"".join(_put(0xA0 + number, field) for number, field in enumerate(fields) if field)
        return _put(_RESPONSE, _put(_SEQUENCE, spelt))


def mechanism_of(token: bytes) -> tuple[bytes, bytes]:
    """Whose token it is, and what that says (RFC 2743 3.1). Raises ValueError."""
    return _take(_only(token, _APPLICATION), _OID)


# DER: a tag, a length, so many bytes


def _take(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """What the first element holds, and what follows it."""
    if len(data) < 2 or data[0] != tag:
        raise ValueError(f"the tag {tag:#x} is missing")
    length, start = data[1], 2
    if length >= 0x80:
        start += length - 0x80
        if not 0 < length - 0x80 <= 4 or len(data) < start:
            raise ValueError("a length that cannot be")
        length = int.from_bytes(data[2:start])
    if length > len(data) - start:
        raise ValueError("a length beyond the end")
    return data[start : start + length], data[start + length :]


def _only(data: bytes, tag: int) -> bytes:
    """What the first element holds; there is no other."""
    content, rest = _take(data, tag)
    if rest:
        raise ValueError("something behind the end")
    return content


def _fields(data: bytes) -> dict[int, bytes]:
    """A sequence's members, by their number."""
    fields = {}
    while data:
        number = data[0] - 0xA0
        content, data = _take(data, data[0])
        if not 0 <= number < 32 or number in fields:
            raise ValueError("a member that cannot be")
        fields[number] = content
    return fields


def _octets(field: bytes | None) -> bytes:
    return b"" if field is None else _only(field, _OCTETS)


def _put(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes((tag, 0x80 + len(size))) + size + content
