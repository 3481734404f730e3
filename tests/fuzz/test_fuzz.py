"""For any bytes a value or a documented refusal, never a traceback or a hang; `make fuzz` goes on longer."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from .mutating import mutated
from .target import CORPUS, Target, within
from .targets import TARGETS

SECONDS = 5.0  # of processor time for one input: a thousand times what they take
each = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


@each
def test_any_bytes_are_understood_or_refused(target: Target) -> None:
    with target.ready() as feed:

        @settings(
            max_examples=target.examples,
            derandomize=True,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(mutated(target.seeds, target.words))
        def feeding(data: bytes) -> None:
            with within(SECONDS):
                feed(data)

        for known in [*target.seeds, *(path.read_bytes() for path in target.found)]:
            with within(SECONDS):
                feed(known)
        feeding()


def test_every_input_that_was_kept_has_its_target() -> None:
    assert {path.name for path in CORPUS.glob("*/")} <= {target.name for target in TARGETS}
