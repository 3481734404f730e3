"""All that is fuzzed."""

from __future__ import annotations

from . import on_access, on_client, on_files, on_protocol, on_server

__all__ = ["TARGETS"]

TARGETS = (
    *on_protocol.TARGETS,
    *on_server.TARGETS,
    *on_access.TARGETS,
    *on_client.TARGETS,
    *on_files.TARGETS,
)
