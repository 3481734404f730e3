"""Bitsferry speaks the BITS Upload Protocol: a server for Windows clients, a client for BITS servers."""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

# What programs use, by where it lives; `__init__.pyi` says the same to type checkers. It is loaded when it is
# used, so that this module costs nothing and the server does not bring the client along.
_HOMES = {
    "client.sending": "Sender Uploaded upload",
    "client.fetching": "Downloaded Fetcher download",
    "client.client": "Client",
    "client.aio": "AsyncClient download_async upload_async",
    "client.credentials": "Credential Scheme Target",
    "client.options": "HttpOptions",
    "client.proxies": "ProxySettings ProxyUsage",
    "client.trust": "Ignore InvalidTlsSettings TlsSettings",
    "client.bandwidth": "Limit Span Timetable",
    "client.job": """InvalidState Job JobError JobFile JobState JobType NoFiles Notify Priority TookTooLong
        TooManyFiles""",
    "client.job_queue": "AmbiguousJob JobNotFound QueueUnusable",
    "client.credential_store": "PasswordUnreadable",
    "client.runner_lock": "RunnerWorking",
    "client.places": "AlreadyBeingSent",
    "client.partial_file": "AlreadyBeingReceived",
    "client.agent": "NotTrusted",
    "client.stopped": "Stopped",
    "server.embedding": "Server",
    "server.callable_backend": "ReceivedUpload RefuseUpload Reply TryLater",
    "server.directory": "Directory",
    "server.tls": "ServerTls",
    "server.backend": "Timing",
    "protocol.errors": """AccessDenied AuthenticationRequired BitsError CannotConnect Context
        DestinationExists DigestMismatch DiskFull FileTooLarge HostNotFound InsufficientRangeSupport
        InvalidProxy InvalidServerResponse LocalAccessDenied LocalDiskFailed LocalDiskFull LocalFileChanged
        LocalFileInTheWay LocalFileMissing LocalFolderMissing MissingFileSize NetworkDisconnected NoProgress
        PasswordTooLong ProtocolMismatch ProxyAuthenticationRequired Refused RemoteFileChanged ServerFailed
        TimedOut TransportFailed UploadsDisabled UserNameTooLong""",
}
_HOME = {name: f"bitsferry.{home}" for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(["__version__", "events", *_HOME])


def __getattr__(name: str) -> object:
    if name == "events":
        return importlib.import_module("bitsferry.client.events")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
