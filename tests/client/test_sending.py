"""Files are sent from a program as by the command: one after the other, and on where they were."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bitsferry.client import events
from bitsferry.client.bandwidth import Limit
from bitsferry.client.options import HttpOptions
from bitsferry.client.sending import Sender, Uploaded, upload
from bitsferry.client.stopped import Stopped
from bitsferry.client.trust import Ignore, TlsSettings
from bitsferry.protocol.errors import Busy, LocalFileMissing, TransportFailed
from bitsferry.protocol.packets import CloseSession, CreateSession, Fragment, Packet, Ping

from .conftest import MIB, content, password
from .hostile import Exchange, HostileServer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    path.write_bytes(content(MIB + 17))
    return path


@pytest.fixture
def places(tmp_path: Path) -> str:
    return str(tmp_path / "places")


def test_it_says_how_it_ended(path: Path, server: HostileServer, places: str) -> None:
    done = upload(path, server.url("/in/"), remember_in=places)
    assert done == Uploaded(server.url(), MIB + 17, done.seconds, 0, None)
    assert 0 < done.seconds < 60
    assert server.files["/in/file.bin"] == path.read_bytes()
    assert os.listdir(places) == []


def test_a_url_that_is_none_and_a_file_that_is_none_are_told_apart(path: Path, places: str) -> None:
    with pytest.raises(ValueError, match="is no URL to send to"):
        upload(path, "host/in/", remember_in=places)
    with pytest.raises(LocalFileMissing, match=r"file\.bin\.not cannot be read"):
        upload(f"{path}.not", "http://127.0.0.1/in/", remember_in=places)


def test_it_goes_on_where_an_earlier_call_stopped(path: Path, server: HostileServer, places: str) -> None:
    @server.on(Fragment)
    def be_busy_after_the_first(exchange: Exchange) -> None:
        if len(server.fragments()) > 1:
            exchange.refuse(Busy(retry_after=3600))
        else:
            exchange.say(exchange.process())

    with pytest.raises(Exception, match="503"):
        upload(path, server.url(), remember_in=places)
    server.behave()
    told: list[events.Event] = []
    upload(path, server.url(), remember_in=places, tell=told.append)
    first = server.fragments()[0].range.stop
    assert told[0] == events.Started(str(path), server.url(), MIB + 17, first, True)
    assert server.fragments()[2].range.start == first
    assert server.kinds().count("CreateSession") == 1


def test_the_reply_is_put_where_it_shall_be(
    path: Path, server: HostileServer, places: str, tmp_path: Path
) -> None:
    done = upload(path, server.url(), reply=tmp_path / "reply", remember_in=places)
    assert done.reply == str(tmp_path / "reply")
    assert (tmp_path / "reply").read_bytes() == b""


def test_several_files_go_over_one_connection_and_who_sends_is_asked_once(
    path: Path, server: HostileServer, places: str
) -> None:
    @server.on()
    def ask(exchange: Exchange) -> None:
        if "authorization" in exchange.headers:
            exchange.say(exchange.process())
        else:
            exchange.say_plainly(401, [("WWW-Authenticate", "Basic"), ("Content-Length", "0")])

    with Sender(credentials=[password("inga", "pw")], remember_in=places) as sender:
        for number in range(3):
            sender.send(path, server.url(f"/in/{number}"))
    assert len(server.files) == 3
    assert server.connections == 1
    assert sum("authorization" not in heard.headers for heard in server.heard) == 1


def test_after_a_file_that_failed_the_next_one_is_sent(
    path: Path, server: HostileServer, places: str
) -> None:
    @server.on(CreateSession, first=1)
    def hang_up(exchange: Exchange) -> None:
        exchange.hang_up()

    with Sender(patience=0, remember_in=places) as sender:
        with pytest.raises(TransportFailed):
            sender.send(path, server.url())
        sender.send(path, server.url())
    assert server.files["/in/file.bin"] == path.read_bytes()


def test_a_warning_is_told_once(path: Path, server: HostileServer, places: str) -> None:
    told: list[events.Event] = []
    http = HttpOptions(tls=TlsSettings(ignore=Ignore.CN | Ignore.DATE))
    with Sender(http=http, tell=told.append, remember_in=places) as sender:
        for _ in range(2):
            sender.send(path, server.url())
    assert len([event for event in told if isinstance(event, events.Warned)]) == 2
    assert isinstance(told[0], events.Started)


def test_in_the_background_it_arrives_too(path: Path, server: HostileServer, places: str) -> None:
    upload(path, server.url(), background=True, remember_in=places)
    assert server.files["/in/file.bin"] == path.read_bytes()


def stay_silent(exchange: Exchange) -> None:
    exchange.stay_silent(10)


@pytest.mark.parametrize("kind", [CreateSession, Fragment, CloseSession])
def test_it_can_be_stopped_by_another_thread_while_nobody_answers(
    path: Path, server: HostileServer, places: str, kind: type[Packet]
) -> None:
    server.on(kind)(stay_silent)
    with Sender(remember_in=places) as sender:
        stop_when(sender, lambda: kind.__name__ in server.kinds())
        with pytest.raises(Stopped):
            sender.send(path, server.url())
    server.ending.set()


@pytest.mark.parametrize("limits", [[Limit(1000)], []])
def test_it_can_be_stopped_by_another_thread_while_it_waits(
    path: Path, server: HostileServer, places: str, limits: list[Limit]
) -> None:
    @server.on(Ping | CreateSession)
    def be_busy(exchange: Exchange) -> None:
        exchange.say(exchange.process()) if limits else exchange.refuse(Busy(retry_after=60))

    with Sender(limits=limits, remember_in=places) as sender:
        stop_when(sender, lambda: bool(server.heard))
        with pytest.raises(Stopped):
            sender.send(path, server.url())


def stop_when(sender: Sender, is_time: Callable[[], bool]) -> None:
    def wait() -> None:
        deadline = time.monotonic() + 10
        while not is_time() and time.monotonic() < deadline:
            time.sleep(0.01)
        sender.stop()

    threading.Thread(target=wait, daemon=True).start()


def test_what_a_stopped_send_remembers_another_one_uses(
    path: Path, server: HostileServer, places: str
) -> None:
    senders: list[Sender] = []

    def stop(event: events.Event) -> None:
        if isinstance(event, events.Progress) and event.sent:
            senders[0].stop()

    with Sender(tell=stop, remember_in=places) as sender:
        senders.append(sender)
        with pytest.raises(Stopped):
            sender.send(path, server.url())
    upload(path, server.url(), remember_in=places)
    starts = [fragment.range.start for fragment in server.fragments()]
    assert starts == sorted(starts)
    assert server.kinds().count("CreateSession") == 1
