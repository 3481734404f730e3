"""Everything that can go wrong with an upload: each class has an HTTP status, HRESULT, context and hope."""

from __future__ import annotations

from enum import IntEnum

from bitsferry.protocol.hresult import HResult, http_error, name_of, spell

__all__ = [
    "AccessDenied",
    "AuthenticationRequired",
    "BitsError",
    "Busy",
    "CannotConnect",
    "Context",
    "DestinationExists",
    "DestinationIsFolder",
    "DigestMismatch",
    "DiskFull",
    "FileTooLarge",
    "FolderNotFound",
    "FragmentDamaged",
    "FragmentTooLarge",
    "HostNotFound",
    "InsufficientRangeSupport",
    "InvalidMessage",
    "InvalidName",
    "InvalidProxy",
    "InvalidServerResponse",
    "LengthRequired",
    "LocalAccessDenied",
    "LocalDiskFailed",
    "LocalDiskFull",
    "LocalFileChanged",
    "LocalFileInTheWay",
    "LocalFileMissing",
    "LocalFolderMissing",
    "MissingFileSize",
    "NetworkDisconnected",
    "NoCommonProtocol",
    "NoProgress",
    "OutOfStep",
    "OverQuota",
    "PasswordTooLong",
    "ProtocolMismatch",
    "ProxyAuthenticationRequired",
    "Refused",
    "RemoteFileChanged",
    "ServerFailed",
    "SessionNotFound",
    "StoreFailed",
    "TimedOut",
    "TooManyRequests",
    "TooManySessions",
    "TransportFailed",
    "UnknownUrl",
    "UnsupportedEncoding",
    "UploadsDisabled",
    "UserNameTooLong",
    "WriteProtected",
]


class Context(IntEnum):
    """Where an error arose, `BG_ERROR_CONTEXT`; only 5 and 7 are legal on the wire (MC-BUP 2.2.1.2)."""

    NONE = 0
    UNKNOWN = 1
    GENERAL_QUEUE_MANAGER = 2
    QUEUE_MANAGER_NOTIFICATION = 3
    LOCAL_FILE = 4
    REMOTE_FILE = 5
    GENERAL_TRANSPORT = 6
    REMOTE_APPLICATION = 7


class BitsError(Exception):
    """What stops an upload, for a moment or for good.

    The class says which HTTP status and HRESULT the wire shows (`hresult` None: the status says it all),
    in which context it arose, and whether trying the same thing again later makes sense (`transient`).
    The message speaks to the person who reads it. `retry_after` is in seconds. Where the error met a known
    session, `session_id` names it and `held` is how many bytes of it the server holds.
    """

    status: int = 500
    hresult: int | None = HResult.E_FAIL
    context: Context = Context.REMOTE_FILE
    transient: bool = False
    retry_after: int | None = None
    session_id: str | None = None
    held: int | None = None

    def __init__(self, message: str = "", *, retry_after: int | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])
        if retry_after is not None:
            self.retry_after = retry_after

    @property
    def message(self) -> str:
        """The sentence for people, without numbers."""
        return str(self.args[0])

    @property
    def code(self) -> int:
        """The HRESULT a Windows client shows for this error."""
        return http_error(self.status) if self.hresult is None else int(self.hresult)

    def __str__(self) -> str:
        return f"{name_of(self.code)} ({spell(self.code)}): {self.message}"


# The form of a message


class InvalidMessage(BitsError):
    """The message breaks the protocol (MC-BUP 2.2.1.2, E_INVALIDARG)."""

    status = 400
    hresult = HResult.E_INVALIDARG


class NoCommonProtocol(InvalidMessage):
    """The client offers no protocol this server speaks."""


class InvalidName(InvalidMessage):
    """The URL does not name a file that may be stored."""


class DestinationIsFolder(InvalidMessage):
    """The URL names a folder, not a file."""


class LengthRequired(InvalidMessage):
    """The message has no Content-Length (MC-BUP 3.2.5.2.3)."""

    status = 411


class UnsupportedEncoding(InvalidMessage):
    """The fragment has a Content-Encoding this server did not announce."""

    status = 415


class FragmentTooLarge(BitsError):
    """One fragment is larger than this directory takes; smaller ones are welcome."""

    status = 413
    hresult = None
    transient = True


# Rights


class AuthenticationRequired(BitsError):
    """The server wants to know who is asking.

    `challenges` are the values of WWW-Authenticate. `goes_on`: nothing is wrong, the next leg of a handshake
    is awaited on the same connection.
    """

    status = 401
    hresult = None

    def __init__(self, message: str = "", *, challenges: tuple[str, ...] = (), goes_on: bool = False) -> None:
        super().__init__(message)
        self.challenges = challenges
        self.goes_on = goes_on


class AccessDenied(BitsError):
    """The client may not upload to this URL."""

    status = 403
    hresult = HResult.E_ACCESSDENIED


class DestinationExists(AccessDenied):
    """A file of this name is already there and may not be overwritten."""


class UnknownUrl(BitsError):
    """No upload directory is served at this URL."""

    status = 404
    hresult: int | None = None


class FolderNotFound(UnknownUrl):
    """The folder in the URL does not exist and may not be created."""

    hresult = HResult.ERROR_PATH_NOT_FOUND


class UploadsDisabled(BitsError):
    """Uploads are switched off for this directory."""

    status = 501
    hresult = HResult.E_ACCESSDENIED


# The session


class SessionNotFound(BitsError):
    """The server does not know this session: never made, ended, or expired."""

    hresult = HResult.BG_E_SESSION_NOT_FOUND
    transient = True


class OutOfStep(BitsError):
    """The fragment leaves a gap; `held` is the offset the server wants next."""

    status = 416
    hresult = None
    transient = True

    def __init__(self, held: int, message: str = "") -> None:
        super().__init__(message or f"the fragment leaves a gap; the next byte wanted is {held}")
        self.held = held


class FileTooLarge(BitsError):
    """The whole file is larger than this directory takes."""

    hresult = HResult.BG_E_TOO_LARGE


# Digests


class FragmentDamaged(BitsError):
    """The fragment's bytes are not those of its Content-Digest; sent again, they are welcome."""

    hresult = HResult.ERROR_CRC
    transient = True


class DigestMismatch(BitsError):
    """The file's bytes are not those of its Repr-Digest: nothing but a new upload mends that."""

    status = 400
    hresult = HResult.ERROR_CRC


# The server's own troubles


class Busy(BitsError):
    """The server cannot take this just now; try again later."""

    status = 503
    hresult = None
    transient = True
    retry_after = 10


class TooManySessions(Busy):
    """This user has as many open uploads as this directory allows."""

    retry_after = 60


class TooManyRequests(Busy):
    """This user sends more requests per second than this directory takes."""

    retry_after = 1


class OverQuota(Busy):
    """This user has brought as many bytes as this directory takes from one in a day."""

    retry_after = 3600


class StoreFailed(BitsError):
    """The server could not write or read its disk."""

    hresult = HResult.ERROR_IO_DEVICE
    transient = True


class DiskFull(StoreFailed):
    """The server has no room for more bytes; what it acknowledged stays."""

    hresult = HResult.ERROR_DISK_FULL


class WriteProtected(StoreFailed):
    """The server's disk is read-only."""

    hresult = HResult.ERROR_WRITE_PROTECT


# What a client meets


class Refused(BitsError):
    """The server's answer as it came, where no class above says it better."""

    def __init__(
        self, message: str, *, status: int, hresult: int | None, context: Context, transient: bool
    ) -> None:
        super().__init__(message)
        self.status = status
        self.hresult = hresult
        self.context = context
        self.transient = transient


class ServerFailed(Refused):
    """The server says that it failed; trying again makes sense."""


class TransportFailed(BitsError):
    """The line broke."""

    hresult = HResult.ERROR_WINHTTP_CONNECTION_ERROR
    context = Context.GENERAL_TRANSPORT
    transient = True


class CannotConnect(TransportFailed):
    """The server could not be reached."""

    hresult = HResult.ERROR_WINHTTP_CANNOT_CONNECT


class HostNotFound(TransportFailed):
    """No address is known for the host."""

    hresult = HResult.ERROR_WINHTTP_NAME_NOT_RESOLVED


class TimedOut(TransportFailed):
    """The other end was silent for too long."""

    hresult = HResult.ERROR_WINHTTP_TIMEOUT


class NetworkDisconnected(TransportFailed):
    """This machine has no network."""

    hresult = HResult.BG_E_NETWORK_DISCONNECTED


class InvalidServerResponse(BitsError):
    """The server's answer breaks the protocol."""

    hresult = HResult.BG_E_INVALID_SERVER_RESPONSE
    transient = True


class ProtocolMismatch(BitsError):
    """The server chose a protocol this client did not offer."""

    hresult = HResult.BG_E_CLIENT_SERVER_PROTOCOL_MISMATCH


class NoProgress(BitsError):
    """Again and again the upload had to start over without one byte of headway."""

    hresult = HResult.BG_E_NO_PROGRESS
    transient = True


class LocalFileChanged(BitsError):
    """The file changed while it was being sent."""

    hresult = HResult.BG_E_LOCAL_FILE_CHANGED
    context = Context.LOCAL_FILE


class LocalFileMissing(BitsError):
    """The file to send cannot be read."""

    hresult = HResult.ERROR_FILE_NOT_FOUND
    context = Context.LOCAL_FILE


class ProxyAuthenticationRequired(BitsError):
    """The proxy wants to know who is asking."""

    status = 407
    hresult = None


class InvalidProxy(BitsError):
    """No proxy can be found in what is set."""

    hresult = HResult.BG_E_INVALID_PROXY_INFO
    context = Context.GENERAL_TRANSPORT


class UserNameTooLong(BitsError):
    """A user name has at most 300 characters."""

    hresult = HResult.BG_E_USERNAME_TOO_LARGE
    context = Context.GENERAL_QUEUE_MANAGER


class PasswordTooLong(BitsError):
    """A password has at most 65,535 characters."""

    hresult = HResult.BG_E_PASSWORD_TOO_LARGE
    context = Context.GENERAL_QUEUE_MANAGER


class MissingFileSize(BitsError):
    """The server does not say how long the file is."""

    hresult = HResult.BG_E_MISSING_FILE_SIZE


class InsufficientRangeSupport(BitsError):
    """The server cannot send the rest of a file without its beginning."""

    hresult = HResult.BG_E_INSUFFICIENT_RANGE_SUPPORT


class RemoteFileChanged(BitsError):
    """The server's file changed while it was being received."""

    status = 412
    hresult = None
    transient = True


class LocalDiskFull(BitsError):
    """There is no room on this machine's disk for more of the file."""

    hresult = HResult.ERROR_DISK_FULL
    context = Context.LOCAL_FILE
    transient = True


class LocalDiskFailed(BitsError):
    """The file cannot be written on this machine."""

    hresult = HResult.ERROR_IO_DEVICE
    context = Context.LOCAL_FILE


class LocalAccessDenied(BitsError):
    """This account may not write the file there."""

    hresult = HResult.E_ACCESSDENIED
    context = Context.LOCAL_FILE


class LocalFolderMissing(BitsError):
    """The folder the file shall be in is not there."""

    hresult = HResult.ERROR_PATH_NOT_FOUND
    context = Context.LOCAL_FILE


class LocalFileInTheWay(BitsError):
    """Something is at this path that must not be overwritten."""

    hresult = HResult.ERROR_FILE_EXISTS
    context = Context.LOCAL_FILE
