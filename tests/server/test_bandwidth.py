"""A real server reads no faster than it may, does not work while it waits, and loses nothing."""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from . import raw
from .conftest import Serve
from .ferry import Ferry

FINE = (200, None)
KB = 1000


def seconds_of(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def processor_seconds(ferry: Ferry) -> float:
    fields = Path(f"/proc/{ferry.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("which", ["bandwidth", "bandwidth_per_user", "bandwidth_per_connection"])
def test_a_file_comes_no_faster_than_it_may(serve: Serve, which: str) -> None:
    """Its first half is large enough to be pulled, the second one is pushed."""
    ferry = serve(directory=f'{which} = "400 KB/s"')
    upload, data = ferry.begun(), os.urandom(400 * KB)
    assert 0.7 < seconds_of(lambda: upload.fragment(data)) < 5
    assert upload.file.read_bytes() == data


def test_a_wide_limit_holds_nobody_up(serve: Serve) -> None:
    ferry = serve(directory='bandwidth = "10 GB/s"')
    upload, data = ferry.begun(), os.urandom(1000 * KB)
    assert seconds_of(lambda: upload.fragment(data)) < 2
    assert upload.file.read_bytes() == data


def test_small_fragments_are_no_way_around(serve: Serve) -> None:
    ferry = serve(directory='bandwidth_per_connection = "200 KB/s"')
    upload, data = ferry.begun(), os.urandom(200 * KB)
    assert 0.7 < seconds_of(lambda: upload.send(data, 4 * KB)) < 5
    assert upload.file.read_bytes() == data


def test_connections_share_and_are_told_apart(serve: Serve) -> None:
    """Three times 200 KB through 400 KB/s are 1.5 s, through 400 KB/s for each they are half a second."""
    took = []
    for which in ("bandwidth", "bandwidth_per_connection"):
        ferry = serve(directory=f'{which} = "400 KB/s"')
        uploads, data = [ferry.begun() for _ in range(3)], os.urandom(200 * KB)
        threads = [threading.Thread(target=upload.fragment, args=(data,)) for upload in uploads]

        def send(threads: list[threading.Thread] = threads) -> None:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        took.append(seconds_of(send))
        assert [upload.file.read_bytes() for upload in uploads] == [data] * 3
    assert took[0] > 1.1
    assert took[1] < took[0]


def test_a_line_that_we_slow_down_is_not_taken_for_a_broken_one(serve: Serve) -> None:
    """The first fragment costs a second and a half, which is more than a client may be silent."""
    ferry = serve(directory='bandwidth = "8 KB/s"', limits='stall_time = "0.2 s"')
    upload, data = ferry.begun(), os.urandom(14 * KB)
    assert seconds_of(lambda: upload.send(data, 12 * KB)) > 0.9
    assert upload.file.read_bytes() == data


def test_a_client_that_is_silent_is_let_go_all_the_same(serve: Serve) -> None:
    ferry = serve(directory='bandwidth = "200 KB/s"', limits='stall_time = "0.3 s"')
    upload = ferry.begun()
    upload.line.send(raw.fragment(upload.url, upload.session, bytes(1000), total=1000)[:-500])
    assert upload.line.is_closed()


def test_waiting_is_no_work(serve: Serve) -> None:
    ferry = serve(directory='bandwidth = "300 KB/s"')
    upload = ferry.begun()
    before = processor_seconds(ferry)
    took = seconds_of(lambda: upload.fragment(os.urandom(400 * KB)))
    assert processor_seconds(ferry) - before < took / 2


def test_a_newer_request_does_not_wait_for_a_slow_one(serve: Serve) -> None:
    ferry = serve(directory='bandwidth_per_connection = "20 KB/s"')
    upload, data = ferry.begun(), os.urandom(60 * KB)
    older = upload.line
    older.send(raw.fragment(upload.url, upload.session, data))
    assert raw.eventually(lambda: any(path.stat().st_size for path in ferry.folder.rglob("request.data")))
    with ferry.line() as line:
        asked = raw.fragment(upload.url, upload.session, b"?", at=len(data) - 1, total=len(data))
        answer = line.ask(asked)
        assert answer.verdict == (416, None)
        assert answer.received
        rest = data[answer.received : answer.received + 5 * KB]
        asked = raw.fragment(upload.url, upload.session, rest, at=answer.received, total=len(data))
        assert line.ask(asked).received == answer.received + len(rest)
    assert older.answer().status == 503


def test_what_arrived_of_a_broken_line_stays(serve: Serve) -> None:
    ferry = serve(directory='bandwidth = "100 KB/s"')
    upload, data = ferry.begun(), os.urandom(100 * KB)
    upload.line.send(raw.fragment(upload.url, upload.session, data)[: -60 * KB])
    assert raw.eventually(
        lambda: [path.stat().st_size > 20 * KB for path in ferry.folder.rglob("request.data")] == [True]
    )
    upload.line.break_off()
    upload.call_again()
    held = upload.held(len(data))
    assert 20 * KB < held <= 40 * KB
    assert upload.fragment(data[held:], at=held).verdict == FINE
    assert upload.file.read_bytes() == data


def test_a_complete_request_is_answered_though_its_client_says_no_more(serve: Serve) -> None:
    """Its bytes came with the head, wait for their turn, and the line is half closed meanwhile."""
    ferry = serve(directory='bandwidth = "20 KB/s"')
    first, second = ferry.begun(), ferry.begun()
    assert first.fragment(bytes(10 * KB), total=11 * KB).verdict == FINE
    second.line.send(raw.fragment(second.url, second.session, b"bytes"))
    second.line.stop_sending()
    assert second.line.answer().verdict == FINE
    assert second.file.read_bytes() == b"bytes"


def test_a_server_that_ends_does_not_wait_for_slow_bodies(serve: Serve) -> None:
    ferry = serve(directory='bandwidth = "20 KB/s"', limits='drain_time = "0.2 s"\nlinger_time = "0.2 s"')
    upload = ferry.begun()
    upload.line.send(raw.fragment(upload.url, upload.session, os.urandom(1000 * KB))[: 300 * KB])
    assert raw.eventually(lambda: any(path.stat().st_size for path in ferry.folder.rglob("request.data")))
    ferry.terminate()
    assert ferry.ended() == 0
    assert any(path.stat().st_size for path in ferry.folder.rglob("request.data"))


def test_over_tls_it_is_the_same(serve: Serve) -> None:
    authority = trustme.CA()
    ferry = serve(directory='bandwidth = "400 KB/s"')
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(ferry.folder / "pem"))
    settings = (ferry.folder / "bitsferry.toml").read_text()
    listen = 'listen = ["http://127.0.0.1:0", "https://127.0.0.1:0"]'
    ferry.configure(
        settings.replace('listen = ["127.0.0.1:0"]', listen) + '\n[tls]\ncertificate = "pem"\n',
    )
    ferry.restart()
    assert ferry.process.stdout is not None
    port = urlsplit(ferry.process.stdout.readline().split()[-1]).port
    context = ssl.create_default_context()
    authority.configure_trust(context)
    data = os.urandom(400 * KB)
    with closing(HTTPSConnection("127.0.0.1", port, context=context, timeout=10)) as line:
        upload = ferry.begun()
        headers = {
            "BITS-Packet-Type": "Fragment",
            "BITS-Session-Id": upload.session,
            "Content-Range": f"bytes 0-{len(data) - 1}/{len(data)}",
        }
        line.request("BITS_POST", upload.url, headers=headers, body=data)
        assert 0.7 < seconds_of(lambda: line.getresponse().read()) < 5
    assert upload.file.read_bytes() == data


def test_new_settings_change_the_speed(serve: Serve) -> None:
    ferry = serve(directory='bandwidth = "20 KB/s"')
    assert ferry.begun().fragment(bytes(5 * KB)).verdict == FINE
    settings = (ferry.folder / "bitsferry.toml").read_text()
    ferry.configure(settings.replace("20 KB/s", "20 MB/s"))
    ferry.reload()
    assert raw.eventually(lambda: "settings read again" in ferry.log.read_text())
    assert seconds_of(lambda: ferry.begun().fragment(bytes(400 * KB))) < 3
