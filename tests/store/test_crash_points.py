"""The server may die in front of any system call, and any call may fail: file and reply are there once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .scene import Scene, in_every_way, scene
from .tracing import EVERYTHING, Call, Disk, Stage
from .worker import REPLY


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


# The answer of an application, with its reply


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Scene]:
    with scene(tmp_path, "same file system", overwrite=False) as here:
        yield here


def check_kept(stage: Stage, task: dict[str, Any], step: Call) -> None:
    """The answer is known, and the reply with it."""
    looked = stage.play(task | {"before": ["open"], "do": "look_for_reply"})
    assert looked.answer == [True, REPLY.decode("ascii")], step


def left_of(here: Scene, guid: str) -> set[str]:
    return {path.name for path in (here.root / "sessions" / guid[:2] / guid).iterdir()}


def test_killed_anywhere_an_answer_that_is_known_has_its_reply(stage: Stage, here: Scene) -> None:
    work = {"before": ["make"], "do": "talk_at_last"}
    clean = stage.play(here.prepare() | work)
    steps = [call for call in clean.calls if here.concerns(call) and is_change(call)]
    assert len(steps) >= 8
    for step in steps:
        task = here.prepare()
        first = stage.play(task | work, inject=f"{step.name}:signal=KILL:when={step.nth}")
        assert first.killed, f"no such step: {step}"
        looked = stage.play(task | {"before": ["open"], "do": "look_for_reply"})
        known, reply = looked.answer
        assert reply == REPLY.decode("ascii") or not known, f"killed in front of {step}"
        second = stage.play(task | {"before": ["open"], "do": "talk_at_last"})
        assert second.answer == [], f"killed in front of {step}"
        check_kept(stage, task, step)
        disk = Disk()
        assert set(disk.run(first.calls)) <= {"answered", "published", "saved"}
        for mark in disk.run(second.calls):
            if mark != "published":
                assert not here.unsynced_in_store(disk), f"killed in front of {step}, {mark} too early"


@pytest.mark.parametrize(("error", "told"), [("EIO", "StoreFailed"), ("ENOSPC", "DiskFull")])
def test_whatever_fails_of_an_answer_is_told_and_mended_by_the_next_talk(
    stage: Stage, here: Scene, error: str, told: str
) -> None:
    work = {"before": ["make"], "do": "talk_at_last"}
    for step in stage.play(here.prepare() | work, trace=EVERYTHING).calls:
        if not here.concerns(step):
            continue
        task = here.prepare()
        played = stage.play(
            task | work, trace=EVERYTHING, inject=f"{step.name}:error={error}:when={step.nth}"
        )
        assert set(played.answer) <= {told}, f"{step} failed"  # in each of two threads, perhaps
        check_kept(stage, task, step)


def test_killed_anywhere_nothing_of_a_reply_stays_when_its_upload_is_ended_again(
    stage: Stage, here: Scene
) -> None:
    work = {"before": ["make", "talk", "finish"], "do": "end_at_last"}
    clean = stage.play(here.prepare() | work)
    steps = [call for call in clean.calls if here.concerns(call) and is_change(call)]
    assert len(steps) >= 6
    for step in steps:
        task = here.prepare()
        assert stage.play(task | work, inject=f"{step.name}:signal=KILL:when={step.nth}").killed, step
        again = stage.play(task | {"before": ["open"], "do": "end_at_last"})
        assert again.answer == [], f"killed in front of {step}"
        assert left_of(here, task["guid"]) <= {"session.json", "session.json.new"}, step


def test_whatever_fails_of_an_end_is_told_and_nothing_of_a_reply_stays_when_it_is_said_again(
    stage: Stage, here: Scene
) -> None:
    work = {"before": ["make", "talk", "finish"], "do": "end_at_last"}
    for step in stage.play(here.prepare() | work, trace=EVERYTHING).calls:
        if not here.concerns(step):
            continue
        task = here.prepare()
        played = stage.play(task | work, trace=EVERYTHING, inject=f"{step.name}:error=EIO:when={step.nth}")
        assert set(played.answer) <= {"StoreFailed"}, f"{step} failed"
        assert left_of(here, task["guid"]) <= {"session.json", "session.json.new"}, step


def test_a_talk_ends_with_its_process(stage: Stage, here: Scene) -> None:
    task = here.prepare()
    assert stage.play(task | {"before": ["make"], "do": "wait_in_talk"}).killed
    assert stage.play(task | {"before": ["open"], "do": "begin_talk"}).answer is True
