"""The end of a transfer that somebody asked for."""

from __future__ import annotations

__all__ = ["Stopped"]


class Stopped(Exception):
    """Nobody wants this transfer to go on just now. Nothing went wrong: another run goes on from here."""
