"""What stands beside a file is there with it, whole and right, wherever the server dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from bitsferry.protocol.errors import Busy
from bitsferry.store import publishing
from bitsferry.store.folder import Companion, Destination, Folder

from .scene import FILE, OLDER, Scene, in_every_way, scene
from .tracing import EVERYTHING, Call, Disk, Stage
from .worker import CONTENT, SUM

GUID = "A0FF5911-0000-4000-8000-000000000000"
BESIDE = FILE + ".sum"
OLDER_SUM = b"what stands beside the older file\n"

# The file with what is beside it, as anybody may find them.
NOTHING, OLD, NEW = (None, None), (OLDER, OLDER_SUM), (CONTENT, SUM)
ON_THE_WAY = {(OLDER, None), (CONTENT, None)}


def there(here: Scene) -> tuple[bytes | None, bytes | None]:
    file, beside = (here.folder / name for name in (FILE, BESIDE))
    return file.read_bytes() if file.exists() else None, beside.read_bytes() if beside.exists() else None


def prepare(here: Scene) -> dict[str, object]:
    task = here.prepare()
    if here.overwrite:
        (here.folder / BESIDE).write_bytes(OLDER_SUM)
    return task | {"companion": True}


def is_change(call: Call) -> bool:
    return "open" not in call.name or "O_CREAT" in call.text


WORK = {"before": ["make"], "do": "finish_at_last"}
AGAIN = {"before": ["open"], "do": "finish_at_last"}


@in_every_way
def test_killed_anywhere_both_are_there_after_the_next_try_and_never_one_of_another_file(
    stage: Stage, tmp_path: Path, where: str, overwrite: bool
) -> None:
    with scene(tmp_path, where, overwrite=overwrite) as here:
        steps = [call for call in stage.play(prepare(here) | WORK).calls if here.concerns(call)]
        assert there(here) == NEW
        for step in filter(is_change, steps):
            task = prepare(here)
            first = stage.play(task | WORK, inject=f"{step.name}:signal=KILL:when={step.nth}")
            assert first.killed, f"no such step: {step}"
            assert there(here) in {OLD if overwrite else NOTHING, NEW} | ON_THE_WAY, step
            second = stage.play(task | AGAIN)
            assert second.answer == [], f"killed in front of {step}"
            assert there(here) == NEW, f"killed in front of {step}"
            assert {path.name for path in here.folder.iterdir()} == {FILE, BESIDE}, step
            disk = Disk()
            assert set(disk.run(first.calls)) <= {"published", "saved"}
            for mark in disk.run(second.calls):
                assert not here.unsynced(disk), f"killed in front of {step}, {mark} too early"


@pytest.mark.parametrize("overwrite", [False, True])
def test_whatever_fails_is_mended_by_the_next_try(stage: Stage, tmp_path: Path, overwrite: bool) -> None:
    with scene(tmp_path, "same file system", overwrite=overwrite) as here:
        for step in stage.play(prepare(here) | WORK, trace=EVERYTHING).calls:
            if not here.concerns(step):
                continue
            inject = f"{step.name}:error=EIO:when={step.nth}"
            played = stage.play(prepare(here) | WORK, trace=EVERYTHING, inject=inject)
            assert played.answer in ([], ["StoreFailed"]), f"{step} failed"
            assert there(here) == NEW, f"{step} failed"
            assert {path.name for path in here.folder.iterdir()} == {FILE, BESIDE}, step


def test_who_keeps_the_folder_locked_holds_nobody_up_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "_PATIENCE", 0.05)
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    folder = tmp_path / "in"
    folder.mkdir()
    destination, beside = Destination(Folder(str(folder)), (FILE,), overwrite=True), Companion(BESIDE, SUM)
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    with pytest.raises(Busy, match="locked"):
        publishing.publish(str(source), GUID, destination, beside)
    assert list(folder.iterdir()) == []
    os.close(descriptor)
    publishing.publish(str(source), GUID, destination, beside)
    assert {path.name for path in folder.iterdir()} == {FILE, BESIDE}
