"""Waits end when something comes, when the time is over, or when nobody wants to wait any more."""

import contextlib
import errno
import socket
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from bitsferry.client import waiting


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        yield listener


def never() -> bool:
    return False


def test_what_is_seen_ends_a_wait() -> None:
    looks = iter(["", "", "something"])
    assert waiting.wait(lambda seconds: next(looks), 60, never) == "something"


def test_a_wait_is_over_in_time() -> None:
    began = time.monotonic()
    assert not waiting.wait(threading.Event().wait, 0.1, never)
    assert 0.1 <= time.monotonic() - began < waiting.SPELL


def test_nobody_waits_longer_than_anybody_wants() -> None:
    with pytest.raises(ConnectionAbortedError):
        waiting.wait(lambda seconds: None, 60, lambda: True)


def test_a_rest_ends_when_it_shall() -> None:
    end, began = threading.Event(), time.monotonic()
    threading.Timer(0.05, end.set).start()
    waiting.rest(60, end)
    assert time.monotonic() - began < waiting.SPELL


def test_a_host_is_reached_at_the_first_address_that_answers(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        addresses = [nobody.getsockname(), listener.getsockname()]
        found = [(int(socket.AF_INET), socket.SOCK_STREAM, 6, "", address) for address in addresses]
        found.insert(0, (-7, socket.SOCK_STREAM, 6, "", nobody.getsockname()))  # a family we have not
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with waiting.connect("receiver", 80, 5, never) as sock:
            assert sock.getpeername() == listener.getsockname()


def test_where_nobody_listens_the_system_says_so() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError) as refused:
            waiting.connect("127.0.0.1", nobody.getsockname()[1], 5, never)
    assert refused.value.errno == errno.ECONNREFUSED
    assert refused.value.strerror


@pytest.mark.skipif(sys.platform != "linux", reason="others refuse what Linux lets wait")
def test_a_host_that_does_not_answer_is_given_up(listener: socket.socket) -> None:
    with contextlib.ExitStack() as callers:
        for _ in range(3):  # more than the system keeps for a listener that accepts nobody
            caller = callers.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        with pytest.raises(TimeoutError):
            waiting.connect("127.0.0.1", listener.getsockname()[1], 0.1, never)
