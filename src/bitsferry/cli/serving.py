"""A server's life in its process or processes: made ready, renewed, ended."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace

import click

from bitsferry.cli.privileges import Account, PrivilegesError, become
from bitsferry.cli.settings import Settings, SettingsError
from bitsferry.cli.tls import with_certificate, words_of_trust
from bitsferry.cli.workers import supervise
from bitsferry.protocol.errors import BitsError
from bitsferry.server.audit import AuditLog
from bitsferry.server.directory import Directories
from bitsferry.server.listeners import ListenError, inherited, notify, open_listeners
from bitsferry.server.running import Server
from bitsferry.server.self_signed import SelfSigned, names_of_host, self_signed
from bitsferry.server.tls import Tls, UnusableTls
from bitsferry.store.folder import make_folder
from bitsferry.store.location import open_store

__all__ = ["Serving", "errors_told"]

logger = logging.getLogger(__name__)

FAILED, USAGE = 1, 2


@contextmanager
def errors_told() -> Iterator[None]:
    """What a person can mend ends the process with a sentence, not with a traceback."""
    try:
        yield
    except (SettingsError, ListenError, PrivilegesError, BitsError) as error:
        message = error.message if isinstance(error, BitsError) else str(error)
        click.echo(f"bitsferry: {message}", err=True)
        sys.exit(USAGE if isinstance(error, SettingsError) else FAILED)


class Serving:
    """A server's life: opened with settings, renewed by SIGHUP, ended by SIGTERM or SIGINT."""

    def __init__(
        self,
        read: Callable[[], Settings],
        settings: Settings,
        account: Account | None = None,
        *,
        tells_trust: bool = True,
    ) -> None:
        """`read` reads the settings again; `account` is who we are as soon as the sockets are open.

        `tells_trust`: beside the log there is room for words on how to trust a self-signed certificate.
        Raises SettingsError, ListenError and PrivilegesError.
        """
        _raise_descriptor_limit()
        self._read = read
        self._settings = settings
        self._tells_trust = tells_trust
        self._own: SelfSigned | None = None
        has_tls = settings.self_signed or settings.tls is not None
        self._listeners = inherited(has_tls=has_tls) or [
            listener for address in settings.listen for listener in open_listeners(address, has_tls=has_tls)
        ]
        try:
            # Read before we become somebody else, who need not be able to.
            self._tls = None if settings.self_signed else _tls(settings)
            if account is not None:
                become(account)
            _make_folders(settings)
            if settings.self_signed:
                self._own = _own_certificate(settings)
                self._settings = self._with_own_certificate(settings)
                self._tls = _tls(self._settings)
        except BaseException:
            for listener in self._listeners:
                listener.withdraw()
                listener.close()
            raise

    def alone(self) -> None:
        """Serve in this process."""
        asyncio.run(self._serve(self._ready, self._reload, self._stopping))

    def with_workers(self) -> None:
        """Serve in several processes, and watch them from this one."""

        def stopping() -> None:
            self._stopping()
            for listener in self._listeners:
                listener.close()  # as long as anybody has it open, the system takes connections in

        if not supervise(
            self._settings.workers, self._work, ready=self._ready, reload=self._reload, stopping=stopping
        ):
            sys.exit(FAILED)

    def _work(self, number: int, ready: Callable[[], None], lifeline: int) -> None:
        """Be one of several processes, whose parent talks to the world."""
        with errors_told():
            asyncio.run(
                self._serve(
                    ready, self._read_again, lambda: None, shared=True, tidies=number == 0, lifeline=lifeline
                )
            )

    async def _serve(
        self,
        ready: Callable[[], None],
        reload: Callable[[], bool],
        stopping: Callable[[], None],
        *,
        shared: bool = False,
        tidies: bool = True,
        lifeline: int | None = None,
    ) -> None:
        settings = self._settings
        with closing(open_store(settings.store, settings.durability, shared=shared)) as store:
            server = Server(store, Directories(()), shared=shared, tidies=tidies, tls=self._tls)
            self._renew(server)
            loop, stop = asyncio.get_running_loop(), asyncio.Event()
            interrupted = False

            def interrupt() -> None:
                nonlocal interrupted
                if interrupted:
                    server.hurry()
                interrupted = True
                stop.set()

            def renew() -> None:
                if reload():
                    self._renew(server)

            loop.add_signal_handler(signal.SIGTERM, stop.set)
            loop.add_signal_handler(signal.SIGINT, interrupt)
            loop.add_signal_handler(signal.SIGHUP, renew)
            if lifeline is not None:
                loop.add_reader(lifeline, stop.set)
            await server.start(self._listeners)
            _calm_the_collector()
            ready()
            await stop.wait()
            if lifeline is not None:
                loop.remove_reader(lifeline)
            stopping()
            await server.stop()
            await _end_of_all_work()

    def _renew(self, server: Server) -> None:
        settings = self._settings
        server.renew(
            Directories(settings.directories),
            limits=settings.limits,
            method_override=settings.method_override,
            header_value_limit=settings.header_value_size,
            cleanup_interval=settings.cleanup_interval,
            fronts=settings.fronts,
            audit_log=_audit_log(settings),
            tls=settings.tls,
        )

    def _ready(self) -> None:
        """Say so to whoever waits for it."""
        for listener in self._listeners:
            click.echo(f"listening on {listener.url}")
        sys.stdout.flush()
        notify("READY=1")
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            logger.warning("the server runs as root: --user NAME lets it become another user")
        if self._own is not None:
            self._tell_trust(self._own)

    def _tell_trust(self, own: SelfSigned) -> None:
        if self._tells_trust:
            click.echo(words_of_trust(own, [listener.url for listener in self._listeners]), err=True)
        else:
            facts = {"file": own.certificate, "sha256": own.fingerprint}
            logger.info("the certificate is self-signed", extra=facts)

    def _with_own_certificate(self, settings: Settings) -> Settings:
        own = self._own
        if own is None:
            return settings
        return replace(settings, tls=with_certificate(settings.tls, own.certificate, own.key))

    def _stopping(self) -> None:
        notify("STOPPING=1")
        logger.info("stopping")
        for listener in self._listeners:
            listener.withdraw()

    def _reload(self) -> bool:
        """New settings, if they are right; the log says so, or why not."""
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            return self._read_again(tell=True)
        finally:
            notify("READY=1")

    def _read_again(self, *, tell: bool = False) -> bool:
        """Directories and limits may change; listeners, workers and store stay as they are."""
        old = self._settings
        try:
            new = self._with_own_certificate(self._read())
            _make_folders(new)
        except SettingsError as error:
            logger.error("the settings stay as they were: %s", error)  # noqa: TRY400, a typo needs no traceback
            return False
        lasting = ["listen", "store", "durability", "workers"]
        if (old.tls is None) != (new.tls is None):
            lasting.append("tls")
        changed = [name for name in lasting if getattr(new, name) != getattr(old, name)]
        if tell and changed:
            logger.warning("these change with a restart only: %s", ", ".join(changed))
        if tell:
            logger.info("settings read again", extra={"directories": len(new.directories)})
        self._settings = replace(new, **{name: getattr(old, name) for name in lasting})
        return True


async def _end_of_all_work() -> None:
    """Return when no request is at work, those included whose client is gone."""
    working = asyncio.all_tasks() - {asyncio.current_task()}
    if working:
        await asyncio.wait(working)


def _calm_the_collector() -> None:
    """A request leaves no circles behind: looking for them every 700 objects cost 8 % of a small fragment."""
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)


def _make_folders(settings: Settings) -> None:
    """Make the folders of the directories, and the audit log. Raises SettingsError where that cannot be."""
    for directory in settings.directories:
        folder = directory.folder
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            reason = "it is no folder" if isinstance(error, FileExistsError) else error.strerror
            raise SettingsError(f"the folder {folder} cannot be used: {reason}") from error
        if directory.upload_enabled and not os.access(folder, os.W_OK | os.X_OK):
            raise SettingsError(
                f"the folder {folder} cannot be used: the server's account may not write there"
            )
    if (audit_log := _audit_log(settings)) is not None:
        try:
            audit_log.check()
        except OSError as error:
            raise SettingsError(
                f"the audit log {audit_log.path} cannot be written: {error.strerror or error}"
            ) from error


def _tls(settings: Settings) -> Tls | None:
    """Raises SettingsError."""
    try:
        return None if settings.tls is None else Tls(settings.tls)
    except UnusableTls as error:
        raise SettingsError(f"tls: {error}") from None


def _own_certificate(settings: Settings) -> SelfSigned:
    """The certificate we made for ourselves, in the store. Raises SettingsError."""
    folder = settings.store.removeprefix("file:")
    try:
        make_folder(folder, 0o700)
        return self_signed(folder, names_of_host(address.host for address in settings.listen))
    except OSError as error:
        raise SettingsError(
            f"the self-signed certificate cannot be kept in {folder}: {error.strerror or error}"
        ) from error


def _audit_log(settings: Settings) -> AuditLog | None:
    if settings.audit_log is None:
        return None
    return AuditLog(settings.audit_log, durable=settings.durability == "power")


def _raise_descriptor_limit() -> None:
    """Thousands of connections and open files need as many descriptors as the system allows."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
