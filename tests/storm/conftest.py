"""What the storms share."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

from . import preloaded
from .serving import Servers


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    if shutil.which("strace") is None:
        pytest.skip("there is no strace here")
    process = subprocess.Popen(
        [sys.executable, preloaded.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    servers = Servers(process)
    try:
        yield servers
    finally:
        with suppress(ProcessLookupError):
            if servers.pid:
                os.kill(servers.pid, signal.SIGKILL)
        process.stdin.close()
        process.wait(10)
        process.stdout.close()
