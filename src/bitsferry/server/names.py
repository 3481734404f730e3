"""Which URL paths name a file that may be stored, also on a folder shared with Windows."""

from __future__ import annotations

import re
import string
from urllib.parse import quote, unquote_to_bytes

from bitsferry.protocol.errors import InvalidName
from bitsferry.store.folder import OWN_PREFIX

__all__ = ["KEPT", "check_name", "decode_path", "escaped", "path_of_target"]

KEPT = string.punctuation.replace("#", "")  # of ASCII in a URL; what else there is, is escaped
LONGEST = 255  # bytes of one name on the file systems people use

_DEVICE = re.compile(
    r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|CLOCK\$|(?:COM|LPT)[0-9\u00b9\u00b2\u00b3])\s*(?:\..*)?",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_FORBIDDEN = set('<>:"|?*\\')
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*", re.ASCII)


def path_of_target(target: str) -> str:
    """The path of a request target, absolute-form or origin-form, without its query.

    Raises InvalidName for any other form.
    """
    absolute = _ABSOLUTE.match(target)
    path = target[absolute.end() :] if absolute else target
    path = re.split(r"[?#]", path, maxsplit=1)[0]
    if absolute and not path:
        path = "/"
    if not path.startswith("/"):
        raise InvalidName(f"the request target {target[:80]!r} is no path")
    return path


def decode_path(path: str) -> str:
    """`path` percent-decoded once, as UTF-8. Raises InvalidName when it is neither."""
    if _BAD_ESCAPE.search(path):
        raise InvalidName(f"the URL {path[:80]!r} has a '%' that is no escape")
    try:
        return unquote_to_bytes(path.encode("latin-1")).decode("utf-8")
    except UnicodeError:
        raise InvalidName(f"the URL {path[:80]!r} is not UTF-8") from None


def escaped(text: str) -> str:
    """A URL, or part of one, as it may stand in a request; letters beyond ASCII are bytes in Latin-1."""
    return quote(text, safe=KEPT, encoding="latin-1", errors="replace")


def check_name(name: str) -> None:
    """Raises InvalidName, with the reason, when a file or folder may not be called `name`."""
    if name in ("", ".", ".."):
        raise InvalidName("the URL has an empty part, '.' or '..' where a name belongs")
    if _CONTROL.search(name):
        raise InvalidName(f"the name {name!r} has a control character")
    if bad := _FORBIDDEN & set(name):
        raise InvalidName(f"the name {name!r} has a character Windows cannot store: {' '.join(sorted(bad))}")
    if name[-1] in ". ":
        raise InvalidName(f"the name {name!r} ends in a dot or a space, which Windows cuts off")
    if _DEVICE.fullmatch(name):
        raise InvalidName(f"the name {name!r} is a device on Windows")
    if name.lower().startswith(OWN_PREFIX):
        raise InvalidName(f"names that begin with {OWN_PREFIX!r} belong to the server")
    if len(name.encode()) > LONGEST:
        raise InvalidName(f"the name {name[:40]!r}... is longer than {LONGEST} bytes")
