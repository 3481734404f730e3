"""The five verbs of a BITS upload server, each a short story."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from bitsferry.access.asker import Asker
from bitsferry.protocol.errors import (
    AccessDenied,
    BitsError,
    Busy,
    DestinationIsFolder,
    DigestMismatch,
    DiskFull,
    FileTooLarge,
    FragmentTooLarge,
    UnknownUrl,
)
from bitsferry.protocol.notification import Answer, ApplicationFailed
from bitsferry.protocol.packets import Ack, CancelSession, CloseSession, CreateSession, Fragment, Ping
from bitsferry.protocol.ranges import Placement
from bitsferry.protocol.session import Closing, Session, State, normal_session_id, spell_session_id
from bitsferry.protocol.wire import choose_protocol
from bitsferry.server import replies
from bitsferry.server.audit import AuditLog
from bitsferry.server.backend import WholeUpload
from bitsferry.server.census import Census
from bitsferry.server.directory import Directories, Directory, Place
from bitsferry.server.hashing import Hashing
from bitsferry.server.integrity import Compared, check_companion, companion, due, expected
from bitsferry.server.notify import Notifications
from bitsferry.server.outbox import Outbox
from bitsferry.server.pacing import Pacing
from bitsferry.server.rates import Rates
from bitsferry.server.request import Body, BodyInterrupted, Pace
from bitsferry.server.turns import Turn, Turns
from bitsferry.server.upload_events import Kind, UploadEvent, write_event
from bitsferry.server.webhooks import Webhooks
from bitsferry.store.base import Receiver, Store, StoredSession
from bitsferry.store.threads import in_thread

__all__ = ["Service"]

logger = logging.getLogger(__name__)


class Service:
    """Answers packets. Every method returns the Ack of success or raises the BitsError to be told instead."""

    def __init__(
        self,
        store: Store,
        directories: Directories,
        *,
        shared: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self._shared = shared
        self.directories = directories
        self.turns = Turns(store)
        self.census = Census(store, shared=shared, time_of_day=clock)
        self.notifications = Notifications(store, clock=clock)
        self.hashing = Hashing(store)
        self.webhooks = Webhooks(Outbox(store.outbox), lambda: self.directories, clock)
        self.audit_log: AuditLog | None = None
        self.rates = Rates()
        self.pacing = Pacing()
        self._clock = clock

    async def ping(self, packet: Ping, target: str, asker: Asker) -> Ack:
        """Nothing but 200, if the URL is served here (MC-BUP 3.2.5.2.5).

        A session it names is never needed; if it is known, somebody spoke of it. No turn is taken: a Ping
        must not stop a fragment on its way.
        """
        directory = self.directories.of_target(target)
        Place(directory, "", ()).check_enabled()
        self.rates.check(directory, asker)
        if packet.session_id is None:
            return Ack()
        try:
            guid = normal_session_id(packet.session_id)
            (await self.store.read(guid)).check_owner(self.directories.place(target).path, asker.user)
            await self.store.touch(guid)
        except BitsError:
            return Ack()
        return Ack(session_id=spell_session_id(guid))

    async def create_session(self, packet: CreateSession, target: str, asker: Asker) -> Ack:
        """Make a session for the file `target` names (MC-BUP 3.2.5.2.4)."""
        place = self.directories.place(target)
        protocol = choose_protocol(packet.protocols)
        place.check_enabled()
        directory = place.directory
        self.rates.check(directory, asker, begins=True)
        session = Session(
            str(uuid.uuid4()).upper(), place.path, asker.user, self._clock(), address=asker.address
        )
        session.repr_digest, session.will_digest = packet.repr_digest, packet.will_digest
        try:
            place = await self._admit(session, place, asker)
        except BitsError as error:
            await self._say_if_refused(error, session, place, asker)
            raise
        try:
            await self._write_down(Kind.CREATED, session, place, asker, file=place.file)
            await self.store.create(session)
        except BaseException:
            self.census.ended(session.id)
            raise
        logger.info("upload begins", extra=_about(session, asker))
        await self._tell(Kind.CREATED, session, place, asker, file=place.file)
        return Ack(
            session_id=spell_session_id(session.id),
            protocol=protocol,
            host_id=directory.host_id,
            host_id_fallback_timeout=directory.host_id_fallback_timeout if directory.host_id else None,
            accept_encoding="identity",
            wants_digest=packet.will_digest,
        )

    async def _admit(self, session: Session, place: Place, asker: Asker) -> Place:
        """May there be one more upload, to there? Returns where its file lands, from now on."""
        directory = place.directory
        if directory.name_template is not None:
            session.file = "/".join(directory.name_template.parts(session, place.parts))
            place = place.at(session.file)
        if directory.create_hook is not None:
            event = self._event(Kind.CREATING, session, asker, file=place.file)
            name = await directory.create_hook.ask(write_event(event, directory.source))
            if name is not None:
                session.file = "/".join((*place.parts[:-1], name))
                place = place.at(session.file)
        # Who has enough already costs the disk nothing.
        await self.census.admit(self.directories, directory, session)
        try:
            await self._check_free(place)
        except BaseException:
            self.census.ended(session.id)
            raise
        return place

    @staticmethod
    async def _check_free(place: Place) -> None:
        directory, destination = place.directory, place.destination
        await in_thread(
            destination.folder.check_free,
            destination.parts,
            overwrite=destination.overwrite,
            # An application may want the file nowhere: whether its folder is there, is seen when it does.
            create=destination.create_folders or directory.backend is not None,
        )
        if directory.digest_file:
            await in_thread(check_companion, directory.digest, destination)

    async def fragment(self, packet: Fragment, target: str, asker: Asker, body: Body) -> Ack:
        """Keep the new bytes of a fragment; the last one puts the file in its place (MC-BUP 3.2.5.2.6)."""
        place = self.directories.place(target)
        place.check_enabled()
        self.rates.check(place.directory, asker)
        async with self._session(packet.session_id, place, asker) as (turn, stored, place):
            session = stored.session
            limit = place.directory.max_fragment_size
            if limit is not None and packet.range.length > limit:
                raise FragmentTooLarge(f"the fragment has {packet.range.length} bytes, {limit} are the most")
            before = stored.held
            placement = session.place(packet.range, before, place.directory.max_upload_size)
            await self._make_sure_of_room(stored, place, packet, placement)
            pace = self.pacing.pace(place.directory, asker, body)
            receiver = stored.receiver(placement.skip)
            if packet.content_digest is None:
                held = await self._receive(turn, stored, body, placement, pace, receiver)
            else:
                compared = Compared(receiver, packet.content_digest)
                held = await self._receive_compared(turn, stored, body, placement, pace, compared)
            if not session.published and (algorithms := expected(session, place.directory.digest)):
                self.hashing.follow(session.id, algorithms, before, held)
            if not session.published and session.is_whole(held):
                await self._finish(turn, stored, place, asker, target)
            return Ack(session_id=spell_session_id(session.id), received=held, reply_url=session.reply_url)

    async def close_session(self, packet: CloseSession, target: str, asker: Asker) -> Ack:
        """Release everything; a file with bytes missing is deleted (MC-BUP 3.2.5.2.7)."""
        place = self.directories.place(target)
        place.check_enabled()
        self.rates.check(place.directory, asker)
        async with self._session(packet.session_id, place, asker) as (turn, stored, place):
            session = stored.session
            closing = session.closing(stored.held)
            if closing in (Closing.EMPTY_FILE, Closing.FINISH):
                session.start(stored.held)
                if session.hear(packet.repr_digest):
                    await stored.save()
                await self._finish(turn, stored, place, asker, target)
            await self._end(stored, place, asker, State.COMPLETE, is_whole=closing is not Closing.DISCARD)
            if closing is Closing.DISCARD:
                logger.warning("upload closed before its last byte", extra=_about(session, asker))
            return Ack(session_id=spell_session_id(session.id))

    async def cancel_session(self, packet: CancelSession, target: str, asker: Asker) -> Ack:
        """Delete everything but a file that is in its place (MC-BUP 3.2.5.2.8; Learn, cancel-session)."""
        place = self.directories.place(target)
        place.check_enabled()
        self.rates.check(place.directory, asker)
        async with self._session(packet.session_id, place, asker) as (_, stored, place):
            was_over = stored.session.over
            await self._end(stored, place, asker, State.CANCEL)
            if not was_over:
                logger.info("upload cancelled", extra=_about(stored.session, asker))
            return Ack(session_id=spell_session_id(stored.session.id))

    @asynccontextmanager
    async def _session(
        self, session_id: str, place: Place, asker: Asker
    ) -> AsyncIterator[tuple[Turn, StoredSession, Place]]:
        """The turn of a session, the session, and its place by the name of its file.

        An error met inside carries the session into its Ack.
        """
        guid = normal_session_id(session_id)
        if self._shared or not self.turns.is_quiet(guid):
            # To take a turn interrupts whoever has it: only the owner may.
            (await self.store.read(guid)).check_owner(place.path, asker.user)
        async with self.turns.take(guid) as turn, self.store.open(guid) as stored:
            stored.session.check_owner(place.path, asker.user)
            try:
                await self._drop_unchecked(stored)
                yield turn, stored, place.at(stored.session.file)
            except BitsError as error:
                error.session_id = spell_session_id(guid)
                error.held = stored.held
                await self._say_if_refused(error, stored.session, place, asker, received=stored.held)
                raise

    async def _make_sure_of_room(
        self, stored: StoredSession, place: Place, packet: Fragment, placement: Placement
    ) -> None:
        """The first fragment's total is remembered once the directory has room for it; raises DiskFull."""
        session, reserve = stored.session, place.directory.free_space_reserve
        first = session.total is None
        if reserve and placement.take:
            wanted = packet.range.total if first else placement.take
            room = min(await self.store.room(), await in_thread(place.destination.folder.room))
            if room - reserve < wanted:
                raise DiskFull(f"{room} bytes are free, {reserve} of them reserved, {wanted} wanted")
        if first:
            await self.census.promise(self.directories, place, session, packet.range.total)
            session.start(packet.range.total)
        if session.hear(packet.repr_digest) or first:
            await stored.save()

    async def _receive(
        self,
        turn: Turn,
        stored: StoredSession,
        body: Body,
        placement: Placement,
        pace: Pace | None,
        receiver: Receiver,
    ) -> int:
        """From the socket to the disk; whatever arrived is durable when this ends, however it ends."""
        turn.interrupt_by(body.stop)
        try:
            await body.into(receiver, pace)
        except BodyInterrupted as reason:
            raise Busy(str(reason)) from None
        finally:
            held = await stored.sync()
        if not placement.take:
            await self.store.touch(stored.session.id)
        return held

    async def _receive_compared(
        self,
        turn: Turn,
        stored: StoredSession,
        body: Body,
        placement: Placement,
        pace: Pace | None,
        receiver: Compared,
    ) -> int:
        """The same, where the bytes count once they were compared with their digest; before that, none does.

        The state says so, too: what a crash leaves of a fragment has not been compared.
        """
        if placement.take:
            stored.session.unchecked = stored.held
            await stored.save()
        try:
            held = await self._receive(turn, stored, body, placement, pace, receiver)
            receiver.check()
        except BaseException:
            await self._drop_unchecked(stored)
            raise
        if placement.take:
            stored.session.unchecked = None
            await stored.save()
        return held

    @staticmethod
    async def _drop_unchecked(stored: StoredSession) -> None:
        if stored.session.unchecked is not None:
            await stored.cut(stored.session.unchecked)
            stored.session.unchecked = None
            await stored.save()

    async def _check_bytes(self, turn: Turn, stored: StoredSession, place: Place) -> None:
        """The file is what its client meant. Raises DigestMismatch; Busy while that is not known yet."""
        session, directory = stored.session, place.directory
        session.digest.clear()
        for algorithm in due(session, directory.digest):
            patience = directory.timing.hold
            session.check(await self.hashing.digest(session.id, algorithm, stored.held, turn, patience))

    async def _finish(
        self, turn: Turn, stored: StoredSession, place: Place, asker: Asker, target: str
    ) -> None:
        """Every byte is here: tell the application, if there is one; without one the file appears."""
        await self._check_bytes(turn, stored, place)
        if place.directory.backend is None:
            await self._publish(stored, place, asker)
            return
        answer = await self._ask(turn, stored, place, asker, target)
        if answer.refusal is not None:
            refusal = answer.refusal
            raise ApplicationFailed(refusal.message, status=refusal.status, hresult=refusal.hresult)
        url = answer.static_url or (replies.url_of(stored.session.id, place) if answer.has_reply else None)
        await self._publish(stored, place, asker, copy=answer.copy, reply_url=url)

    async def _ask(
        self, turn: Turn, stored: StoredSession, place: Place, asker: Asker, target: str
    ) -> Answer:
        """What the application answers (MC-BUP 3.2.5.1.3, NOTIFY)."""
        session, directory = stored.session, place.directory
        assert directory.backend is not None
        if session.state is not State.NOTIFY:
            session.notify()
            await stored.save()

        def about(file: str, reply: str) -> WholeUpload:
            return WholeUpload(
                id=session.id,
                url=asker.origin + target,
                path=session.path,
                query=target.partition("?")[2],
                name=place.parts[-1],
                size=session.total or 0,
                file=file,
                reply=reply,
                user=asker.user,
                address=asker.address,
                digest=dict(session.digest),
            )

        return await self.notifications.answer(directory.backend, directory.timing, session.id, about, turn)

    async def _publish(
        self,
        stored: StoredSession,
        place: Place,
        asker: Asker,
        *,
        copy: bool = True,
        reply_url: str | None = None,
    ) -> None:
        """The file appears, then the state says so, then what is no longer needed goes.

        Events come before the state: a crash between the two lets them be told twice rather than never.
        """
        session = stored.session
        if copy:
            await stored.publish(place.destination, companion(place.directory, place.parts[-1], session))
        file, digest = place.file if copy else None, session.digest or None
        await self._say(Kind.COMPLETED, session, place, asker, file=file, digest=digest)
        if reply_url is not None:
            await self._say(Kind.REPLIED, session, place, asker, reply_url=reply_url)
        session.publish(reply_url)
        await stored.save()
        await stored.release(place.destination)
        self.census.published(session)
        self.hashing.forget(session.id)
        logger.info("file received", extra=_about(session, asker) | {"bytes": session.total} | session.digest)

    async def _end(
        self, stored: StoredSession, place: Place, asker: Asker, state: State, *, is_whole: bool = True
    ) -> None:
        if stored.session.over:
            await stored.drop_reply()  # a crash may have come before it
            return
        await self.notifications.forget(stored.session.id)
        self.hashing.forget(stored.session.id)
        kind = Kind.CLOSED if state is State.COMPLETE and is_whole else Kind.CANCELLED
        reason = None if is_whole else "it was closed before its last byte"
        await self._say(kind, stored.session, place, asker, received=stored.held, reason=reason)
        stored.session.end(state)
        await stored.save()
        await stored.release(place.destination)
        await stored.drop_reply()
        self.census.ended(stored.session.id)

    async def expired(self, event: UploadEvent, session: Session, directory: Directory | None) -> None:
        """A session was given up before its file was whole, because nobody spoke of it."""
        if self.audit_log is not None:
            url = "" if directory is None else directory.url
            await self.audit_log.tell(event, session, directory=url)
        if directory is not None:
            await self.webhooks.happened(directory, event)

    # What the audit log and webhooks hear

    def _event(self, kind: Kind, session: Session, asker: Asker, **facts: Any) -> UploadEvent:
        return UploadEvent(
            kind=kind,
            session=session.id,
            time=self._clock(),
            path=session.path,
            user=asker.user,
            address=asker.address or None,
            size=session.total,
            **facts,
        )

    async def _say(self, kind: Kind, session: Session, place: Place, asker: Asker, **facts: Any) -> None:
        await self._write_down(kind, session, place, asker, **facts)
        await self._tell(kind, session, place, asker, **facts)

    async def _write_down(
        self, kind: Kind, session: Session, place: Place, asker: Asker, **facts: Any
    ) -> None:
        """Into the audit log; raises Busy when that cannot be written: what is not there, did not happen."""
        if self.audit_log is not None:
            event = self._event(kind, session, asker, **facts)
            await self.audit_log.tell(event, session, directory=place.directory.url, scheme=asker.scheme)

    async def _tell(self, kind: Kind, session: Session, place: Place, asker: Asker, **facts: Any) -> None:
        if place.directory.webhook is not None:
            await self.webhooks.happened(place.directory, self._event(kind, session, asker, **facts))

    async def _say_if_refused(
        self, error: BitsError, session: Session, place: Place, asker: Asker, **facts: Any
    ) -> None:
        """A client that hears this error gives up; what it does wrong in the protocol is not told."""
        for_good = (
            AccessDenied,
            UnknownUrl,
            DestinationIsFolder,
            FileTooLarge,
            DigestMismatch,
            ApplicationFailed,
        )
        if isinstance(error, for_good) and not error.transient:
            await self._say(Kind.REFUSED, session, place, asker, reason=error.message, **facts)


def _about(session: Session, asker: Asker) -> dict[str, object]:
    """What a line of the log says of a session."""
    about: dict[str, object] = {
        "path": session.path,
        "session": session.id,
        "address": asker.address,
        "user": asker.user,
    }
    return about if session.file is None else about | {"file": session.file}
