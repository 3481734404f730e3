"""A store in memory, a folder for the files, and asyncio."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bitsferry.store.local import LocalStore
from store.disks import folder_in_memory


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def memory() -> Iterator[Path]:
    with folder_in_memory() as folder:
        yield folder


@pytest.fixture
def store(memory: Path) -> Iterator[LocalStore]:
    store = LocalStore(str(memory / "store"), "process")
    yield store
    store.close()


@pytest.fixture
def folder(memory: Path) -> Path:
    """Where files appear."""
    folder = memory / "in"
    folder.mkdir()
    return folder
