"""What a person can do about an error."""

from __future__ import annotations

from bitsferry.client.places import AlreadyBeingSent
from bitsferry.client.transport import NotTrusted
from bitsferry.protocol import errors
from bitsferry.protocol.errors import BitsError

__all__ = ["advise"]

_GO_ON = "Run the same command again later: it goes on where it stopped."


def advise(error: BitsError, *, user: str | None = None) -> str:
    """One sentence or two: what to do next about an error that ended a send by `user`."""
    match error:
        case AlreadyBeingSent():
            return "Wait until it is done or stop it; then run the same command again."
        case NotTrusted():
            return "The server needs a certificate that this system's trust store knows."
        case errors.AuthenticationRequired() if user is None:
            return "Say who you are with --user NAME."
        case errors.AuthenticationRequired():
            return f"Check the password of {user}. Only Basic is answered: a server that wants NTLM says no."
        case errors.DestinationExists():
            return "Choose another name in the URL, or ask for 'allow_overwrites' on the server."
        case errors.AccessDenied():
            return "Choose another name in the URL, or ask the server's people for the right to (over)write."
        case errors.FileTooLarge():
            return "Ask the server's people for a larger limit (max_upload_size, IIS: BITSMaximumUploadSize)."
        case errors.UploadsDisabled():
            return "Check the URL; uploads must be switched on for that directory of the server."
        case errors.LocalFileChanged():
            return "Run the same command again when nothing writes to the file any more: it starts over."
        case errors.InvalidServerResponse():
            return "Check the URL: it must lie in an upload directory of a BITS server."
        case errors.DiskFull():
            return "Ask the server's people for room. " + _GO_ON
        case BitsError(status=404):
            return "Check the URL. IIS says this, too, where BITS uploads are not switched on."
        case BitsError(status=405 | 501):
            return "Check the URL: what answers there, perhaps a proxy, does not know BITS uploads."
        case BitsError(transient=True):
            return _GO_ON
    return "Trying again will not help as long as nothing changes on the server or in the command."
