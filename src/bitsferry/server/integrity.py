"""What digests ask of an upload: which ones it needs, how a fragment is compared, how a file's is told."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable

from bitsferry.protocol.digests import Digest
from bitsferry.protocol.errors import AccessDenied, FragmentDamaged
from bitsferry.protocol.session import Session
from bitsferry.server.directory import Directory
from bitsferry.server.hashing import lacks
from bitsferry.server.names import check_name
from bitsferry.store.base import Receiver
from bitsferry.store.folder import Companion, Destination

__all__ = ["SUFFIXES", "Compared", "check_companion", "check_directory", "companion", "due", "expected"]

SUFFIXES = {"sha-256": ".sha256", "blake3": ".blake3"}
"""What the file that tells a digest is called, after the name of the one it is of."""


def due(session: Session, own: str | None) -> tuple[str, ...]:
    """The algorithms by which a whole file has to be hashed; `own` is what its directory wants."""
    said = session.repr_digest
    return _each(own, said.algorithm if said else None)


def expected(session: Session, own: str | None) -> tuple[str, ...]:
    """The same, before the file is whole: with the algorithm its client announced."""
    said = session.repr_digest
    return _each(own, said.algorithm if said else session.will_digest)


def _each(*algorithms: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each for each in algorithms if each))


def check_directory(directory: Directory) -> None:
    """Raises ValueError for a directory whose digests nobody can compute."""
    if directory.digest not in (None, *SUFFIXES):
        raise ValueError(f"files are hashed by {' or '.join(SUFFIXES)}, not by {directory.digest!r}")
    if directory.digest_file and directory.digest is None:
        raise ValueError(f"the directory {directory.url!r} has no digest to put into its digest files")
    if directory.digest is not None and (extra := lacks(directory.digest)):
        raise ValueError(f"{directory.digest} needs more: pip install 'bitsferry[{extra}]'")


def check_companion(algorithm: str | None, destination: Destination) -> None:
    """Whether a digest could stand beside the file at `destination`, as things are now. Blocks.

    Raises AccessDenied for a file that is called like a digest: what those say is the server's word, not a
    client's. Raises InvalidName for a name that is too long, DestinationExists, DestinationIsFolder.
    """
    *folders, name = destination.parts
    suffix = SUFFIXES[algorithm or ""]
    if name.lower().endswith(suffix):
        raise AccessDenied(f"here, the server itself makes the files whose names end in {suffix}")
    check_name(name + suffix)
    destination.folder.check_free((*folders, name + suffix), overwrite=destination.overwrite, create=True)


def companion(directory: Directory, name: str, session: Session) -> Companion | None:
    """What stands beside the file `name`, as `sha256sum --check` and `b3sum --check` read it."""
    if directory.digest is None or not directory.digest_file:
        return None
    digest = session.digest[directory.digest]
    spelt = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    line = f"{digest}  {spelt}\n" if spelt == name else f"\\{digest}  {spelt}\n"
    return Companion(name + SUFFIXES[directory.digest], os.fsencode(line))


class Compared(Receiver):
    """Hands a fragment's bytes on, and compares them with the digest it came with."""

    def __init__(self, receiver: Receiver, digest: Digest) -> None:
        self._receiver = receiver
        self._digest = digest
        self._hasher = hashlib.new(digest.algorithm.replace("-", ""))

    def write(self, block: memoryview) -> Awaitable[None] | None:
        """See Receiver. Nothing is pulled: every byte has to be seen."""
        self._hasher.update(block)
        return self._receiver.write(block)

    def check(self) -> None:
        """All bytes came. Raises FragmentDamaged when they are others than those that were sent."""
        if self._hasher.digest() != self._digest.value:
            raise FragmentDamaged(
                f"the fragment's {self._digest.algorithm} is {self._hasher.hexdigest()},"
                f" its client said {self._digest.hex}; it may send the fragment again"
            )
