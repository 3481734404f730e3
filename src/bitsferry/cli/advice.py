"""What a person can do about an error."""

from __future__ import annotations

from bitsferry.cli.spool import CannotKeep
from bitsferry.client.agent import NotTrusted
from bitsferry.client.partial_file import AlreadyBeingReceived
from bitsferry.client.places import AlreadyBeingSent
from bitsferry.client.trust import InvalidTlsSettings
from bitsferry.protocol import errors
from bitsferry.protocol.errors import BitsError, Context
from bitsferry.protocol.hresult import HResult

__all__ = ["GO_ON", "advise"]

GO_ON = "Run the same command again later: it goes on where it stopped."


def advise(error: BitsError, *, user: str | None = None, go_on: str = GO_ON) -> str:
    """One sentence or two: what to do next about an error that ended a send by `user`.

    `go_on` says how the send goes on.
    """
    advice = _on_this_side(error) or _on_the_way(error) or _on_the_server(error, user)
    if error.transient:
        return f"{advice} {go_on}" if advice else go_on
    advice = (
        advice or "Trying again will not help as long as nothing changes on the server or in the command."
    )
    return advice if go_on == GO_ON else f"{advice} {go_on}"


def _on_this_side(error: BitsError) -> str | None:
    match error:
        case AlreadyBeingSent() | AlreadyBeingReceived():
            return "Wait until it is done, or stop it."
        case errors.LocalFileChanged():
            return "Run the same command again when nothing writes to the file any more: it starts over."
        case errors.LocalFileMissing():
            return "Check the name of the file, and that you may read it."
        case errors.LocalFolderMissing():
            return "Make the folder, or choose another one."
        case errors.LocalDiskFull():
            return "Make room on this machine's disk."
        case CannotKeep():
            return "Make room there, or put it into a file of your own and send that."
        case errors.LocalDiskFailed():
            return "Check this machine's disk."
        case errors.LocalAccessDenied() | errors.LocalFileInTheWay():
            return "Choose another place for the file on this machine."
        case errors.UserNameTooLong() | errors.PasswordTooLong():
            return "Check --user: this is longer than any server expects."
        case InvalidTlsSettings():
            return "Check --cacert, --cert and --key."
    return None


def _on_the_way(error: BitsError) -> str | None:
    match error:
        case NotTrusted():
            return (
                "If this is the right server, say who vouches for it with --cacert FILE;"
                " if it wants a certificate of yours, give that with --cert FILE."
            )
        case errors.HostNotFound():
            return "Check the host in the URL, and this machine's DNS."
        case errors.NetworkDisconnected():
            return "Connect this machine to the network."
        case errors.CannotConnect():
            return "Check host and port in the URL. If only a proxy leads there, name it with --proxy URL."
        case errors.ProxyAuthenticationRequired():
            return "Say who you are to the proxy with --proxy-user NAME."
        case errors.InvalidProxy():
            return "Check --proxy, or the variables http_proxy, https_proxy and all_proxy: write http://HOST:PORT."
        case BitsError(context=Context.GENERAL_TRANSPORT, transient=False):
            return "Ask the proxy's people, or go without it: --proxy none."
    return None


def _on_the_server(error: BitsError, user: str | None) -> str | None:
    match error:
        case errors.AuthenticationRequired() if user is None:
            return "Say who you are with --user NAME, or by a token with --auth bearer."
        case errors.AuthenticationRequired() if user:
            return f"Check the name {user} and its password."
        case errors.AuthenticationRequired():
            return "Check the token, or the ticket: it may have expired."
        case errors.DestinationExists():
            return "Choose another name in the URL, or ask for 'allow_overwrites' on the server."
        case errors.AccessDenied():
            return "Choose another name in the URL, or ask the server's people for the right to (over)write."
        case errors.FileTooLarge():
            return "Ask the server's people for a larger limit (max_upload_size, IIS: BITSMaximumUploadSize)."
        case errors.UploadsDisabled():
            return "Check the URL; uploads must be switched on for that directory of the server."
        case errors.InvalidServerResponse():
            return "Check the URL: it must lie in an upload directory of a BITS server."
        case errors.DiskFull():
            return "Ask the server's people for room."
        case errors.ProtocolMismatch():
            return "This server speaks another BITS than anybody has published; tell its makers."
        case errors.MissingFileSize() | errors.InsufficientRangeSupport():
            return (
                "The file has arrived, its reply cannot be fetched:"
                " the server must say how long files are, and give out parts of them."
            )
        case errors.DigestMismatch():
            return (
                "Check memory and disks here and there; another machine or another way may show where it is."
            )
        case BitsError(hresult=HResult.ERROR_PATH_NOT_FOUND):
            return "Make the folder on the server, or ask for 'create_folders' there."
        case BitsError(status=400):
            return (
                "Check the end of the URL: the server does not like this name for a file, or what was said."
            )
        case BitsError(status=404):
            return "Check the URL. IIS says this, too, where BITS uploads are not switched on."
        case BitsError(status=405 | 501):
            return (
                "Check the URL: what answers there does not know BITS uploads. If it is a proxy, try --post."
            )
        case BitsError(status=status) if 300 <= status < 400:
            return "Send to the URL the server points to."
        case BitsError(context=Context.REMOTE_APPLICATION):
            return "Ask the server's people what its application did not like."
    return None
