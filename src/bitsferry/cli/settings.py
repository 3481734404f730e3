"""The server's settings, as they stand in bitsferry.toml."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

import msgspec

from bitsferry.cli.quantities import parse_duration, parse_size
from bitsferry.protocol.wire import VALUE_LIMIT
from bitsferry.server.directory import FOURTEEN_DAYS, Directory
from bitsferry.server.front import Limits
from bitsferry.store.folder import OWN_PREFIX
from bitsferry.store.local import Durability

__all__ = ["Settings", "SettingsError", "read_settings", "settings_of_folder"]

DEFAULT_LISTEN = "127.0.0.1:8080"


class SettingsError(Exception):
    """The settings cannot be used; the message names the file, the line, the key and what would be right."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything `bitsferry serve` needs to know."""

    directories: tuple[Directory, ...]
    store: str
    listen: tuple[str, ...] = (DEFAULT_LISTEN,)
    durability: Durability = "power"
    workers: int = 1
    limits: Limits = field(default_factory=Limits)
    header_value_size: int = VALUE_LIMIT
    method_override: bool = True
    cleanup_interval: float | None = None


class _Size(int):
    """Bytes, as a number or in words."""


class _Duration(float):
    """Seconds, as a number or in words."""


class _DirectoryTable(msgspec.Struct, forbid_unknown_fields=True):
    url: str
    folder: str
    upload_enabled: bool = True
    session_timeout: _Duration = _Duration(FOURTEEN_DAYS)
    max_upload_size: _Size | None = None
    allow_overwrites: bool = False
    host_id: str | None = None
    host_id_fallback_timeout: _Duration = _Duration(86400)
    sessions_per_user: int | None = None
    create_folders: bool = False
    max_fragment_size: _Size | None = None
    quota: _Size | None = None
    free_space_reserve: _Size = _Size(0)
    read_back: Literal["nobody", "everybody"] = "nobody"
    notification_type: Literal["none"] = "none"
    auth: list[Literal["none"]] = []


_LIMITS = Limits()


class _LimitsTable(msgspec.Struct, forbid_unknown_fields=True):
    head_size: _Size = _Size(_LIMITS.head_size)
    header_value_size: _Size = _Size(VALUE_LIMIT)
    head_time: _Duration = _Duration(_LIMITS.head_time)
    idle_time: _Duration = _Duration(_LIMITS.idle_time)
    stall_time: _Duration = _Duration(_LIMITS.stall_time)
    drain_time: _Duration = _Duration(_LIMITS.drain_time)
    drain_size: _Size = _Size(_LIMITS.drain_size)
    linger_size: _Size = _Size(_LIMITS.linger_size)
    linger_time: _Duration = _Duration(_LIMITS.linger_time)
    connections: int = _LIMITS.connections
    connections_per_address: int = _LIMITS.connections_per_address


class _File(msgspec.Struct, forbid_unknown_fields=True):
    directory: list[_DirectoryTable]
    listen: list[str] = msgspec.field(default_factory=lambda: [DEFAULT_LISTEN])
    store: str = "file:./store"
    durability: Durability = "power"
    workers: int = 1
    method_override: bool = True
    cleanup_interval: _Duration | None = None
    limits: _LimitsTable = msgspec.field(default_factory=_LimitsTable)


def _hook(kind: type, value: Any) -> Any:
    parsers: dict[type, Callable[[Any], Any]] = {_Size: parse_size, _Duration: parse_duration}
    if kind in parsers and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return kind(parsers[kind](value))
    raise ValueError(f"{value!r} is of the wrong kind")


def settings_of_folder(folder: str) -> Settings:
    """The settings of `bitsferry serve FOLDER`: the folder at `/`, with the sessions inside, hidden."""
    path = os.path.abspath(folder)
    return Settings((Directory("/", path),), store="file:" + os.path.join(path, OWN_PREFIX))


def read_settings(path: str) -> Settings:
    """The settings in the file at `path`; relative paths in it are relative to the file.

    Raises SettingsError.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read()
        text = raw.decode("utf-8")
        values = tomllib.loads(text)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: {error}") from error
    try:
        return _build(msgspec.convert(values, _File, dec_hook=_hook), os.path.dirname(os.path.abspath(path)))
    except msgspec.ValidationError as error:
        raise SettingsError(f"{path}{_explain(str(error), text)}") from None
    except _WrongValueError as error:
        raise SettingsError(f"{path}{_at(text, error.where)}: {error}") from None


class _WrongValueError(Exception):
    def __init__(self, message: str, where: str) -> None:
        super().__init__(message)
        self.where = where


def _build(file: _File, base: str) -> Settings:
    if not file.directory:
        raise _WrongValueError("at least one [[directory]] is needed", "$")
    if not file.listen:
        raise _WrongValueError("at least one address is needed", "$.listen")
    if not 1 <= file.workers <= 64:
        raise _WrongValueError("workers is a number from 1 to 64", "$.workers")
    directories = tuple(_directory(table, number, base) for number, table in enumerate(file.directory))
    urls = [directory.url for directory in directories]
    for number, url in enumerate(urls):
        if url in urls[:number]:
            raise _WrongValueError(f"the url {url!r} is there twice", f"$.directory[{number}].url")
    limits = {name: getattr(file.limits, name) for name in Limits.__dataclass_fields__}
    for name, value in limits.items():
        if value <= 0 and name not in ("drain_time", "linger_time"):
            raise _WrongValueError(f"{name} must be more than 0", f"$.limits.{name}")
    return Settings(
        directories,
        _store(file.store, base),
        tuple(_listen(address, base) for address in file.listen),
        file.durability,
        file.workers,
        Limits(**limits),
        int(file.limits.header_value_size),
        file.method_override,
        file.cleanup_interval,
    )


def _directory(table: _DirectoryTable, number: int, base: str) -> Directory:
    where = f"$.directory[{number}]"
    if not re.fullmatch(r"/(?:[^/?#%\\\x00-\x1f]+/)*", table.url):
        raise _WrongValueError("a url is a path that begins and ends in '/', such as '/in/'", where + ".url")
    if table.sessions_per_user is not None and table.sessions_per_user < 1:
        raise _WrongValueError(
            "sessions_per_user is at least 1; leave it out for no limit", where + ".sessions_per_user"
        )
    if table.session_timeout <= 0:
        raise _WrongValueError("a session_timeout is more than 0", where + ".session_timeout")
    if table.host_id is not None and not re.fullmatch(r"[A-Za-z0-9.:_-]{1,300}", table.host_id):
        raise _WrongValueError(
            "a host_id is a host name or an address, without port or scheme", where + ".host_id"
        )
    known = {
        name: getattr(table, name)
        for name in Directory.__dataclass_fields__
        if name not in ("url", "folder", "host_id_fallback_timeout")
    }
    return Directory(
        table.url,
        os.path.join(base, table.folder),
        host_id_fallback_timeout=int(table.host_id_fallback_timeout) or None,
        **known,
    )


def _store(url: str, base: str) -> str:
    scheme, colon, rest = url.partition(":")
    if not colon:
        return "file:" + os.path.join(base, url)
    if scheme != "file":
        raise _WrongValueError(f"there is no store of the kind {scheme!r}; write file:FOLDER", "$.store")
    return "file:" + os.path.join(base, rest.removeprefix("//"))


def _listen(address: str, base: str) -> str:
    kind, colon, path = address.partition(":")
    return f"unix:{os.path.join(base, path)}" if colon and kind == "unix" else address


# Where an error is, for people


def _explain(said: str, text: str) -> str:
    """What msgspec said, with the line, and the nearest key we know instead of an unknown one."""
    message, _, where = said.partition(" - at ")
    where = where.strip("`") or "$"
    unknown = re.match(r"Object contains unknown field `(.*)`", message)
    if unknown:
        key = unknown[1]
        known = sorted(_keys_at(where))
        near = difflib.get_close_matches(key, known, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else "known here: " + ", ".join(known)
        return f"{_at(text, f'{where}.{key}')}: the key {key!r} is unknown; {hint}"
    missing = re.match(r"Object missing required field `(.*)`", message)
    if missing:
        return f"{_at(text, where)}: the key {missing[1]!r} is missing"
    key = re.split(r"[.\[]", where.removeprefix("$."))[-1 if "[" not in where.rsplit(".", 1)[-1] else 0]
    return f"{_at(text, where)}: {key}: {message[:1].lower() + message[1:]}"


def _keys_at(where: str) -> list[str]:
    tables: dict[str, type] = {"$": _File, "$.limits": _LimitsTable}
    return list(get_type_hints(tables.get(where, _DirectoryTable)))


def _at(text: str, where: str) -> str:
    """`, line N` for a path such as `$.directory[1].url`; nothing where the line cannot be told."""
    steps = re.fullmatch(r"\$(?:\.(\w[\w-]*))?(?:\[(\d+|\.\.\.)\])?(?:\.([^.\[]+))?.*", where)
    if steps is None or steps[1] is None:
        return ""
    table, key = (
        (steps[1], steps[3]) if steps[3] or (steps[2] and steps[1] == "directory") else ("", steps[1])
    )
    index = int(steps[2]) if steps[2] and steps[2].isdigit() else 0
    current, seen, header = "", -1, 0
    for number, line in enumerate(text.splitlines(), start=1):
        opened = re.match(r"\s*\[+\s*([\w.-]+)\s*\]+", line)
        if opened:
            current = opened[1]
            seen += current == table
            if current == table and seen == index:
                header = number
            continue
        here = current == table and (not table or table == "limits" or seen == index)
        if here and key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return f", line {number}"
    return f", line {header}" if header else ""
