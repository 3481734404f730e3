"""What a server asks for in WWW-Authenticate, or a proxy in Proxy-Authenticate, taken apart."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Challenge", "read_challenges"]

_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_SCHEME = re.compile(_WORD)
# RFC 9110 11.2: base64 and its relatives, at the end of a challenge. What goes on after it is a parameter.
_TOKEN68 = re.compile(r" +([A-Za-z0-9\-._~+/]+=*) *(?=,|$)")
# Values without their quotes are read up to the next comma, as nonces in base64 are seen in the wild.
_PARAMETER = re.compile(
    rf"({_WORD}) *= *(?:\"((?:[^\"\\\x00-\x1f\x7f]|\\[^\x00-\x1f\x7f])*)\"|([^\s,\"\x00-\x1f\x7f]*))"
)
_BETWEEN = re.compile(r"[ ,]*")
_BREAKS = re.compile(r"[\r\n\t]+")  # a folded header is one line (RFC 9112 5.2)
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One scheme a server would take (RFC 9110 11.3).

    `scheme` and the names of `parameters` are in lower case; values are without quotes, one character for
    each byte that came (ISO-8859-1). `token` is what NTLM and Negotiate say instead of parameters.
    """

    scheme: str
    token: str | None = None
    parameters: dict[str, str] = field(default_factory=dict)


def read_challenges(values: Iterable[str]) -> list[Challenge]:
    """All challenges of all values of the header, in their order.

    What cannot be read ends its value; what stands before it counts. Of a parameter that is there twice, the
    first counts.
    """
    return [challenge for value in values for challenge in _read(_BREAKS.sub(" ", value))]


def _read(value: str) -> Iterable[Challenge]:
    at = _after(_BETWEEN, value, 0)
    while scheme := _SCHEME.match(value, at):
        at = scheme.end()
        token, parameters = None, dict[str, str]()
        if said := _TOKEN68.match(value, at):
            token, at = said[1], said.end()
        else:
            at = _after(_BETWEEN, value, at)
            while parameter := _PARAMETER.match(value, at):
                name, quoted, plain = parameter.groups()
                parameters.setdefault(name.lower(), plain if quoted is None else _ESCAPED.sub(r"\1", quoted))
                at = _after(_BETWEEN, value, parameter.end())
        yield Challenge(scheme[0].lower(), token, parameters)
        at = _after(_BETWEEN, value, at)


def _after(what: re.Pattern[str], value: str, at: int) -> int:
    found = what.match(value, at)
    return found.end() if found else at
