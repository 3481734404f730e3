"""Requests that say who they are from, put to a scheme or a guard."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from bitsferry.access.asker import Identity
from bitsferry.access.scheme import Claim, Link, NotProved, Scheme

T = TypeVar("T")


def run(asking: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asking)


def claim(
    headers: dict[str, str] | None = None,
    *,
    address: str = "192.0.2.1",
    fronted: bool = False,
    certificate: dict[str, Any] | None = None,
    shared: bool = False,
) -> Claim:
    """A request's word; names of headers in lower case, as a server hands them on."""
    return Claim(
        method="BITS_POST",
        target="/in/file",
        headers=headers or {},
        address=address,
        peer=address,
        link=Link(certificate),
        shared=shared,
        fronted=fronted,
    )


def identified(scheme: Scheme, what: Claim) -> Identity | None:
    return run(scheme.identify(what))


def refused(scheme: Scheme, what: Claim) -> NotProved:
    """Why a scheme does not believe it."""
    with pytest.raises(NotProved) as error:
        identified(scheme, what)
    return error.value
