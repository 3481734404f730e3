"""Jobs as people like to look at them: a line each, or one with all it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.text import Text

from bitsferry.cli.job_words import (
    advise,
    printable,
    short_id,
    spell_amount,
    spell_command,
    spell_context,
    spell_error,
    spell_moment,
    spell_percent,
    spell_rates,
    spell_retry,
    spell_state,
)
from bitsferry.cli.quantities import spell_duration, spell_size
from bitsferry.client.credential_store import CredentialName
from bitsferry.client.job import Job, JobFile, JobState, JobType, Notify
from bitsferry.client.proxies import ProxyUsage
from bitsferry.client.trust import Ignore
from bitsferry.protocol.hresult import name_of

__all__ = ["EMPTY", "average_rate", "bar", "details", "table"]

EMPTY = "the queue is empty: 'bitsferry jobs send FILE URL' puts a file into it"

ARROWS = {JobType.UPLOAD: "↑", JobType.UPLOAD_REPLY: "⇅", JobType.DOWNLOAD: "↓"}
STYLES = {
    JobState.QUEUED: "blue",
    JobState.CONNECTING: "cyan",
    JobState.TRANSFERRING: "cyan",
    JobState.SUSPENDED: "magenta",
    JobState.ERROR: "bold red",
    JobState.TRANSIENT_ERROR: "yellow",
    JobState.TRANSFERRED: "green",
    JobState.ACKNOWLEDGED: "bright_black",
    JobState.CANCELLED: "bright_black",
}

_GAP = 2
_INDENT = 8 + _GAP  # below the name
_NARROW_NAME = 12
_REST = 18  # what is left to wait, so that bars are of one length
_HEADINGS = ("ID", "JOB", "STATE", "DONE", "", "RATE")
_NAME = 1
_RIGHT = (3, 4, 5)
_DISPENSABLE = (3, 5, 4)  # where it is narrow, the first first


def average_rate(job: Job) -> float | None:
    """Bytes a second since its turn came; None for a job that is not under way or has nothing to show."""
    seconds, count = job.modified - job.turn, job.bytes_transferred - job.turn_bytes
    return count / seconds if job.state is JobState.TRANSFERRING and seconds > 0 and count > 0 else None


def table(
    jobs: Sequence[Job],
    *,
    width: int | None,
    now: float,
    rates: Mapping[str, float] | None = None,
    bars: bool = False,
) -> list[Text]:
    """A line for each job, and one below it where there is more to say. Without a width nothing is cut.

    `rates` by job, in bytes a second, where somebody knows better than the average. `bars`, which need a
    width, stand below those that move.
    """
    rates = rates or {}
    rows = [[Text(heading, "bright_black") for heading in _HEADINGS]]
    for job in jobs:
        rate = rates.get(job.id) or average_rate(job)
        cells = (
            short_id(job),
            f"{ARROWS[job.type]} {job.name}",
            spell_state(job.state),
            spell_amount(job.bytes_transferred, job.bytes_total) if job.files else "",
            spell_percent(job.bytes_transferred, job.bytes_total),
            f"{spell_size(rate)}/s" if rate else "",
        )
        rows.append([Text(cell) for cell in cells])
        rows[-1][2].stylize(STYLES[job.state])
    heading, *aligned = _aligned(rows, width)
    lines = [heading]
    for job, line in zip(jobs, aligned, strict=True):
        lines.append(line)
        if bars and width is not None and job.state is JobState.TRANSFERRING and job.bytes_total:
            lines.append(_bar_and_rest(job, rates.get(job.id) or average_rate(job), width))
        elif (note := _note(job, now)) is not None:
            lines.append(_cut(Text(" " * _INDENT).append_text(note), width))
    return lines


def _aligned(rows: list[list[Text]], width: int | None) -> list[Text]:
    widths = [max(row[column].cell_len for row in rows) for column in range(len(_HEADINGS))]
    filled = [any(row[column].plain for row in rows[1:]) for column in range(len(_HEADINGS))]
    kept = [column for column in range(len(_HEADINGS)) if filled[column]]
    if width is not None:
        for column in _DISPENSABLE:
            if _taken(widths, kept) + _NARROW_NAME <= width:
                break
            kept = [each for each in kept if each != column]
        widths[_NAME] = max(1, min(widths[_NAME], width - _taken(widths, kept)))
    lines = []
    for row in rows:
        line = Text()
        for column in kept:
            cell = row[column]
            cell.truncate(widths[column], overflow="ellipsis")
            padding = " " * (widths[column] - cell.cell_len)
            line.append_text(Text(padding) + cell if column in _RIGHT else cell + Text(padding))
            line.append(" " * _GAP)
        line.rstrip()
        lines.append(_cut(line, width))
    return lines


def _taken(widths: list[int], kept: list[int]) -> int:
    """The width of all columns but the name's, and of the gaps."""
    return sum(widths[column] for column in kept if column != _NAME) + _GAP * (len(kept) - 1)


def _note(job: Job, now: float) -> Text | None:
    """What stands below a job."""
    if job.error is not None:
        again = f", again {spell_retry(job, now)}" if job.state is JobState.TRANSIENT_ERROR else ""
        words = f"{name_of(job.error.hresult)}{again}: {printable(job.error.message)}"
        return Text(words, STYLES[job.state].removeprefix("bold "))
    if not job.files:
        return Text(f"without a file yet: bitsferry jobs add {short_id(job)} FILE URL", "bright_black")
    if job.state is JobState.TRANSFERRED and job.type is JobType.DOWNLOAD:
        return Text(f"to have it: bitsferry jobs complete {short_id(job)}", "bright_black")
    return None


def _cut(line: Text, width: int | None) -> Text:
    if width is not None:
        line.truncate(width, overflow="ellipsis")
    return line


def _bar_and_rest(job: Job, rate: float | None, width: int) -> Text:
    done, total = job.bytes_transferred, job.bytes_total or 0
    words = f"  {spell_duration((total - done) / rate)} left" if rate else ""
    length = max(0, width - _INDENT - max(len(words), _REST))
    line = Text(" " * _INDENT).append_text(bar(done, total, length)).append(words)
    return _cut(line, width)


def bar(done: int, total: int | None, width: int) -> Text:
    """So much of the width as is done."""
    full = width * done // total if total else 0
    return Text("━" * full, "cyan").append("─" * (width - full), "bright_black")


def details(
    job: Job, credentials: Iterable[CredentialName], *, now: float, rate: float | None = None
) -> list[Text]:
    """All about one job but its secrets; nothing is cut."""
    lines = [Text.assemble((job.name, "bold"), f"  {job.id}")]
    kind = job.type.name.lower().replace("_", "-")
    lines.append(
        Text.assemble(
            f"{ARROWS[job.type]} {kind}, {job.priority.name.lower()} priority, ",
            (spell_state(job.state), STYLES[job.state]),
        )
    )
    if job.description:
        lines.append(Text(job.description))
    lines.append(Text())
    for label, value in [
        *_course(job, now, rate or average_rate(job)),
        *_files(job),
        *_trouble(job, now),
        *_settings(job, credentials),
    ]:
        lines.append(Text.assemble((f"{label:<12}  ", "bright_black"), printable(value)))
    return lines


Facts = Iterable[tuple[str, str]]


def _course(job: Job, now: float, rate: float | None) -> Facts:
    done, total = job.bytes_transferred, job.bytes_total
    words = [spell_size(done) if total is None else f"{spell_size(done)} of {spell_size(total)}"]
    words[0] += f" ({spell_percent(done, total)})" if total else ""
    if rate:
        words.append(f"{spell_size(rate)}/s")
        if total is not None and total > done:
            words.append(f"{spell_duration((total - done) / rate)} left")
    if job.files:
        yield "done", ", ".join(words)
    yield "made", spell_moment(job.created, now)
    yield "changed", spell_moment(job.modified, now)
    if job.transferred_at is not None:
        yield "transferred", spell_moment(job.transferred_at, now)


def _files(job: Job) -> Facts:
    for file in job.files:
        pair = (file.local, file.remote) if job.is_upload else (file.remote, file.local)
        yield "from", pair[0]
        yield "to", pair[1] + (f"  ({_state_of(file)})" if len(job.files) > 1 else "")
    if job.reply_path is not None:
        yield "reply to", job.reply_path + (f"  ({_state_of(job.reply)})" if job.reply else "")


def _state_of(file: JobFile) -> str:
    return "done" if file.done else f"{file.transferred:,} of {file.size or '?'} bytes"


def _trouble(job: Job, now: float) -> Facts:
    if job.error is not None:
        yield "error", spell_error(job.error)
        yield "", f"{spell_moment(job.error.at, now)}, in context {spell_context(job.error.context)}"
        if job.error.file:
            yield "", job.error.file
        yield "", advise(job, now)
    if job.error_count:
        yield "errors", f"{job.error_count} so far"
    for debt in job.debts:
        verb = "given up" if debt.cancel else "done"
        yield "owes", f"{debt.url} is still to be told that the upload is {verb}"


def _settings(job: Job, credentials: Iterable[CredentialName]) -> Facts:
    http = job.http
    yield "retries", f"after {spell_duration(job.retry_delay)}"
    yield "gives up", f"{spell_duration(job.no_progress_timeout)} after the last headway"
    if not job.is_upload:
        yield "takes", f"at most {spell_duration(job.max_download_time)}"
    wanted = [flag for flag in Notify if flag in job.notify_flags]
    yield "tells of", ", ".join(_flag(flag) for flag in wanted) or "nothing"
    if job.notify_command:
        yield "by running", spell_command(job.notify_command)
    if job.limit is not None:
        yield "limit", spell_rates(job.limit)
    if job.fragment_limit:
        yield "fragments", f"at most {spell_size(job.fragment_limit)}"
    for each in credentials:
        nobody = "a token" if each.scheme == "bearer" else "whoever runs it"
        yield "user", f"{each.user or nobody} ({each.target}, {each.scheme or 'as it asks'})"
    for name, value in http.headers:
        yield "header", f"{name}: {'(write-only)' if job.headers_are_write_only else value}"
    if http.proxy.usage is not ProxyUsage.PRECONFIG:
        proxies = " ".join(http.proxy.proxies)
        yield "proxy", proxies or http.proxy.usage.name.lower().replace("_", " ")
    if http.proxy.bypass:
        yield "not for", " ".join(http.proxy.bypass)
    if http.proxy.tunnel:
        yield "", "by a tunnel, for http too"
    for label, path in (
        ("trusts", http.tls.ca_file),
        ("certificate", http.tls.client_certificate),
        ("key", http.tls.client_key),
        ("revoked", http.tls.crl_file),
    ):
        if path is not None:
            yield label, path
    if http.tls.ignore:
        ignored = [flag.name.lower() for flag in Ignore if flag in http.tls.ignore and flag.name]
        yield "overlooks", f"{', '.join(ignored)} of the server's certificate"
    if http.override_method:
        yield "says", "POST instead of BITS_POST"
    if http.digest is not None:
        yield "digest", "said to every server" if http.digest else "never said"


def _flag(flag: Notify) -> str:
    return (flag.name or "").lower().replace("_", " ")
