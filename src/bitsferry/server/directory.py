"""Which URL lands where, with what the directory there allows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from bitsferry.access.guard import Guard
from bitsferry.protocol.errors import InvalidName, UnknownUrl, UploadsDisabled
from bitsferry.server.backend import Backend, Timing
from bitsferry.server.create_hook import CreateHook
from bitsferry.server.names import check_name, decode_path, path_of_target
from bitsferry.server.template import NameTemplate
from bitsferry.server.webhook import Webhook
from bitsferry.store.folder import Destination, Folder

__all__ = ["Directories", "Directory", "Place"]

FOURTEEN_DAYS = 14 * 86400


@dataclass(frozen=True, slots=True)
class Directory:
    """A URL prefix with the folder behind it; sizes in bytes, times in seconds, None means no limit."""

    url: str
    folder: str
    upload_enabled: bool = True
    session_timeout: float = FOURTEEN_DAYS
    max_upload_size: int | None = None
    allow_overwrites: bool = False
    host_id: str | None = None
    host_id_fallback_timeout: int | None = 86400
    sessions_per_user: int | None = None
    create_folders: bool = False
    name_template: NameTemplate | None = None
    """Where new uploads land below the folder; None: where their URL says."""
    max_fragment_size: int | None = None
    quota: int | None = None
    user_quota: int | None = None
    """Bytes a user may bring within a day."""
    requests_per_second: float | None = None
    """Of one user; as `sessions_per_second`, which counts new uploads only."""
    sessions_per_second: float | None = None
    bandwidth: int | None = None
    """Bytes per second, of all uploads together; as below, of one user's, of one connection's."""
    bandwidth_per_user: int | None = None
    bandwidth_per_connection: int | None = None
    free_space_reserve: int = 0
    read_back: Literal["nobody", "everybody"] = "nobody"
    backend: Backend | None = None
    timing: Timing = field(default_factory=Timing)
    reply_base: str | None = None
    """The URL clients find this directory under, where reply URLs shall be absolute."""
    create_hook: CreateHook | None = None
    webhook: Webhook | None = None
    digest: Literal["sha-256", "blake3"] | None = None
    """How every file is hashed on its way; None: only where its client says a digest."""
    digest_file: bool = False
    """Put the `digest` beside each file, as `sha256sum --check` reads it."""
    guard: Guard | None = None
    """Who may come in; None: whoever reaches the URL."""

    @property
    def source(self) -> str:
        """What events call this directory: the URL clients find it under, or the path of that."""
        return self.reply_base or self.url

    def destination(self, parts: tuple[str, ...]) -> Destination:
        """Where a file of this directory appears."""
        create_folders = self.create_folders or self.name_template is not None
        return Destination(Folder(self.folder), parts, self.allow_overwrites, create_folders)


@dataclass(frozen=True, slots=True)
class Place:
    """A file's place: its directory, its URL path percent-decoded, and the names below the folder."""

    directory: Directory
    path: str
    parts: tuple[str, ...] = field(default=())

    @property
    def destination(self) -> Destination:
        """Where the file appears."""
        return self.directory.destination(self.parts)

    def at(self, file: str | None) -> Place:
        """The same, for a session that has a `file` of its own."""
        return self if file is None else replace(self, parts=tuple(file.split("/")))

    @property
    def file(self) -> str:
        """The file's path below the directory's folder, with slashes."""
        return "/".join(self.parts)

    def check_enabled(self) -> None:
        """Raises UploadsDisabled when the directory takes no uploads (MC-BUP 3.2.5.2.2 <22>)."""
        if not self.directory.upload_enabled:
            raise UploadsDisabled


class Directories:
    """All directories of a server; the longest prefix that fits wins."""

    def __init__(self, directories: Iterable[Directory]) -> None:
        self.all = sorted(directories, key=lambda directory: len(directory.url), reverse=True)
        # A file comes in a thousand fragments to one URL.
        self.place = lru_cache(maxsize=1024)(self._place)
        self.of_target = lru_cache(maxsize=1024)(self._of_target)

    def at(self, url: str) -> Directory | None:
        """The directory of exactly this prefix."""
        return next((directory for directory in self.all if directory.url == url), None)

    def of_path(self, path: str) -> Directory:
        """The directory a percent-decoded path lies in. Raises UnknownUrl."""
        for directory in self.all:
            if path.startswith(directory.url) or path + "/" == directory.url:
                return directory
        raise UnknownUrl(f"no upload directory is served at {path[:200]!r}")

    def _of_target(self, target: str) -> Directory:
        """The directory a request target lies in, whether or not it names a file. Raises UnknownUrl."""
        return self.of_path(decode_path(path_of_target(target)))

    def _place(self, target: str) -> Place:
        """The place a request target names.

        Raises InvalidName for a name that may not be stored, UnknownUrl where no directory is.
        """
        path = path_of_target(target)
        names = [decode_path(part) for part in path[1:].split("/")]
        for name in names[:-1]:
            check_name(name)
        if any("/" in name for name in names):
            raise InvalidName("the URL has an encoded '/' in a name")
        decoded = "/" + "/".join(names)
        directory = self.of_path(decoded)
        if len(decoded) <= len(directory.url):
            raise InvalidName("the URL names a folder, not a file")
        check_name(names[-1])
        return Place(directory, decoded, tuple(decoded[len(directory.url) :].split("/")))

    def place_of_path(self, path: str) -> Place | None:
        """The place of a percent-decoded path a session remembers; None when its directory is gone."""
        for directory in self.all:
            if path.startswith(directory.url):
                return Place(directory, path, tuple(path[len(directory.url) :].split("/")))
        return None
