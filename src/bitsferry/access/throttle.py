"""Slows down who guesses passwords, and nobody else."""

from __future__ import annotations

__all__ = ["Throttle"]


class Throttle:
    """Remembers failures by address and by user."""

    async def before(self, address: str, user: str | None) -> None:
        """Somebody is about to prove to be `user`: wait as failures before make it. Raises Busy."""

    async def failed(self, address: str, user: str | None) -> None:
        """It was wrong; returns when that may be told."""

    def succeeded(self, address: str, user: str) -> None:
        """It was right."""
