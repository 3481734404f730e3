"""What Ctrl-C and SIGTERM do to a command that works in the foreground."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Terminated", "exit_code_of", "interruptible"]


class Terminated(BaseException):
    """The system, or whoever looks after it, wants the process to end: SIGTERM."""


def exit_code_of(end: BaseException) -> int:
    """130 when a person pressed Ctrl-C; 75 when the system ended it: it may be tried again."""
    return 75 if isinstance(end, Terminated) else 130


@contextmanager
def interruptible(at_once: Callable[[], None]) -> Iterator[None]:
    """Within, Ctrl-C raises KeyboardInterrupt at once, and SIGTERM raises Terminated.

    Whoever says it a second time does not want to wait for what the first has set going: then `at_once` is
    called and the process ends. In any thread but the main one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def first(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, second)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    def second(number: int, frame: FrameType | None) -> None:
        try:
            at_once()
        finally:
            os._exit(exit_code_of(KeyboardInterrupt() if number == signal.SIGINT else Terminated()))

    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # a shell's background job: its Ctrl-C is somebody else's
                signal.signal(number, first)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
