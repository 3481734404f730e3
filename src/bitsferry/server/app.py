"""The application: a request in, a response out, and the one place where an error becomes an Ack."""

from __future__ import annotations

import logging

from bitsferry.protocol import wire
from bitsferry.protocol.errors import BitsError, InvalidMessage
from bitsferry.protocol.packets import Ack, CancelSession, CloseSession, CreateSession, Fragment, Ping
from bitsferry.server import readback, replies
from bitsferry.server.access import Asker
from bitsferry.server.request import ConnectionLost, Request, Response
from bitsferry.server.service import Service
from bitsferry.store.threads import error_of_os

__all__ = ["Application", "respond_to_error"]

logger = logging.getLogger(__name__)


class InternalError(BitsError):
    """The server made a mistake; its log says which."""

    transient = True


class Application:
    """Answers requests, whatever server they come through."""

    def __init__(
        self, service: Service, *, method_override: bool = True, header_value_limit: int = wire.VALUE_LIMIT
    ) -> None:
        self.service = service
        self.method_override = method_override
        self.header_value_limit = header_value_limit

    async def __call__(self, request: Request) -> Response:
        """The response to a request; every error but a broken line becomes one.

        Raises ConnectionLost when nobody is left to answer.
        """
        try:
            if self._is_bits(request):
                return _respond(await self._answer(request))
            asker = self._asker(request)
            reply = await replies.answer(self.service.directories, self.service.store, request, asker)
            return reply or await readback.answer(self.service.directories, request)
        except BitsError as error:
            return respond_to_error(error, request)
        except OSError as error:
            return respond_to_error(error_of_os(error), request)
        except ConnectionLost:
            raise
        except Exception:
            logger.exception("a request failed inside the server", extra={"target": request.target[:200]})
            return respond_to_error(InternalError(), request)

    def _is_bits(self, request: Request) -> bool:
        if request.method == wire.METHOD:
            return True
        override = request.headers.get(wire.OVERRIDE, "") if self.method_override else ""
        return request.method == "POST" and override.strip().upper() == wire.METHOD

    @staticmethod
    def _asker(request: Request) -> Asker:
        host = request.headers.get("host", "")
        origin = f"{request.scheme}://{host}" if host else ""
        return Asker(request.client, origin=origin + request.mount)

    async def _answer(self, request: Request) -> Ack:
        packet = wire.read_packet(request.headers, value_limit=self.header_value_limit)
        service, target, asker = self.service, request.target, self._asker(request)
        match packet:
            case Fragment():
                return await service.fragment(packet, target, asker, request.body)
            case CreateSession():
                return await service.create_session(packet, target, asker)
            case CloseSession():
                return await service.close_session(packet, target, asker)
            case CancelSession():
                return await service.cancel_session(packet, target, asker)
            case Ping():
                return await service.ping(packet, target, asker)
        raise InvalidMessage


def respond_to_error(error: BitsError, request: Request | None = None) -> Response:
    """The Ack that tells an error, and a line in the log for the person who runs the server."""
    about: dict[str, object] = {"status": error.status, "session": error.session_id}
    if request is not None:
        about |= {"target": request.target[:200], "address": request.client}
    logger.log(
        logging.ERROR if error.status >= 500 and error.status != 503 else logging.WARNING,
        "%s",
        error,
        extra=about,
    )
    return _respond(wire.ack_of_error(error))


def _respond(ack: Ack) -> Response:
    return Response(ack.status, wire.write_ack(ack))
