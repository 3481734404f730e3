"""Two folders, one for a store and one for the file it publishes, in all the ways they may lie."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .disks import folder_in_memory, other_file_system, two_mounts
from .tracing import Call, Disk
from .worker import CONTENT

FILE = "file.bin"
OLDER = b"an older file"

WHERE = ["same file system", "other file system", "other mount", "no links"]
in_every_way = pytest.mark.parametrize(
    ("where", "overwrite"), [(where, overwrite) for where in WHERE for overwrite in (False, True)]
)


def shown(path: Path) -> str:
    """A path as strace shows it, without the namespace it is seen through."""
    return re.sub(r"^/proc/\d+/root", "", str(path))


@dataclass
class Scene:
    """Two folders, one for the store and one for the file."""

    root: Path
    folder: Path
    links: bool
    overwrite: bool

    def prepare(self) -> dict[str, Any]:
        """Nothing is there, or an older file that may be overwritten; returns the task for a new session."""
        for path in self.folder.iterdir():
            path.unlink()
        if self.overwrite:
            (self.folder / FILE).write_bytes(OLDER)
        return {
            "guid": str(uuid.uuid4()).upper(),
            "root": str(self.root),
            "folder": str(self.folder),
            "overwrite": self.overwrite,
            "links": self.links,
        }

    def concerns(self, call: Call) -> bool:
        return any(shown(path) in call.text for path in (self.root, self.folder))

    def unsynced(self, disk: Disk) -> set[str]:
        """What a power cut would take of the file."""
        return disk.unsynced(Path(shown(self.folder)))

    def unsynced_in_store(self, disk: Disk) -> set[str]:
        """What a power cut would take of the store, but for its lock."""
        root = Path(shown(self.root))
        return disk.unsynced(root.parent) - {str(root / "lock")}

    def there(self) -> int | None:
        """Which file is there, if the new one is; never half a one, and none only where none was."""
        path = self.folder / FILE
        if not self.overwrite and not path.exists():
            return None
        content = path.read_bytes()
        assert content in ((OLDER, CONTENT) if self.overwrite else (CONTENT,))
        return path.stat().st_ino if content == CONTENT else None

    def check_nothing_strays(self, guid: str) -> None:
        """What lies beside the destination is still known to the store, by the bytes it is made of."""
        if any(path.name != FILE for path in self.folder.iterdir()):
            assert self.has_bytes(guid)

    def has_bytes(self, guid: str) -> bool:
        return (self.root / "sessions" / guid[:2] / guid / "request.data").exists()

    def check_end(self, guid: str) -> None:
        """The file is there, and nothing beside it; the bytes are released."""
        assert {path.name for path in self.folder.iterdir()} == {FILE}
        assert (self.folder / FILE).read_bytes() == CONTENT
        assert not self.has_bytes(guid)


@contextmanager
def scene(tmp_path: Path, where: str, *, overwrite: bool) -> Iterator[Scene]:
    with ExitStack() as stack:
        memory = stack.enter_context(folder_in_memory())
        root, folder = memory / "a" / "store", memory / "in"
        if where == "other file system":
            stack.enter_context(other_file_system(tmp_path))
            folder = tmp_path / "in"
        elif where == "other mount":
            root, folder = stack.enter_context(two_mounts(memory / "mounts"))
        folder.mkdir(exist_ok=True)
        yield Scene(root, folder, where != "no links", overwrite)
