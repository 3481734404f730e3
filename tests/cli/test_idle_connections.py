"""What it costs when thousands of machines stay connected and say nothing."""

from __future__ import annotations

import resource
from contextlib import ExitStack
from pathlib import Path

import pytest

from server import raw

from .conftest import Start

CONNECTIONS = 2000
MOST = 60_000_000  # bytes for all of the server


@pytest.fixture
def descriptors() -> None:
    """As many as the test itself needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = CONNECTIONS + 500
    if hard != resource.RLIM_INFINITY and hard < enough:
        pytest.skip(f"only {hard} descriptors are allowed here")
    if soft != resource.RLIM_INFINITY and soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


@pytest.mark.usefixtures("descriptors")
def test_two_thousand_idle_connections_fit_into_60_mb(start: Start, tmp_path: Path) -> None:
    served = start(str(tmp_path / "in"), "--listen", "127.0.0.1:0").ready()
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            assert stack.enter_context(served.line()).ask(raw.ping("/x")).status == 200
        status = Path(f"/proc/{served.pid}/status").read_text(encoding="utf-8")
    (resident,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")]
    assert resident * 1024 < MOST
