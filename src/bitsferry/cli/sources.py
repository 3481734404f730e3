"""What the arguments of `bitsferry send` mean: files, patterns and folders, each file with its URL."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit, urlunsplit

from bitsferry.client.destination import Destination

__all__ = ["Found", "LeftOut", "Parcel", "find"]


@dataclass(frozen=True, slots=True)
class Parcel:
    """One file to send; `name` is what to call it among several."""

    path: str
    url: str
    name: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something in a folder that is not sent. `is_fault`: it may have been wanted."""

    path: str
    why: str
    is_fault: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """The files to send; `origins` are the folders they come from."""

    parcels: list[Parcel] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    origins: set[str] = field(default_factory=set)


def find(arguments: Iterable[str], url: str, *, recursive: bool) -> Found:
    """The files that `arguments` mean: each is a file, a pattern, or with `recursive` a folder.

    A pattern is one only where nothing has that name. A folder's files get their paths in it, below `url`, in
    the order of their names. Links to files are followed, links to folders are not. Raises ValueError with a
    sentence for what cannot be meant.
    """
    single = Destination.parse(url, "file")
    is_folder = (urlsplit(url).path or "/").endswith("/")
    named = list(_expand(arguments))
    found, there = Found(), dict[str, str]()
    for each in named:
        if os.path.isdir(each):
            if not recursive:
                raise ValueError(f"{_shown(each)} is a folder: say --recursive to send what is in it")
            origin, files = each, _walk(each, found.left_out)
        else:
            _check(each)
            origin, name = os.path.split(os.path.abspath(each))
            files = iter([(each, [name])])
        if not is_folder and (origin is each or len(named) > 1):
            raise ValueError(f"{url} names one file; a URL to send several to ends in /")
        found.origins.add(os.path.abspath(origin))
        for path, names in files:
            to = _below(url, names) if is_folder else str(single)
            if to not in there:
                there[to] = path
                found.parcels.append(Parcel(path, to, _shown("/".join(names))))
            elif os.path.abspath(there[to]) != os.path.abspath(path):
                raise ValueError(f"{_shown(there[to])} and {_shown(path)} would both be sent to {to}")
    return found


def _expand(arguments: Iterable[str]) -> Iterator[str]:
    """Shells of Windows leave patterns to the programs."""
    for argument in arguments:
        if os.path.lexists(argument):
            yield argument
        elif glob.has_magic(argument) and (matches := sorted(glob.glob(argument, recursive=True))):
            yield from matches
        else:
            raise ValueError(f"there is no file {_shown(argument)}")


def _check(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise ValueError(f"{_shown(path)} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise ValueError(
            f"{_shown(path)} is {_kind(mode)}; to send what comes out of it, pipe it in and write -"
        )


def _walk(folder: str, left_out: list[LeftOut]) -> Iterator[tuple[str, list[str]]]:
    """Every file in the tree, with the names that lead to it. What cannot be read is found, too."""

    def miss(error: OSError) -> None:
        left_out.append(
            LeftOut(_shown(error.filename), f"it cannot be read: {error.strerror}", is_fault=True)
        )

    for here, folders, names in os.walk(folder, onerror=miss):
        folders.sort()
        parts = [] if here == folder else os.path.relpath(here, folder).split(os.sep)
        links = filter(os.path.islink, (os.path.join(here, name) for name in folders))
        left_out += [LeftOut(_shown(link), "it is a link to a folder") for link in links]
        for name in sorted(names):
            path = os.path.join(here, name)
            try:
                mode = os.stat(path).st_mode
            except OSError:
                mode = stat.S_IFREG  # the error is told when its turn comes
            if stat.S_ISREG(mode):
                yield path, [*parts, name]
            else:
                left_out.append(LeftOut(_shown(path), f"it is {_kind(mode)}"))


def _kind(mode: int) -> str:
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device"


def _below(url: str, names: Iterable[str]) -> str:
    """The URL of a file in the folder `url`."""
    parts = urlsplit(url)
    path = (parts.path or "/") + "/".join(quote(name, safe="", errors="surrogateescape") for name in names)
    return str(Destination.parse(urlunsplit(parts._replace(path=path))))


def _shown(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "replace")
