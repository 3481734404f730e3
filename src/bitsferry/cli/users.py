"""`bitsferry users`: the files of users that a server lets in."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import click

from bitsferry.access.htdigest import digest_lines
from bitsferry.access.htpasswd import LONGEST_PASSWORD, htpasswd_line
from bitsferry.access.nt_hashes import in_upper_case, nt_hash_line
from bitsferry.access.tokens import new_token, token_line
from bitsferry.access.user_name import LONGEST_NAME, is_name
from bitsferry.cli import readers
from bitsferry.cli.user_file import InUseError, changing, is_open_to_all, name_in, read_lines

__all__ = ["users"]

FAILED = 1


@dataclass(frozen=True, slots=True)
class _Wish:
    """A new user: `password` asks for it, once. `token` is a new one, good until the end of `last`."""

    name: str
    realm: str
    password: Callable[[], bytes]
    last: datetime.date | None = None
    token: str = field(default_factory=new_token, repr=False)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of file: the lines it has for a user, and which of the user's lines they replace.

    `lines` raises ValueError for a wish that cannot be granted. Two names are one where `fold` says so.
    """

    lines: Callable[[_Wish], list[str]]
    replaces: Callable[[_Wish, str], bool]
    fold: Callable[[str], str] = str


_KINDS = {
    "basic": _Kind(
        lines=lambda wish: [htpasswd_line(wish.name, wish.password())],
        replaces=lambda wish, line: True,
    ),
    "digest": _Kind(
        lines=lambda wish: digest_lines(wish.name, wish.realm, wish.password()),
        replaces=lambda wish, line: line.split(":")[1] == wish.realm,
    ),
    "ntlm": _Kind(
        lines=lambda wish: [nt_hash_line(wish.name, wish.password())],
        replaces=lambda wish, line: True,
        fold=in_upper_case,
    ),
    "token": _Kind(
        lines=lambda wish: [token_line(wish.name, wish.token, wish.last)],
        replaces=lambda wish, line: False,  # the old one stays until the new one has arrived where it is used
    ),
}


@click.group()
def users() -> None:
    """Manage who may enter: files of users for the server.

    A server reads a file again within a second after it changed.
    """


def _realm(context: click.Context, parameter: click.Parameter, value: str) -> Any:
    try:
        return readers.realm(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None


def _name(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not is_name(value) or ":" in value or value.startswith("#"):
        raise click.BadParameter(
            f"a name has up to {LONGEST_NAME} characters that can be shown, no colon, no blanks around it,"
            " and does not begin with '#'",
            context,
            parameter,
        )
    return value


def _day(context: click.Context, parameter: click.Parameter, value: str | None) -> datetime.date | None:
    try:
        return None if value is None else datetime.date.fromisoformat(value)
    except ValueError:
        raise click.BadParameter("write a day as 2027-01-31", context, parameter) from None


_FILE = click.argument("file", type=click.Path(dir_okay=False))
_NAME = click.argument("name", callback=_name)


@users.command()
@_FILE
@_NAME
@click.option(
    "--for",
    "kind",
    type=click.Choice(list(_KINDS)),
    default="basic",
    show_default=True,
    help="The scheme the file is for.",
)
@click.option(
    "--realm",
    metavar="REALM",
    default=readers.DEFAULT_REALM,
    show_default=True,
    callback=_realm,
    help="For digest.",
)
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option(
    "--until", metavar="DAY", callback=_day, help="The last day of a token, such as 2027-01-31; by UTC."
)
def add(
    file: str, name: str, kind: str, realm: str, password_stdin: bool, until: datetime.date | None
) -> None:
    """Add a user, or change the password of one; FILE is made if need be.

    For a token there is nothing to be asked: a new one is printed, once. Older ones of NAME stay.
    """
    if until is not None and kind != "token":
        raise click.UsageError("--until is for tokens: say --for token")
    wish = _Wish(name, realm, _from_stdin if password_stdin else lambda: _asked_for(name), until)
    try:
        new = _KINDS[kind].lines(wish)
    except ValueError as error:
        _fail(str(error))
    fold = _KINDS[kind].fold
    with _changing(file) as lines:
        mine = [
            number
            for number, line in enumerate(lines)
            if fold(name_in(line) or "") == fold(name) and _KINDS[kind].replaces(wish, line)
        ]
        at = mine[0] if mine else len(lines)
        for number in reversed(mine):
            del lines[number]
        lines[at:at] = new
    if kind == "token":
        click.echo(f"{name}: added, with this token, which nobody can show again:", err=True)
        click.echo(wish.token)
    else:
        click.echo(f"{name}: password changed" if mine else f"{name}: added")
    if is_open_to_all(file):
        click.echo(f"bitsferry: everybody on this machine can read {file}: chmod o-rwx {file}", err=True)


@users.command()
@_FILE
@_NAME
def remove(file: str, name: str) -> None:
    """Remove a user."""
    with _changing(file) as lines:
        kept = [line for line in lines if name_in(line) != name]
        if len(kept) == len(lines):
            _fail(f"{file} has no user {name}")
        lines[:] = kept
    click.echo(f"{name}: removed")


@users.command("list")
@_FILE
def list_(file: str) -> None:
    """List the users in FILE, one a line."""
    try:
        names = [name_in(line) for line in read_lines(file)]
    except OSError as error:
        _fail(f"{file} cannot be read: {error.strerror}")
    for name in dict.fromkeys(names):
        if name is not None:
            click.echo(name)


@contextmanager
def _changing(file: str) -> Iterator[list[str]]:
    try:
        with changing(file) as lines:
            yield lines
    except InUseError as error:
        _fail(
            f"somebody else is changing {file}; if nobody is, something broke off:"
            f" delete {error.path} and try again"
        )
    except OSError as error:
        _fail(f"{file} cannot be changed: {error.strerror}")


def _asked_for(name: str) -> bytes:
    if not sys.stdin.isatty():
        raise click.UsageError("nobody is there to be asked for the password: say --password-stdin")
    return _checked(click.prompt(f"Password of {name}", hide_input=True, confirmation_prompt=True, err=True))


def _from_stdin() -> bytes:
    """All of it, but for the end of the line."""
    said = sys.stdin.buffer.read(LONGEST_PASSWORD * 2)
    try:
        password = said.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("the password is not UTF-8") from None
    return _checked(password.removesuffix("\n").removesuffix("\r"))


def _checked(password: str) -> bytes:
    """The password's bytes. Raises ValueError."""
    try:
        secret = password.encode()
    except UnicodeEncodeError:
        raise ValueError("the password is not UTF-8") from None
    if not secret:
        raise ValueError("the password is empty")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in password):
        raise ValueError("a password has no line breaks or other control characters in it")
    if len(secret) > LONGEST_PASSWORD:
        raise ValueError(f"a password has at most {LONGEST_PASSWORD} bytes")
    return secret


def _fail(message: str) -> NoReturn:
    click.echo(f"bitsferry: {message}", err=True)
    sys.exit(FAILED)
