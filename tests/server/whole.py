"""A whole upload in a folder, as a store would have it."""

from __future__ import annotations

from pathlib import Path

from bitsferry.server.backend import WholeUpload


class Whole:
    """The upload, with its file and its reply."""

    def __init__(self, folder: Path) -> None:
        self.file, self.reply = folder / "request.data", folder / "reply.new"
        self.file.write_bytes(b"uploaded")
        self.upload = WholeUpload(
            id="A0FF5911-0000-4000-8000-000000000000",
            url="http://server:8080/in/caf\u00c3\u00a9 1.csv?x=1",
            path="/in/café 1.csv",
            query="x=1",
            name="café 1.csv",
            size=8,
            file=str(self.file),
            reply=str(self.reply),
            user="anna",
            address="192.0.2.1",
        )
