"""Who one is by a token: a Bearer's (RFC 6750), or an API key in a header of its own."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import ClassVar

from bitsferry.access.asker import Identity
from bitsferry.access.jwt import Jwt, looks_like_jwt
from bitsferry.access.scheme import Claim, NotProved, Scheme, credentials
from bitsferry.access.tokens import TokenFile

__all__ = ["API_KEY_HEADER", "Bearer"]

API_KEY_HEADER = "X-API-Key"

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 2.1


class Bearer(Scheme):
    """Whoever has one of `tokens`, or one that `jwt` finds right.

    It stands in Authorization; or in `api_key_header`, for clients that can be told headers and no scheme,
    as Windows' can.
    """

    name: ClassVar[str] = "bearer"
    spoken: ClassVar[str] = "bearer"

    def __init__(
        self,
        tokens: TokenFile | None = None,
        jwt: Jwt | None = None,
        *,
        realm: str = "bitsferry",
        api_key_header: str = API_KEY_HEADER,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tokens = tokens
        self._jwt = jwt
        self._api_key_header = api_key_header.lower()
        self._clock = clock
        self._challenge = f'Bearer realm="{realm}"'

    async def identify(self, claim: Claim) -> Identity | None:
        """See Scheme."""
        token = credentials(claim, self.spoken)
        if token is None:
            token = claim.headers.get(self._api_key_header, "").strip() or None
        if token is None:
            return None
        try:
            return await self._owner(token)
        except NotProved as error:
            error.challenges = (f'{self._challenge}, error="invalid_token"',)
            raise

    def challenges(self, claim: Claim) -> tuple[str, ...]:
        """See Scheme."""
        return (self._challenge,)

    async def _owner(self, token: str) -> Identity:
        # No message may have any of the token: those who read logs could come in by it.
        if _TOKEN.fullmatch(token) is None:
            raise NotProved("this is no token, or more than one")
        if self._tokens is not None:
            known = (await self._tokens.value()).find(token)
            if known is not None:
                if known.is_over(self._clock()):
                    raise NotProved("the token is expired", user=known.user)
                return Identity(known.user, self.name)
        if self._jwt is not None and looks_like_jwt(token):
            user, groups = await self._jwt.owner(token)
            return Identity(user, self.name, groups)
        raise NotProved("nobody knows the token")
