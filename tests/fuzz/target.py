"""What a fuzzer feeds: a function of bytes, with the valid messages it begins from."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

__all__ = ["CORPUS", "Feed", "Hung", "Target", "target", "within"]

CORPUS = Path(__file__).parent / "corpus"
"""What was found once: a folder for each target, a file for each input."""

Feed = Callable[[bytes], None]
"""Raises for bytes that lead to anything but a value or a documented refusal."""


class Hung(BaseException):
    """An input takes more time than any input may; no `except Exception` on the way swallows this."""


@dataclass(frozen=True)
class Target:
    """`seeds` are valid, or nearly; `words` are worth inserting anywhere. `ready` makes what has to be there
    first, such as a server, and takes it away again. `examples` are tried in a normal run of the tests.
    """

    name: str
    seeds: tuple[bytes, ...]
    ready: Callable[[], AbstractContextManager[Feed]]
    words: tuple[bytes, ...] = ()
    examples: int = 300

    @property
    def found(self) -> list[Path]:
        """The corpus of what was found once."""
        return sorted((CORPUS / self.name).glob("*"))


def target(
    name: str, *seeds: bytes, words: tuple[bytes, ...] = (), examples: int = 300
) -> Callable[[Feed], Target]:
    """A target of a function that needs nothing around it."""
    return lambda feed: Target(name, seeds, lambda: nullcontext(feed), words, examples)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises Hung when what is inside uses more processor time; a busy machine makes nobody slower."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hung(f"more than {seconds:g} s of processor time")

    before = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
