"""What bitsadmin can ask of a job, or set on it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bitsferry.cli import bitsadmin_words as words
from bitsferry.cli.bitsadmin_grammar import Misused, NotSupported
from bitsferry.client.credentials import Scheme
from bitsferry.client.job import InvalidState, Job, JobState, JobType, Priority
from bitsferry.client.options import parse_header
from bitsferry.client.proxies import ProxySettings, ProxyUsage
from bitsferry.client.trust import Ignore, TlsSettings
from bitsferry.protocol.errors import AccessDenied, BitsError, Context, FileTooLarge, LocalFileMissing
from bitsferry.protocol.hresult import HResult

__all__ = ["GETS", "SETS", "read_member", "read_number", "read_scheme", "read_security_flags"]

LARGEST_REPLY_DATA = 1024 * 1024  # bytes (Learn, GetReplyData)

# Security flags (Learn, SetSecurityFlags)
CHECK_REVOCATION = 0x1
FAULTS = 0x1E  # of a certificate, as Ignore has them
REDIRECTS = 0x700  # 0: follow them, 0x100: and say so, 0x200: do not
FROM_HTTPS_TO_HTTP = 0x800


# Asking


class NoErrorInformation(BitsError):
    """Nothing is wrong with the job: it is neither in ERROR nor in TRANSIENT_ERROR."""

    hresult = HResult.BG_E_ERROR_INFORMATION_UNAVAILABLE
    context = Context.GENERAL_QUEUE_MANAGER


def _error(job: Job) -> str:
    if job.error is None:
        raise NoErrorInformation
    return words.spell_error(job.error, job)


def _reply_data(job: Job) -> str:
    """In hexadecimal digits, sixteen bytes a line."""
    if job.type is not JobType.UPLOAD_REPLY or job.state is not JobState.TRANSFERRED:
        raise InvalidState("only an upload-reply job that is TRANSFERRED has its reply")
    if job.reply_path is None or not os.path.exists(job.reply_path):
        return ""  # the server had nothing to say
    try:
        with open(job.reply_path, "rb") as file:
            data = file.read(LARGEST_REPLY_DATA + 1)
    except OSError as error:
        raise LocalFileMissing(f"{job.reply_path} cannot be read: {error.strerror}") from error
    if len(data) > LARGEST_REPLY_DATA:
        raise FileTooLarge(f"the reply has more than {LARGEST_REPLY_DATA:,} bytes: read {job.reply_path}")
    return "\n".join(data[at : at + 16].hex(" ").upper() for at in range(0, len(data), 16))


def _custom_headers(job: Job) -> str:
    if job.headers_are_write_only:
        raise AccessDenied("the headers of this job are write-only")
    return "\n".join(f"{name}: {value}" for name, value in job.http.headers) or words.NULL


def _security_flags(job: Job) -> str:
    tls = job.http.tls
    return f"{int(tls.ignore) | (CHECK_REVOCATION if tls.crl_file else 0):#x}"


# The verb, what it asks for, the answer
GETS: dict[str, tuple[str, Callable[[Job], str]]] = {
    "gettype": ("type", lambda job: words.spell_type(job.type)),
    "getstate": ("state", lambda job: words.spell_state(job.state)),
    "getpriority": ("priority", lambda job: job.priority.name),
    "getdisplayname": ("display name", lambda job: job.name),
    "getdescription": ("description", lambda job: job.description),
    "getowner": ("owner", lambda job: words.spell_owner()),
    "getbytestotal": ("number of bytes to carry", lambda job: words.spell_number(job.bytes_total)),
    "getbytestransferred": ("number of bytes carried", lambda job: str(job.bytes_transferred)),
    "getfilestotal": ("number of files", lambda job: str(len(job.files))),
    "getfilestransferred": ("number of files carried", lambda job: str(job.files_transferred)),
    "getcreationtime": ("time it was made", lambda job: words.spell_time(job.created)),
    "getmodificationtime": ("time it changed last", lambda job: words.spell_time(job.modified)),
    "getcompletiontime": ("time it was transferred", lambda job: words.spell_time(job.transferred_at)),
    "geterror": ("error: file, code and context", _error),
    "geterrorcount": ("number of errors it met", lambda job: str(job.error_count)),
    "getminretrydelay": ("retry delay in seconds", lambda job: str(job.retry_delay)),
    "getnoprogresstimeout": ("no progress timeout in seconds", lambda job: str(job.no_progress_timeout)),
    "getmaxdownloadtime": ("maximum download time in seconds", lambda job: str(job.max_download_time)),
    "getreplyfilename": ("reply file name", lambda job: job.reply_path or words.NULL),
    "getreplyprogress": ("reply progress", words.spell_reply_progress),
    "getreplydata": ("reply data: at most 1 MiB, in hexadecimal digits", _reply_data),
    "getnotifyflags": ("notification flags", lambda job: str(int(job.notify_flags))),
    "getnotifyinterface": ("notification interface: there is none", lambda job: words.UNREGISTERED),
    "getnotifycmdline": ("notification command line", lambda job: words.spell_command(job.notify_command)),
    "getproxyusage": ("proxy usage", lambda job: job.http.proxy.usage.name),
    "getproxylist": ("proxy list", lambda job: words.spell_list(job.http.proxy.proxies)),
    "getproxybypasslist": ("proxy bypass list", lambda job: words.spell_list(job.http.proxy.bypass)),
    "getcustomheaders": ("custom headers", _custom_headers),
    "gethttpmethod": ("HTTP method", lambda job: "BITS_POST" if job.is_upload else "GET"),
    "getsecurityflags": ("security flags", _security_flags),
    "getclientcertificate": (
        "client certificate: its file",
        lambda job: job.http.tls.client_certificate or words.NULL,
    ),
}


# Setting


def read_number(text: str) -> int:
    """A whole number, hexadecimal after 0x. Raises Misused."""
    number = re.fullmatch(r"0x(?P<hexadecimal>[0-9a-f]+)|[0-9]+", text, re.IGNORECASE)
    if number is None:
        raise Misused(f"{text!r} is no number")
    return int(number["hexadecimal"], 16) if number["hexadecimal"] else int(text)


def read_member(kind: Any) -> Callable[[str], Any]:
    """What reads the name of a member of the enumeration `kind`, in any case, and raises Misused."""

    def read(text: str) -> Any:
        try:
            return kind[text.upper()]
        except KeyError:
            raise Misused(f"{text!r} is none of {', '.join(kind.__members__)}") from None

    return read


def read_scheme(text: str) -> Scheme:
    """How credentials are said. Raises Misused, and NotSupported for what only Windows has."""
    name = text.upper()
    if name in _NO_SCHEMES and name not in Scheme.__members__:
        raise NotSupported(f"{name} is not supported: {_NO_SCHEMES[name]}")
    scheme: Scheme = read_member(Scheme)(text)
    return scheme


_NO_SCHEMES = {
    "PASSPORT": "the service of Microsoft's that it asked is gone",
}


def read_security_flags(tls: TlsSettings, text: str, crl_file: str | None = None) -> TlsSettings:
    """`tls` with these security flags of BITS. Raises Misused, NotSupported and InvalidTlsSettings."""
    flags = read_number(text)
    if flags & ~(CHECK_REVOCATION | FAULTS | REDIRECTS | FROM_HTTPS_TO_HTTP):
        raise Misused(f"{text} has flags that mean nothing")
    if flags & FROM_HTTPS_TO_HTTP:
        raise NotSupported("0x800 is not supported: a redirect from https to http is never followed")
    if flags & REDIRECTS not in (0, 0x100):
        raise NotSupported(f"{flags & REDIRECTS:#x} is not supported: downloads follow redirects")
    if not flags & CHECK_REVOCATION:
        return replace(tls, ignore=Ignore(flags & FAULTS), crl_file=None)
    crl_file = os.path.abspath(crl_file) if crl_file else tls.crl_file
    if crl_file is None:
        raise Misused("0x1 needs the file that lists revoked certificates, in PEM form, after the flags")
    return replace(tls, ignore=Ignore(flags & FAULTS), crl_file=crl_file)


def _read_headers(*texts: str) -> tuple[tuple[str, str], ...]:
    return tuple(parse_header(text) for text in texts if text != words.NULL)


def _read_command(program: str, parameters: str = words.NULL) -> tuple[str, ...]:
    """The first of the parameters is the program once more (Learn, SetNotifyCmdLine)."""
    if program == words.NULL:
        return ()
    return (program, *_split(parameters)[1:]) if parameters != words.NULL else (program,)


def _split(text: str) -> list[str]:
    """As Windows' programs split their command line: double quotes hold together, a backslash is itself."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = lexer.escape = ""
    lexer.quotes = '"'
    return list(lexer)


def _read_proxy(usage: str, proxies: str = words.NULL, bypass: str = words.NULL) -> ProxySettings:
    first, second = (() if each == words.NULL else tuple(each.split()) for each in (proxies, bypass))
    return ProxySettings(read_member(ProxyUsage)(usage), first, second)


# The verb, the property, what stands after the job, what it sets, who reads it
SETS: dict[str, tuple[str, str, str, Callable[..., object]]] = {
    "setdisplayname": ("name", "name", "display name", str),
    "setdescription": ("description", "text", "description", str),
    "setpriority": (
        "priority",
        "level",
        "priority: FOREGROUND, HIGH, NORMAL or LOW",
        read_member(Priority),
    ),
    "setminretrydelay": ("retry_delay", "seconds", "retry delay", read_number),
    "setnoprogresstimeout": ("no_progress_timeout", "seconds", "no progress timeout", read_number),
    "setmaxdownloadtime": ("max_download_time", "seconds", "maximum download time", read_number),
    "setreplyfilename": ("reply_path", "path", "reply file name", str),
    "setnotifyflags": (
        "notify_flags",
        "flags",
        "notification flags: 1 transferred, 2 error, 3 both, 4 neither",
        read_number,
    ),
    "setnotifycmdline": (
        "notify_command",
        "program [parameters]",
        "notification command line: the parameters are one word in quotes, the first of them the program's "
        "name; NULL instead of a program for none",
        _read_command,
    ),
    "setproxysettings": (
        "proxy",
        "usage [list] [bypass]",
        "proxy settings: PRECONFIG, NO_PROXY, AUTODETECT, or OVERRIDE with a list; NULL is an empty one",
        _read_proxy,
    ),
    "setcustomheaders": (
        "headers",
        "header ...",
        "custom headers: 'Name: value'; NULL for none",
        _read_headers,
    ),
}
