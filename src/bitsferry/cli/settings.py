"""The server's settings, as they stand in bitsferry.toml."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from dataclasses import dataclass, field
from typing import Any

from bitsferry.access.fronts import FORWARDED, X_FORWARDED_FOR, Fronts
from bitsferry.access.proxied import Proxied
from bitsferry.access.throttle import Throttle
from bitsferry.cli import readers
from bitsferry.cli.applications import (
    WrongKeyError,
    check_reply_url_base,
    check_url,
    is_about_applications,
    read_application,
)
from bitsferry.cli.digests import DIGEST_KEYS, read_digests
from bitsferry.cli.guards import GUARD_KEYS, read_guard
from bitsferry.cli.hooks import HOOKS, read_hooks
from bitsferry.cli.readers import Reader
from bitsferry.cli.tls import TLS_KEYS, WrongTlsError, read_tls
from bitsferry.cli.toml_text import Path, TomlText
from bitsferry.cli.vouched_schemes import trusted_proxies
from bitsferry.cli.windows_schemes import HEAD_WITH_TICKET, asks_for_tickets
from bitsferry.protocol.errors import InvalidName
from bitsferry.protocol.wire import VALUE_LIMIT
from bitsferry.server.connections import Limits
from bitsferry.server.directory import Directory
from bitsferry.server.listeners import Address
from bitsferry.server.names import check_name
from bitsferry.server.outgoing import Address as Target
from bitsferry.server.template import NameTemplate
from bitsferry.server.tls import ServerTls
from bitsferry.server.upload_events import Kind
from bitsferry.server.webhook import TOLD
from bitsferry.store.folder import OWN_PREFIX
from bitsferry.store.local import Durability

__all__ = [
    "KEYS",
    "Settings",
    "SettingsError",
    "read_settings",
    "read_store",
    "settings_of_folder",
]


class SettingsError(Exception):
    """The settings cannot be used; the message names the file, the line, the key and what would be right."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything `bitsferry serve` needs to know; paths are absolute. Raises SettingsError."""

    directories: tuple[Directory, ...]
    store: str
    listen: tuple[Address, ...] = (Address("127.0.0.1", 8080),)
    durability: Durability = "power"
    workers: int = 1
    limits: Limits = field(default_factory=Limits)
    header_value_size: int = VALUE_LIMIT
    method_override: bool = True
    cleanup_interval: float | None = None
    audit_log: str | None = None
    fronts: Fronts = field(default_factory=Fronts)
    tls: ServerTls | None = None
    self_signed: bool = False

    def __post_init__(self) -> None:
        """Sessions and the audit log must lie where no upload can reach them."""
        self._check_out_of_reach("store", self.store.removeprefix("file:"))
        if self.audit_log is not None:
            self._check_out_of_reach("audit log", self.audit_log)

    def _check_out_of_reach(self, what: str, path: str) -> None:
        path = os.path.realpath(path)
        for directory in self.directories:
            folder = os.path.realpath(directory.folder)
            inside = os.path.relpath(path, folder).split(os.sep)
            if inside[0] != os.pardir and not any(name.lower().startswith(OWN_PREFIX) for name in inside):
                raise SettingsError(
                    f"the {what} {path} lies in the folder of {directory.url}, where uploads could write into"
                    f" it: put it elsewhere, or into {os.path.join(folder, OWN_PREFIX)}"
                )


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
            text = TomlText(file.read().decode("utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except ValueError as error:
        said = str(error)
        raise SettingsError(f"{path}, {said}" if said.startswith("line ") else f"{path}: {said}") from error
    try:
        return _settings(text.values, os.path.dirname(os.path.abspath(path)))
    except _WrongError as error:
        raise SettingsError(f"{path}, line {text.line_of(error.path)}: {error}") from None
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


_DIRECTORY_WANTED = "write [[directory]] with double brackets, and its url and its folder below"


def _fallback(value: Any) -> int | None:
    return None if value == "never" else max(1, round(readers.duration(value)))


def _url(value: Any) -> str:
    url = readers.text(value)
    if not re.fullmatch(r"/(?:[^/?#%]+/)*", url):
        raise ValueError(f"{readers.shown(url)} is no path that begins and ends in '/', such as '/in/'")
    try:
        for name in url.split("/")[1:-1]:
            check_name(name)
    except InvalidName as error:
        raise ValueError(f"no upload could reach {readers.shown(url)}: {error.message}") from None
    return url


def _host(value: Any) -> str:
    host = readers.text(value)
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,300}", host) and not _is_ipv6(host):
        raise ValueError(f"{readers.shown(host)} is no host name or address, without scheme and port")
    return host


def _is_ipv6(text: str) -> bool:
    """Whether it is an address as BITS-Host-Id has it: without brackets, port or zone (MC-BUP 2.2.3.2)."""
    try:
        return ipaddress.IPv6Address(text).scope_id is None
    except ValueError:
        return False


def _listen(value: Any) -> tuple[Address, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("""write a list of addresses, such as ["127.0.0.1:8080"]""")
    return tuple(Address.parse(readers.text(address)) for address in value)


def read_store(value: Any) -> str:
    """The URL of a store, `file:PATH`, from one like it or from a plain path. Raises ValueError."""
    scheme, colon, rest = readers.text(value).partition(":")
    if not colon:
        return "file:" + readers.path(value)
    if scheme != "file":
        raise ValueError(f"there is no store of the kind {readers.shown(scheme)}; write file:FOLDER")
    return "file:" + readers.path(rest.removeprefix("//"))


def _command(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("""write a program with its arguments, such as ["/usr/bin/check", "{request}"]""")
    return tuple(map(readers.text, value))


def _exit_statuses(value: Any) -> frozenset[int]:
    if not isinstance(value, list):
        raise ValueError("write a list of exit statuses, such as [65, 77]")  # noqa: TRY004, one for all
    return frozenset(map(readers.count(255), value))


def _events(value: Any) -> tuple[Kind, ...]:
    names = {str(kind): kind for kind in TOLD}
    if not isinstance(value, list) or not value:
        raise ValueError(f"write a list of some of {', '.join(map(readers.shown, names))}")
    read = readers.one_of(*names)
    return tuple(kind for kind in TOLD if kind in {read(name) for name in value})


def _tables(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError(_DIRECTORY_WANTED)
    return value


def _tls_tables(value: Any) -> Any:
    if not isinstance(value, dict | list) or not value:
        raise ValueError("write [tls], and certificate and key below it")
    return value


_DIRECTORY: dict[str, Reader] = {
    "url": _url,
    "folder": readers.path,
    "upload_enabled": readers.yes_or_no,
    "allow_overwrites": readers.yes_or_no,
    "max_upload_size": readers.largest,
    "max_fragment_size": readers.largest,
    "quota": readers.largest,
    "user_quota": readers.largest,
    "free_space_reserve": readers.room,
    "sessions_per_user": readers.count(1_000_000_000),
    "sessions_per_second": readers.often,
    "requests_per_second": readers.often,
    "bandwidth": readers.speed,
    "bandwidth_per_user": readers.speed,
    "bandwidth_per_connection": readers.speed,
    "session_timeout": readers.duration,
    "create_folders": readers.yes_or_no,
    "name_template": lambda value: NameTemplate(readers.text(value)),
    "read_back": readers.one_of("nobody", "everybody"),
    "host_id": _host,
    "host_id_fallback_timeout": _fallback,
    "notification_type": readers.one_of("none", "reference", "value"),
    "notification_url": readers.checked_by(check_url),
    "notification_user": readers.text,
    "notification_password_file": readers.path,
    "notification_token_file": readers.path,
    "notification_ca": readers.path,
    "notification_certificate": readers.path,
    "notification_key": readers.path,
    "notification_timeout": readers.duration,
    "notification_patience": readers.duration,
    "notification_command": _command,
    "notification_command_timeout": readers.duration,
    "notification_command_copy": readers.yes_or_no,
    "notification_command_refusals": _exit_statuses,
    "max_reply_size": readers.largest,
    "reply_url_base": readers.checked_by(check_reply_url_base),
    "webhook_url": readers.checked_by(Target.of),
    "webhook_secret_file": readers.path,
    "webhook_events": _events,
    "create_hook": readers.checked_by(Target.of),
    "create_hook_timeout": readers.duration,
    **DIGEST_KEYS,
    **GUARD_KEYS,
}

_LIMITS: dict[str, Reader] = {
    "connections": readers.count(1_000_000),
    "connections_per_address": readers.count(1_000_000),
    "head_size": readers.size,
    "header_value_size": readers.size,
    "head_time": readers.duration,
    "idle_time": readers.duration,
    "stall_time": readers.duration,
    "drain_time": readers.patience,
    "drain_size": readers.size,
    "linger_size": readers.size,
    "linger_time": readers.patience,
    "wrong_passwords": readers.count(1000),
    "wrong_password_delay": readers.patience,
}

_TOP: dict[str, Reader] = {
    "listen": _listen,
    "store": read_store,
    "durability": readers.one_of("power", "process"),
    "audit_log": readers.path,
    "workers": readers.count(64),
    "cleanup_interval": readers.duration,
    "method_override": readers.yes_or_no,
    "trusted_proxies": trusted_proxies,
    "forwarded_header": readers.one_of(X_FORWARDED_FOR, FORWARDED),
    "directory": _tables,
    "tls": _tls_tables,
    "limits": lambda table: _read("limits", table, ("limits",)),
}

KEYS: dict[str, dict[str, Reader]] = {
    "": _TOP,
    "directory": _DIRECTORY,
    "tls": TLS_KEYS,
    "limits": _LIMITS,
}
"""Every table of the file with its keys and what reads them; "" is the top."""


# From tables to settings


class _WrongError(Exception):
    """What stands at `path` is wrong."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path


def _settings(values: dict[str, Any], base: str) -> Settings:
    top = _read("", values, ())
    if "directory" not in top:
        raise _WrongError((), f"at least one directory is needed: {_DIRECTORY_WANTED}")
    limits = top.pop("limits", {})
    guessing = {key: limits.pop(key) for key in ("wrong_passwords", "wrong_password_delay") if key in limits}
    directories = [
        _directory(table, ("directory", number), base, guessing)
        for number, table in enumerate(top.pop("directory"))
    ]
    _check_urls(directories)
    fronts = Fronts.of(top.pop("trusted_proxies", ()), top.pop("forwarded_header", X_FORWARDED_FOR))
    _check_proxies(directories, fronts)
    if any(asks_for_tickets(directory.guard) for directory in directories):
        limits.setdefault("head_size", HEAD_WITH_TICKET)
    if "header_value_size" in limits:
        top["header_value_size"] = limits.pop("header_value_size")
    if "listen" in top:
        top["listen"] = tuple(address.below(base) for address in top["listen"])
    if "audit_log" in top:
        top["audit_log"] = os.path.join(base, top["audit_log"])
    if "tls" in top:
        top["tls"] = _tls(top["tls"], base)
    store = top.pop("store", "file:store").removeprefix("file:")
    return Settings(
        tuple(directories), "file:" + os.path.join(base, store), limits=Limits(**limits), fronts=fronts, **top
    )


def _tls(value: Any, base: str) -> ServerTls:
    """One table, or one for each name."""
    places: list[Path] = [("tls", number) for number in range(len(value))]
    tables = value
    if isinstance(value, dict):
        places, tables = [("tls",)], [value]
    try:
        return read_tls([_read("tls", *each) for each in zip(tables, places, strict=True)], base)
    except WrongTlsError as error:
        path = places[error.number]
        raise _WrongError(path if error.key is None else (*path, error.key), str(error)) from None


def _directory(table: Any, path: Path, base: str, guessing: dict[str, Any]) -> Directory:
    known = _read("directory", table, path)
    for key in ("url", "folder"):
        if key not in known:
            raise _WrongError(path, f"this [[directory]] has no {key}")
    known["folder"] = os.path.join(base, known["folder"])
    known["reply_base"] = known.pop("reply_url_base", None)
    told = {key: known.pop(key) for key in list(known) if is_about_applications(key)}
    hooks = {key: known.pop(key) for key in HOOKS if key in known}
    digests = {key: known.pop(key) for key in DIGEST_KEYS if key in known}
    access = {key: known.pop(key) for key in GUARD_KEYS if key in known}
    try:
        return Directory(
            **known,
            **read_application(told, known["reply_base"], base),
            **read_hooks(hooks, base),
            **read_digests(digests),
            guard=read_guard(access, base, Throttle(**guessing)),
        )
    except WrongKeyError as error:
        raise _WrongError((*path, error.key), f"{error.key}: {error}") from None


def _check_urls(directories: list[Directory]) -> None:
    urls = [directory.url for directory in directories]
    for number, url in enumerate(urls):
        if url in urls[:number]:
            raise _WrongError(
                ("directory", number, "url"),
                f"url: there is a [[directory]] for {readers.shown(url)} already",
            )


def _check_proxies(directories: list[Directory], fronts: Fronts) -> None:
    for number, directory in enumerate(directories):
        schemes = () if directory.guard is None else directory.guard.schemes
        if not (fronts.networks or fronts.unix) and any(isinstance(scheme, Proxied) for scheme in schemes):
            raise _WrongError(
                ("directory", number, "auth"),
                'auth: "proxy" believes no proxy unless it is in trusted_proxies, at the top, and none is',
            )


def _read(name: str, table: Any, path: Path) -> dict[str, Any]:
    """What the keys of a table mean."""
    if not isinstance(table, dict):
        raise _WrongError(path, f"{name}: {readers.shown(table)} is no table of keys and values")
    meant = {}
    for key, value in table.items():
        if key not in KEYS[name]:
            raise _WrongError(
                (*path, key), f"the key {readers.shown(key)} is unknown{_where(name)}; {_hint(name, key)}"
            )
        try:
            meant[key] = KEYS[name][key](value)
        except ValueError as error:
            raise _WrongError((*path, key), f"{key}: {error}") from None
    return meant


def _where(name: str) -> str:
    return {"": "", "directory": " in a [[directory]]", "tls": " in [tls]", "limits": " in [limits]"}[name]


def _hint(name: str, key: str) -> str:
    """Where an unknown key belongs, or the nearest known one."""
    for other, keys in KEYS.items():
        if key in keys:
            return f"it belongs{_where(other)}" if other else "it belongs at the top, before all tables"
    plain = {_plain(known): known for known in KEYS[name]}
    near = difflib.get_close_matches(_plain(key), plain, 1, 0.5)
    return f"did you mean {plain[near[0]]}?" if near else "known here: " + ", ".join(KEYS[name])


def _plain(key: str) -> str:
    """A key without what people spell in different ways, IIS's BITSAllowOverwrites for example."""
    return key.lower().removeprefix("bits").replace("_", "").replace("-", "")
