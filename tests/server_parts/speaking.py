"""Packets said to a service without a wire between."""

from __future__ import annotations

from bitsferry.access.asker import Asker
from bitsferry.protocol.packets import Ack, CancelSession, CloseSession, CreateSession, Fragment
from bitsferry.protocol.ranges import ContentRange
from bitsferry.server.request import Body
from bitsferry.server.service import Service
from bitsferry.store.base import Receiver


class Arrived(Body):
    """A body that is here already."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def into(self, receiver: Receiver, pace: object = None) -> None:
        if self._content:
            writing = receiver.write(memoryview(self._content))
            if writing is not None:
                await writing

    def stop(self) -> None:
        """It is too late."""


class Speaker:
    """A client of a service, with a name or none."""

    def __init__(self, service: Service, user: str | None = None, address: str = "192.0.2.1") -> None:
        self._service = service
        self._asker = Asker(address, user)

    async def create(self, target: str = "/in/file.bin") -> str:
        """Returns the session's id."""
        ack = await self._service.create_session(CreateSession(), target, self._asker)
        assert ack.session_id is not None
        return ack.session_id

    async def send(
        self, session_id: str, content: bytes, start: int, total: int, target: str = "/in/file.bin"
    ) -> Ack:
        range_ = ContentRange(start, start + len(content), total)
        packet = Fragment(session_id, range_)
        return await self._service.fragment(packet, target, self._asker, Arrived(content))

    async def close(self, session_id: str, target: str = "/in/file.bin") -> Ack:
        return await self._service.close_session(CloseSession(session_id), target, self._asker)

    async def cancel(self, session_id: str, target: str = "/in/file.bin") -> Ack:
        return await self._service.cancel_session(CancelSession(session_id), target, self._asker)


def guid_of(session_id: str) -> str:
    return session_id.strip("{}")
