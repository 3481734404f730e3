"""The server may die in front of any system call, and any call may fail: the file still appears just once."""

from __future__ import annotations

from pathlib import Path

from .scene import in_every_way, scene
from .tracing import EVERYTHING, Call, Disk, Stage


@in_every_way
def test_killed_anywhere_the_file_is_there_once_after_the_next_try(
    stage: Stage, tmp_path: Path, where: str, overwrite: bool
) -> None:
    with scene(tmp_path, where, overwrite=overwrite) as here:
        work = {"before": ["make"], "do": "finish_at_last"}
        clean = stage.play(here.prepare() | work)
        assert clean.answer == []
        steps = [call for call in clean.calls if here.concerns(call) and is_change(call)]
        assert len(steps) >= 8
        for step in steps:
            task = here.prepare()
            first = stage.play(task | work, inject=f"{step.name}:signal=KILL:when={step.nth}")
            assert first.killed, f"no such step: {step}"
            before = here.there()
            here.check_nothing_strays(task["guid"])
            second = stage.play(task | {"before": ["open"], "do": "finish_at_last"})
            assert second.answer == [], f"killed in front of {step}"
            here.check_end(task["guid"])
            assert before in (None, here.there()), f"killed in front of {step}, it was put there twice"
            disk = Disk()
            assert set(disk.run(first.calls)) <= {"published", "saved"}
            for mark in disk.run(second.calls):
                assert not here.unsynced(disk), f"killed in front of {step}, {mark} too early"


def is_change(call: Call) -> bool:
    return "open" not in call.name or "O_CREAT" in call.text


@in_every_way
def test_whatever_fails_is_told_and_mended_by_the_next_try(
    stage: Stage, tmp_path: Path, where: str, overwrite: bool
) -> None:
    with scene(tmp_path, where, overwrite=overwrite) as here:
        work = {"before": ["make"], "do": "finish_at_last"}
        clean = stage.play(here.prepare() | work, trace=EVERYTHING)
        for step in clean.calls:
            if not here.concerns(step):
                continue
            task = here.prepare()
            played = stage.play(
                task | work, trace=EVERYTHING, inject=f"{step.name}:error=EIO:when={step.nth}"
            )
            assert played.answer in ([], ["StoreFailed"]), f"{step} failed"
            here.check_end(task["guid"])
