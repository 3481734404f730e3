"""TOML that remembers on which line something stands."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from typing import Any

__all__ = ["Path", "TomlText"]

Path = tuple[str | int, ...]
"""The way to a value: keys of tables, places in lists."""


class TomlText:
    """A text in TOML with what it means, `values`. Raises ValueError, which names the line, for any other."""

    def __init__(self, text: str) -> None:
        text = text.replace("\r\n", "\n")
        self._lines = text.split("\n")
        try:
            self.values = tomllib.loads(text)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        except ValueError as error:
            said = re.fullmatch(r"(.*) \(at line (\d+), column \d+\)", str(error))
            raise ValueError(f"line {said[2]}: {said[1]}" if said else str(error)) from error

    def line_of(self, path: Path) -> int:
        """The line on which the statement begins that put something at `path`; the first line for `()`.

        tomllib does not tell. So the text is read again, cut off behind this line or that, until the first
        line is found with which `path` is there.
        """
        end = bisect_left(
            range(len(self._lines)), True, key=lambda count: _contains(self._whole(count)[1], path)
        )
        return self._whole(end - 1)[0] + 1 if end else 1

    def _whole(self, count: int) -> tuple[int, dict[str, Any]]:
        """What stands in the first `count` lines, less those of an unfinished statement at their end."""
        while True:
            try:
                return count, tomllib.loads("\n".join(self._lines[:count]))
            except (ValueError, RecursionError):
                count -= 1


def _contains(values: Any, path: Path) -> bool:
    for step in path:
        try:
            values = values[step]
        except (KeyError, IndexError, TypeError):
            return False
    return True
