"""What a program wants to be served: its directories, the functions behind them, the store."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from bitsferry.protocol.errors import InvalidName
from bitsferry.server.callable_backend import CallableBackend, Function
from bitsferry.server.directory import Directories, Directory
from bitsferry.server.integrity import check_directory
from bitsferry.server.names import check_name
from bitsferry.store.base import Store
from bitsferry.store.folder import OWN_PREFIX
from bitsferry.store.local import Durability
from bitsferry.store.location import open_store
from bitsferry.store.threads import error_of_os

__all__ = ["Plan"]

F = TypeVar("F", bound=Function)

_URL = re.compile(r"/(?:[^/?#%]+/)*")


class Plan:
    """Touches nothing until it is opened. Raises ValueError for directories that cannot be meant.

    `store` may be left out for a single directory, whose folder then holds it, hidden.
    """

    def __init__(
        self,
        directories: Iterable[Directory],
        store: str | None,
        durability: Durability,
        *,
        shared: bool = False,
    ) -> None:
        self.directories: dict[str, Directory] = {}
        for directory in directories:
            _check(directory.url)
            check_directory(directory)
            if directory.url in self.directories:
                raise ValueError(f"there are two directories at {directory.url!r}")
            self.directories[directory.url] = directory
        self._location = store or self._hidden_store()
        self._durability = durability
        self.shared = shared
        self._is_open = False

    def _hidden_store(self) -> str:
        if len(self.directories) != 1:
            raise ValueError("name at least one directory, and with several of them the store they share")
        (directory,) = self.directories.values()
        return "file:" + os.path.join(os.path.abspath(directory.folder), OWN_PREFIX)

    def on_upload(self, url: str, *, keep: bool, at_once: int) -> Callable[[F], F]:
        """A decorator: the function answers the uploads to `url` and below.

        Where that is no directory but a part of one, it becomes one, with all that is said of the whole.
        Raises ValueError where none is or something answers already, RuntimeError after `open`.
        """
        if self._is_open:
            raise RuntimeError("functions are named before the server starts")
        _check(url)
        around = max((each for each in self.directories if url.startswith(each)), key=len, default=None)
        if around is None:
            raise ValueError(f"no directory is at {url!r}; there is {', '.join(map(repr, self.directories))}")
        directory = self.directories[around]
        if url != around:
            folder = os.path.join(directory.folder, *url.removeprefix(around).split("/")[:-1])
            directory = replace(directory, url=url, folder=folder)
        elif directory.backend is not None:
            raise ValueError(f"uploads to {url!r} are answered already")

        def name(function: F) -> F:
            backend = CallableBackend(function, keep=keep, at_once=at_once)
            self.directories[url] = replace(directory, backend=backend)
            return function

        return name

    def open(self) -> tuple[Store, Directories]:
        """Make the folders and open the store, which `close` closes.

        Raises StoreFailed, ValueError for a kind of store there is none of, RuntimeError when it is open.
        """
        if self._is_open:
            raise RuntimeError("this server runs already")
        try:
            for directory in self.directories.values():
                os.makedirs(directory.folder, exist_ok=True)
        except OSError as error:
            raise error_of_os(error) from error
        store = open_store(self._location, self._durability, shared=self.shared)
        self._is_open = True
        return store, Directories(self.directories.values())

    def close(self, store: Store) -> None:
        """Nothing uses the store any more."""
        store.close()
        self._is_open = False


def _check(url: str) -> None:
    if not isinstance(url, str):
        raise TypeError('the decorator wants its URL: write @server.on_upload("/")')
    if _URL.fullmatch(url) is None:
        raise ValueError(f"a url begins and ends in '/', such as '/in/'; this one is {url!r}")
    try:
        for name in url.split("/")[1:-1]:
            check_name(name)
    except InvalidName as error:
        raise ValueError(f"no upload could reach {url!r}: {error.message}") from None
