"""File systems to try a store on: another one, a small one, one that turns read-only, one without links."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MIB = 1024 * 1024


MEMORY = Path("/dev/shm")


@contextmanager
def other_file_system(than: Path) -> Iterator[Path]:
    """A folder on another file system than `than`, one in memory if there is any."""
    if not os.access(MEMORY, os.W_OK) or MEMORY.stat().st_dev == than.stat().st_dev:
        pytest.skip("there is no second file system here")
    with folder_in_memory() as folder:
        yield folder


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """A folder that is quick, where there is memory to put one in."""
    folder = Path(
        tempfile.mkdtemp(prefix="bitsferry-test-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None)
    )
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def mounted(where: Path, command: str) -> Iterator[Path]:
    """`where` after `command` mounted something there, seen through the namespace it is mounted in.

    The mount lives in a namespace of a shell that waits for us: it is gone when we are, however we end.
    """
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare here")
    where.mkdir(parents=True, exist_ok=True)
    shell = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", f"{command} && echo mounted && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "WHERE": str(where)},
    )
    assert shell.stdin is not None
    assert shell.stdout is not None
    assert shell.stderr is not None
    try:
        if shell.stdout.readline() != "mounted\n":
            pytest.skip(f"nothing can be mounted here: {shell.stderr.read().strip()}")
        yield Path(f"/proc/{shell.pid}/root{where}")
    finally:
        shell.stdin.close()
        shell.wait()
        shell.stdout.close()
        shell.stderr.close()


@contextmanager
def small_disk(where: Path, size: int) -> Iterator[Path]:
    """A file system that holds `size` bytes."""
    with mounted(where, f'mount -t tmpfs -o size={size},mode=755 none "$WHERE"') as disk:
        yield disk


class FailingDisk:
    """A file system that becomes read-only under the hands of whoever writes, as after a disk error."""

    def __init__(self, folder: Path, trigger: Path) -> None:
        self.folder = folder
        self._trigger = trigger

    def fail(self) -> None:
        self._trigger.write_text("test")


@contextmanager
def failing_disk(where: Path) -> Iterator[FailingDisk]:
    """A small ext4 that turns read-only when told to."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("there is no mkfs.ext4 here")
    image = where.with_name(where.name + ".image")
    with image.open("wb") as file:
        file.truncate(8 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    with mounted(where, f'mount -o loop,errors=remount-ro "{image}" "$WHERE"') as folder:
        device = folder.stat().st_dev
        block = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
        trigger = Path(f"/sys/fs/ext4/{block}/trigger_fs_error")
        if not trigger.exists():
            pytest.skip("this ext4 cannot be told to fail")
        yield FailingDisk(folder, trigger)


@contextmanager
def fat_disk(where: Path) -> Iterator[Path]:
    """A file system that knows no hard links."""
    if shutil.which("mkfs.vfat") is None:
        pytest.skip("there is no mkfs.vfat here")
    image = where.with_name(where.name + ".image")
    with image.open("wb") as file:
        file.truncate(8 * MIB)
    subprocess.run(["mkfs.vfat", str(image)], check=True, stdout=subprocess.DEVNULL)
    with mounted(where, f'mount -t vfat -o loop "{image}" "$WHERE"') as folder:
        yield folder


@contextmanager
def two_mounts(where: Path) -> Iterator[tuple[Path, Path]]:
    """Two folders of one file system between which no link leads: each is a mount of its own.

    So containers see two volumes, and services the folders systemd lets them write to.
    """
    for name in ("a", "b"):
        (where / name).mkdir(parents=True, exist_ok=True)
    command = 'mount --bind "$WHERE/a" "$WHERE/a" && mount --bind "$WHERE/b" "$WHERE/b"'
    with mounted(where, command) as folder:
        yield folder / "a", folder / "b"
