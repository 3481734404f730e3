"""What arrived of a file is kept, in order, beside its place; nothing else there is ever touched."""

import errno
import os
import stat
import sys
import time
from pathlib import Path

import pytest

from bitsferry.client import partial_file
from bitsferry.client.partial_file import (
    SUFFIX,
    SYNC_EVERY,
    AlreadyBeingReceived,
    PartialFile,
    discard,
    make_empty,
    place,
)
from bitsferry.protocol.errors import (
    Context,
    LocalAccessDenied,
    LocalDiskFailed,
    LocalDiskFull,
    LocalFileInTheWay,
    LocalFileMissing,
    LocalFolderMissing,
)

IN_2007 = "Mon, 18 Jun 2007 21:12:01 GMT"

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other rights and links")
unprivileged = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="nothing is forbidden to root"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / f"file.bin{SUFFIX}"


def write(path: Path, data: bytes, *, known: bool = False) -> None:
    with PartialFile(str(path), known=known) as part:
        part.append(memoryview(data))


# What is there


def test_bytes_are_appended_and_counted(path: Path) -> None:
    write(path, b"one ")
    with PartialFile(str(path), known=True) as part:
        assert part.length == 4
        part.append(memoryview(b"two"))
        assert part.length == 7
    assert path.read_bytes() == b"one two"


def test_what_nobody_knows_is_begun_anew(path: Path) -> None:
    write(path, b"of some version")
    with PartialFile(str(path), known=False) as part:
        assert part.length == 0
    assert path.read_bytes() == b""


def test_clearing_leaves_nothing(path: Path) -> None:
    with PartialFile(str(path), known=False) as part:
        part.append(memoryview(b"old"))
        part.clear()
        part.append(memoryview(b"new"))
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("when", [-1, +1])
def test_after_a_power_cut_the_end_is_not_trusted(path: Path, when: int) -> None:
    """It was last written before the machine started, or nobody can tell."""
    with path.open("wb") as file:
        file.truncate(SYNC_EVERY + 5)
    moment = time.time() + when * 10 * (time.monotonic() + 1000)
    os.utime(path, (moment, moment))
    with PartialFile(str(path), known=True) as part:
        assert part.length == 5
    assert path.stat().st_size == 5
    with PartialFile(str(path), known=True) as part:
        assert part.length == 5


def test_it_is_made_durable_as_often_as_is_promised(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    sync = os.fsync

    def listen(descriptor: int) -> None:
        sync(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", listen)
    block = memoryview(bytes(256 * 1024))
    with PartialFile(str(path), known=False) as part:
        synced.clear()
        for _ in range(2 * SYNC_EVERY // len(block) + 1):
            part.append(block)
            assert part.length <= max(synced, default=0) + SYNC_EVERY
    assert synced == [SYNC_EVERY, 2 * SYNC_EVERY]


def test_what_could_not_be_made_durable_is_there_no_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PartialFile(str(path), known=False) as part:
        part.append(memoryview(b"durable"))
        part.sync()
        part.append(memoryview(b", perhaps"))
        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", _fail(errno.EIO))
            with pytest.raises(LocalDiskFailed, match=path.name):
                part.sync()
        assert part.length == 7
    assert path.read_bytes() == b"durable"


# What is not ours


def test_nobody_else_has_it_at_the_same_time(path: Path) -> None:
    with PartialFile(str(path), known=False) as part:
        part.append(memoryview(b"mine"))
        with pytest.raises(AlreadyBeingReceived, match="another process") as caught:
            PartialFile(str(path), known=False)
        assert caught.value.transient
    assert path.read_bytes() == b"mine"


@posix
def test_a_file_that_just_got_its_name_is_not_taken_for_the_part(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process placed it between our opening and our locking it."""
    lock = partial_file._lock
    write(path, b"whole")

    def lock_late(descriptor: int) -> bool:
        if not (tmp_path / "file.bin").exists():
            path.rename(tmp_path / "file.bin")
        return lock(descriptor)

    monkeypatch.setattr(partial_file, "_lock", lock_late)
    write(path, b"another")
    assert (tmp_path / "file.bin").read_bytes() == b"whole"
    assert path.read_bytes() == b"another"


@posix
def test_only_its_owner_may_read_it(path: Path) -> None:
    write(path, b"secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@posix
@pytest.mark.parametrize("known", [True, False])
def test_links_are_not_followed(path: Path, tmp_path: Path, known: bool) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    for name in ("precious", "nothing"):
        path.symlink_to(tmp_path / name)
        with pytest.raises(LocalFileInTheWay):
            PartialFile(str(path), known=known)
        path.unlink()
    path.hardlink_to(tmp_path / "precious")
    with pytest.raises(LocalFileInTheWay, match="somebody else's"):
        PartialFile(str(path), known=known)
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (tmp_path / "nothing").exists()


@posix
def test_what_is_no_file_is_left_alone(path: Path) -> None:
    path.mkdir()
    with pytest.raises(LocalFileInTheWay):
        PartialFile(str(path), known=False)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(LocalFileInTheWay):
        PartialFile(str(path), known=False)


def test_a_file_of_another_name_that_nobody_knows_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "thesis.tex"
    path.write_bytes(b"years of work")
    with pytest.raises(LocalFileInTheWay, match="no download began it"):
        PartialFile(str(path), known=False)
    assert path.read_bytes() == b"years of work"


# What goes wrong


def _fail(code: int) -> object:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_full_disk_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PartialFile(str(path), known=False) as part:
        part.append(memoryview(b"here"))
        with monkeypatch.context() as full:
            full.setattr(os, "write", _fail(errno.ENOSPC))
            with pytest.raises(LocalDiskFull, match=path.name) as caught:
                part.append(memoryview(b"and there"))
        assert part.length == 4
    assert (caught.value.context, caught.value.transient) == (Context.LOCAL_FILE, True)


def test_what_fitted_on_a_full_disk_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system does it: a short write, and then none."""
    room = [6]
    write = os.write

    def write_while_there_is_room(descriptor: int, block: memoryview) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = write(descriptor, block[: room[0]])
        room[0] -= count
        return count

    with PartialFile(str(path), known=False) as part:
        monkeypatch.setattr(os, "write", write_while_there_is_room)
        with pytest.raises(LocalDiskFull):
            part.append(memoryview(b"0123456789"))
        assert part.length == 6
    assert path.read_bytes() == b"012345"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none" / "file.bin"
    with pytest.raises(LocalFolderMissing, match=r"none.file\.bin is not there") as caught:
        PartialFile(str(path), known=False)
    assert (caught.value.context, caught.value.transient) == (Context.LOCAL_FILE, False)


@unprivileged
def test_a_folder_one_may_not_write_to_is_named(path: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(LocalAccessDenied, match=path.name) as caught:
            PartialFile(str(path), known=False)
    finally:
        tmp_path.chmod(0o700)
    assert not caught.value.transient


# Its place


def test_a_file_gets_its_name_in_the_place_of_another(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_bytes(b"old")
    write(path, b"new")
    place(str(path), str(target), IN_2007)
    assert target.read_bytes() == b"new"
    assert target.stat().st_mtime == 1_182_201_121
    assert os.listdir(tmp_path) == ["file.bin"]


@posix
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_it_has_the_rights_of_any_new_file(path: Path, tmp_path: Path, umask: int, mode: int) -> None:
    write(path, b"new")
    before = os.umask(umask)
    try:
        place(str(path), str(tmp_path / "file.bin"))
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.bin").stat().st_mode) == mode


@pytest.mark.parametrize("date", [None, "", "yesterday", "Mon, 18 Jun 99999 21:12:01 GMT"])
def test_without_a_date_the_time_stays_as_it_is(path: Path, tmp_path: Path, date: str | None) -> None:
    write(path, b"new")
    place(str(path), str(tmp_path / "file.bin"), date)
    assert abs((tmp_path / "file.bin").stat().st_mtime - time.time()) < 60


def test_a_file_that_has_its_name_already_keeps_it(path: Path, tmp_path: Path) -> None:
    """Who was interrupted between placing and remembering that places once more."""
    write(path, b"new")
    for _ in range(2):
        place(str(path), str(tmp_path / "file.bin"), IN_2007)
    assert (tmp_path / "file.bin").read_bytes() == b"new"


@pytest.mark.parametrize("date", [None, IN_2007])
def test_what_is_gone_is_not_taken_for_placed(path: Path, tmp_path: Path, date: str | None) -> None:
    (tmp_path / "file.bin").write_bytes(b"old")
    with pytest.raises(LocalFileMissing, match="is gone"):
        place(str(path), str(tmp_path / "file.bin"), date)


def test_what_another_process_is_receiving_is_not_placed(path: Path, tmp_path: Path) -> None:
    with PartialFile(str(path), known=False), pytest.raises(AlreadyBeingReceived):
        place(str(path), str(tmp_path / "file.bin"))
    assert not (tmp_path / "file.bin").exists()


def test_what_another_process_began_anew_is_not_placed(path: Path, tmp_path: Path) -> None:
    write(path, b"half")
    with pytest.raises(LocalFileInTheWay, match="not what was received"):
        place(str(path), str(tmp_path / "file.bin"), size=8)
    assert path.read_bytes() == b"half"


def test_a_folder_is_not_replaced(path: Path, tmp_path: Path) -> None:
    (tmp_path / "file.bin").mkdir()
    write(path, b"new")
    with pytest.raises((LocalFileInTheWay, LocalAccessDenied), match=r"file\.bin"):
        place(str(path), str(tmp_path / "file.bin"))
    assert path.read_bytes() == b"new"


@posix
def test_a_link_is_not_placed(path: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    path.symlink_to(tmp_path / "precious")
    with pytest.raises(LocalFileInTheWay):
        place(str(path), str(tmp_path / "file.bin"))


def test_an_empty_file_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "reply").write_bytes(b"old")
    make_empty(str(tmp_path / "reply"))
    assert (tmp_path / "reply").read_bytes() == b""
    assert os.listdir(tmp_path) == ["reply"]


def test_what_nobody_wants_is_deleted_and_may_be_gone_already(path: Path) -> None:
    write(path, b"new")
    for _ in range(2):
        discard(str(path))
    assert not path.exists()
