"""Kerberos: takes in whoever has a ticket for HTTP on this machine (RFC 4121)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bitsferry.access.asker import Identity
from bitsferry.access.handshake import Mechanism, Proof, Step
from bitsferry.access.scheme import NotProved
from bitsferry.access.user_name import checked_name

__all__ = ["KerberosAcceptor", "Keytab"]

logger = logging.getLogger(__name__)

_ANOTHER, _EXPIRED = "the ticket is for another service", "the ticket has expired"

# What may be wrong, by the number Kerberos has for it (RFC 4120 7.5.9), or MIT for what the keytab has not.
_REASONS = {
    31: "the ticket is forged, or for an older key",
    32: _EXPIRED,
    33: "the ticket is not valid yet",
    34: "the ticket was replayed",
    35: _ANOTHER,
    36: "the ticket is somebody else's",
    37: "the clocks differ too much",
    41: "the ticket was changed on its way",
    44: "the keytab has no key of this version",
    144: _ANOTHER,
}
_OVER = (11, 12)  # GSS_S_CREDENTIALS_EXPIRED, GSS_S_CONTEXT_EXPIRED (RFC 2744 3.9.1)
_FIRST = -1_765_328_384 + (1 << 32)  # of MIT's numbers


class Keytab:
    """The keys of our service, in a file that may be renewed at any time."""

    def __init__(self, path: str) -> None:
        """Raises ValueError for a file that has no key, ImportError without the extra `kerberos`."""
        import gssapi

        try:
            with open(path, "rb"):
                pass
            self._credentials = gssapi.Credentials(
                usage="accept", mechs=[gssapi.MechType.kerberos], store={"keytab": f"FILE:{path}"}
            )
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        except gssapi.raw.GSSError:
            raise ValueError(f"{path} is no keytab, or has no key") from None
        except NotImplementedError:
            raise ValueError("the Kerberos of this system takes no keytab but its own") from None
        self._gssapi = gssapi

    def context(self) -> Any:
        """A context that waits for a client."""
        return self._gssapi.SecurityContext(usage="accept", creds=self._credentials)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """What Kerberos does not like, raises NotProved, and the log says more."""
        try:
            yield
        except self._gssapi.raw.GSSError as error:
            logger.info("Kerberos: %s", str(error)[:300])
            otherwise = _EXPIRED if error.maj_code >> 16 in _OVER else "the ticket was not accepted"
            raise NotProved(_REASONS.get(error.min_code - _FIRST, otherwise)) from error
        except UnicodeDecodeError as error:
            raise NotProved("malformed") from error


class KerberosAcceptor(Mechanism):
    """Takes in one client."""

    def __init__(self, keytab: Keytab, scheme: str) -> None:
        """`scheme` is what the identity says it was proved by."""
        self._keytab = keytab
        self._scheme = scheme
        self._context = keytab.context()

    async def step(self, token: bytes) -> Step:
        """See Exchange."""
        return await asyncio.to_thread(self._step, token)

    def _step(self, token: bytes) -> Step:
        """Reads files, and calculates."""
        context = self._context
        with self._keytab.refusing():
            answer = context.step(token) or b""
            if not context.complete:
                return Step(answer)
            user, service = str(context.initiator_name), str(context.target_name)
            end: float = time.monotonic() + context.lifetime
        if not service.upper().startswith("HTTP/"):
            raise NotProved(_ANOTHER)
        if user.startswith("WELLKNOWN/"):
            raise NotProved("anonymous")

        async def holds() -> bool:
            return time.monotonic() < end

        return Step(answer, Proof(Identity(checked_name(user), self._scheme), holds))

    def signs(self) -> bool:
        """See Mechanism."""
        return True

    def sign(self, message: bytes) -> bytes:
        """See Mechanism."""
        with self._keytab.refusing():
            return bytes(self._context.get_signature(message))

    def check(self, message: bytes, signature: bytes) -> None:
        """See Mechanism."""
        with self._keytab.refusing():
            self._context.verify_signature(message, signature)
