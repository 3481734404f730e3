"""Opens a store by its URL."""

from __future__ import annotations

from bitsferry.store.base import Store
from bitsferry.store.local import Durability, LocalStore

__all__ = ["open_store"]


def open_store(url: str, durability: Durability = "power", *, shared: bool = False) -> Store:
    """The store at `url`: `file:PATH`, or a plain path.

    Raises ValueError for a kind of store there is none of, StoreFailed for one that cannot be used.
    """
    scheme, colon, rest = url.partition(":")
    if colon and scheme != "file" and len(scheme) > 1:
        raise ValueError(f"there is no store of the kind {scheme!r}; write file:FOLDER")
    path = rest if colon and scheme == "file" else url
    return LocalStore(path.removeprefix("//") or ".", durability, shared=shared)
