"""A whole server put together: store, service, application, front and janitor, from start to end."""

from __future__ import annotations

import asyncio

from bitsferry.access.fronts import Fronts
from bitsferry.protocol.wire import VALUE_LIMIT
from bitsferry.server.app import Application
from bitsferry.server.audit import AuditLog
from bitsferry.server.connections import Limits
from bitsferry.server.directory import Directories
from bitsferry.server.front import Front
from bitsferry.server.janitor import Janitor
from bitsferry.server.listeners import Listener
from bitsferry.server.service import Service
from bitsferry.server.tls import ServerTls, Tls
from bitsferry.store.base import Store

__all__ = ["Server"]


class Server:
    """Serves directories on listeners until it is stopped; what it holds stays in the store."""

    def __init__(
        self,
        store: Store,
        directories: Directories,
        *,
        limits: Limits | None = None,
        shared: bool = False,
        tidies: bool = True,
        method_override: bool = True,
        header_value_limit: int = VALUE_LIMIT,
        cleanup_interval: float | None = None,
        fronts: Fronts | None = None,
        tls: Tls | None = None,
    ) -> None:
        """`shared`: other processes use the same store; then one of them `tidies`."""
        self.store = store
        self.service = Service(store, directories, shared=shared)
        self.application = Application(
            self.service,
            method_override=method_override,
            header_value_limit=header_value_limit,
            fronts=fronts,
        )
        self.front = Front(self.application, limits, tls)
        self.janitor = Janitor(self.service, cleanup_interval)
        self._tidies = tidies
        self._tidying: asyncio.Task[None] | None = None

    async def start(self, listeners: list[Listener]) -> None:
        """Accept connections; returns at once."""
        await self.front.start(listeners)
        self.service.webhooks.start()
        if self._tidies:
            self._tidying = asyncio.get_running_loop().create_task(self.janitor.run())

    def renew(
        self,
        directories: Directories,
        *,
        limits: Limits,
        method_override: bool,
        header_value_limit: int,
        cleanup_interval: float | None,
        fronts: Fronts,
        audit_log: AuditLog | None = None,
        tls: ServerTls | None = None,
    ) -> None:
        """From now on, serve like this; open sessions and connections go on."""
        for directory in directories.all:
            before = self.service.directories.at(directory.url)
            if directory.guard is not None and before is not None and before.guard is not None:
                directory.guard.inherit(before.guard)
        self.service.directories = directories
        self.service.audit_log = audit_log
        self.service.webhooks.renewed()
        self.application.method_override = method_override
        self.application.header_value_limit = header_value_limit
        self.application.fronts = fronts
        self.front.connections.set_limits(limits)
        if self.front.tls is not None and tls is not None:
            self.front.tls.renew(tls)
        self.janitor.interval = cleanup_interval

    def hurry(self) -> None:
        """Somebody is impatient: a `stop` under way waits no longer for running requests."""
        self.front.hurry()

    async def stop(self) -> None:
        """Drain; whoever opened the store closes it when nothing uses it any more."""
        await self.front.stop(cutting=self._cut)
        await self.service.notifications.stop()
        if self._tidying is not None:
            self._tidying.cancel()
            await asyncio.wait([self._tidying])
        await self.service.hashing.stop()
        await self.service.webhooks.stop()

    def _cut(self) -> None:
        """Nobody shall wait at the line for what takes its time."""
        self.service.notifications.end()
        self.service.hashing.end()
