"""What the tests of stores share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import worker
from .tracing import Stage


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A program that does a store's work in processes of their own."""
    if shutil.which("strace") is None:
        pytest.skip("there is no strace here")
    with Stage(Path(worker.__file__)) as stage:
        yield stage
