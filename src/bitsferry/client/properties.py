"""What may be set on a job, within Windows' limits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from bitsferry.client.bandwidth import Span, Timetable
from bitsferry.client.job import (
    LONGEST_DESCRIPTION,
    LONGEST_NAME,
    SHORTEST_RETRY_DELAY,
    InvalidState,
    Job,
    JobState,
    JobType,
    Notify,
    Priority,
)
from bitsferry.client.options import HttpOptions, check_length
from bitsferry.client.proxies import ProxySettings
from bitsferry.client.trust import TlsSettings
from bitsferry.protocol.upload import SMALLEST_FRAGMENT

__all__ = ["PROPERTIES", "changed"]


def changed(job: Job, name: str, value: object, now: float) -> Job:
    """`job` with the property `name` set. Raises ValueError with a sentence, TypeError for no such property,
    InvalidState where it is too late.
    """
    if name not in PROPERTIES:
        raise TypeError(f"a job has no property {name!r}; it has {', '.join(PROPERTIES)}")
    if job.has_ended:
        raise InvalidState(f"nothing can be set any more: the job is {job.state.name}")
    return msgspec.structs.replace(PROPERTIES[name](job, value), modified=now)


def _name(job: Job, value: Any) -> Job:
    text = _text(value, LONGEST_NAME, "the name of a job")
    if not text:
        raise ValueError("a job needs a name")
    return msgspec.structs.replace(job, name=text)


def _description(job: Job, value: Any) -> Job:
    return msgspec.structs.replace(job, description=_text(value, LONGEST_DESCRIPTION, "a description"))


def _priority(job: Job, value: Any) -> Job:
    return msgspec.structs.replace(job, priority=Priority(value))


def _retry_delay(job: Job, value: Any) -> Job:
    return msgspec.structs.replace(job, retry_delay=max(SHORTEST_RETRY_DELAY, _seconds(value)))


def _no_progress_timeout(job: Job, value: Any) -> Job:
    return msgspec.structs.replace(job, no_progress_timeout=_seconds(value))


def _max_download_time(job: Job, value: Any) -> Job:
    return msgspec.structs.replace(job, max_download_time=_seconds(value))


def _notify_flags(job: Job, value: Any) -> Job:
    return msgspec.structs.replace(job, notify_flags=Notify(value))


def _notify_command(job: Job, value: Any) -> Job:
    """The program, and its arguments; nothing takes the command away."""
    command = tuple(str(each) for each in value or ())
    if sum(len(each) + 1 for each in command[1:]) > 4000:
        raise ValueError("the arguments of the command are longer than 4,000 characters")
    return msgspec.structs.replace(job, notify_command=command)


def _headers(job: Job, value: Iterable[tuple[str, str]]) -> Job:
    headers = tuple(value)
    check_length(headers)
    return _http(job, headers=headers)


def _headers_are_write_only(job: Job, value: Any) -> Job:
    if job.headers_are_write_only and not value:
        raise ValueError("headers that are write-only stay so")
    return msgspec.structs.replace(job, headers_are_write_only=bool(value))


def _proxy(job: Job, value: ProxySettings) -> Job:
    return _http(job, proxy=value)


def _tls(job: Job, value: TlsSettings) -> Job:
    return _http(job, tls=value)


def _override_method(job: Job, value: Any) -> Job:
    return _http(job, override_method=bool(value))


def _digest(job: Job, value: Any) -> Job:
    """Whether the server is told the file's digest; None for those that compare it."""
    return _http(job, digest=None if value is None else bool(value))


def _limit(job: Job, value: Timetable | int | None) -> Job:
    """How fast at most, as a Timetable or in bytes a second; None for as fast as can be."""
    return msgspec.structs.replace(job, limit=Timetable((Span(value),)) if isinstance(value, int) else value)


def _fragment_limit(job: Job, value: Any) -> Job:
    if value is not None and value < SMALLEST_FRAGMENT:
        raise ValueError(f"no fragment limit may be under {SMALLEST_FRAGMENT} bytes")
    return msgspec.structs.replace(job, fragment_limit=value)


def _reply_path(job: Job, value: Any) -> Job:
    if job.type is not JobType.UPLOAD_REPLY:
        raise ValueError("only an upload-reply job has a reply")
    if job.reply is not None or job.state is JobState.TRANSFERRED:
        raise InvalidState("the reply is already on its way")
    path = os.path.abspath(value)
    if not os.path.isdir(os.path.dirname(path)):
        raise ValueError(f"the folder {os.path.dirname(path)} for the reply does not exist")
    return msgspec.structs.replace(job, reply_path=path)


def _http(job: Job, **changes: Any) -> Job:
    options = job.http
    values = {name: getattr(options, name) for name in HttpOptions.__slots__} | changes
    return msgspec.structs.replace(job, http=HttpOptions(**values))


def _text(value: Any, longest: int, what: str) -> str:
    text = str(value)
    if len(text) > longest:
        raise ValueError(f"{what} has at most {longest} characters, this one has {len(text)}")
    if not text.isprintable():
        raise ValueError(f"{what} must be one line of printable characters")
    return text


def _seconds(value: Any) -> int:
    seconds = int(value)
    if seconds < 0:
        raise ValueError("a time cannot be negative")
    return seconds


PROPERTIES: dict[str, Callable[[Job, Any], Job]] = {
    "name": _name,
    "description": _description,
    "priority": _priority,
    "retry_delay": _retry_delay,
    "no_progress_timeout": _no_progress_timeout,
    "max_download_time": _max_download_time,
    "notify_flags": _notify_flags,
    "notify_command": _notify_command,
    "headers": _headers,
    "headers_are_write_only": _headers_are_write_only,
    "proxy": _proxy,
    "tls": _tls,
    "override_method": _override_method,
    "digest": _digest,
    "limit": _limit,
    "fragment_limit": _fragment_limit,
    "reply_path": _reply_path,
}
