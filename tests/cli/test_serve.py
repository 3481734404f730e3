"""`bitsferry serve` from its first line to its last."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import stat
import sys
import time
from pathlib import Path

import pytest

from server import raw
from server.raw import Line

from .conftest import Configure, Start
from .serving import Sending, Served, arrived, put

ANY = "127.0.0.1:0"


# It starts


def test_a_folder_is_all_it_needs(start: Start, tmp_path: Path) -> None:
    served = start(str(tmp_path / "inbox"), "--listen", ANY).ready()
    with served.line() as line:
        assert put(line, "/hello.txt", b"hello").status == 200
    assert (tmp_path / "inbox" / "hello.txt").read_bytes() == b"hello"


def test_it_says_a_line_for_each_address(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    arguments = [part for address in (ANY, "[::1]:0", f"unix:{path}") for part in ("--listen", address)]
    four, six, unix = start(str(tmp_path / "in"), *arguments).ready(3).urls
    assert four.startswith("http://127.0.0.1:")
    assert six.startswith("http://[::1]:")
    assert unix == f"unix:{path}"
    for url in (four, six):
        connection = http.client.HTTPConnection(url.removeprefix("http://").rstrip("/"), timeout=raw.PATIENCE)
        connection.request("BITS_POST", "/x", headers={"BITS-Packet-Type": "Ping", "Content-Length": "0"})
        assert connection.getresponse().status == 200
        connection.close()
    with Line(str(path)) as line:
        assert line.ask(raw.ping("/x")).status == 200


def test_anybody_who_reaches_a_unix_socket_may_use_it_and_it_goes_with_the_server(
    start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    served = start(str(tmp_path / "in"), "--listen", f"unix:{path}").ready()
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    served.tell(signal.SIGTERM)
    assert served.ended() == 0
    assert not path.exists()


def test_a_unix_socket_a_killed_server_left_is_taken_over(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    arguments = (str(tmp_path / "in"), "--listen", f"unix:{path}")
    served = start(*arguments).ready()
    served.tell(signal.SIGKILL)
    served.ended()
    assert path.exists()
    start(*arguments).ready()
    with Line(str(path)) as line:
        assert line.ask(raw.ping("/x")).status == 200


def test_the_settings_say_where_to_listen_unless_an_option_does(start: Start, tmp_path: Path) -> None:
    config = tmp_path / "bitsferry.toml"
    config.write_text('listen = ["unix:here"]\n[[directory]]\nurl = "/in/"\nfolder = "in"\n')
    served = start("--config", str(config)).ready()
    assert served.urls == [f"unix:{tmp_path}/here"]
    served.stop()
    assert start("--config", str(config), "--listen", ANY).ready().urls[0].startswith("http://127.0.0.1:")


def test_a_name_with_several_addresses_has_one_port(start: Start, tmp_path: Path) -> None:
    found = socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)
    served = start(str(tmp_path / "in"), "--listen", "localhost:0").ready(len(dict.fromkeys(found)))
    assert len({url.rstrip("/").rpartition(":")[2] for url in served.urls}) == 1


def test_two_servers_may_serve_one_folder_each_with_a_store(start: Start, tmp_path: Path) -> None:
    for number in range(2):
        start(str(tmp_path / "in"), "--listen", ANY, "--store", f"file:{tmp_path}/store{number}").ready()
    assert sorted(path.name for path in tmp_path.glob("store?")) == ["store0", "store1"]


# It does not start, and says why


def said(served: Served, exit_code: int) -> str:
    """The one sentence a server ends with that could not start."""
    assert served.ended() == exit_code
    assert served.out == ""
    assert served.log.startswith("bitsferry: ")
    assert served.log.count("\n") == 1
    return served.log.removeprefix("bitsferry: ").rstrip("\n")


def test_a_port_in_use(start: Start, tmp_path: Path) -> None:
    first = start(str(tmp_path / "a"), "--listen", ANY).ready()
    second = start(str(tmp_path / "b"), "--listen", f"127.0.0.1:{first.port}")
    assert said(second, 1) == f"cannot listen on 127.0.0.1:{first.port}: Address already in use"


def test_a_unix_socket_in_use(start: Start, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/socket"
    first = start(str(tmp_path / "a"), "--listen", address).ready()
    second = start(str(tmp_path / "b"), "--listen", address)
    assert said(second, 1) == f"cannot listen on {address}: Address already in use"
    with Line(str(tmp_path / "socket")) as line:
        assert line.ask(raw.ping("/x")).status == 200
    assert first.process.poll() is None


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("no-such-host.invalid:1", "cannot listen on no-such-host.invalid:1: "),
        ("192.0.2.1:0", "cannot listen on 192.0.2.1:0: Cannot assign requested address"),
        ("unix:/no/such/folder/socket", "cannot listen on unix:/no/such/folder/socket: No such file"),
        ("a" * 64 + ":1", "cannot listen on " + "a" * 64 + ":1: this is no name of a host"),
    ],
)
def test_an_address_that_is_not_ours(start: Start, tmp_path: Path, address: str, reason: str) -> None:
    assert said(start(str(tmp_path / "in"), "--listen", address), 1).startswith(reason)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_store_another_server_uses(start: Start, tmp_path: Path, workers: str) -> None:
    start(str(tmp_path / "in"), "--listen", ANY).ready()
    second = start(str(tmp_path / "in"), "--listen", ANY, "--workers", workers)
    store = tmp_path / "in" / ".bitsferry"
    assert said(second, 1) == f"another bitsferry server is using the store {store}"


def test_a_folder_that_is_a_file(start: Start, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("")
    folder = tmp_path / "in"
    assert said(start(str(folder)), 2) == f"the folder {folder} cannot be used: it is no folder"


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir(mode=0o500)
    store = f"file:{tmp_path}/store"
    reason = f"the folder {folder} cannot be used: the server's account may not write there"
    assert said(start(str(folder), "--store", store), 2) == reason


def test_a_store_that_cannot_be_made(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = f"{tmp_path}/file/store"
    served = start(str(tmp_path / "in"), "--listen", ANY, "--store", store)
    assert said(served, 1) == f"the store {store} cannot be used: Not a directory"


def test_wrong_settings(start: Start, configure: Configure) -> None:
    config = configure(directory="quoata = 1")
    reason = 'the key "quoata" is unknown in a [[directory]]; did you mean quota?'
    assert said(start("--config", config), 2) == f"{config}, line 11: {reason}"


# It is asked about the settings only


def test_check_config_says_that_they_are_right_and_touches_nothing(
    start: Start, configure: Configure, tmp_path: Path
) -> None:
    config = configure()
    served = start("--config", config, "--check-config")
    assert served.ended() == 0
    assert served.out == f"{config}: fine, 1 directory\n"
    assert not (tmp_path / "in").exists()


def test_check_config_says_what_is_wrong(start: Start, configure: Configure) -> None:
    config = configure(top="workers = 0")
    served = start("--config", config, "--check-config")
    assert said(served, 2) == f"{config}, line 3: workers: 0 is no whole number from 1 to 64"


# Options


def test_allow_overwrites(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for options, verdict, content in (((), 403, b"old"), (("--allow-overwrites",), 200, b"new")):
        folder.mkdir(exist_ok=True)
        (folder / "file").write_bytes(b"old")
        served = start(str(folder), "--listen", ANY, *options).ready()
        with served.line() as line:
            assert put(line, "/file", b"new").status == verdict
        assert (folder / "file").read_bytes() == content
        served.stop()


def test_max_upload_size_counts_for_every_directory(start: Start, configure: Configure) -> None:
    config = configure(directory='max_upload_size = "1 TB"')
    served = start("--config", config, "--max-upload-size", "2 KB").ready()
    with served.line() as line:
        assert put(line, "/in/right", bytes(2000)).status == 200
        assert put(line, "/in/large", bytes(2001)).verdict == (500, 0x80200020)


def test_store_says_where_unfinished_uploads_are(start: Start, tmp_path: Path) -> None:
    served = start(str(tmp_path / "in"), "--listen", ANY, "--store", f"file:{tmp_path}/else").ready()
    with served.line() as line:
        session = line.ask(raw.create("/file")).session or ""
        line.ask(raw.fragment("/file", session, b"half", total=8))
    (data,) = (tmp_path / "else").rglob("request.data")
    assert data.read_bytes() == b"half"
    assert not (tmp_path / "in" / ".bitsferry").exists()


# It ends

ENDS = pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])


@ENDS
def test_at_rest_it_ends_at_once(start: Start, tmp_path: Path, ending: signal.Signals) -> None:
    served = start(str(tmp_path / "in"), "--listen", ANY).ready()
    with served.line() as line:
        assert line.ask(raw.ping("/x")).status == 200  # the connection stays, idle
        begun = time.monotonic()
        served.tell(ending)
        assert served.ended() == 0
        assert time.monotonic() - begun < 5
        assert line.is_closed()


@ENDS
def test_a_running_fragment_is_finished_and_nobody_new_comes_in(
    start: Start, configure: Configure, tmp_path: Path, ending: signal.Signals
) -> None:
    served = start("--config", configure(limits="drain_time = 60")).ready()
    sending = Sending(served)
    assert arrived(tmp_path / "store", 1 << 19)
    served.tell(ending)
    assert served.says("stopping")
    assert raw.eventually(lambda: served.refuses)
    ack = sending.finish()
    assert (ack.status, ack.received, ack.closes) == (200, 1 << 20, True)
    assert sending.line.is_closed()
    sending.line.hang_up()
    assert served.ended() == 0
    assert (tmp_path / "in" / "file").read_bytes() == sending.data


@ENDS
def test_a_stalled_fragment_is_cut_at_the_drain_time_and_its_bytes_are_kept(
    start: Start, configure: Configure, tmp_path: Path, ending: signal.Signals
) -> None:
    config = configure(limits="drain_time = 0.5\nlinger_time = 0.5")
    served = start("--config", config).ready()
    sending = Sending(served)
    assert arrived(tmp_path / "store", 1 << 19)
    begun = time.monotonic()
    served.tell(ending)
    answer = sending.line.answer()
    assert (answer.status, answer.received) == (503, 1 << 19)
    assert answer.get("Retry-After")
    assert time.monotonic() - begun > 0.4
    assert served.ended() == 0
    sending.line.hang_up()

    with start("--config", config).ready().line() as line:
        rest = sending.data[1 << 19 :]
        ack = line.ask(raw.fragment(sending.url, sending.session, rest, at=1 << 19))
        assert (ack.status, ack.received) == (200, 1 << 20)
    assert (tmp_path / "in" / "file").read_bytes() == sending.data


# A disk that takes a second to put a file in its place.
SLOWLY = """
import sys, time
from bitsferry.cli.main import main
from bitsferry.store import publishing
publish = publishing.publish
def publish_slowly(*arguments):
    time.sleep(1)
    publish(*arguments)
publishing.publish = publish_slowly
main(["serve", *sys.argv[1:]])
"""


def test_the_store_is_let_go_when_nothing_works_in_it_any_more(
    start: Start, configure: Configure, tmp_path: Path
) -> None:
    config = configure(limits="drain_time = 0.1\nlinger_time = 0.1")
    served = start("--config", config, command=[sys.executable, "-c", SLOWLY]).ready()
    with served.line() as line:
        session = line.ask(raw.create("/in/file")).session or ""
        line.send(raw.fragment("/in/file", session, b"whole"))
        assert arrived(tmp_path / "store", 5)
        served.tell(signal.SIGTERM)
        assert served.ended() == 0
    assert served.log.count("INFO file received") == 1
    assert (tmp_path / "in" / "file").read_bytes() == b"whole"


def test_a_second_interrupt_waits_for_nobody(start: Start, configure: Configure, tmp_path: Path) -> None:
    served = start("--config", configure(limits="drain_time = 600\nlinger_time = 600")).ready()
    sending = Sending(served)
    assert arrived(tmp_path / "store", 1 << 19)
    served.tell(signal.SIGINT)
    assert served.says("stopping")
    served.tell(signal.SIGINT)
    assert sending.line.answer().received == 1 << 19
    served.tell(signal.SIGINT)
    assert served.ended() == 0
    sending.line.hang_up()
