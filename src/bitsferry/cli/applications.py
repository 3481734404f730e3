"""What the settings of a directory say about the application that hears of its uploads."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urljoin

from bitsferry.protocol.notification import LONGEST_URL
from bitsferry.server.backend import Timing
from bitsferry.server.command_backend import CommandBackend
from bitsferry.server.http_backend import LARGEST_REPLY, HttpBackend, Trust, basic, bearer
from bitsferry.server.outgoing import Address, Waits

__all__ = ["WrongKeyError", "check_reply_url_base", "check_url", "is_about_applications", "read_application"]

_LONGEST_BASE = 2000  # characters: a reply's name must fit behind it (MC-BUP 2.2.1.2)
_LONGEST_SECRET = 65_535  # characters, as Windows has it
_RELATIVE = re.compile(r"(?![A-Za-z][A-Za-z0-9+.-]*:|//|\\).+")

# A key that makes sense with another one only, with what to do about it.
_NEEDS = {
    "notification_password_file": ("notification_user", "say whose password it is"),
    "notification_user": ("notification_password_file", "write the password into a file, and name that"),
    "notification_key": ("notification_certificate", "say whose key it is"),
}


# What goes with a command, and what its backend calls it.
_OF_COMMANDS = {
    "notification_command": "",
    "notification_command_timeout": "time_limit",
    "notification_command_copy": "keep",
    "notification_command_refusals": "refusals",
    "notification_patience": "",
    "max_reply_size": "largest_reply",
}


class WrongKeyError(Exception):
    """What stands behind `key` cannot be used; the message says why."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def is_about_applications(key: str) -> bool:
    """Whether a directory's key makes sense only where an application hears of uploads."""
    return key.startswith("notification_") or key == "max_reply_size"


def check_url(url: str) -> None:
    """Raises ValueError for what is neither an absolute nor a relative URL of an application."""
    if len(url) > LONGEST_URL:
        raise ValueError(f"the URL has {len(url)} characters; {LONGEST_URL} are the most")
    Address.of(urljoin("http://host/", url) if _RELATIVE.fullmatch(url) else url)


def check_reply_url_base(url: str) -> None:
    """Raises ValueError for what is no URL below which replies can have theirs."""
    if len(url) > _LONGEST_BASE:
        raise ValueError(f"the URL has {len(url)} characters; {_LONGEST_BASE} are the most")
    if not url.isascii() or "?" in url:
        raise ValueError("a URL below which there are others is ASCII, and has no '?'")
    Address.of(url)


def read_application(told: Mapping[str, Any], reply_base: str | None, folder: str) -> dict[str, Any]:
    """The arguments of a Directory that the keys in `told` mean; relative paths are below `folder`.

    `reply_base` is the URL clients find the directory under, if that was said. Raises WrongKeyError.
    """
    if any(key.startswith("notification_command") for key in told):
        return _command(told, folder)
    for key in sorted(told):
        if "notification_type" not in told:
            said = 'nobody is told of an upload without a notification_type: write "reference" or "value"'
            raise WrongKeyError(key, said)
        needed, what_to_do = _NEEDS.get(key, ("", ""))
        if needed and needed not in told:
            raise WrongKeyError(key, f"there is no {needed}; {what_to_do}")
    if told.get("notification_type", "none") == "none":
        return {}
    url = _url(told, reply_base)
    waits = Waits()
    timeout = told.get("notification_timeout", waits.answering)
    try:
        backend = HttpBackend(
            url,
            by_value=told["notification_type"] == "value",
            authorization=_authorization(told, folder),
            trust=_trust(told, url, folder),
            largest_reply=told.get("max_reply_size", LARGEST_REPLY),
            waits=Waits(min(timeout, waits.connecting), timeout, timeout, timeout),
        )
    except ValueError as error:
        raise WrongKeyError("notification_url", str(error)) from None
    return {"backend": backend, "timing": _timing(told)}


def _command(told: Mapping[str, Any], folder: str) -> dict[str, Any]:
    for key in sorted(told):
        if "notification_command" not in told:
            raise WrongKeyError(key, "there is no notification_command; write the program with its arguments")
        if key not in _OF_COMMANDS:
            raise WrongKeyError(
                key, "this is for an application that is reached by HTTP, and there is a notification_command"
            )
    program, *arguments = told["notification_command"]
    options = {name: told[key] for key, name in _OF_COMMANDS.items() if name and key in told}
    try:
        # A relative path is meant from the file on; a name without any is looked for, as at a prompt.
        program = os.path.join(folder, program) if "/" in program else program
        backend = CommandBackend((program, *arguments), **options)
    except ValueError as error:
        raise WrongKeyError("notification_command", str(error)) from None
    return {"backend": backend, "timing": _timing(told)}


def _timing(told: Mapping[str, Any]) -> Timing:
    return Timing(patience=told.get("notification_patience", Timing().patience))


def _url(told: Mapping[str, Any], reply_base: str | None) -> str:
    if "notification_url" not in told:
        raise WrongKeyError("notification_type", "there is no notification_url; say where the application is")
    url: str = told["notification_url"]
    if _RELATIVE.fullmatch(url) is None:
        return url
    if reply_base is None:
        # The Host of a request says it, too. But that is whatever its client likes: each could be told of its
        # uploads by an application of its own, and let itself pass.
        raise WrongKeyError(
            "notification_url",
            "a relative one begins where clients find this directory: say where that is as reply_url_base, or"
            " write the whole URL, with http:// or https://",
        )
    return urljoin(reply_base.rstrip("/") + "/", url)


def _authorization(told: Mapping[str, Any], folder: str) -> str | None:
    if "notification_token_file" in told:
        if "notification_user" in told:
            raise WrongKeyError("notification_token_file", "there is a notification_user already; choose one")
        token = _secret("notification_token_file", told, folder)
        return _understood("notification_token_file", lambda: bearer(token))
    if "notification_user" in told:
        password = _secret("notification_password_file", told, folder)
        return _understood("notification_user", lambda: basic(told["notification_user"], password))
    return None


def _understood(key: str, meant: Callable[[], str]) -> str:
    try:
        return meant()
    except ValueError as error:
        raise WrongKeyError(key, str(error)) from None


def _secret(key: str, told: Mapping[str, Any], folder: str) -> str:
    """The one line in the file that `key` names; no error shows any of it."""
    path = os.path.join(folder, told[key])
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_LONGEST_SECRET + 2)
    except OSError as error:
        raise WrongKeyError(key, f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise WrongKeyError(key, f"{path} is not UTF-8: save it as UTF-8") from None
    secret = text.removesuffix("\n")
    if not secret or "\n" in secret or len(secret) > _LONGEST_SECRET:
        raise WrongKeyError(key, f"{path} must hold the secret, in one line, and nothing else")
    return secret


def _trust(told: Mapping[str, Any], url: str, folder: str) -> Trust:
    keys = ("notification_ca", "notification_certificate", "notification_key")
    files = {key: os.path.join(folder, told[key]) for key in keys if key in told}
    for key in files:
        if not url.lower().startswith("https:"):
            raise WrongKeyError(key, "this is for a notification_url that begins with https://")
    ca, certificate, private_key = (files.get(key) for key in keys)
    _check_trust("notification_ca", Trust(ca), [ca])
    _check_trust("notification_certificate", Trust(ca, certificate, private_key), [certificate, private_key])
    return Trust(ca, certificate, private_key)


def _check_trust(key: str, trust: Trust, files: list[str | None]) -> None:
    paths = [path for path in files if path is not None]
    try:
        if paths:
            trust.context()
    except OSError as error:
        reason = "that is not what is in there" if isinstance(error, ssl.SSLError) else error.strerror
        raise WrongKeyError(key, f"{' with '.join(paths)} cannot be used: {reason}") from None
