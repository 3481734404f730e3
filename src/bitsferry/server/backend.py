"""The application behind a directory, which hears of every upload that is whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from bitsferry.protocol.notification import Answer, Later

__all__ = ["Backend", "Timing", "WholeUpload"]


@dataclass(frozen=True, slots=True)
class WholeUpload:
    """An upload of which every byte is here and durable.

    `id` is the same each time the application is told of it. `url` is the destination as the client calls it,
    `path` that URL's path percent-decoded, `query` what follows its question mark, `name` its last part.
    `file` is where its `size` bytes are; a reply goes into a new file at `reply`. `user` is None where nobody
    had to say a name, `address` is the client's. `digest` has what is known of the file's digests, in
    hexadecimal by algorithm, "sha-256" for example.
    """

    id: str
    url: str
    path: str
    query: str
    name: str
    size: int
    file: str
    reply: str
    user: str | None
    address: str
    digest: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Timing:
    """How an application that takes its time is waited for, in seconds.

    One that answers later is asked again after what it says, if that is not 0, else after `poll`; for
    `patience` in all, then it has failed. Clients wait for an answer at the open line for `hold`, then they
    are told to come back, while the application goes on: Windows would hang up after five minutes.
    """

    poll: float = 10.0
    patience: float = 86_400.0
    hold: float = 240.0


class Backend(ABC):
    """One kind of application. Whatever the kind, clients see the same."""

    @abstractmethod
    async def tell(self, upload: WholeUpload) -> Answer | Later:
        """Tell the application, and return what it says; a reply it gives is then at `upload.reply`.

        Raises ApplicationFailed, or the BitsError an answer against the rules deserves. When the caller is
        cancelled, nobody writes to `upload.reply` any more once this ends.
        """

    async def ask_again(self, upload: WholeUpload, later: Later) -> Answer | Later:
        """The application took the upload and said `later`: what does it say now?"""
        return await self.tell(upload)
