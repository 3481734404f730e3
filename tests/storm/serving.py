"""Servers that can be killed and started again at the same port."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path


def free_port() -> int:
    """A port nobody has, nor gets while we restart: it lies below those the system gives to clients."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Serving:
    """A server in a process group of its own."""

    def __init__(self, folder: Path, log: Path, *options: str) -> None:
        self.port = free_port()
        self._log = log
        self._command = [sys.executable, "-m", "bitsferry", "serve", str(folder), *options]
        self._command += ["--listen", f"127.0.0.1:{self.port}"]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns when it is ready."""
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("listening on"), self._log.read_text()[-2000:]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def workers(self) -> list[int]:
        """The processes that serve."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(child) for child in children] or [self.pid]

    def kill(self) -> None:
        """As the kernel does when memory is short, or a person who pulls the plug."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._end()

    def stop(self) -> int:
        """As the system does when it goes down; returns the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._end()

    def _end(self) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            return self._process.wait(20)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.stdout.close()
            self._process = None


@dataclass
class Servers:
    """One server after the other, at the same port, as `preloaded` starts them."""

    process: subprocess.Popen[str]
    port: int = field(default_factory=free_port)
    pid: int = 0

    def start(self, *arguments: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([*arguments, "--listen", f"127.0.0.1:{self.port}"]) + "\n")
        self.process.stdin.flush()
        said = {self._hear(), self._hear()}
        assert any(line.startswith("listening on") for line in said), said
        self.pid = next(int(line.split()[1]) for line in said if line.startswith("pid"))

    def ended(self) -> int:
        """How it ended."""
        word, code = self._hear().split()
        assert word == "ended"
        self.pid = 0
        return int(code)

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self.ended()

    def _hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()
