"""How packets and Acks are spelt in HTTP headers, the only place that knows their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from bitsferry.protocol.digests import ALGORITHMS, Digest, read_digest, read_wanted, write_wanted
from bitsferry.protocol.errors import (
    AuthenticationRequired,
    BitsError,
    Context,
    InvalidMessage,
    InvalidServerResponse,
    LengthRequired,
    NoCommonProtocol,
    UnsupportedEncoding,
)
from bitsferry.protocol.hresult import spell
from bitsferry.protocol.packets import (
    BITS_1_5,
    Ack,
    CancelSession,
    CloseSession,
    CreateSession,
    Fragment,
    Packet,
    Ping,
)
from bitsferry.protocol.ranges import ContentRange

__all__ = [
    "METHOD",
    "OVERRIDE",
    "ack_of_error",
    "choose_protocol",
    "read_ack",
    "read_packet",
    "write_ack",
    "write_packet",
]

METHOD = "BITS_POST"
OVERRIDE = "x-http-method-override"
VALUE_LIMIT = 4096  # bytes of one header value, MC-BUP 2.2.1 <2>
PROTOCOLS_READ = 100  # MC-BUP 2.2.2.2 <6>

# Kerberos' tickets are longer; how long a whole head may be is for whoever reads it.
_UNLIMITED = {"authorization", "proxy-authorization"}
_SEPARATORS = re.compile(r"[ \t,]+")
_NUMBER = re.compile(r"[0-9]{1,20}")
_HEX = re.compile(r"(?:0x|x)?([0-9a-f]{1,8})", re.IGNORECASE)

# Both Content-Length and the packet type stand in every Ack; IIS adds Pragma (MC-BUP 4).
_ALWAYS = [
    ("Server", "bitsferry"),
    ("Pragma", "no-cache"),
    ("BITS-Packet-Type", "Ack"),
    ("Content-Length", "0"),
]


def read_packet(headers: Mapping[str, str], *, value_limit: int = VALUE_LIMIT) -> Packet:
    """The packet a BITS_POST request says; `headers` has lower-case names, repeated ones joined by commas.

    Raises InvalidMessage (400), LengthRequired (411) or UnsupportedEncoding (415) for a message that
    breaks MC-BUP section 2.
    """
    for name, value in headers.items():
        if len(value) > value_limit and name not in _UNLIMITED:
            raise InvalidMessage(f"the header {name[:60]} is longer than {value_limit} bytes")
    if "transfer-encoding" in headers:
        raise InvalidMessage("a BITS_POST has a Content-Length, never a Transfer-Encoding")
    kind = headers.get("bits-packet-type")
    if kind is None:
        raise InvalidMessage("the header BITS-Packet-Type is missing")
    if "content-length" not in headers:
        raise LengthRequired
    if _NUMBER.fullmatch(headers["content-length"]) is None:
        raise InvalidMessage("the header Content-Length is not a number")
    length = int(headers["content-length"])
    kind = kind.strip().lower()
    if kind == "fragment":
        return _read_fragment(headers, length)
    if kind not in _READERS:
        raise InvalidMessage(f"the BITS-Packet-Type {kind[:60]!r} is unknown")
    if length:
        raise InvalidMessage(f"a {kind} packet has no body, this one has {length} bytes")
    return _READERS[kind](headers)


def _read_fragment(headers: Mapping[str, str], length: int) -> Fragment:
    encoding = headers.get("content-encoding", "identity").strip()
    if encoding.lower() != "identity":
        raise UnsupportedEncoding(f"the Content-Encoding {encoding[:60]!r} was not announced; send identity")
    if "content-range" not in headers:
        raise InvalidMessage("a fragment needs a Content-Range")
    session_id = _session_id(headers)
    range_ = ContentRange.parse(headers["content-range"])
    if range_.length != length:
        raise InvalidMessage(f"the Content-Range names {range_.length} bytes, the body has {length}")
    return Fragment(
        session_id,
        range_,
        headers.get("content-name"),
        _digest(headers, "Repr-Digest"),
        _digest(headers, "Content-Digest"),
    )


def _read_create(headers: Mapping[str, str]) -> CreateSession:
    offered = headers.get("bits-supported-protocols", "").strip()
    if not offered:
        raise InvalidMessage("Create-Session needs BITS-Supported-Protocols")
    protocols = tuple(_SEPARATORS.split(offered)[:PROTOCOLS_READ])
    announced = headers.get("bitsferry-digest", "").strip()
    return CreateSession(
        protocols,
        headers.get("content-name"),
        _digest(headers, "Repr-Digest"),
        announced if announced in ALGORITHMS else None,
    )


def _digest(headers: Mapping[str, str], name: str) -> Digest | None:
    field = headers.get(name.lower())
    return None if field is None else read_digest(name, field)


def _session_id(headers: Mapping[str, str]) -> str:
    session_id = headers.get("bits-session-id", "").strip()
    if not session_id:
        raise InvalidMessage("the header BITS-Session-Id is missing")
    return session_id


def _read_close(headers: Mapping[str, str]) -> CloseSession:
    return CloseSession(_session_id(headers), headers.get("content-name"), _digest(headers, "Repr-Digest"))


_READERS: dict[str, Callable[[Mapping[str, str]], Packet]] = {
    "create-session": _read_create,
    "ping": lambda headers: Ping(headers.get("bits-session-id", "").strip() or None),
    "close-session": _read_close,
    "cancel-session": lambda headers: CancelSession(_session_id(headers)),
}


def choose_protocol(offered: Iterable[str]) -> str:
    """The protocol to speak, of those a client offers (MC-BUP 3.2.5.2.4). Raises NoCommonProtocol."""
    if any(guid.lower() == BITS_1_5 for guid in offered):
        return BITS_1_5
    raise NoCommonProtocol(f"this server speaks {BITS_1_5} and nothing else")


def write_packet(packet: Packet) -> list[tuple[str, str]]:
    """The headers of a request that says `packet`, in the order Windows sends them."""
    match packet:
        case CreateSession(protocols, name, digest, announced):
            headers = [
                ("BITS-Packet-Type", "Create-Session"),
                ("BITS-Supported-Protocols", " ".join(protocols)),
            ]
            if announced is not None:
                # No standard has a word for it: Want-Repr-Digest would ask the server for its own.
                headers.append(("Bitsferry-Digest", announced))
            return [*headers, *_content_name(name), *_repr_digest(digest), ("Content-Length", "0")]
        case Ping(named):
            headers = [("BITS-Packet-Type", "Ping")]
            if named is not None:
                headers.append(("BITS-Session-Id", named))
            return [*headers, ("Content-Length", "0")]
        case Fragment(session_id, range_, name, digest, own):
            return [
                ("BITS-Packet-Type", "Fragment"),
                ("BITS-Session-Id", session_id),
                *_content_name(name),
                *_repr_digest(digest),
                *([] if own is None else [("Content-Digest", str(own))]),
                ("Content-Range", str(range_)),
                ("Content-Length", str(range_.length)),
            ]
        case CloseSession(session_id, name, digest):
            headers = [("BITS-Packet-Type", "Close-Session"), ("BITS-Session-Id", session_id)]
            return [*headers, *_content_name(name), *_repr_digest(digest), ("Content-Length", "0")]
        case CancelSession(session_id):
            return [
                ("BITS-Packet-Type", "Cancel-Session"),
                ("BITS-Session-Id", session_id),
                ("Content-Length", "0"),
            ]


def _content_name(name: str | None) -> list[tuple[str, str]]:
    """Content-Name holds at most 260 characters and none of `\\ / : * ? " < > |` (MC-BUP 2.2.1.1 <3>).

    A name it cannot hold is left out: the header is optional and servers ignore it.
    """
    if name is None or not 0 < len(name) <= 260 or not name.isascii() or not name.isprintable():
        return []
    return [] if set(name) & set('\\/:*?"<>|') else [("Content-Name", name)]


def _repr_digest(digest: Digest | None) -> list[tuple[str, str]]:
    return [] if digest is None else [("Repr-Digest", str(digest))]


def write_ack(ack: Ack) -> list[tuple[str, str]]:
    """The headers of a response that says `ack`; its status is `ack.status`, it has no body."""
    headers = _ALWAYS.copy()
    if ack.protocol is not None:
        headers.append(("BITS-Protocol", ack.protocol))
    if ack.session_id is not None:
        headers.append(("BITS-Session-Id", ack.session_id))
    if ack.received is not None:
        headers.append(("BITS-Received-Content-Range", str(ack.received)))
    if ack.hresult is not None:
        # MC-BUP says BITS-Error, Learn says BITS-Error-Code; which one Windows reads is not known.
        headers.append(("BITS-Error-Code", spell(ack.hresult)))
        headers.append(("BITS-Error", spell(ack.hresult)))
        if ack.context is not None:
            headers.append(("BITS-Error-Context", f"0x{ack.context:X}"))
    if ack.host_id is not None:
        headers.append(("BITS-Host-Id", ack.host_id))
        if ack.host_id_fallback_timeout is not None:
            headers.append(("BITS-Host-Id-Fallback-Timeout", str(ack.host_id_fallback_timeout)))
    if ack.reply_url is not None:
        headers.append(("BITS-Reply-URL", ack.reply_url))
    if ack.accept_encoding is not None:
        headers.append(("Accept-Encoding", ack.accept_encoding))
    if ack.wants_digest is not None:
        headers.append(("Want-Repr-Digest", write_wanted(ack.wants_digest)))
    if ack.retry_after is not None:
        headers.append(("Retry-After", str(ack.retry_after)))
    headers += [("WWW-Authenticate", challenge) for challenge in ack.challenges]
    return headers


def ack_of_error(error: BitsError) -> Ack:
    """The Ack that says `error`; an error without an HRESULT has no error headers (MC-BUP 2.2.1.2 <4>)."""
    return Ack(
        status=error.status,
        session_id=error.session_id,
        received=error.held,
        hresult=error.hresult,
        context=error.context if error.hresult is not None else None,
        retry_after=error.retry_after,
        challenges=error.challenges if isinstance(error, AuthenticationRequired) else (),
    )


def read_ack(status: int, headers: Mapping[str, str]) -> Ack:
    """The Ack a response says; `headers` has lower-case names.

    A success that is no Ack is no answer of a BITS server and must be discarded (MC-BUP 3.1.5.2): raises
    InvalidServerResponse, as do unreadable numbers and a session id no request could carry. A redirect or
    an error may come from a proxy that knows no BITS, so there everything but the status may be missing.
    """
    is_ack = headers.get("bits-packet-type", "").strip().lower() == "ack"
    if status < 300 and not is_ack:
        raise InvalidServerResponse(
            f"the answer (status {status}) is no BITS Ack: is this a BITS upload URL?"
        )
    session_id = headers.get("bits-session-id", "").strip()
    if len(session_id) > VALUE_LIMIT:
        raise InvalidServerResponse(f"the server's BITS-Session-Id has {len(session_id)} characters")
    hresult = _hex(headers.get("bits-error-code") or headers.get("bits-error"))
    context = _hex(headers.get("bits-error-context"))
    return Ack(
        status=status,
        session_id=session_id or None,
        protocol=headers.get("bits-protocol", "").strip() or None,
        host_id=headers.get("bits-host-id", "").strip() or None,
        host_id_fallback_timeout=_number(headers, "bits-host-id-fallback-timeout"),
        received=_number(headers, "bits-received-content-range"),
        reply_url=headers.get("bits-reply-url", "").strip() or None,
        hresult=hresult or None,
        context=Context(context) if context in (5, 7) else None,
        retry_after=_seconds(headers.get("retry-after", "")),
        accept_encoding=headers.get("accept-encoding"),
        wants_digest=read_wanted(headers.get("want-repr-digest", "")),
    )


def _hex(text: str | None) -> int | None:
    match = _HEX.fullmatch((text or "").strip())
    return int(match[1], 16) if match else None


def _number(headers: Mapping[str, str], name: str) -> int | None:
    text = headers.get(name, "").strip()
    if not text:
        return None
    if _NUMBER.fullmatch(text) is None:
        raise InvalidServerResponse(f"the server's {name} {text[:60]!r} is not a number")
    return int(text)


def _seconds(text: str) -> int | None:
    """Retry-After in seconds; its other form, a date, is left to the client's own patience."""
    return int(text) if _NUMBER.fullmatch(text.strip()) else None
