"""`make demo` works: a small one, with real processes and a real SIGKILL."""

import subprocess
import sys
from pathlib import Path

import pytest

SMALL = """
import sys
from bitsferry.cli import demo
demo.SIZE, demo.RATE, demo.FRAGMENT = 12_000_000, "8 MB/s", "1 MiB"
sys.exit(demo.main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the server's home is Linux")
def test_the_demo_ends_well_even_where_another_one_ended_badly(tmp_path: Path) -> None:
    for leftover in ("inbox/python-library.tar", "state/bitsferry/sends/0.json", "python-library.tar"):
        path = tmp_path / "demo" / leftover
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("old")
    process = subprocess.run(
        [sys.executable, "-c", SMALL], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 0, process.stderr
    assert "killed (SIGKILL" in process.stdout
    assert "not at 0" in process.stdout
    assert "the same, byte for byte" in process.stdout
    assert "make serve" in process.stdout
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == ["inbox", "server.log", "state"]
    assert (tmp_path / "demo" / "inbox" / "python-library.tar").stat().st_size >= 12_000_000
