"""A folder keeps every store's promises: durable or quick, alone or shared, its files near or far."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from bitsferry.store.base import Store
from bitsferry.store.folder import Destination, Folder
from bitsferry.store.local import Durability, LocalStore

from .disks import fat_disk, folder_in_memory, two_mounts
from .promises import SharedStorePromises, StorePromises, World
from .worker import refuse_links


class LocalWorld(World):
    """A folder for the store and a folder for the files."""

    def __init__(self, root: Path, folder: Path, durability: Durability, *, shared: bool) -> None:
        self.root = root
        self.folder = folder
        self._durability = durability
        self._shared = shared
        self._running: Store | None = None

    def start(self) -> Store:
        self.end()
        self._running = LocalStore(str(self.root), self._durability, shared=self._shared)
        return self._running

    def another(self) -> Store:
        return LocalStore(str(self.root), self._durability, shared=self._shared)

    def end(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None

    def destination(self, *parts: str, overwrite: bool = False, create_folders: bool = False) -> Destination:
        return Destination(Folder(str(self.folder)), parts, overwrite, create_folders)

    def put(self, content: bytes, *parts: str) -> None:
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def take_away(self, *parts: str) -> None:
        self.folder.joinpath(*parts).unlink()

    def there(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }


class Ground:
    """Folders for worlds to stand on; a store's root, slow to make, is used by one after the other."""

    def __init__(self, disk: Path, memory: Path) -> None:
        self.disk = disk
        self.memory = memory

    @contextmanager
    def world(self, where: str, durability: Durability, *, shared: bool = False) -> Iterator[LocalWorld]:
        with ExitStack() as stack:
            root, folder = self.memory / "store", self.memory / "in"
            if where == "on a disk":
                root, folder = self.disk / "store", self.disk / "in"
            elif where == "files on a disk":
                folder = self.disk / "in"
            elif where == "other mount":
                root, folder = stack.enter_context(two_mounts(self.disk / "mounts"))
            elif where == "no links":
                disk = stack.enter_context(fat_disk(self.disk / "fat"))
                root, folder = disk / "store", disk / "in"
            folder.mkdir(exist_ok=True)
            try:
                yield LocalWorld(root, folder, durability, shared=shared)
            finally:
                for session in root.glob("sessions/*/*"):
                    shutil.rmtree(session)
                for path in folder.iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    disk = tmp_path_factory.mktemp("ground")
    with folder_in_memory() as memory:
        yield Ground(disk, memory)


# Every pair of these three choices is there.
CHOICES: list[tuple[str, Durability, str]] = [
    ("on a disk", "power", "alone"),
    ("files on a disk", "power", "shared"),
    ("files on a disk", "process", "alone"),
    ("in memory", "process", "shared"),
]


class TestLocalStore(StorePromises):
    @pytest.fixture(params=CHOICES, ids=", ".join)
    def world(self, request: pytest.FixtureRequest, ground: Ground) -> Iterator[World]:
        where, durability, company = request.param
        with ground.world(where, durability, shared=company == "shared") as world:
            yield world


class TestSharedLocalStore(SharedStorePromises):
    @pytest.fixture(params=["power", "process"])
    def world(self, request: pytest.FixtureRequest, ground: Ground) -> Iterator[World]:
        with ground.world("in memory", request.param, shared=True) as world:
            yield world


class TestLocalStoreWhereNoLinkLeads(StorePromises):
    """Between two mounts of one file system, and on one that knows no hard links where there is one."""

    @pytest.fixture(params=["other mount", *(["no links"] if shutil.which("mkfs.vfat") else [])])
    def world(self, request: pytest.FixtureRequest, ground: Ground) -> Iterator[World]:
        with ground.world(request.param, "process") as world:
            yield world


class TestLocalStoreWithoutHardLinks(StorePromises):
    """As on FAT and some network shares, where the system says so only after it looked at the name."""

    @pytest.fixture
    def world(self, ground: Ground, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
        monkeypatch.setattr("os.link", refuse_links())
        with ground.world("in memory", "power") as world:
            yield world
