"""What a user may be called, whoever says it."""

from __future__ import annotations

from bitsferry.access.scheme import NotProved

__all__ = ["LONGEST_NAME", "checked_name", "is_name"]

LONGEST_NAME = 300  # characters, as Windows has it


def is_name(name: str) -> bool:
    """Whether a user can be called so: in letters that can be shown, not too many, none of them around it."""
    return 0 < len(name) <= LONGEST_NAME and name.isprintable() and name == name.strip()


def checked_name(name: str) -> str:
    """The name. Raises NotProved for what is none."""
    if not is_name(name):
        raise NotProved("this can be no user's name: it is empty, too long, or has what cannot be shown")
    return name
