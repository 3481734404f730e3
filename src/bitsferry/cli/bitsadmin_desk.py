"""Where a verb of bitsadmin is served: the queue at one hand, the person at the other."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType

from bitsferry.cli.bitsadmin_grammar import Said, Usage
from bitsferry.client.client import Client
from bitsferry.protocol.errors import BitsError
from bitsferry.protocol.hresult import HResult, name_of, spell

__all__ = ["Desk", "Failed", "Verb", "spell_failure"]


class Failed(Exception):
    """It did not succeed, and everything there is to say about it is said."""


class Desk:
    """Serves one command; to be used in a `with`.

    `raw`: programs read the answer, which is then a value without a word or a line end around it. `wraps`:
    lines longer than the terminal go on in the next one, else they are cut.
    """

    def __init__(self, *, raw: bool = False, wraps: bool = True) -> None:
        self.raw = raw
        self.wraps = wraps
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Desk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    @cached_property
    def client(self) -> Client:
        """This user's queue, opened when it is wanted first."""
        return self._exit.enter_context(Client())

    def say(self, lines: str) -> None:
        """Print lines."""
        if not self.wraps and sys.stdout.isatty():
            width = shutil.get_terminal_size().columns
            lines = "\n".join(line.expandtabs()[:width] for line in lines.split("\n"))
        print(lines, flush=True)

    def answer(self, value: str, sentence: str | None = None) -> None:
        """Print what was asked for: in a sentence, or the mere value where it is raw or there is none."""
        if self.raw:
            print(value, end="", flush=True)
        else:
            self.say(value if sentence is None else sentence)

    def done(self, sentence: str) -> None:
        """Say that something is done; there is no value in that."""
        self.answer("", sentence)

    def complain(self, does: str, error: BitsError | ValueError) -> None:
        """Say why something was not done, as Windows begins such lines, and then as we do."""
        print(spell_failure(does, error), file=sys.stderr, flush=True)


def spell_failure(does: str, error: BitsError | ValueError) -> str:
    """`Unable to … - 0x80200002`, and a line that says why."""
    if isinstance(error, BitsError):
        return f"Unable to {does} - {error.code:#010x}\n{error}"
    code = HResult.E_INVALIDARG
    return f"Unable to {does} - {code:#010x}\n{name_of(code)} ({spell(code)}): {error}"


@dataclass(frozen=True)
class Verb:
    """`does` is what it does, as in `Unable to …`; after a colon its help says more.

    `do` raises Misused, NotSupported, Failed, BitsError, and ValueError for a value that cannot be.
    """

    usage: Usage
    does: str
    do: Callable[[Desk, Said], None]

    @property
    def help(self) -> str:
        """A sentence."""
        return f"{self.does[0].upper()}{self.does[1:]}."

    @property
    def failure(self) -> str:
        """What it was unable to do."""
        return self.does.partition(":")[0]
