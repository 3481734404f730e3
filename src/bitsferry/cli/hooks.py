"""What the settings of a directory say about who hears of its uploads, or is asked before them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from bitsferry.cli.applications import WrongKeyError
from bitsferry.server.create_hook import TIMEOUT, CreateHook
from bitsferry.server.webhook import TOLD, Webhook, read_secret

__all__ = ["HOOKS", "read_hooks"]

HOOKS = ("webhook_url", "webhook_secret_file", "webhook_events", "create_hook", "create_hook_timeout")

_LONGEST_SECRET = 200  # characters
_LONGEST_TIMEOUT = 60.0  # seconds: a client waits for it, and so does the end of the server
_MAKE_ONE = 'make one with: echo "whsec_$(head -c 32 /dev/urandom | base64)" > FILE'


def read_hooks(told: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """The arguments of a Directory that the keys in `told` mean; relative paths are below `folder`.

    Raises WrongKeyError.
    """
    for key, needed in (
        ("webhook_secret_file", "webhook_url"),
        ("webhook_events", "webhook_url"),
        ("create_hook_timeout", "create_hook"),
    ):
        if key in told and needed not in told:
            raise WrongKeyError(key, f"there is no {needed}; say who that is for")
    if told.get("create_hook_timeout", 0) > _LONGEST_TIMEOUT:
        raise WrongKeyError("create_hook_timeout", "clients wait for it; a minute is the most")
    meant: dict[str, Any] = {}
    if "webhook_url" in told:
        meant["webhook"] = Webhook(
            told["webhook_url"], _secret(told, folder), told.get("webhook_events", TOLD)
        )
    if "create_hook" in told:
        meant["create_hook"] = CreateHook(told["create_hook"], told.get("create_hook_timeout", TIMEOUT))
    return meant


def _secret(told: Mapping[str, Any], folder: str) -> bytes:
    """The key in the file; no error shows any of it."""
    key = "webhook_secret_file"
    if key not in told:
        raise WrongKeyError("webhook_url", f"there is no {key}, to sign what is sent; {_MAKE_ONE}")
    path = os.path.join(folder, told[key])
    try:
        with open(path, encoding="ascii") as file:
            text = file.read(_LONGEST_SECRET)
        return read_secret(text.strip())
    except OSError as error:
        raise WrongKeyError(key, f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise WrongKeyError(key, f"{path} is no text in ASCII; {_MAKE_ONE}") from None
    except ValueError as error:
        raise WrongKeyError(key, f"{path} holds no secret: {error}; {_MAKE_ONE}") from None
