"""The application: a request in, a response out, and the one place where an error becomes an Ack."""

from __future__ import annotations

import logging

from bitsferry.access.asker import Asker, Identity
from bitsferry.access.fronts import Fronts
from bitsferry.access.guard import Guard
from bitsferry.access.scheme import Claim
from bitsferry.protocol import wire
from bitsferry.protocol.errors import AuthenticationRequired, BitsError, InvalidMessage, TooManyRequests
from bitsferry.protocol.packets import Ack, CancelSession, CloseSession, CreateSession, Fragment, Packet, Ping
from bitsferry.server import readback, replies
from bitsferry.server.directory import Directory
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
        self,
        service: Service,
        *,
        method_override: bool = True,
        header_value_limit: int = wire.VALUE_LIMIT,
        fronts: Fronts | None = None,
    ) -> None:
        self.service = service
        self.fronts = fronts or Fronts()
        self.method_override = method_override
        self.header_value_limit = header_value_limit

    async def __call__(self, request: Request) -> Response:
        """The response to a request; every error but a broken line becomes one.

        Raises ConnectionLost when nobody is left to answer.
        """
        try:
            if self._is_bits(request):
                return await self._answer(request)
            return await self._give_out(request)
        except BitsError as error:
            return self._tell(error, request)
        except OSError as error:
            return self._tell(error_of_os(error), request)
        except ConnectionLost:
            raise
        except Exception:
            logger.exception("a request failed inside the server", extra={"target": request.target[:200]})
            return self._tell(InternalError(), request)

    def _tell(self, error: BitsError, request: Request) -> Response:
        return respond_to_error(error, request, self.fronts.client(request.client, request.headers))

    def _is_bits(self, request: Request) -> bool:
        if request.method == wire.METHOD:
            return True
        override = request.headers.get(wire.OVERRIDE, "") if self.method_override else ""
        return request.method == "POST" and override.strip().upper() == wire.METHOD

    # Who is asking

    def _claim(self, request: Request, *, begins: bool) -> Claim:
        """Who the request says it is from; to be believed when the directory's guard does."""
        peer, headers = request.client, request.headers
        return Claim(
            method=request.method,
            target=request.target,
            headers=headers,
            address=self.fronts.client(peer, headers),
            peer=peer,
            link=request.link,
            shared=self.fronts.may_share(peer, headers),
            begins=begins,
            mount=request.mount,
            fronted=self.fronts.trusts(peer),
        )

    def _asker(self, request: Request, identity: Identity | None) -> Asker:
        host = request.headers.get("host", "")
        scheme = self.fronts.scheme(request.client, request.headers, request.scheme)
        origin = f"{scheme}://{host}" if host else ""
        return Asker(
            self.fronts.client(request.client, request.headers),
            None if identity is None else identity.user,
            origin + request.mount,
            None if identity is None else identity.scheme,
        )

    def _directory(self, request: Request) -> Directory:
        return self.service.directories.of_target(request.target)

    # What is asked

    async def _answer(self, request: Request) -> Response:
        """A packet: its form is looked at first, then who sent it, then what it wants (spec-notes)."""
        guard = self._guard(request)
        if guard is None:
            packet = wire.read_packet(request.headers, value_limit=self.header_value_limit)
            self._directory(request)
            return _respond(await self._serve(packet, request, self._asker(request, None)))
        kind = request.headers.get("bits-packet-type", "").strip().lower()
        claim = self._claim(request, begins=kind == "create-session")
        if _may_lack_its_body(kind, request) or guard.is_handshake(claim):
            identity = await guard.admit(claim)
            packet = wire.read_packet(request.headers, value_limit=self.header_value_limit)
        else:
            packet = wire.read_packet(request.headers, value_limit=self.header_value_limit)
            identity = await guard.admit(claim)
        ack = await self._serve(packet, request, self._asker(request, identity))
        return _respond(ack, identity)

    def _guard(self, request: Request) -> Guard | None:
        try:
            return self._directory(request).guard
        except BitsError:
            return None  # the form comes first, and then this again

    async def _give_out(self, request: Request) -> Response:
        """A reply, or a file where that may be read back."""
        identity = None
        if request.method in ("GET", "HEAD") and (guard := self._directory(request).guard) is not None:
            claim = self._claim(request, begins=not replies.is_asked_for(request))
            identity = await guard.admit(claim)
        asker = self._asker(request, identity)
        if request.method in ("GET", "HEAD"):
            self.service.rates.check(self._directory(request), asker)
        response = await replies.answer(self.service.directories, self.service.store, request, asker)
        response = response or await readback.answer(self.service.directories, request)
        if identity is not None:
            response.headers.extend(identity.headers)
        return response

    async def _serve(self, packet: Packet, request: Request, asker: Asker) -> Ack:
        service, target = self.service, request.target
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


def respond_to_error(
    error: BitsError, request: Request | None = None, address: str | None = None
) -> Response:
    """The Ack that tells an error, and a line in the log for the person who runs the server.

    `address` is the client's, where that is not who opened the connection, or where there is no request.
    """
    about: dict[str, object] = {"status": error.status, "session": error.session_id}
    if request is not None:
        about["target"] = request.target[:200]
        address = request.client if address is None else address
    if address is not None:
        about["address"] = address
    logger.log(_level(error), "%s", error, extra=about)
    response = _respond(wire.ack_of_error(error))
    response.goes_on = isinstance(error, AuthenticationRequired) and error.goes_on
    return response


def _may_lack_its_body(kind: str, request: Request) -> bool:
    """A fragment of somebody who expects to be asked first who it is (curl --digest): that comes before its
    form, as for a leg of a handshake."""
    headers = request.headers
    silent = "authorization" not in headers
    return silent and kind == "fragment" and headers.get("content-length", "").strip() == "0"


def _level(error: BitsError) -> int:
    if isinstance(error, TooManyRequests):
        return logging.DEBUG  # whose rate it is says so, once a minute
    if isinstance(error, AuthenticationRequired):
        return logging.DEBUG  # to be asked who one is, is no event; who failed at it, the guard tells
    return logging.ERROR if error.status >= 500 and error.status != 503 else logging.WARNING


def _respond(ack: Ack, identity: Identity | None = None) -> Response:
    headers = wire.write_ack(ack)
    return Response(ack.status, headers if identity is None else [*headers, *identity.headers])
