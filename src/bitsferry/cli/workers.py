"""Several processes that serve the same listeners, watched by their parent."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable

__all__ = ["supervise"]

logger = logging.getLogger(__name__)

_RESTART_PAUSE = 1.0  # seconds between two starts of a worker that died


def supervise(count: int, work: Callable[[int, Callable[[], None]], None], ready: Callable[[], None]) -> None:
    """Run `work(number, worker_is_ready)` in `count` processes until SIGTERM or SIGINT.

    `ready` is called once all of them are. A worker that dies is started anew; SIGHUP reaches all. Returns
    when every worker has ended.
    """
    workers: dict[int, int] = {}
    stopping = False

    def pass_on(number: int, frame: object) -> None:
        nonlocal stopping
        stopping = stopping or number != signal.SIGHUP
        for process in workers:
            os.kill(process, number)

    waiting = []
    for number in range(count):
        process, line = _start(number, work)
        workers[process] = number
        waiting.append(line)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    if all(_said_ready(line) for line in waiting):
        ready()
    else:
        pass_on(signal.SIGTERM, None)
    failed = False
    while workers:
        process, status = os.wait()
        number = workers.pop(process, -1)
        if number < 0 or stopping:
            failed = failed or (status != 0 and not stopping)
            continue
        logger.error("worker %d died (%s); starting another", number, _how(status))
        time.sleep(_RESTART_PAUSE)
        process, line = _start(number, work)
        workers[process] = number
        _said_ready(line)
    if failed:
        sys.exit(1)


def _start(number: int, work: Callable[[int, Callable[[], None]], None]) -> tuple[int, int]:
    """Fork a worker; returns its process and the end of a pipe it writes to when it is ready."""
    reader, writer = os.pipe()
    process = os.fork()
    if process:
        os.close(writer)
        return process, reader
    os.close(reader)
    status = 1
    try:
        for default in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(default, signal.SIG_DFL)
        work(number, lambda: _say_ready(writer))
        status = 0
    except Exception:
        logger.exception("worker %d failed", number)
    finally:
        sys.stdout.flush()
        os._exit(status)


def _say_ready(writer: int) -> None:
    os.write(writer, b"1")
    os.close(writer)


def _said_ready(reader: int) -> bool:
    try:
        return os.read(reader, 1) == b"1"
    finally:
        os.close(reader)


def _how(status: int) -> str:
    return (
        f"signal {os.WTERMSIG(status)}"
        if os.WIFSIGNALED(status)
        else f"exit {os.waitstatus_to_exitcode(status)}"
    )
