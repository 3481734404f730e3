"""Several processes that serve the same listeners, watched by their parent."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable

__all__ = ["Work", "supervise"]

logger = logging.getLogger(__name__)

_RESTART_PAUSE = (
    1  # seconds until a worker that died is replaced: one that cannot live must not eat the machine
)
_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM}

Work = Callable[[int, Callable[[], None], int], None]
"""What a worker does: called with its number, what to call when it is ready, and its `lifeline`, a descriptor
that can be read (as empty) when the parent is gone."""


def supervise(
    count: int,
    work: Work,
    *,
    ready: Callable[[], None],
    reload: Callable[[], bool],
    stopping: Callable[[], None],
) -> bool:
    """Let `count` processes `work` until SIGTERM or SIGINT, and replace those that die.

    `ready` is called when all are. At SIGHUP `reload` is called, and when it returns true, the workers get
    the signal, too. `stopping` is called before they are told to end. Returns when every worker has ended;
    false when one could not even start.
    """
    # Signals are taken one by one, where we wait for them, and never in the middle of something.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    for noted in (signal.SIGCHLD, signal.SIGALRM):
        signal.signal(noted, lambda *_: None)  # some systems do not even note what is ignored
    lifeline = os.pipe()
    workers: dict[int, int] = {}  # the number of each process

    def start(number: int) -> bool:
        process, is_ready = _start(number, work, lifeline)
        workers[process] = number
        return is_ready

    def tell(signal_number: int) -> None:
        for process in workers:
            os.kill(process, signal_number)

    started = all(start(number) for number in range(count))
    if started:
        ready()
    else:
        tell(signal.SIGTERM)
    over = not started
    while workers or not over:
        match signal.sigwait(_SIGNALS):
            case signal.SIGTERM | signal.SIGINT:
                if not over:
                    stopping()
                over = True
                tell(signal.SIGTERM)
            case signal.SIGHUP:
                if not over and reload():
                    tell(signal.SIGHUP)
            case signal.SIGALRM if not over:
                for number in set(range(count)) - set(workers.values()):
                    start(number)
            case signal.SIGCHLD:
                _bury(workers, expected=over)
                if not over and len(workers) < count:
                    signal.alarm(_RESTART_PAUSE)
    return started


def _start(number: int, work: Work, lifeline: tuple[int, int]) -> tuple[int, bool]:
    """Fork a worker; returns its process, and whether it got ready, when it is or when it died."""
    reader, writer = os.pipe()
    process = os.fork()
    if process:
        os.close(writer)
        with open(reader, "rb", buffering=0) as line:
            return process, line.read(1) == b"1"
    status: object = 1
    try:
        os.close(reader)
        os.close(lifeline[1])
        for one in _SIGNALS:
            signal.signal(one, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        work(number, lambda: _say_ready(writer), lifeline[0])
        status = 0
    except SystemExit as end:
        status = end.code
    except Exception:
        logger.exception("worker %d failed", number)
    finally:
        sys.stdout.flush()
        os._exit(status if isinstance(status, int) else 1)


def _say_ready(writer: int) -> None:
    os.write(writer, b"1")
    os.close(writer)


def _bury(workers: dict[int, int], *, expected: bool) -> None:
    """Take out of `workers` those that ended."""
    for process, number in list(workers.items()):
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            del workers[process]
            if not expected:
                logger.error(
                    "a worker ended; another one starts", extra={"worker": number, "how": _how(status)}
                )


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
