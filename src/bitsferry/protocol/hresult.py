"""The HRESULTs of BITS by name, as Windows' headers spell them."""

from enum import IntEnum

__all__ = ["HResult", "http_error", "name_of", "spell"]


class HResult(IntEnum):
    """A number Windows gives to an outcome; the names are those of bitsmsg.h and winerror.h."""

    S_OK = 0

    # Win32 errors and COM
    E_FAIL = 0x80004005
    ERROR_FILE_NOT_FOUND = 0x80070002
    ERROR_PATH_NOT_FOUND = 0x80070003
    E_ACCESSDENIED = 0x80070005
    ERROR_WRITE_PROTECT = 0x80070013
    ERROR_CRC = 0x80070017
    ERROR_FILE_EXISTS = 0x80070050
    ERROR_DISK_FULL = 0x80070070
    # MC-BUP 2.2.1.2 prints ERROR_DISK_FULL as x80070112 and means 112 decimal; old servers may send it.
    ERROR_DISK_FULL_AS_PRINTED = 0x80070112
    E_INVALIDARG = 0x80070057
    ERROR_IO_DEVICE = 0x8007045D
    ERROR_WINHTTP_TIMEOUT = 0x80072EE2
    ERROR_WINHTTP_NAME_NOT_RESOLVED = 0x80072EE7
    ERROR_WINHTTP_CANNOT_CONNECT = 0x80072EFD
    ERROR_WINHTTP_CONNECTION_ERROR = 0x80072EFE
    ERROR_WINHTTP_CLIENT_AUTH_CERT_NEEDED = 0x80072F0C
    ERROR_WINHTTP_SECURE_FAILURE = 0x80072F8F

    # BITS
    BG_E_NOT_FOUND = 0x80200001
    BG_E_INVALID_STATE = 0x80200002
    BG_E_EMPTY = 0x80200003
    BG_E_FILE_NOT_AVAILABLE = 0x80200004
    BG_E_PROTOCOL_NOT_AVAILABLE = 0x80200005
    BG_E_DESTINATION_LOCKED = 0x8020000D
    BG_E_ERROR_INFORMATION_UNAVAILABLE = 0x8020000F
    BG_E_NETWORK_DISCONNECTED = 0x80200010
    BG_E_MISSING_FILE_SIZE = 0x80200011
    BG_E_INSUFFICIENT_HTTP_SUPPORT = 0x80200012
    BG_E_INSUFFICIENT_RANGE_SUPPORT = 0x80200013
    BG_E_INVALID_SERVER_RESPONSE = 0x8020001B
    BG_E_TOO_MANY_FILES = 0x8020001C
    BG_E_LOCAL_FILE_CHANGED = 0x8020001D
    BG_E_SESSION_NOT_FOUND = 0x8020001F
    BG_E_TOO_LARGE = 0x80200020
    BG_E_STRING_TOO_LONG = 0x80200021
    BG_E_CLIENT_SERVER_PROTOCOL_MISMATCH = 0x80200022
    BG_E_SERVER_EXECUTE_ENABLED = 0x80200023
    BG_E_NO_PROGRESS = 0x80200024
    BG_E_USERNAME_TOO_LARGE = 0x80200025
    BG_E_PASSWORD_TOO_LARGE = 0x80200026
    BG_E_BLOCKED_BY_POLICY = 0x8020003E
    BG_E_INVALID_PROXY_INFO = 0x8020003F
    BG_E_MAXDOWNLOAD_TIMEOUT = 0x80200054
    BG_E_TOKEN_REQUIRED = 0x80200056


_BY_NUMBER = {int(member): member.name for member in HResult}
_HTTP = 0x80190000


def http_error(status: int) -> int:
    """The HRESULT a Windows client shows for a bare HTTP status, `BG_E_HTTP_ERROR_nnn`."""
    return _HTTP + status


def name_of(value: int) -> str:
    """The name Windows gives to `value`, or its hexadecimal spelling when it has none."""
    if value in _BY_NUMBER:
        return _BY_NUMBER[value]
    if _HTTP + 100 <= value <= _HTTP + 599:
        return f"BG_E_HTTP_ERROR_{value - _HTTP}"
    return spell(value)


def spell(value: int) -> str:
    """`0x` and eight upper-case hexadecimal digits, as people and wires read it."""
    return f"0x{value & 0xFFFFFFFF:08X}"
