"""A file appears in its place and nowhere else: no link is followed, nobody waits, nothing strays."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bitsferry.protocol.errors import AccessDenied, BitsError, DestinationExists
from bitsferry.store.folder import Destination, Folder
from bitsferry.store.publishing import clear_leftovers, publish

GUID = "01234567-89AB-CDEF-0123-456789ABCDEF"
CONTENT = b"what arrived"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "request.data"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    return path


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that is none of the server's business."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "secret").write_bytes(b"secret")
    return path


def place(
    source: Path, folder: Path, *parts: str, overwrite: bool = False, create_folders: bool = False
) -> None:
    destination = Destination(Folder(str(folder)), parts, overwrite, create_folders)
    publish(str(source), GUID, destination)
    clear_leftovers(GUID, destination)
    source.unlink()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_somebody_else_linked_to_is_put_in_its_place_all_the_same(
    source: Path, folder: Path, outside: Path, overwrite: bool
) -> None:
    data = source.read_bytes()
    (outside / "backup").hardlink_to(source)
    place(source, folder, "file", overwrite=overwrite)
    assert (folder / "file").read_bytes() == data


def test_a_link_at_the_destination_counts_as_a_file_that_is_there(
    source: Path, folder: Path, outside: Path
) -> None:
    for target in (outside / "secret", outside / "nothing", outside):
        (folder / "file").symlink_to(target)
        with pytest.raises(DestinationExists):
            place(source, folder, "file")
        assert names(outside) == {"secret"}
        assert (outside / "secret").read_bytes() == b"secret"
        (folder / "file").unlink()


def test_a_link_that_may_be_overwritten_is_replaced_not_followed(
    source: Path, folder: Path, outside: Path
) -> None:
    (folder / "file").symlink_to(outside / "secret")
    place(source, folder, "file", overwrite=True)
    assert not (folder / "file").is_symlink()
    assert (folder / "file").read_bytes() == CONTENT
    assert (outside / "secret").read_bytes() == b"secret"


@pytest.mark.parametrize("overwrite", [False, True])
def test_no_link_leads_out_of_the_folder(source: Path, folder: Path, outside: Path, overwrite: bool) -> None:
    (folder / "way").symlink_to(outside)
    (folder / "deep").mkdir()
    (folder / "deep" / "way").symlink_to(outside)
    for parts in (("way", "file"), ("way", "secret"), ("deep", "way", "file")):
        with pytest.raises(AccessDenied):
            place(source, folder, *parts, overwrite=overwrite, create_folders=True)
    assert names(outside) == {"secret"}
    assert (outside / "secret").read_bytes() == b"secret"


def test_a_file_in_the_way_is_no_folder(source: Path, folder: Path) -> None:
    (folder / "way").write_bytes(b"a file")
    with pytest.raises(AccessDenied):
        place(source, folder, "way", "file", create_folders=True)
    assert (folder / "way").read_bytes() == b"a file"


def test_the_folder_itself_may_be_a_link_for_whoever_configured_it_meant_it(
    source: Path, folder: Path
) -> None:
    way = folder.with_name("way")
    way.symlink_to(folder)
    place(source, way, "file")
    assert (folder / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("overwrite", [False, True])
def test_nobody_who_listens_at_a_pipe_is_served(source: Path, folder: Path, overwrite: bool) -> None:
    os.mkfifo(folder / "file")
    if overwrite:
        place(source, folder, "file", overwrite=True)
        assert (folder / "file").read_bytes() == CONTENT
    else:
        with pytest.raises(DestinationExists):
            place(source, folder, "file")
        assert stat.S_ISFIFO((folder / "file").stat().st_mode)


def test_names_may_be_as_long_as_the_file_system_allows(source: Path, folder: Path) -> None:
    place(source, folder, "ü" * 127)
    assert names(folder) == {"ü" * 127}


def test_a_name_that_is_too_long_is_an_error_that_leaves_nothing(source: Path, folder: Path) -> None:
    with pytest.raises(OSError, match="long"):
        place(source, folder, "x" * 256)
    assert names(folder) == set()


def test_a_folder_made_for_one_file_is_there_for_the_next(source: Path, folder: Path) -> None:
    for name in ("one", "two"):
        publish(str(source), GUID, Destination(Folder(str(folder)), ("new", name), create_folders=True))
        source.unlink()
        source.write_bytes(CONTENT)
    assert names(folder / "new") == {"one", "two"}


def test_where_the_server_may_not_write_it_says_so(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(AccessDenied):
        place(source, folder, "file")
    assert names(folder) == set()


def test_a_disk_that_fills_while_copying_leaves_nothing(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.link", no_link)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        place(source, folder, "file")
    assert names(folder) == set()


def test_refused_files_are_not_copied_to_another_file_system_first(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that tries again every ten minutes would cost gigabytes each time."""

    def no_link(path: str, name: str, **kwargs: int) -> None:
        if os.path.lexists(folder / name):
            raise FileExistsError(errno.EEXIST, "File exists")
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    def copy(*args: object) -> None:
        raise AssertionError("it copies")

    monkeypatch.setattr("os.link", no_link)
    monkeypatch.setattr("shutil.copyfileobj", copy)
    (folder / "file").write_bytes(b"older")
    with pytest.raises(DestinationExists):
        place(source, folder, "file")
    (folder / "file").unlink()
    (folder / "file").mkdir()
    for overwrite in (False, True):
        with pytest.raises(BitsError):
            place(source, folder, "file", overwrite=overwrite)


RACER = """
import sys
from bitsferry.protocol.errors import DestinationExists
from bitsferry.store.folder import Destination, Folder
from bitsferry.store.publishing import publish
source, guid, folder, overwrite = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
try:
    publish(source, guid, Destination(Folder(folder), ("file",), overwrite == "True"))
except DestinationExists:
    sys.exit(3)
"""


@pytest.mark.parametrize("overwrite", [False, True])
def test_of_several_processes_exactly_one_wins_unless_they_may_overwrite(
    tmp_path: Path, folder: Path, overwrite: bool
) -> None:
    contents = [bytes([number]) * 300_000 for number in range(4)]
    racers = []
    for number, content in enumerate(contents):
        source = tmp_path / f"{number}.data"
        source.write_bytes(content)
        guid = GUID[:-1] + str(number)
        racers.append(
            subprocess.Popen(
                [sys.executable, "-c", RACER, str(source), guid, str(folder), str(overwrite)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
    for racer in racers:
        assert racer.stdout is not None
        racer.stdout.readline()
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write(b"go\n")
        racer.stdin.flush()
    ends = []
    for racer in racers:
        racer.communicate()
        ends.append(racer.returncode)
    assert names(folder) == {"file"}
    if overwrite:
        assert ends == [0, 0, 0, 0]
        assert (folder / "file").read_bytes() in contents
    else:
        assert sorted(ends) == [0, 3, 3, 3]
        assert (folder / "file").read_bytes() == contents[ends.index(0)]
