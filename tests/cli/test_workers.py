"""`--workers`: several processes that look like one server."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from server import raw
from server.raw import Line

from .conftest import Configure, Start
from .serving import Sending, Served, arrived, is_alive, put

TWO = ("--workers", "2")


@pytest.fixture
def served(start: Start, configure: Configure) -> Served:
    return start("--config", configure(limits="drain_time = 60"), *TWO).ready()


def line_to(served: Served, worker: int, stack: ExitStack) -> Line:
    """A connection that this worker took."""
    for _ in range(300):
        line = stack.enter_context(served.line())
        assert raw.eventually(lambda line=line: served.serving(line) != 0)
        if served.serving(line) == worker:
            return line
    raise AssertionError("this worker takes no connections")


def test_both_serve_and_an_upload_begun_with_one_is_ended_by_the_other(
    served: Served, tmp_path: Path
) -> None:
    first, second = served.workers
    with ExitStack() as stack:
        one, other = line_to(served, first, stack), line_to(served, second, stack)
        session = one.ask(raw.create("/in/file")).session or ""
        assert other.ask(raw.fragment("/in/file", session, b"from ", total=9)).received == 5
        assert one.ask(raw.fragment("/in/file", session, b"both", at=5)).received == 9
        assert other.ask(raw.close("/in/file", session)).status == 200
        assert one.ask(raw.close("/in/file", session)).status == 200
    assert (tmp_path / "in" / "file").read_bytes() == b"from both"


def test_the_newest_request_of_an_upload_wins_over_one_in_the_other_process(
    served: Served, tmp_path: Path
) -> None:
    sending = Sending(served)
    assert arrived(tmp_path / "store", 1 << 19)
    (newer,) = set(served.workers) - {served.serving(sending.line)}
    with ExitStack() as stack:
        line = line_to(served, newer, stack)
        ack = line.ask(raw.fragment(sending.url, sending.session, sending.data))
        assert (ack.status, ack.received) == (200, 1 << 20)
        assert sending.line.answer().status == 503
    sending.line.hang_up()
    assert (tmp_path / "in" / "file").read_bytes() == sending.data


def test_a_worker_that_is_killed_is_replaced_and_knows_the_newest_settings(
    served: Served, configure: Configure
) -> None:
    configure(directory="max_upload_size = 100")
    served.tell(signal.SIGHUP)
    assert served.says("settings read again")
    configure(directory="a typo")
    served.tell(signal.SIGHUP)
    assert served.says("the settings stay as they were")

    killed, other = served.workers
    os.kill(killed, signal.SIGKILL)
    assert served.says("ERROR a worker ended; another one starts worker=0 how=SIGKILL")
    assert raw.eventually(lambda: len(set(served.workers) - {killed}) == 2)
    (fresh,) = set(served.workers) - {killed, other}
    with ExitStack() as stack:
        line = line_to(served, fresh, stack)
        assert put(line, "/in/large", bytes(101)).verdict == (500, 0x80200020)
        assert put(line, "/in/small", bytes(100)).status == 200
    served.tell(signal.SIGTERM)
    assert served.ended() == 0


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_all_end_with_the_server_which_finishes_what_runs(
    served: Served, tmp_path: Path, ending: signal.Signals
) -> None:
    workers = served.workers
    sending = Sending(served)
    assert arrived(tmp_path / "store", 1 << 19)
    served.tell(ending)
    assert served.says("stopping")
    assert raw.eventually(lambda: served.refuses)
    assert raw.eventually(lambda: len(served.workers) == 1)  # the idle one goes at once
    assert sending.finish().received == 1 << 20
    sending.line.hang_up()
    assert served.ended() == 0
    assert not any(map(is_alive, workers))


def test_what_a_terminal_does_at_ctrl_c_is_one_interrupt(served: Served, tmp_path: Path) -> None:
    sending = Sending(served)
    assert arrived(tmp_path / "store", 1 << 19)
    for pid in [*served.workers, served.pid]:
        os.kill(pid, signal.SIGINT)
    assert served.says("stopping")
    assert sending.line.is_silent()
    assert sending.finish().received == 1 << 20
    sending.line.hang_up()
    assert served.ended() == 0


def test_none_outlives_a_server_that_was_killed(served: Served) -> None:
    workers = served.workers
    served.tell(signal.SIGKILL)
    served.ended()
    assert raw.eventually(lambda: not any(map(is_alive, workers)))


def test_a_worker_told_to_end_is_replaced_like_any_other(served: Served) -> None:
    ended, other = served.workers
    begun = time.monotonic()
    os.kill(ended, signal.SIGTERM)
    assert served.says("a worker ended; another one starts worker=0")
    assert raw.eventually(lambda: len(set(served.workers) - {ended}) == 2)
    assert other in served.workers
    assert time.monotonic() - begun > 0.9  # one that cannot live must not eat the machine


def test_it_says_that_it_listens_once(served: Served) -> None:
    assert len(served.urls) == 1
    assert len(served.workers) == 2
