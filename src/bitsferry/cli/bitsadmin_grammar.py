"""How the words after a verb of bitsadmin are read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Misused", "NotSupported", "Said", "Usage", "switch_name"]


class Misused(Exception):
    """What was typed cannot be understood; the sentence says what would be."""


class NotSupported(Exception):
    """Windows' bitsadmin can do this, ours cannot; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Said:
    """The words after a verb, and its switches by name, each with the word that belongs to it, or none."""

    words: list[str]
    switches: dict[str, str]

    def one_of(self, *names: str) -> str | None:
        """Which of these switches, of which only one makes sense, was said. Raises Misused for several."""
        said = [name for name in names if name in self.switches]
        if len(said) > 1:
            raise Misused("say either " + " or ".join("/" + name for name in said))
        return said[0] if said else None


def switch_name(word: str) -> str | None:
    """`list` for `/list`, `-LIST` and `//list`, which Git Bash wants; None for other words."""
    match = re.fullmatch(r"(?://?|--?)([a-z?][a-z-]*)", word, re.IGNORECASE)
    return match[1].lower() if match else None


class Usage:
    """What may stand after a verb, as its help shows it.

    `name` is necessary, `[name]` is not, `...` means more of them. `[/a|/b]` are switches, `[/c number]` is
    one with a word of its own. Switches stand before the second of the other words, so that a path may look
    like one.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._switches: dict[str, bool] = {}  # whether a word belongs to it
        self._least = self._most = 0
        self._endless = False
        for part in re.findall(r"\[[^]]*\]|\S+", text):
            if part.startswith("[/"):
                for switch in part.strip("[]").split("|"):
                    name, _, word = switch.strip("/").partition(" ")
                    self._switches[name] = bool(word)
            elif part == "...":
                self._endless = True
            else:
                self._most += 1
                self._least += not part.startswith("[")

    def read(self, words: Iterable[str]) -> Said:
        """Raises Misused."""
        said = Said([], {})
        rest = iter(words)
        for word in rest:
            name = switch_name(word)
            if name not in self._switches or len(said.words) > 1:
                said.words.append(word)
            elif not self._switches[name]:
                said.switches[name] = ""
            elif (its := next(rest, None)) is not None:
                said.switches[name] = its
            else:
                raise Misused(f"/{name} needs a word after it")
        if len(said.words) < self._least:
            raise Misused("something is missing")
        if len(said.words) > self._most and not self._endless:
            raise Misused(f"{said.words[self._most]!r} is too much; quote words that belong together")
        return said
