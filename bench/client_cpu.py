"""`make bench-client`, second half: what a sent GiB costs the client, beside a plain C sendfile loop.

Both send the same file over loopback, in turn, to a C loop that keeps nothing and to `bitsferry serve`. A
small file is sent, too: what it costs is the start of Python, shown apart. Figures are printed, never judged.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from competitors import BenchError, Server, bitsferry, c_loop, running
from run import GIB, HERE, choose_root, print_table

MIB = 1 << 20


def cpu_of(command: list[str], home: str) -> float:
    """User and system seconds of a program that must end well."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"XDG_STATE_HOME": home}, check=False
    )
    if ended.returncode:
        raise BenchError(f"{command[0]} ended with {ended.returncode}: {ended.stderr.strip()[-300:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(server: Server, program: Path, root: Path, size: int, rounds: int) -> list[list[str]]:
    """Rows of a table: who sent, seconds per GiB, ratio to C, and the start."""
    plain, whole, start = [], [], []
    with (
        tempfile.TemporaryDirectory(prefix="bitsferry-bench-", dir=root) as folder,
        tempfile.TemporaryDirectory(prefix="bitsferry-bench-work-") as work,
    ):
        large, small, inbox = Path(folder) / "large", Path(folder) / "small", Path(folder) / "inbox"
        with large.open("wb") as file:
            for _ in range(size // MIB):
                file.write(bytes(MIB))
        small.write_bytes(b"small")
        inbox.mkdir()
        with running(server, inbox, Path(work)) as run:
            for number in range(rounds):
                url = f"http://127.0.0.1:{run.port}"
                send = [sys.executable, "-m", "bitsferry", "send", "--quiet"]
                plain.append(cpu_of([str(program), str(run.port), f"/c{number}", str(large)], work))
                (inbox / f"c{number}").unlink(missing_ok=True)
                whole.append(cpu_of([*send, str(large), f"{url}/b{number}"], work))
                (inbox / f"b{number}").unlink(missing_ok=True)
                start.append(cpu_of([*send, str(small), f"{url}/s{number}"], work))
                for left in inbox.glob("session-*"):
                    left.unlink()
    gib = size / GIB
    ours = (median(whole) - median(start)) / gib
    yardstick = median(plain) / gib
    return [
        [server.name, "C sendfile loop", f"{yardstick:.3f}", "1.00", ""],
        [server.name, "bitsferry send", f"{ours:.3f}", f"{ours / yardstick:.2f}", f"{median(start):.2f} s"],
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=4.0, help="of the file (default: 4)")
    parser.add_argument("--rounds", type=int, default=5, help="of each measurement (default: 5)")
    parser.add_argument("--folder", type=Path, help="for the files (default: in memory)")
    options = parser.parse_args()
    root = choose_root(options.folder, 2.5 * options.gib * GIB)
    with tempfile.TemporaryDirectory(prefix="bitsferry-bench-tools-") as tools:
        for name in ("sendfile", "loop"):
            subprocess.run(["cc", "-O2", "-o", f"{tools}/{name}", str(HERE / f"{name}.c")], check=True)
        rows = []
        for server in (c_loop(Path(tools) / "loop", "--discard"), bitsferry()):
            size = int(options.gib * GIB) // MIB * MIB
            rows += measure(server, Path(tools) / "sendfile", root, size, options.rounds)
    print_table(["to", "from", "CPU s/GiB", "x C", "and to start"], *rows)


if __name__ == "__main__":
    main()
