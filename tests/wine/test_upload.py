"""WinHTTP as Wine has it, by which BITS speaks on Windows, uploads with NTLM and with Negotiate."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from passlib.hash import nthash

from server.conftest import end, settings
from server.ferry import Ferry

from .conftest import NEEDED, Windows, path_of

pytest.importorskip("fcntl", reason="the server needs POSIX")

pytestmark = [
    *NEEDED,
    pytest.mark.skipif(
        shutil.which("ntlm_auth") is None, reason="there is no ntlm_auth here (Samba) for Wine"
    ),
]

DATA = os.urandom(3_000_000)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Ferry]:
    folder = tmp_path / "ferry"
    folder.mkdir()
    (folder / "nt-hashes").write_text(f"CORP\\alice:{nthash.hash('correct horse')}\n")
    ferry = Ferry(folder, settings(directory='auth = ["negotiate", "ntlm"]\nnt_hashes = "nt-hashes"'))
    yield ferry
    end(ferry)


def test_winhttp_of_wine_uploads_with_a_password_and_not_without(
    tmp_path: Path, server: Ferry, windows: Windows
) -> None:
    program = windows.compile("upload.c", "winhttp")
    file = tmp_path / "file"
    file.write_bytes(DATA)
    for scheme in ("ntlm", "negotiate"):
        where = ("127.0.0.1", str(server.port), f"/in/{scheme}", path_of(file))
        assert windows.run(program, *where, scheme, "CORP\\alice", "guess") == (1, "401\n")
        said = windows.run(program, *where, scheme, "CORP\\alice", "correct horse")
        assert said == (0, "200\n200\n200\n")  # Create-Session, Fragment, Close-Session
        assert (server.folder / "in" / scheme).read_bytes() == DATA
    assert 'user="CORP\\\\alice"' in server.log.read_text()
