"""How bitsadmin says what it has to say about a job."""

from __future__ import annotations

import getpass
import subprocess
import time

from bitsferry.cli.job_words import printable
from bitsferry.client.job import Job, JobError, JobFile, JobState, JobType
from bitsferry.protocol.errors import Context

__all__ = [
    "NULL",
    "UNKNOWN",
    "UNREGISTERED",
    "spell_command",
    "spell_error",
    "spell_file",
    "spell_job",
    "spell_job_verbosely",
    "spell_list",
    "spell_number",
    "spell_owner",
    "spell_progress",
    "spell_reply_progress",
    "spell_state",
    "spell_time",
    "spell_type",
]

NULL = "NULL"  # nothing at all
UNKNOWN = "UNKNOWN"
UNREGISTERED = "UNREGISTERED"

_CONTEXTS = {
    Context.NONE: "No error occurred.",
    Context.UNKNOWN: "The error occurred at an unknown place.",
    Context.GENERAL_QUEUE_MANAGER: "The error occurred in the queue.",
    Context.QUEUE_MANAGER_NOTIFICATION: "The error occurred while the notification command was run.",
    Context.LOCAL_FILE: "The error occurred while the local file was being processed.",
    Context.REMOTE_FILE: "The error occurred while the remote file was being processed.",
    Context.GENERAL_TRANSPORT: "The error occurred on the way to the server.",
    Context.REMOTE_APPLICATION: "The error occurred in the server's application.",
}


def spell_state(state: JobState) -> str:
    """`QUEUED`, …; one L for CANCELED, as bitsadmin has it."""
    return "CANCELED" if state is JobState.CANCELLED else state.name


def spell_type(kind: JobType) -> str:
    """`DOWNLOAD`, `UPLOAD` or `UPLOAD-REPLY`."""
    return kind.name.replace("_", "-")


def spell_number(number: int | None) -> str:
    """Digits; UNKNOWN for a size nobody has said yet."""
    return UNKNOWN if number is None else str(number)


def spell_time(at: float | None) -> str:
    """`at`, in seconds since the epoch, as local time, in every country `2026-01-31 12:00:00`."""
    return UNKNOWN if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def spell_owner() -> str:
    """The user all jobs here belong to."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a number without a name, as in containers
        return UNKNOWN


def spell_job(job: Job) -> str:
    """The line of `/list`, which scripts take apart at its blanks."""
    figures = f"{_files(job)} {_bytes(job)}".replace(" / ", "/")
    return printable(f"{job.id} {job.name} {spell_state(job.state)} {figures}")


def spell_progress(job: Job) -> str:
    """The two lines of `/transfer`."""
    kind, state = spell_type(job.type), spell_state(job.state)
    total = job.bytes_total
    percent = f" ({100 * job.bytes_transferred // total}%)" if total else ""
    return (
        f"DISPLAY: '{job.name}' TYPE: {kind} STATE: {state}\n"
        f"PRIORITY: {job.priority.name} FILES: {_files(job)} BYTES: {_bytes(job)}{percent}"
    )


def spell_job_verbosely(job: Job) -> str:
    """The lines of `/info /verbose`."""
    proxy = job.http.proxy
    headers = "WRITE-ONLY" if job.headers_are_write_only else ", ".join(map(": ".join, job.http.headers))
    lines = [
        f"GUID: {job.id} DISPLAY: '{job.name}'",
        f"TYPE: {spell_type(job.type)} STATE: {spell_state(job.state)} OWNER: {spell_owner()}",
        f"PRIORITY: {job.priority.name} FILES: {_files(job)} BYTES: {_bytes(job)}",
        f"CREATION TIME: {spell_time(job.created)} MODIFICATION TIME: {spell_time(job.modified)}",
        f"COMPLETION TIME: {spell_time(job.transferred_at)}",
        f"NOTIFY INTERFACE: {UNREGISTERED} NOTIFICATION FLAGS: {int(job.notify_flags)}",
        f"RETRY DELAY: {job.retry_delay} NO PROGRESS TIMEOUT: {job.no_progress_timeout}"
        f" ERROR COUNT: {job.error_count}",
        f"PROXY USAGE: {proxy.usage.name} PROXY LIST: {spell_list(proxy.proxies)}"
        f" PROXY BYPASS LIST: {spell_list(proxy.bypass)}",
        *([spell_error(job.error, job)] if job.error else []),
        f"DESCRIPTION: {job.description}",
        "JOB FILES:",
        *("\t" + spell_file(file) for file in job.files),
        f"NOTIFICATION COMMAND LINE: {spell_command(job.notify_command)}",
        f"MAX DOWNLOAD TIME: {job.max_download_time}",
        f"CUSTOM HEADERS: {headers or NULL}",
    ]
    if job.type is JobType.UPLOAD_REPLY:
        lines.append(f"REPLY FILE: {job.reply_path or NULL} {spell_reply_progress(job)}")
    return "\n".join(lines)


def spell_file(file: JobFile) -> str:
    """The line of `/listfiles`."""
    state = "COMPLETED" if file.done else "WORKING"
    return f"{file.transferred} / {spell_number(file.size)} {state} {_ways(file)}"


def spell_error(error: JobError, job: Job) -> str:
    """The lines of `/geterror`, the error's sentence in the second."""
    file = next((each for each in job.files if error.file in (each.remote, each.local)), None)
    where = _ways(file) if file else printable(error.file or "none")
    return (
        f"ERROR FILE:    {where}\n"
        f"ERROR CODE:    {error.hresult:#010x} - {printable(error.message)}\n"
        f"ERROR CONTEXT: {error.context:#010x} - {_CONTEXTS[error.context]}"
    )


def spell_command(command: tuple[str, ...]) -> str:
    """A notification command as one would type it."""
    return subprocess.list2cmdline(command) if command else "none"


def spell_list(entries: tuple[str, ...]) -> str:
    """What Windows separates by spaces; NULL for nothing."""
    return " ".join(entries) or NULL


def spell_reply_progress(job: Job) -> str:
    """`transferred / total` of the server's reply; a job that gets none has `0 / 0`."""
    if job.type is not JobType.UPLOAD_REPLY:
        return "0 / 0"
    if job.reply is None:
        return f"0 / {UNKNOWN}"
    return f"{job.reply.transferred} / {spell_number(job.reply.size)}"


def _ways(file: JobFile) -> str:
    return printable(f"{file.remote} -> {file.local}")


def _files(job: Job) -> str:
    return f"{job.files_transferred} / {len(job.files)}"


def _bytes(job: Job) -> str:
    return f"{job.bytes_transferred} / {spell_number(job.bytes_total)}"
