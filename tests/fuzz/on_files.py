"""What stands in files: settings, and what a store remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bitsferry.cli.settings import SettingsError, read_settings
from bitsferry.protocol.errors import BitsError
from bitsferry.protocol.session import Session
from bitsferry.store.local import LocalStore
from store.disks import folder_in_memory

from .target import Feed, Target

__all__ = ["TARGETS"]

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "bitsferry.toml"
GUID = "A0FF5911-0000-4000-8000-000000000000"
SMALL = b'[[directory]]\nurl = "/in/"\nfolder = "in"\n'


@contextmanager
def settings_file() -> Iterator[Feed]:
    with folder_in_memory() as folder:
        path = folder / "bitsferry.toml"
        for name in ("secret", "users"):
            (folder / name).write_bytes(b"whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n")

        def feed(data: bytes) -> None:
            path.write_bytes(data)
            try:
                read_settings(str(path))
            except SettingsError as error:
                assert str(path) in str(error)  # noqa: PT017, or nothing
                assert "AAECAwQF" not in str(error) or b"AAECAwQF" in data  # noqa: PT017

        yield feed


settings = Target(
    "settings",
    (
        EXAMPLE.read_bytes(),
        SMALL,
        SMALL
        + b'notification_type = "value"\nnotification_url = "https://host/"\nnotification_timeout = "5 s"\n',
        SMALL
        + b'webhook_url = "https://host/"\nwebhook_secret_file = "secret"\nwebhook_events = ["created"]\n',
        SMALL + b'auth = ["none"]\nquota = "1 TB"\nsession_timeout = "14 days"\nhost_id = "node1"\n',
        b'listen = ["127.0.0.1:0", "unix:./sock", "[::]:1"]\nworkers = 2\n'
        + SMALL
        + b"[limits]\nhead_time = 1\n",
    ),
    settings_file,
    words=(
        b"[[directory]]\n",
        b"[limits]\n",
        b'"""',
        b"nan",
        b"inf",
        b"-1",
        b"1e400",
        b"[]",
        b"{}",
        b'""',
        b"0x",
        b"true",
        b"1979-05-27",
        b"\\u0000",
        b"\\ud800",
        b"= 5\n",
    ),
    examples=300,
)


@contextmanager
def store() -> Iterator[Feed]:
    with folder_in_memory() as folder:
        kept = LocalStore(str(folder / "store"), "process")
        asyncio.run(kept.create(Session(GUID, "/in/a", "anna", 0.0)))
        state = Path(kept.folder_of(GUID), "session.json")

        def feed(data: bytes) -> None:
            state.write_bytes(data)
            try:
                session = kept._read(GUID)
            except BitsError:
                return
            assert isinstance(session.path, str)

        try:
            yield feed
        finally:
            kept.close()


states = Target(
    "states",
    (
        b'{"session":{"id":"A0FF5911-0000-4000-8000-000000000000","path":"/in/a","user":"anna","created":0.0},"format":1}',
        b'{"session":{"id":"A","path":"/in/a","user":null,"created":1e9,"total":5,"state":"NOTIFY","name":"b"},"format":1}',
    ),
    store,
    words=(b"null", b"[[[[", b'"\\ud800"', b"1e999", b'"state":', b'"total":', b'{"session":'),
)

TARGETS = (settings, states)
