"""How a job is told: in words to people, as an object to programs."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Iterable, Sequence

import msgspec

from bitsferry.cli.quantities import parse_size, spell_duration, spell_size
from bitsferry.client.bandwidth import Span, Timetable
from bitsferry.client.credential_store import CredentialName
from bitsferry.client.job import Job, JobError, JobFile, JobState
from bitsferry.protocol.errors import Context
from bitsferry.protocol.hresult import HResult, http_error, name_of, spell

__all__ = [
    "advise",
    "as_object",
    "printable",
    "short_id",
    "spell_amount",
    "spell_command",
    "spell_context",
    "spell_error",
    "spell_moment",
    "spell_percent",
    "spell_rates",
    "spell_retry",
    "spell_state",
]

_CONTEXTS = {
    Context.QUEUE_MANAGER_NOTIFICATION: "the notification command",
    Context.LOCAL_FILE: "the file here",
    Context.REMOTE_FILE: "the file on the server",
    Context.GENERAL_TRANSPORT: "the way to the server",
    Context.REMOTE_APPLICATION: "the server's application",
}


def short_id(job: Job) -> str:
    """The first eight digits of its id: enough to name it."""
    return job.id[1:9]


def printable(text: str) -> str:
    """Names of files and words of servers may hold what would move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def spell_state(state: JobState) -> str:
    """`queued`, `transient error`, …"""
    return state.name.lower().replace("_", " ")


def spell_amount(done: int, total: int | None) -> str:
    """`1.2/5.4 GB`; nothing for nothing of nobody knows how much."""
    if total is None:
        return spell_size(done) if done else ""
    number, unit = spell_size(done).split(" ")
    whole = spell_size(total)
    return f"{number}/{whole}" if done == 0 or unit == whole.split(" ")[1] else f"{number} {unit}/{whole}"


def spell_percent(done: int, total: int | None) -> str:
    """`22 %`, rounded down: 100 is all of it. Nothing can be said of nothing."""
    return f"{100 * done // total} %" if total else ""


def spell_moment(at: float, now: float) -> str:
    """`14:05` for a time of today, `2026-01-31 14:05` for another; both in seconds since the epoch."""
    there, here = time.localtime(at), time.localtime(now)
    return time.strftime("%H:%M" if there[:3] == here[:3] else "%Y-%m-%d %H:%M", there)


def spell_error(error: JobError) -> str:
    """As `send` says it: name, number, sentence."""
    return f"{name_of(error.hresult)} ({spell(error.hresult)}): {printable(error.message)}"


def spell_context(context: Context) -> str:
    """Where an error arose: `5, the file on the server`."""
    return f"{int(context)}, {_CONTEXTS[context]}" if context in _CONTEXTS else str(int(context))


def spell_command(words: Sequence[str]) -> str:
    """As one would type it here."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def spell_retry(job: Job, now: float) -> str:
    """When a job in TRANSIENT_ERROR is tried again."""
    if job.retry_at is None:
        return "when the network is back"
    wait = job.retry_at - now
    if wait < 60:
        return "at once" if wait <= 0 else f"in {spell_duration(wait)}"
    return f"at {spell_moment(job.retry_at, now)}"


_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def spell_rates(rates: Timetable) -> str:
    """So that `parse_rates` reads the same in it."""
    return ", ".join(_spell_span(span) for span in rates.spans)


def _spell_span(span: Span) -> str:
    rate = "unlimited"
    if span.rate is not None:
        rate = spell_size(span.rate)
        if parse_size(rate) != span.rate:
            rate = f"{span.rate} bytes"
        rate += "/s"
    words = [rate]
    if len(span.days) < 7:
        words.append(" ".join(_spell_run(run) for run in _runs(span.days)))
    if (span.start, span.stop) != (0, 24 * 60):
        words.append("-".join(f"{minute // 60:02}:{minute % 60:02}" for minute in (span.start, span.stop)))
    return " ".join(words)


def _runs(days: Iterable[int]) -> list[list[int]]:
    """Days that follow each other, together."""
    runs: list[list[int]] = []
    for day in sorted(days):
        if runs and runs[-1][-1] == day - 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    return runs


def _spell_run(run: list[int]) -> str:
    return _DAYS[run[0]] if len(run) == 1 else f"{_DAYS[run[0]]}-{_DAYS[run[-1]]}"


def advise(job: Job, now: float) -> str:
    """What its owner can do about its error, in a sentence or two; nothing for a job without one."""
    if job.error is None:
        return ""
    name = short_id(job)
    resume = f"bitsferry jobs resume {name}"
    if job.state is JobState.TRANSIENT_ERROR:
        return f"It is tried again {spell_retry(job, now)}; sooner with: {resume}"
    remedy = _remedy(job.error, name)
    return f"{remedy} Then: {resume}" if remedy else f"When the cause is gone: {resume}"


def _remedy(error: JobError, job: str) -> str:
    match error.hresult:
        case HResult.E_ACCESSDENIED if error.context is Context.REMOTE_FILE:
            return (
                "Ask the server's people for the right to (over)write, or cancel the job and make one with "
                "another name in the URL."
            )
        case HResult.ERROR_FILE_NOT_FOUND if error.context is Context.LOCAL_FILE:
            return "Put the file where it was, so that it can be read."
        case HResult.ERROR_PATH_NOT_FOUND if error.context is Context.REMOTE_FILE:
            return "Check the URL: the server has no such folder."
        case HResult.BG_E_LOCAL_FILE_CHANGED:
            return "Wait until nothing writes to the file any more; it starts over."
        case HResult.BG_E_TOO_LARGE:
            return "Ask the server's people for a larger limit (max_upload_size, IIS: BITSMaximumUploadSize)."
        case HResult.BG_E_MAXDOWNLOAD_TIMEOUT:
            return f"Let it take longer: bitsferry jobs set {job} --max-download-time TIME."
        case HResult.ERROR_WINHTTP_SECURE_FAILURE:
            return f"Trust the server's certificate: bitsferry jobs set {job} --cacert FILE."
        case HResult.BG_E_INVALID_PROXY_INFO:
            return f"Name a proxy: bitsferry jobs set {job} --proxy URL, or --proxy none."
    match error.hresult - http_error(0):
        case 401:
            return f"Say who you are: bitsferry jobs credentials set {job} --user NAME."
        case 407:
            return f"Say who you are: bitsferry jobs credentials set {job} --proxy-user NAME."
        case 404:
            return "Check the URL. IIS says this, too, where BITS uploads are not switched on."
        case 405 | 501:
            return "Check the URL: what answers there, perhaps a proxy, does not know BITS uploads."
    return ""


def as_object(job: Job, credentials: Iterable[CredentialName], now: float) -> dict[str, object]:
    """All there is to know about it, without secrets; times as `2026-01-31T12:00:00Z`, sizes in bytes,
    delays and time-outs in seconds.
    """
    http = job.http
    return {
        "id": job.id,
        "name": job.name,
        "type": job.type.name,
        "state": job.state.name,
        "priority": job.priority.name,
        "description": job.description,
        "bytes_transferred": job.bytes_transferred,
        "bytes_total": job.bytes_total,
        "files_transferred": job.files_transferred,
        "files_total": len(job.files),
        "files": [_file(file) for file in job.files],
        "reply_path": job.reply_path,
        "reply": None if job.reply is None else _file(job.reply),
        "created": _time(job.created),
        "modified": _time(job.modified),
        "transferred": _time(job.transferred_at),
        "error": None if job.error is None else _error(job, job.error, now),
        "error_count": job.error_count,
        "retry_at": _time(job.retry_at),
        "retry_delay": job.retry_delay,
        "no_progress_timeout": job.no_progress_timeout,
        "max_download_time": job.max_download_time,
        "notify_flags": int(job.notify_flags),
        "notify_command": list(job.notify_command),
        "limit": None if job.limit is None else msgspec.to_builtins(job.limit.spans),
        "fragment_limit": job.fragment_limit,
        "headers": [[name, None if job.headers_are_write_only else value] for name, value in http.headers],
        "credentials": [
            {"target": each.target, "scheme": each.scheme, "user": each.user} for each in credentials
        ],
        "proxy": {
            "usage": http.proxy.usage.name,
            "proxies": list(http.proxy.proxies),
            "bypass": list(http.proxy.bypass),
            "tunnel": http.proxy.tunnel,
        },
        "tls": {
            "ca_file": http.tls.ca_file,
            "client_certificate": http.tls.client_certificate,
            "client_key": http.tls.client_key,
            "crl_file": http.tls.crl_file,
            "ignore": int(http.tls.ignore),
        },
        "post": http.override_method,
        "digest": http.digest,
    }


def _file(file: JobFile) -> dict[str, object]:
    return {
        "remote": file.remote,
        "local": file.local,
        "transferred": file.transferred,
        "size": file.size,
        "done": file.done,
    }


def _error(job: Job, error: JobError, now: float) -> dict[str, object]:
    return {
        "name": name_of(error.hresult),
        "hresult": spell(error.hresult),
        "context": int(error.context),
        "message": error.message,
        "file": error.file,
        "at": _time(error.at),
        "advice": advise(job, now),
    }


def _time(at: float | None) -> str | None:
    return None if at is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
