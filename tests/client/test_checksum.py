"""What the server is told of a file that it may compare: its digest, computed beside the upload."""

import base64
import hashlib
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from bitsferry.client import checksum, events
from bitsferry.client.checksum import Checksum
from bitsferry.client.local_file import LocalFile
from bitsferry.client.options import HttpOptions
from bitsferry.protocol import wire
from bitsferry.protocol.errors import Context, DigestMismatch, LocalFileChanged
from bitsferry.protocol.hresult import HResult
from bitsferry.protocol.packets import Ack, CancelSession, CreateSession, Fragment

from .conftest import MIB, Sender, content
from .hostile import Exchange, HostileServer

DAMAGED = Ack(400, hresult=HResult.ERROR_CRC, context=Context.REMOTE_FILE)


def spelt(path: Path, algorithm: str = "sha-256") -> str:
    digest = hashlib.new(algorithm.replace("-", ""), path.read_bytes()).digest()
    return f"{algorithm}=:{base64.b64encode(digest).decode()}:"


def digests(server: HostileServer) -> list[str | None]:
    """What each fragment said of the whole file."""
    return [heard.headers.get("repr-digest") for heard in server.heard if isinstance(heard.packet, Fragment)]


def announced(server: HostileServer) -> Sequence[str | None]:
    return [
        heard.headers.get("bitsferry-digest")
        for heard in server.heard
        if isinstance(heard.packet, CreateSession)
    ]


def be_another_server(server: HostileServer, *headers: tuple[str, str]) -> None:
    @server.on()
    def answer(exchange: Exchange) -> None:
        ack = exchange.process()
        own = [each for each in wire.write_ack(ack) if each[0] != "Server"]
        exchange.say_plainly(ack.status, [("Server", "Microsoft-IIS/10.0"), *own, *headers])


def test_our_server_is_told_with_the_last_fragment(sender: Sender, server: HostileServer) -> None:
    sender.run()
    assert sender.arrived
    assert digests(server) == [None] * (len(server.fragments()) - 1) + [spelt(sender.path)]
    assert announced(server) == ["sha-256"], "so that it may compute it on the way"


def test_another_server_is_not_told_unless_that_is_wanted(sender: Sender, server: HostileServer) -> None:
    be_another_server(server)
    sender.run()
    assert {*digests(server)} == {None}
    sender.run(http=HttpOptions(digest=True))
    assert digests(server)[-1] == spelt(sender.path)


def test_another_server_that_wants_it_is_told_by_the_algorithm_it_wants(
    sender: Sender, server: HostileServer
) -> None:
    be_another_server(server, ("Want-Repr-Digest", "sha-256=1, sha-512=10"))
    sender.run()
    assert digests(server)[-1] == spelt(sender.path, "sha-512")


def test_where_that_is_not_wanted_nobody_is_told_and_nothing_is_computed(
    sender: Sender, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksum.Checksum, "__enter__", lambda self: pytest.fail("it is computed"))
    sender.run(http=HttpOptions(digest=False))
    assert sender.arrived
    assert {*digests(server), *announced(server)} == {None}


def test_an_empty_file_has_no_fragment_to_tell_it(sender: Sender, server: HostileServer) -> None:
    sender.path.write_bytes(b"")
    sender.run()
    assert sender.arrived
    assert announced(server) == [None]


def test_after_an_interruption_it_is_still_that_of_the_whole_file(
    sender: Sender, server: HostileServer
) -> None:
    class End(Exception):
        pass

    def stop(event: events.Event) -> None:
        if isinstance(event, events.Progress) and event.sent >= 2 * MIB:
            raise End

    with pytest.raises(End):
        sender.run(tell=stop)
    sender.run()
    assert sender.arrived
    assert digests(server)[-1] == spelt(sender.path)
    assert not [thread for thread in threading.enumerate() if thread.name == "checksum"]


def test_a_file_that_arrived_as_another_one_is_sent_anew(sender: Sender, server: HostileServer) -> None:
    @server.on(Fragment, first=6)
    def damage(exchange: Exchange) -> None:
        ack = exchange.process()
        exchange.say(DAMAGED if "repr-digest" in exchange.headers else ack)

    sender.run()
    assert sender.arrived
    kinds = server.kinds()
    assert kinds.count("CreateSession") == 2
    assert kinds[kinds.index("CancelSession") :][:2] == ["CancelSession", "CreateSession"]
    assert [(retry.error.name, retry.wait) for retry in sender.retries] == [("ERROR_CRC", 0.0)]
    assert not server.sessions


def test_one_that_arrives_as_another_again_and_again_ends_it(sender: Sender, server: HostileServer) -> None:
    @server.on(Fragment)
    def damage(exchange: Exchange) -> None:
        ack = exchange.process()
        exchange.say(DAMAGED if "repr-digest" in exchange.headers else ack)

    with pytest.raises(DigestMismatch, match="arrived 3 times as another one than was sent") as caught:
        sender.run()
    assert not caught.value.transient
    assert server.kinds().count("CreateSession") == 3


def test_a_session_that_cannot_be_given_up_is_given_up_when_the_line_is_back(
    sender: Sender, server: HostileServer
) -> None:
    @server.on(CancelSession, first=2)
    def hang_up(exchange: Exchange) -> None:
        exchange.hang_up()

    @server.on(Fragment, first=6)
    def damage(exchange: Exchange) -> None:
        ack = exchange.process()
        exchange.say(DAMAGED if "repr-digest" in exchange.headers else ack)

    sender.run()
    assert sender.arrived
    assert server.kinds().count("CancelSession") == 3
    assert server.kinds().count("CreateSession") == 2


def test_a_damage_of_an_upload_that_never_began_is_only_an_error(
    sender: Sender, server: HostileServer
) -> None:
    @server.on(CreateSession)
    def say_nonsense(exchange: Exchange) -> None:
        exchange.say(DAMAGED)

    with pytest.raises(DigestMismatch):
        sender.run()
    assert server.kinds() == ["CreateSession"]


# Beside the upload


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    path.write_bytes(content(3 * MIB + 5))
    return path


def test_it_reads_no_further_than_the_next_fragment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksum, "AHEAD", MIB)
    with LocalFile(str(path)) as file, Checksum(file, "sha-256") as running:
        running.follow(0)
        assert not running.wait(0.05)
        running.follow(MIB)
        assert not running.wait(0.05)
        running.follow(file.size)
        assert running.wait(10)
        assert str(running.digest()) == spelt(path)


def test_it_ends_with_the_upload(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksum, "AHEAD", 0)
    began = time.monotonic()
    with LocalFile(str(path)) as file, Checksum(file, "sha-256"):
        pass
    assert time.monotonic() - began < 5
    assert not [thread for thread in threading.enumerate() if thread.name == "checksum"]


def test_a_file_that_was_replaced_has_no_digest(path: Path, tmp_path: Path) -> None:
    with LocalFile(str(path)) as file:
        (tmp_path / "new").write_bytes(path.read_bytes())
        os.replace(tmp_path / "new", path)
        with Checksum(file, "sha-256") as running:
            running.follow(file.size)
            assert running.wait(10)
            with pytest.raises(LocalFileChanged, match="changed while it was being sent"):
                running.digest()


def test_a_file_that_shrinks_has_no_digest(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksum, "AHEAD", MIB)
    with LocalFile(str(path)) as file, Checksum(file, "sha-256") as running:
        running.follow(0)
        assert not running.wait(0.05)
        os.truncate(path, 2 * MIB)
        running.follow(file.size)
        assert running.wait(10)
        with pytest.raises(LocalFileChanged, match="became shorter"):
            running.digest()
