"""Tells a job's owner that it is transferred or failed, by a callback or a program of his."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from bitsferry.client.job import Job
from bitsferry.protocol.hresult import HResult, spell

__all__ = ["TIME_LIMIT", "Callback", "tell_owner"]

logger = logging.getLogger(__name__)

TIME_LIMIT = 3600.0  # seconds a program may take
OUTPUT = 4096  # bytes of what it said go to the log
LAST_MOMENT = 2.0  # seconds between asking a program to end and ending it
_LOOK = 0.1  # seconds

Callback = Callable[[Job], object]
"""Hears of the job; what it raises means that it has not."""


def tell_owner(
    job: Job,
    callback: Callback | None = None,
    *,
    time_limit: float = TIME_LIMIT,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Whether he heard: the callback returned, or his program exited with 0, or he wants no more.

    The program runs only if there is no callback, or if that failed (Learn, SetNotifyCmdLine). After
    `time_limit` seconds, or when `stop` says so, it is ended.
    """
    if callback is not None:
        try:
            callback(job)
            return True
        except Exception:
            logger.exception("callback failed", extra={"job": job.id})
    if job.notify_command:
        return _run(job, time.monotonic() + time_limit, stop)
    return callback is None


def _run(job: Job, deadline: float, stop: Callable[[], bool]) -> bool:
    program, *arguments = job.notify_command
    facts: dict[str, object] = {"job": job.id, "program": program}  # the arguments may be secret
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                [shutil.which(program) or program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | _environment(job),
                start_new_session=True,
                creationflags=_FLAGS,
            )
        except (OSError, ValueError) as error:
            logger.warning("notify command cannot be run", extra=facts | {"error": str(error)})
            return False
        with process:
            while process.poll() is None:
                if stop() or time.monotonic() > deadline:
                    _end(process)
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_LOOK)
        output.seek(0)
        said = output.read(OUTPUT).decode(errors="replace").strip()
    heard: bool = process.returncode == 0
    logger.log(
        logging.INFO if heard else logging.WARNING,
        "notify command ended",
        extra=facts | {"exit_code": process.returncode, "said": said or None},
    )
    return heard


def _environment(job: Job) -> dict[str, str]:
    file = job.files[0] if job.files else None
    return {
        "BITSFERRY_JOB_ID": job.id,
        "BITSFERRY_JOB_NAME": job.name,
        "BITSFERRY_JOB_STATE": job.state.name,
        "BITSFERRY_JOB_TYPE": job.type.name,
        "BITSFERRY_HRESULT": spell(HResult.S_OK if job.error is None else job.error.hresult),
        "BITSFERRY_URL": "" if file is None else file.remote,
        "BITSFERRY_FILE": "" if file is None else file.local,
    }


# A program has a session of its own: what ends the runner at the terminal does not end it half-way, and with
# it ends whatever it started.

if sys.platform == "win32":
    _FLAGS = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP

    def _end(process: subprocess.Popen[bytes]) -> None:
        process.kill()

else:
    _FLAGS = 0

    def _end(process: subprocess.Popen[bytes]) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, number)
                process.wait(LAST_MOMENT)
                return
