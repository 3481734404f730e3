"""What is promised is on the disk: at every promise, nothing that was written waits for a sync."""

from __future__ import annotations

from pathlib import Path

import pytest

from .scene import in_every_way, scene
from .tracing import Call, Disk, Stage
from .worker import CONTENT


@in_every_way
def test_every_promise_survives_a_power_cut(
    stage: Stage, tmp_path: Path, where: str, overwrite: bool
) -> None:
    with scene(tmp_path, where, overwrite=overwrite) as here:
        life = stage.play(here.prepare() | {"before": [], "do": "live"})
        disk, kept = Disk(), []
        for mark in disk.run(life.calls):
            kept.append(mark)
            assert not here.unsynced(disk), f"{mark} too early"
            assert not here.unsynced_in_store(disk), f"{mark} too early"
        assert kept == ["created", "saved", "synced", "synced", "synced", "published", "saved"]


def test_bytes_a_dead_process_left_count_only_when_they_are_on_the_disk(stage: Stage, tmp_path: Path) -> None:
    with scene(tmp_path, "same file system", overwrite=False) as here:
        task, disk = here.prepare(), Disk()
        died = stage.play(task | {"before": ["create"], "do": "write"})
        assert not list(disk.run(died.calls))
        assert here.unsynced_in_store(disk)
        follower = stage.play(task | {"before": ["open"], "do": "count"})
        assert follower.answer == len(CONTENT)
        for mark in disk.run(follower.calls):
            assert mark == "counted"
            assert not here.unsynced_in_store(disk)


@in_every_way
def test_where_only_processes_die_a_published_file_survives_a_power_cut(
    stage: Stage, tmp_path: Path, where: str, overwrite: bool
) -> None:
    with scene(tmp_path, where, overwrite=overwrite) as here:
        work = {"durability": "process", "before": [], "do": "live"}
        life = stage.play(here.prepare() | work)
        disk, waited = Disk(), False
        for mark in disk.run(life.calls):
            waited = waited or (mark == "synced" and bool(here.unsynced_in_store(disk)))
            if mark == "published":
                assert not here.unsynced(disk)
        assert waited, "it syncs every fragment although nobody asked for that"


def rename_of(name: str, calls: list[Call]) -> int:
    """Which call gave a file this name."""
    return next(
        number for number, call in enumerate(calls) if "rename" in call.name and call.paths[1].endswith(name)
    )


@pytest.mark.parametrize("durability", ["power", "process"])
def test_an_answer_that_survives_a_power_cut_has_its_reply(
    stage: Stage, tmp_path: Path, durability: str
) -> None:
    with scene(tmp_path, "same file system", overwrite=False) as here:
        work = {"durability": durability, "before": [], "do": "converse"}
        life = stage.play(here.prepare() | work)
        disk = Disk()
        assert "answered" not in disk.run(life.calls[: rename_of("/dialogue.json", life.calls)])
        assert not any(path.endswith(("/reply.data", "/reply.new")) for path in here.unsynced_in_store(disk))
        disk, kept = Disk(), []
        for mark in disk.run(life.calls):
            kept.append(mark)
            assert durability == "process" or not here.unsynced_in_store(disk), f"{mark} too early"
        assert kept[-4:] == ["answered", "published", "saved", "ended"]
