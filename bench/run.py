"""`make bench`: what a stored GiB costs bitsferry, beside a plain C loop and nginx in the same run.

Every measurement has a fresh server, an empty folder and a short warm-up before it. The servers take turns
within each round, so that a busy minute of the machine hits all of them; the tables show medians. Figures are
printed, never judged: README.md says how to read them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

from competitors import BenchError, Server, competitors, cpu_seconds, resident, running

HERE = Path(__file__).resolve().parent
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
ROOM = (
    4 * GIB
)  # of disk, and of memory: a run takes about three quarters of it, all given back before the next
CONNECTIONS = 16
CREATE_CONNECTIONS = 64
CREATE_SECONDS = 3
IDLE_CONNECTIONS = 2000

Figures = TypeVar("Figures")


@dataclass(frozen=True)
class Transfer:
    """A scenario that moves bytes: `total` of them, in files of `file`, each in fragments of `fragment`."""

    name: str
    fragment: int
    file: int
    total: int

    def scaled(self, scale: float) -> Transfer:
        """The same with more or less to send: as many files, of whole fragments."""
        file = max(1, round(self.file * scale / self.fragment)) * self.fragment
        return replace(self, file=file, total=self.total // self.file * file)


TRANSFERS = (
    Transfer("64KiB", fragment=64 * KIB, file=32 * MIB, total=1 * GIB),
    Transfer("1MiB", fragment=1 * MIB, file=64 * MIB, total=2 * GIB),
    Transfer("16MiB", fragment=16 * MIB, file=64 * MIB, total=2 * GIB),
)


@dataclass(frozen=True)
class Stored:
    """One run of a transfer: CPU in seconds per GiB, rate in bytes per second, the Acks' times in seconds."""

    cpu: float
    load_cpu: float
    rate: float
    ack_p50: float
    ack_p99: float


@dataclass(frozen=True)
class Created:
    """One run of Create-Session: Acks per second, CPU seconds for each, the Acks' times in seconds."""

    rate: float
    cpu: float
    ack_p50: float
    ack_p99: float


@dataclass(frozen=True)
class Idled:
    """Resident bytes with no connection, and with all of them."""

    before: int
    after: int


class Bench:
    """The measurements, given the load generator and the folder for what the servers store."""

    def __init__(self, load: Path, root: Path) -> None:
        self.load = str(load)
        self.root = root

    @contextmanager
    def place(self) -> Iterator[tuple[Path, Path]]:
        """An empty folder for uploads and one for logs, deleted at the end."""
        with (
            tempfile.TemporaryDirectory(prefix="bitsferry-bench-", dir=self.root) as folder,
            tempfile.TemporaryDirectory(prefix="bitsferry-bench-logs-") as work,
        ):
            yield Path(folder), Path(work)

    def run_load(self, port: int, *options: str) -> dict[str, float]:
        """What the load generator counted."""
        ended = subprocess.run(
            [self.load, "--port", str(port), *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )
        if ended.returncode:
            raise BenchError(ended.stderr.strip() or f"the load generator ended with {ended.returncode}")
        counted: dict[str, float] = json.loads(ended.stdout)
        return counted

    def transfer(self, scenario: Transfer, server: Server) -> Stored:
        options = [f"--connections={CONNECTIONS}", f"--fragment={scenario.fragment}"]
        if not server.speaks_bits:
            options.append("--put")
        warm_up = CONNECTIONS * scenario.fragment
        with self.place() as (folder, work), running(server, folder, work) as it:
            self.run_load(
                it.port, *options, "--prefix=/warm-", f"--file={scenario.fragment}", f"--total={warm_up}"
            )
            before = cpu_seconds(it.pid)
            done = self.run_load(it.port, *options, f"--file={scenario.file}", f"--total={scenario.total}")
            cpu = cpu_seconds(it.pid) - before
            there, told = bytes_below(folder), warm_up + scenario.total
            if there < told:
                raise BenchError(f"{told} bytes were acknowledged, {there} are there")
        gib = done["bytes"] / GIB
        rate = done["bytes"] / done["seconds"]
        return Stored(cpu / gib, done["cpu_seconds"] / gib, rate, done["ack_p50"], done["ack_p99"])

    def create(self, server: Server) -> Created:
        options = ["--create", f"--connections={CREATE_CONNECTIONS}"]
        with self.place() as (folder, work), running(server, folder, work) as it:
            self.run_load(it.port, *options, "--prefix=/warm-", "--seconds=0.2")
            before = cpu_seconds(it.pid)
            done = self.run_load(it.port, *options, f"--seconds={CREATE_SECONDS}")
            cpu = cpu_seconds(it.pid) - before
        acks = done["acks"]
        return Created(acks / done["seconds"], cpu / acks, done["ack_p50"], done["ack_p99"])

    def idle(self, server: Server) -> Idled:
        with self.place() as (folder, work), running(server, folder, work) as it:
            self.run_load(it.port, "--idle", "--connections=1")
            before = resident(it.pid)
            command = [self.load, f"--port={it.port}", "--idle", f"--connections={IDLE_CONNECTIONS}"]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as load:
                if load.stdout is None or not load.stdout.readline():
                    raise BenchError(f"{IDLE_CONNECTIONS} connections could not be opened")
                time.sleep(0.5)
                return Idled(before, resident(it.pid))


class Rounds:
    """The order in which servers take turns, and whether all of them came through."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.all_measured = True

    def measure(
        self, servers: Sequence[Server], run: Callable[[Server], Figures]
    ) -> dict[str, list[Figures]]:
        """The figures of the servers that came through every round; prints a sentence for each other one."""
        taken: dict[str, list[Figures]] = {server.name: [] for server in servers}
        for turn in range(self.number):
            first = turn % len(servers)
            for server in [*servers[first:], *servers[:first]]:
                if server.name not in taken:
                    continue
                try:
                    taken[server.name].append(run(server))
                except BenchError as error:
                    print(f"{server.name} could not be measured: {error}")
                    del taken[server.name]
                    self.all_measured = False
        return taken


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def print_table(*rows: Sequence[str]) -> None:
    """The first row is the head; the first column stands to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        print("  " + "   ".join([name.ljust(widths[0]), *aligned]))
    print(flush=True)


def print_stored(taken: dict[str, list[Stored]], yardstick: str) -> None:
    costs = {name: median(run.cpu for run in runs) for name, runs in taken.items()}
    print_table(
        ["server", "CPU s/GiB", "min-max", "x C loop", "MiB/s", "ack p50", "ack p99", "load's CPU"],
        *(
            [
                name,
                f"{costs[name]:.2f}",
                f"{min(run.cpu for run in runs):.2f}-{max(run.cpu for run in runs):.2f}",
                ratio(costs[name], costs.get(yardstick)),
                f"{median(run.rate for run in runs) / MIB:,.0f}",
                milliseconds(median(run.ack_p50 for run in runs)),
                milliseconds(median(run.ack_p99 for run in runs)),
                f"{median(run.load_cpu for run in runs):.2f}",
            ]
            for name, runs in taken.items()
        ),
    )


def print_created(taken: dict[str, list[Created]], yardstick: str) -> None:
    costs = {name: median(run.cpu for run in runs) for name, runs in taken.items()}
    print_table(
        ["server", "sessions/s", "CPU us each", "x C loop", "ack p50", "ack p99"],
        *(
            [
                name,
                f"{median(run.rate for run in runs):,.0f}",
                f"{costs[name] * 1e6:,.0f}",
                ratio(costs[name], costs.get(yardstick)),
                milliseconds(median(run.ack_p50 for run in runs)),
                milliseconds(median(run.ack_p99 for run in runs)),
            ]
            for name, runs in taken.items()
        ),
    )


def print_idled(taken: dict[str, list[Idled]]) -> None:
    print_table(
        ["server", "VmRSS without", "with", "each"],
        *(
            [
                name,
                f"{median(run.before for run in runs) / MIB:.1f} MiB",
                f"{median(run.after for run in runs) / MIB:.1f} MiB",
                f"{median(run.after - run.before for run in runs) / IDLE_CONNECTIONS / KIB:.1f} KiB",
            ]
            for name, runs in taken.items()
        ),
    )


def ratio(cost: float, yardstick: float | None) -> str:
    return f"{cost / yardstick:.2f}" if yardstick else "-"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.{0 if seconds >= 0.1 else 1 if seconds >= 0.01 else 2}f} ms"


def compile_tools(folder: Path) -> tuple[Path, Path]:
    """The C loop and the load generator."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise BenchError("a C compiler named cc is needed (Debian: apt-get install gcc libc6-dev)")
    for name in ("loop", "load"):
        subprocess.run([compiler, "-O2", "-pthread", "-o", folder / name, HERE / f"{name}.c"], check=True)
    return folder / "loop", folder / "load"


def choose_root(folder: Path | None, needed: float) -> Path:
    """Where the uploads go: into memory unless a folder is named."""
    memory = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    if memory is None or int(memory[1]) * KIB < needed:
        raise BenchError(f"{needed / GIB:.1f} GiB of free memory are needed; --scale takes less")
    tmpfs = Path("/dev/shm")
    if folder is None and tmpfs.is_dir() and shutil.disk_usage(tmpfs).free >= needed:
        return tmpfs
    root = (folder or Path(tempfile.gettempdir())).resolve()
    if not root.is_dir() or shutil.disk_usage(root).free < needed:
        raise BenchError(
            f"a folder with {needed / GIB:.1f} GiB free is needed, {root} is none; --scale takes less"
        )
    return root


def raise_file_limit() -> None:
    """As many open files as the system allows, for every process that is started from here."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def arguments() -> argparse.Namespace:
    names = [*(transfer.name for transfer in TRANSFERS), "create", "idle"]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where uploads go, for a real disk (default: /dev/shm)")
    parser.add_argument("--only", action="append", choices=names, help="this scenario; may be repeated")
    parser.add_argument("--rounds", type=int, default=3, help="how often to measure each server (default: 3)")
    parser.add_argument("--scale", type=float, default=1, help="send this times the usual bytes (default: 1)")
    chosen = parser.parse_args()
    if chosen.rounds < 1 or chosen.scale <= 0:
        parser.error("--rounds is at least 1, --scale is above 0")
    chosen.only = chosen.only or names
    return chosen


def main() -> int:
    """0 when all could be measured, 1 when a server failed."""
    chosen = arguments()
    root = choose_root(chosen.folder, ROOM * max(chosen.scale, 0.25))
    raise_file_limit()
    rounds = Rounds(chosen.rounds)
    with tempfile.TemporaryDirectory(prefix="bitsferry-bench-tools-") as tools:
        loop, load = compile_tools(Path(tools))
        system = f"Linux {platform.release()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
        print(f"{system}, files in {root}, rounds: {rounds.number}")
        servers = competitors(loop, on_disk=chosen.folder is not None)
        speakers = [server for server in servers if server.speaks_bits]
        bench, yardstick = Bench(load, root), servers[0].name
        print(flush=True)
        for transfer in TRANSFERS:
            if transfer.name in chosen.only:
                scenario = transfer.scaled(chosen.scale)
                amount = f"{scenario.total / GIB:.2f} GiB in files of {scenario.file / MIB:.0f} MiB"
                print(f"{scenario.name} fragments, {CONNECTIONS} connections, {amount}", flush=True)
                print_stored(rounds.measure(servers, partial(bench.transfer, scenario)), yardstick)
        if "create" in chosen.only:
            amount = f"{CREATE_CONNECTIONS} connections, {CREATE_SECONDS} seconds"
            print(f"create: Create-Session only, {amount}", flush=True)
            print_created(rounds.measure(speakers, bench.create), yardstick)
        if "idle" in chosen.only:
            print(f"idle: {IDLE_CONNECTIONS:,} connections kept open after one Ping each", flush=True)
            print_idled(rounds.measure(speakers, bench.idle))
    return 0 if rounds.all_measured else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"bench: {error}")
