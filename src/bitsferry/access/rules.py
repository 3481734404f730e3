"""Who may upload to a directory, of those who are known."""

from __future__ import annotations

from dataclasses import dataclass

from bitsferry.access.asker import Identity

__all__ = ["Rules"]


@dataclass(frozen=True, slots=True)
class Rules:
    """Nothing is asked unless it is set."""

    def check_address(self, address: str) -> None:
        """Raises AccessDenied for an address nobody may come from."""

    def check(self, identity: Identity | None) -> None:
        """Raises AccessDenied for somebody who may not."""
