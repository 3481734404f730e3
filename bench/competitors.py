"""The servers that `make bench` measures: how each is started, what it has used, how it is stopped."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 20.0  # seconds for a server to start, and to end
TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """A measurement that could not be made; the text says why."""


@dataclass(frozen=True)
class Start:
    """A command line, and the port it will listen on; None: it prints `listening on http://127.0.0.1:PORT/`."""

    command: Sequence[str]
    port: int | None = None


@dataclass(frozen=True)
class Server:
    """One competitor. `start` is given the folder for the uploads and another for everything else."""

    name: str
    start: Callable[[Path, Path], Start]
    speaks_bits: bool = True


@dataclass(frozen=True)
class Running:
    """A server that accepts connections."""

    pid: int
    port: int


def bitsferry() -> Server:
    def start(folder: Path, work: Path) -> Start:
        return Start([sys.executable, "-m", "bitsferry", "serve", str(folder), "--listen", "127.0.0.1:0"])

    return Server("bitsferry", start)


def c_loop(program: Path, *options: str) -> Server:
    def start(folder: Path, work: Path) -> Start:
        return Start([str(program), "0", str(folder), *options])

    return Server(" ".join(["C loop", *options]), start)


NGINX_CONF = """\
{user}
daemon off;
worker_processes 1;
pid {work}/nginx.pid;
error_log {work}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    client_body_buffer_size 256k;
    client_max_body_size 0;
    client_body_temp_path {folder}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {folder}/files;
        dav_methods PUT;
    }}
}}
"""


def nginx(program: str) -> Server:
    """Stores each fragment as a file of its own, never calls fsync."""

    def start(folder: Path, work: Path) -> Start:
        (folder / "files").mkdir()
        port = free_port()
        user = "user root;" if os.geteuid() == 0 else ""
        conf = work / "nginx.conf"
        conf.write_text(NGINX_CONF.format(user=user, work=work, folder=folder, port=port))
        return Start([program, "-p", str(work), "-e", f"{work}/error.log", "-c", str(conf)], port)

    return Server("nginx PUT", start, speaks_bits=False)


def competitors(loop: Path, *, on_disk: bool) -> list[Server]:
    """The C loop, which is the yardstick, then what else can run here; prints a sentence for what cannot."""
    servers = [c_loop(loop)]
    if importlib.util.find_spec("bitsferry"):
        servers.append(bitsferry())
    else:
        print(f"bitsferry is left out: {sys.executable} does not know it.")
    if on_disk:
        servers.append(c_loop(loop, "--no-sync"))
    if program := shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin"):
        servers.append(nginx(program))
    else:
        print("nginx is left out: it is not installed (Debian: apt-get install nginx-light).")
    return servers


@contextmanager
def running(server: Server, folder: Path, work: Path) -> Iterator[Running]:
    """A fresh process, ready when the block begins, gone at its end; a BenchError tells its last words."""
    start = server.start(folder, work)
    with (work / "stdout").open("wb") as stdout, (work / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            start.command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, cwd=work
        )
    try:
        yield Running(process.pid, wait_until_ready(process, start.port, work / "stdout"))
    except BenchError as error:
        last_words = (work / "stderr").read_text(errors="replace").strip()[-2000:]
        raise BenchError(f"{error}\n{last_words}".strip()) from error
    finally:
        stop(process)


def wait_until_ready(process: subprocess.Popen[bytes], known_port: int | None, stdout: Path) -> int:
    """The port, once the server accepts connections there."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BenchError(f"the server ended with exit code {process.returncode} before it listened")
        found = re.search(rb"listening on http://127\.0\.0\.1:(\d+)/", stdout.read_bytes())
        port = int(found[1]) if found else known_port
        if port is not None and accepts(port):
            return port
        time.sleep(0.02)
    raise BenchError(f"the server did not listen within {PATIENCE:.0f} seconds")


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM; when patience runs out, SIGKILL for the process and for each of its children."""
    family = tree(process.pid)
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        print(f"Process {process.pid} was killed: SIGTERM did not end it within {PATIENCE:.0f} seconds.")
        for pid in family:
            if stat(pid):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; none when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def tree(root: int) -> list[int]:
    """The process and its living descendants."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    parents = {pid: int(fields[1]) for pid in pids if (fields := stat(pid))}
    family = [root]
    for member in family:
        family += [pid for pid, parent in parents.items() if parent == member]
    return family


def cpu_seconds(root: int) -> float:
    """User and system time of the process, of its living descendants, of those that were waited for."""
    return sum(int(ticks) for pid in tree(root) for ticks in stat(pid)[11:15]) / TICKS


def resident(root: int) -> int:
    """VmRSS of the process and its descendants, in bytes."""
    statuses = "".join(Path(f"/proc/{pid}/status").read_text() for pid in tree(root))
    return sum(int(kib) << 10 for kib in re.findall(r"^VmRSS:\s+(\d+) kB", statuses, re.MULTILINE))
