"""`make bench-client`, first half: what a long line lets through, and who makes room for whom.

Two network namespaces, with a line between them that is as narrow and as long as wanted (`line.c`); the
programs at its ends are real. Figures are printed, never judged: README.md says how to read them. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from competitors import NGINX_CONF, PATIENCE, BenchError, stop
from run import HERE, KIB, choose_root, print_table

CLIENT, SERVER = "10.77.0.1", "10.77.0.2"
BITS, HTTP = 8080, 8081
PAYLOAD = 1448 / 1500  # of a packet; the rest is the heads of IP and TCP
MB = 1_000_000
SETTLING = 10.0  # seconds after which a sender knows its line
WATCHING = 10.0


@dataclass(frozen=True)
class Line:
    """A line: `rate` in bit/s, `round_trip` in seconds, `queue` in bytes before the narrow place."""

    rate: float
    round_trip: float
    queue: float

    @property
    def payload(self) -> float:
        """Bytes a second, of files."""
        return self.rate / 8 * PAYLOAD

    def __str__(self) -> str:
        delay, queue = self.round_trip * 1e3, self.queue * 8 / self.rate * 1e3
        return f"{self.rate / 1e6:g} Mbit/s, {delay:g} ms there and back, a queue of {queue:g} ms"


class Ends:
    """What runs at both ends of a line, in namespaces of their own, with a folder for the files."""

    def __init__(self, stack: ExitStack, line: Line, congestion: str, tools: Path, root: Path) -> None:
        self._stack = stack
        self._here, self._there = (f"bitsferry-{os.getpid()}-{end}" for end in ("client", "server"))
        self._work = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="bitsferry-bench-", dir=root))
        )
        self._numbers = 0
        for name in (self._here, self._there):
            run("ip", "netns", "add", name)
            stack.callback(run, "ip", "netns", "del", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
            run(*self._in(name, "sysctl", "-q", f"net.ipv4.tcp_congestion_control={congestion}"))
        bits, micros, queue = (
            str(round(line.rate)),
            str(round(line.round_trip / 2 * 1e6)),
            str(round(line.queue)),
        )
        wire = self._start([str(tools / "line"), self._here, self._there, bits, micros, queue])
        assert wire.stdout is not None
        if wire.stdout.readline() != "ready\n":
            raise BenchError("the line could not be laid: see above")
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, wire.pid, -15)  # a line does not wait for its turn
        for name, address in ((self._here, CLIENT), (self._there, SERVER)):
            run("ip", "-n", name, "address", "add", f"{address}/30", "dev", "line")
            run("ip", "-n", name, "link", "set", "line", "txqueuelen", "20000", "up")
        self._serve()

    def _serve(self) -> None:
        store, files, work = (self._work / name for name in ("store", "nginx", "work"))
        for folder in (store, files, files / "files", work):
            folder.mkdir()
        bitsferry = [sys.executable, "-m", "bitsferry", "serve", str(store), "--listen", f"{SERVER}:{BITS}"]
        self._start(self._in(self._there, *bitsferry))
        nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
        if nginx is None:
            raise BenchError("nginx is needed for the one PUT (Debian: apt-get install nginx-light)")
        conf = NGINX_CONF.replace("127.0.0.1", SERVER)
        (work / "nginx.conf").write_text(conf.format(user="user root;", work=work, folder=files, port=HTTP))
        command = [nginx, "-p", str(work), "-e", f"{work}/error.log", "-c", f"{work}/nginx.conf"]
        self._start(self._in(self._there, *command))
        deadline = time.monotonic() + PATIENCE
        for port in (BITS, HTTP):
            probe = ["curl", "-s", "-o", f"{work}/probe", f"http://{SERVER}:{port}/"]
            while subprocess.run(self._in(self._here, *probe)).returncode:
                if time.monotonic() > deadline:
                    raise BenchError(f"nobody listens at port {port}")
                time.sleep(0.2)

    def _in(self, namespace: str, *command: str) -> list[str]:
        return ["ip", "netns", "exec", namespace, *command]

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        stderr = self._stack.enter_context((self._work / f"stderr-{command[-1].replace('/', '-')}").open("w"))
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
        assert process.stdout is not None
        self._stack.callback(process.stdout.close)
        self._stack.callback(stop, process)  # type: ignore[arg-type]
        return process

    def file(self, size: int) -> Path:
        """One with so many bytes that cannot be foreseen."""
        path = self._work / str(size)
        if not path.exists():
            with path.open("wb") as file:
                for start in range(0, size, MB):
                    file.write(os.urandom(min(MB, size - start)))
        return path

    def curl(self, size: int) -> float:
        """Seconds of one PUT."""
        self._numbers += 1
        url = f"http://{SERVER}:{HTTP}/{self._numbers}"
        asked = [
            "--silent",
            "--show-error",
            "--fail",
            "--output",
            "/dev/null",
            "--write-out",
            "%{time_total}",
        ]
        curl = ["curl", *asked, "--upload-file", str(self.file(size)), url]
        seconds = float(run(*self._in(self._here, *curl)))
        (self._work / "nginx" / "files" / str(self._numbers)).unlink()
        return seconds

    @contextmanager
    def sending(self, size: int, *options: str) -> Iterator[Sending]:
        """`bitsferry send`, which ends with the block if it has not yet."""
        self._numbers += 1
        url = f"http://{SERVER}:{BITS}/{self._numbers}"
        send = [sys.executable, "-m", "bitsferry", "send", str(self.file(size)), url, "--json", *options]
        environment = os.environ | {"XDG_STATE_HOME": str(self._work / "state")}
        with Sending(self._in(self._here, *send), environment) as sending:
            yield sending
        with suppress(FileNotFoundError):
            (self._work / "store" / str(self._numbers)).unlink()

    def send(self, size: int, *options: str) -> tuple[float, float]:
        """Seconds of the transfer, and of the whole command with the start of Python."""
        began = time.monotonic()
        with self.sending(size, *options) as sending:
            transfer = sending.wait()
        return transfer, time.monotonic() - began


class Sending:
    """A `bitsferry send` that runs, and how far it is."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        self._reached = [(time.monotonic(), 0)]
        self._seconds: float | None = None
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def __enter__(self) -> Sending:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        self._listener.join()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                event = json.loads(line)
                if event["event"] == "progress":
                    self._reached.append((time.monotonic(), event["offset"]))
                elif event["event"] == "done":
                    self._seconds = event["seconds"]

    def wait(self) -> float:
        """The seconds it took, as it says itself."""
        self._listener.join()
        if self._seconds is None:
            raise BenchError("bitsferry send did not come to its end")
        return self._seconds

    def reached(self, when: float) -> int:
        """How many bytes had gone out at a time of `time.monotonic`."""
        return [count for at, count in self._reached if at <= when][-1]

    def rate(self, start: float, stop: float) -> float:
        """Bytes a second between two such times."""
        return (self.reached(stop) - self.reached(start)) / (stop - start)


def run(*command: str) -> str:
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if ended.returncode:
        raise BenchError(f"{' '.join(command[:8])} failed: {ended.stderr.strip()}")
    return ended.stdout


def one_put(ends: Ends, sizes: list[int], rounds: int) -> None:
    """One PUT by curl beside `bitsferry send`, taking turns."""
    rows = []
    for size in sizes:
        curls, sends, commands = [], [], []
        for _ in range(rounds):
            curls.append(ends.curl(size))
            transfer, command = ends.send(size)
            sends.append(transfer)
            commands.append(command)
        curl, send, command = median(curls), median(sends), median(commands)
        seconds = [f"{each:.2f}" for each in (curl, send, command)]
        rows.append([f"{size / MB:g} MB", *seconds, f"{curl / send:.0%}", f"{curl / command:.0%}"])
    heads = ["curl s", "bitsferry s", "with start-up s", "of curl's rate", "with start-up"]
    print_table(["file", *heads], *rows)


def making_room(ends: Ends, line: Line, rounds: int) -> None:
    """A background send alone, then beside a send in the foreground, then beside curl."""
    size = round(line.payload * WATCHING)
    endless = round(line.payload * 5 * (SETTLING + WATCHING))
    rows = []
    senders: dict[str, Callable[[], float]] = {
        "bitsferry": lambda: ends.send(size)[0],
        "curl": lambda: ends.curl(size),
    }
    for name, send in senders.items():
        alone, beside, before, during, after = [], [], [], [], []
        for _ in range(rounds):
            alone.append(send())
            with ends.sending(endless, "--background") as background:
                time.sleep(SETTLING)
                began = time.monotonic()
                before.append(background.rate(began - SETTLING / 2, began))
                beside.append(send())
                ended = time.monotonic()
                during.append(background.rate(began, ended))
                time.sleep(SETTLING)
                after.append(background.rate(ended + SETTLING / 2, ended + SETTLING))
        shares = [median(rates) / line.payload for rates in (before, during, after)]
        keeps = median(alone) / median(beside)
        rows.append(
            [
                name,
                f"{median(alone):.1f} s",
                f"{median(beside):.1f} s",
                f"{keeps:.0%}",
                *(f"{share:.0%}" for share in shares),
            ]
        )
    heads = ["alone", "beside", "keeps", "background before", "during", "after"]
    print_table(["foreground", *heads], *rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rate", type=float, default=100, help="of the line, in Mbit/s (default: 100)")
    parser.add_argument("--round-trip", type=float, default=100, help="in milliseconds (default: 100)")
    parser.add_argument("--queue", type=float, help="in milliseconds (default: the round trip)")
    parser.add_argument("--sizes", default="25,100,400", help="of the files, in MB (default: 25,100,400)")
    usual = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    parser.add_argument(
        "--congestion", default=usual, help=f"who rules TCP (default, from the system: {usual})"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement (default: 3)")
    parser.add_argument("--only", choices=["put", "room"], help="only one PUT, or only making room")
    chosen = parser.parse_args()
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        raise BenchError("network namespaces and TUN devices are needed: run it as root, on Linux")
    rate, trip = chosen.rate * 1e6, chosen.round_trip / 1e3
    queue = trip if chosen.queue is None else chosen.queue / 1e3
    line = Line(rate, trip, queue * rate / 8)
    sizes = [round(float(size) * MB) for size in chosen.sizes.split(",")]
    with ExitStack() as stack:
        tools = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bitsferry-bench-tools-")))
        run("cc", "-O2", "-o", str(tools / "line"), str(HERE / "line.c"))
        print(f"Linux {platform.release()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
        print(f"{line}, TCP by {chosen.congestion}; rounds: {chosen.rounds}\n", flush=True)
        ends = Ends(stack, line, chosen.congestion, tools, choose_root(None, 4 * max(sizes) + 64 * KIB**2))
        if chosen.only != "room":
            print("one PUT by curl to nginx, and bitsferry send to bitsferry serve", flush=True)
            one_put(ends, sizes, chosen.rounds)
        if chosen.only != "put":
            print("a send in the background makes room", flush=True)
            making_room(ends, line, chosen.rounds)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"bench: {error}")
