"""Watches a process's system calls, counts them, lets one fail or kills the process in front of it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import pytest

# What changes a disk, and `access`, by which our programs leave marks in a trace.
CHANGES = (
    "open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat"
    ",rmdir,write,pwrite64,writev,ftruncate,fallocate,copy_file_range,sendfile,splice,fsync,fdatasync,fchmod"
    ",utimensat,access,faccessat,faccessat2"
)
# What asks a disk, too.
EVERYTHING = CHANGES + ",stat,lstat,newfstatat,fstat,statx,statfs,close,lseek,getdents64,read,pread64"

_LINE = re.compile(r"(?:\[pid +(?P<pid>\d+)\] )?(?P<name>\w+)\((?P<rest>.*)")
_RESUMED = re.compile(r"(?:\[pid +(?P<pid>\d+)\] )?<\.\.\. \w+ resumed>(?P<rest>.*)")
_NAMESPACE = re.compile(r"^/proc/\d+/root(?=/)")  # through which disks.py shows us mounts
_UNFINISHED = " <unfinished ...>"


@dataclass(frozen=True)
class Call:
    """A system call as strace shows it: the `nth` of its name in its thread."""

    pid: str
    name: str
    nth: int
    text: str

    @property
    def worked(self) -> bool:
        return re.search(r"= -1 |= \?", self.text) is None

    @property
    def mark(self) -> str | None:
        """What our program says it has done, if this call is such a mark."""
        match = re.search(r'"/mark/(\w+)"', self.text)
        return match[1] if match else None

    @property
    def descriptor(self) -> str:
        """The path of the file the call's first argument is open on."""
        match = re.match(r"\d+<([^>]*)>", self.text)
        return match[1] if match else ""

    @property
    def opened(self) -> str:
        """The path of the file the call opened."""
        match = re.search(r"= \d+<([^>]*)>", self.text)
        return match[1] if match else ""

    @property
    def paths(self) -> list[str]:
        """The paths the call names, each resolved against the folder descriptor in front of it."""
        found = []
        for match in re.finditer(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"', self.text):
            folder, name = match[1] or "/", _NAMESPACE.sub("", match[2])
            found.append(str(Path(folder) / name))
        return found

    def __str__(self) -> str:
        return f"{self.name} {self.nth}: {self.text}"


def read_calls(lines: Iterable[str]) -> list[Call]:
    """The calls of a trace, in the order in which they ended."""
    calls, counts = [], Counter[tuple[str, str]]()
    begun: dict[str, tuple[str, int, str]] = {}
    for line in lines:
        if match := _RESUMED.match(line):
            pid = match["pid"] or ""
            if pid in begun:
                name, nth, text = begun.pop(pid)
                calls.append(Call(pid, name, nth, text + match["rest"].rstrip()))
        elif match := _LINE.match(line):
            pid, name, rest = match["pid"] or "", match["name"], match["rest"].rstrip()
            counts[pid, name] += 1
            if rest.endswith(_UNFINISHED):
                begun[pid] = name, counts[pid, name], rest.removesuffix(_UNFINISHED)
            else:
                calls.append(Call(pid, name, counts[pid, name], rest))
    calls += [Call(pid, name, nth, text + " = ?") for pid, (name, nth, text) in begun.items()]
    return calls


class Trace:
    """A strace at work."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.lines: list[str] = []

    def stop(self) -> None:
        """Let go of the process, which lives on."""
        self._process.send_signal(signal.SIGINT)

    def read(self) -> None:
        """The lines, when the process has ended or strace has let it go."""
        assert self._process.stderr is not None
        self.lines += self._process.stderr.readlines()


@contextmanager
def traced(pid: int, trace: str, inject: str | None = None) -> Iterator[Trace]:
    """strace attached to all threads of a process; it has the lines afterwards."""
    if shutil.which("strace") is None:
        pytest.skip("there is no strace here")
    command = ["strace", "-f", "-y", "-s", "256", "-e", f"trace={trace}", "-e", "signal=none"]
    strace = subprocess.Popen(
        [*command, *(["-e", f"inject={inject}"] if inject else []), "-p", str(pid)],
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    assert strace.stderr is not None
    try:
        while "attached" not in (line := strace.stderr.readline()):
            if not line or "Operation not permitted" in line:
                pytest.skip(f"strace cannot attach here: {line.strip()}")
        work = Trace(strace)
        yield work
        work.read()
    finally:
        strace.terminate()
        strace.stderr.close()
        strace.wait()


@dataclass
class Played:
    """What came of a piece of work."""

    calls: list[Call]
    answer: Any = None
    killed: bool = False


class Stage:
    """Lets a program of ours do pieces of work, each in a process of its own, under strace."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.close()
        self._said.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def _line(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _said(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def play(self, task: dict[str, Any], *, trace: str = CHANGES, inject: str | None = None) -> Played:
        """Do a task; `inject` is what strace does to it."""
        self._say(json.dumps(task) + "\n")
        pid = self._said.readline()
        assert "ended" not in pid, "the work could not be prepared"
        with traced(int(pid), trace, inject) as strace:
            self._say("go\n")
            said = []
            while not (line := self._said.readline()).startswith("ended "):
                assert line, "the stage has gone"
                said.append(line)
        played = Played(read_calls(strace.lines), killed=line == "ended -9\n")
        if not played.killed:
            assert line == "ended 0\n", "the work came to a bad end"
            played.answer = json.loads(said[-1])
        return played

    def _say(self, words: str) -> None:
        with suppress(BrokenPipeError):
            self._line.write(words)
            self._line.flush()


@dataclass
class Disk:
    """What a power cut would take, told from the system calls: data and names that were not synced since.

    Names that were deleted do not count: if they come back, nobody lost a byte.
    """

    data: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    def run(self, calls: Iterable[Call]) -> Iterator[str]:
        """Play the calls; yields at every mark, when `unsynced` can be asked."""
        for call in calls:
            if call.mark:
                yield call.mark
            elif call.worked:
                self._play(call)

    def _play(self, call: Call) -> None:
        match call.name:
            case "write" | "pwrite64" | "writev" | "ftruncate" | "fallocate":
                self.data.add(call.descriptor)
            case "copy_file_range" | "sendfile" | "splice":
                self.data |= set(re.findall(r"<([^>]*)>", call.text)[-2:])
            case "open" | "openat" | "creat":
                if "O_CREAT" in call.text:
                    self.names.add(call.opened)
            case "mkdir" | "mkdirat":
                self.names.add(call.paths[0])
            case "link" | "linkat":
                old, new = call.paths
                self.names.add(new)
                if old in self.data:
                    self.data.add(new)
            case "rename" | "renameat" | "renameat2":
                old, new = call.paths
                self._forget(new)
                if old in self.data:
                    self.data.add(new)
                self._forget(old)
                self.names.add(new)
            case "unlink" | "unlinkat" | "rmdir":
                self._forget(call.paths[0])
            case "fsync" | "fdatasync":
                self.data.discard(call.descriptor)
                if call.name == "fsync":
                    self.names = {path for path in self.names if str(Path(path).parent) != call.descriptor}

    def _forget(self, path: str) -> None:
        self.data.discard(path)
        self.names.discard(path)

    def unsynced(self, under: Path) -> set[str]:
        """What lies under a folder and would be lost."""
        return {path for path in self.data | self.names if Path(path).is_relative_to(under)}
