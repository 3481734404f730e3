"""curl shows its certificate, and is who that says; the listener's TLS is Python's own here."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
import trustme

from bitsferry.access.certificate import Certificate
from bitsferry.access.guard import Guard
from bitsferry.access.rules import Rules
from bitsferry.server.connection import Connection
from bitsferry.server.directory import Directories, Directory
from bitsferry.server.running import Server
from bitsferry.store.local import LocalStore

from .raw import GUID

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return authority


def curl(folder: Path, port: int, user: str | None) -> tuple[str, str]:
    """Status and challenge of a Create-Session by `user`, whose certificate lies in the folder."""
    shown = [] if user is None else ["--cert", f"{folder}/{user}.pem"]
    done = subprocess.run(
        [
            *("curl", "-sS", "-q", "--noproxy", "*", "--max-time", "10", "--cacert", f"{folder}/ca.pem"),
            *("-o", os.devnull, "-w", "%{http_code} %header{www-authenticate}", "-X", "BITS_POST"),
            *("-H", "BITS-Packet-Type: Create-Session", "-H", f"BITS-Supported-Protocols: {GUID}"),
            *("-H", "Content-Length: 0", *shown, f"https://localhost:{port}/in/{user}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    status, _, challenge = done.stdout.partition(" ")
    return status, challenge


def asked_by(folder: Path, authority: trustme.CA, users: list[str | None]) -> list[tuple[str, str]]:
    """What each of the users is answered by a server where hosts of Corp may enter."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    authority.configure_trust(tls)
    tls.verify_mode = ssl.CERT_OPTIONAL
    guard = Guard([Certificate()], rules=Rules(certificates=["CN=host*", "DNS:*.corp.example"]))
    (folder / "in").mkdir()

    async def serve() -> list[tuple[str, str]]:
        store = LocalStore(str(folder / "store"), "process")
        server = Server(store, Directories([Directory("/in/", str(folder / "in"), guard=guard)]))
        await server.start([])
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(
            lambda: Connection(server.front.connections), "127.0.0.1", 0, ssl=tls
        )
        port = listener.sockets[0].getsockname()[1]
        try:
            return [await asyncio.to_thread(curl, folder, port, user) for user in users]
        finally:
            listener.close()
            await server.stop()
            store.close()

    return asyncio.run(serve())


def test_whose_certificate_fits_may_upload_and_nobody_else(
    tmp_path: Path, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    names = {"host1": "h.example", "backup": "backup.corp.example", "guest": "guest.example"}
    for user, name in names.items():
        leaf = authority.issue_cert(name, common_name=user)
        leaf.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / f"{user}.pem"))
    said = asked_by(tmp_path, authority, [*names, None])
    assert said == [("200", ""), ("200", ""), ("403", ""), ("403", "")]
    begun = [vars(each)["user"] for each in caplog.records if each.message == "upload begins"]
    assert begun == ["host1", "backup"]
    assert "guest may not come in" in caplog.text
    assert "auth: certificate) says who this is" in caplog.text
