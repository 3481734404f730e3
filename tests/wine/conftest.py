"""A Windows of its own for a test, as Wine has it, with programs that are compiled for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

WINE = shutil.which("wine") or shutil.which("wine64")
WINESERVER = shutil.which("wineserver")
COMPILER = shutil.which("x86_64-w64-mingw32-gcc")

NEEDED = [
    pytest.mark.wine,
    pytest.mark.skipif(WINE is None or WINESERVER is None, reason="there is no Wine here"),
    pytest.mark.skipif(COMPILER is None, reason="there is no x86_64-w64-mingw32-gcc here (MinGW-w64)"),
]
"""What a test needs that asks for `windows`."""


@dataclass(frozen=True, slots=True)
class Windows:
    """A Windows of its own; `folder` is for programs, `environment` is how they find it."""

    folder: Path
    environment: dict[str, str]

    def compile(self, source: str, library: str) -> Path:
        """The program whose source is beside us."""
        assert COMPILER is not None
        program = self.folder / Path(source).with_suffix(".exe")
        path = Path(__file__).with_name(source)
        build = [COMPILER, "-municode", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(path)]
        subprocess.run([*build, f"-l{library}"], check=True, timeout=60)
        return program

    def run(self, program: Path, *arguments: str) -> tuple[int, str]:
        """Its exit code, and what it printed; the first call takes seconds, to set this Windows up."""
        assert WINE is not None
        done = subprocess.run(
            [WINE, str(program), *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=180,
            check=False,
        )
        return done.returncode, done.stdout


def path_of(path: Path) -> str:
    """A path of ours, as Windows spells it."""
    return "Z:" + str(path).replace("/", "\\")


@pytest.fixture
def windows(tmp_path: Path) -> Iterator[Windows]:
    assert WINESERVER is not None
    # Not in tmp_path: pytest would keep its hundreds of MB. Of this machine's settings only PATH
    # goes in: no proxy, no screen.
    with tempfile.TemporaryDirectory() as home:
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": home,
            "WINEPREFIX": f"{home}/prefix",
            "WINEDEBUG": "-all",
            "WINEDLLOVERRIDES": "mscoree,mshtml,winemenubuilder.exe=",  # no questions, no menus
        }
        try:
            yield Windows(tmp_path, environment)
        finally:
            for step in ("-k", "-w"):  # end every program of this Windows, wait until it is gone
                subprocess.run([WINESERVER, step], env=environment, check=False, timeout=60)
