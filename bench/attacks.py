"""`make harm`: what honest uploads keep of their rate while somebody means harm, and what that costs.

Each attack has a fresh server. Four honest connections send fragments of 1 MiB without it and during it, in
turns; `kept` is the one over the other, by their medians. The attacker (attacks.c, a thread) needs processor
time of its own, which on a small machine the honest miss, too: in `machine` it does the same, at the same
rate, to a server that is not theirs, the C loop. Figures are printed, never judged:
docs/explanation/security.md has what they are held against.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import trustme
from competitors import BenchError, Running, Server, Start, c_loop, cpu_seconds, resident, running
from run import HERE, KIB, MIB, choose_root, compile_tools, print_table, raise_file_limit

HONEST = ["--connections=4", f"--fragment={MIB}", f"--file={16 * MIB}"]
TOTAL = 512 * MIB  # bytes the honest send, before and during
ROOM = 3 * 1024 * MIB
STRANGER = "127.0.0.2"  # whence the attacker comes; the honest come from 127.0.0.1
RAMP = 20.0  # seconds an attack may take to unfold
SETTLING = 2.0
GUID = b"{7df0354d-249b-430f-820d-3d2a9bef4931}"
SESSION = b"{@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@}"


def said(start: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    """A request."""
    return b"\r\n".join([start, b"Host: h", *headers]) + b"\r\n\r\n" + body


def packet(kind: bytes, path: bytes, *headers: bytes, length: int = 0) -> bytes:
    """A packet without its body."""
    told = (b"BITS-Packet-Type: " + kind, b"Content-Length: %d" % length)
    return said(b"BITS_POST " + path + b" HTTP/1.1", *told, *headers)


PING = packet(b"Ping", b"/in/a")
CREATE = packet(b"Create-Session", b"/open/a", b"BITS-Supported-Protocols: " + GUID)
LIMITED = packet(b"Create-Session", b"/limited/a", b"BITS-Supported-Protocols: " + GUID)
FRAGMENT = packet(
    b"Fragment",
    b"/open/a",
    b"BITS-Session-Id: " + SESSION,
    b"Content-Range: bytes 0-%d/%d" % (MIB - 1, MIB),
    length=MIB,
)
BASIC = b"Authorization: Basic YW5uYTp3cm9uZw=="  # anna:wrong
NTLM = b"Authorization: NTLM TlRMTVNTUAABAAAAl4II4gAAAAAAAAAAAAAAAAAAAAA="  # a first leg
LARGE = b"X-Large: " + b"a" * 20_000
MANY = b"\r\n".join(b"X-%d: a" % number for number in range(1000))

SETTINGS = """
listen = ["http://127.0.0.1:0", "https://127.0.0.1:0"]

[tls]
certificate = "certificate"

[[directory]]
url = "/in/"
folder = "in"

[[directory]]
url = "/open/"
folder = "open"

[[directory]]
url = "/limited/"
folder = "limited"
sessions_per_user = 1000

[[directory]]
url = "/who/"
folder = "who"
auth = ["basic", "ntlm"]
htpasswd = "users"
nt_hashes = "hashes"
"""


@dataclass(frozen=True)
class Attack:
    """`options` are attacks.c's; on every connection `creation` is said first, if there is one."""

    name: str
    said: bytes
    options: tuple[str, ...]
    creation: bytes | None = None
    rated: bool = False
    """How much it asks depends on how fast it is answered."""
    tls: bool = False
    """It goes to the port that speaks TLS."""


def hello() -> bytes:
    """What a client of TLS begins with, after which the server has to sign something."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    line = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="h")
    with suppress(ssl.SSLWantReadError):
        line.do_handshake()
    return outgoing.read()


def flood(name: str, said: bytes, connections: int, depth: int) -> Attack:
    return Attack(name, said, (f"--connections={connections}", f"--flood={depth}"), rated=True)


ATTACKS = (
    Attack("idle 5,000", PING, ("--connections=5000", "--hold")),
    Attack("slow heads 5,000", PING, ("--connections=5000", "--drip=1000")),
    Attack("hasty heads 1,000", PING, ("--connections=1000", "--drip=50")),
    Attack(
        "slow bodies 2,000",
        FRAGMENT + bytes(100_000),
        ("--connections=2000", "--drip=1000", f"--head={len(FRAGMENT)}"),
        creation=CREATE,
    ),
    Attack(
        "slow refused 2,000",
        packet(b"Ping", b"/in/a", length=60_000) + bytes(60_000),
        ("--connections=2000", "--drip=500", "--head=200"),
    ),
    flood("pings 16 x 1", PING, 16, 1),
    flood("pings 500 x 16", PING, 500, 16),
    flood("pings 5,000 x 4", PING, 5000, 4),
    flood("nowhere 100 x 16", packet(b"Ping", b"/nowhere/a"), 100, 16),
    flood("sessions 64 x 4", CREATE, 64, 4),
    flood("sessions, 1,000 at most", LIMITED, 64, 4),
    flood("heads of 20 KB", said(b"BITS_POST /in/a HTTP/1.1", LARGE), 100, 1),
    flood("1,000 headers", packet(b"Ping", b"/in/a", MANY), 100, 1),
    flood("length 2^63", said(b"BITS_POST /in/a HTTP/1.1", b"Content-Length: 9223372036854775808"), 100, 1),
    Attack(
        "bodies nobody wants",
        packet(b"Ping", b"/in/a", length=1 << 40) + bytes(16 * MIB),
        ("--connections=16", "--flood=1"),
        rated=True,
    ),
    flood("401, nobody", packet(b"Ping", b"/who/a"), 100, 16),
    flood("401, wrong passwords", packet(b"Ping", b"/who/a", BASIC), 100, 1),
    flood("401, NTLM's first leg", packet(b"Ping", b"/who/a", NTLM), 100, 1),
    Attack("TLS: hellos come and go", hello(), ("--connections=100", "--churn"), tls=True),
    Attack("TLS: slow hellos 2,000", hello(), ("--connections=2000", "--drip=500"), tls=True),
    Attack("connections come and go", PING, ("--connections=100", "--churn")),
)


@dataclass(frozen=True)
class Harmed:
    """Rates per second, the first three in bytes, as is `log`; `memory` is in bytes, before and at most."""

    memory: tuple[int, int]
    without: float
    during: float
    beside: float
    asked: float
    answered: float
    log: float


@dataclass
class Done:
    """What an attacker did."""

    seconds: float = 0.0
    requests: int = 0
    answers: int = 0


class Harm:
    """The measurements, given the programs and the folder for what the servers store."""

    def __init__(self, tools: Path, root: Path, rounds: int) -> None:
        self.tools = tools
        self.root = root
        self.rounds = rounds

    def run(self, attack: Attack) -> Harmed:
        figures: list[list[float]] = [[], [], [], [], [], []]
        without, during, beside, asked, answered, logs = figures
        with self.served(ours()) as (it, work), self.served(c_loop(self.tools / "loop")) as (other, _):
            self.honest(it.port, TOTAL // 8)
            idle = resident(it.pid)
            for _ in range(self.rounds):
                without.append(self.honest(it.port))
                log = (work / "stderr").stat().st_size
                with self.under(attack, tls_port(work) if attack.tls else it.port) as done:
                    during.append(self.honest(it.port))
                asked.append(done.requests / done.seconds)
                answered.append(done.answers / done.seconds)
                logs.append(((work / "stderr").stat().st_size - log) / done.seconds)
                rate = [f"--rate={max(1.0, asked[-1]):.0f}"] if attack.rated else []
                with self.under(attack, other.port, rate, neutral=True):
                    beside.append(self.honest(it.port))
            return Harmed((idle, highest(it.pid)), *map(median, figures))

    @contextmanager
    def served(self, server: Server) -> Iterator[tuple[Running, Path]]:
        with (
            tempfile.TemporaryDirectory(prefix="bitsferry-harm-", dir=self.root) as folder,
            tempfile.TemporaryDirectory(prefix="bitsferry-harm-work-") as work,
            running(server, Path(folder), Path(work)) as it,
        ):
            yield it, Path(work)

    def honest(self, port: int, total: int = TOTAL) -> float:
        """Bytes per second."""
        prefix = f"--prefix=/in/{time.monotonic_ns()}-"
        command = [str(self.tools / "load"), f"--port={port}", *HONEST, prefix, f"--total={total}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise BenchError(f"honest uploads failed: {done.stderr.strip()}")
        counted = json.loads(done.stdout)
        return float(counted["bytes"] / counted["seconds"])

    @contextmanager
    def under(
        self, attack: Attack, port: int, more: Sequence[str] = (), *, neutral: bool = False
    ) -> Iterator[Done]:
        """While this goes on; what it did is known when it is over."""
        done = Done()
        with tempfile.TemporaryDirectory(prefix="bitsferry-harm-said-") as folder:
            files = {"said": attack.said, "creation": attack.creation or b""}
            for name, content in files.items():
                Path(folder, name).write_bytes(content)
            options = [f"--port={port}", f"--source={STRANGER}", "--seconds=600", f"--file={folder}/said"]
            if attack.creation and not neutral:
                options.append(f"--create={folder}/creation")
            command = [str(self.tools / "harm"), *options, *attack.options, *more]
            attacker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            assert attacker.stderr is not None
            waiting = threading.Thread(target=attacker.stderr.readline)  # until all its connections stand
            waiting.start()
            waiting.join(RAMP)
            time.sleep(SETTLING)  # they stand where the system has them; the server may have some to take in
            try:
                yield done
            finally:
                attacker.terminate()
                told, wrong = attacker.communicate()
                waiting.join()
                if attacker.returncode:
                    raise BenchError(wrong.strip() or f"harm ended with {attacker.returncode}")
                counted = json.loads(told)
                done.seconds, done.requests = counted["seconds"], counted["requests"]
                done.answers = sum(counted["answers"])


def tls_port(work: Path) -> int:
    found = re.search(r"listening on https://127\.0\.0\.1:(\d+)/", (work / "stdout").read_text())
    if found is None:
        raise BenchError("nobody listens for TLS")
    return int(found[1])


def ours(top: str = "") -> Server:
    def start(folder: Path, work: Path) -> Start:
        (folder / "users").write_text(f"anna:{bcrypt_of(b'secret')}\n")
        (folder / "hashes").write_text("anna:878d8014606cda29677a44efa1353fc7\n")
        trustme.CA().issue_cert("h").private_key_and_cert_chain_pem.write_to_path(folder / "certificate")
        settings = folder / "bitsferry.toml"
        settings.write_text(top + SETTINGS)
        return Start([sys.executable, "-m", "bitsferry", "serve", "--config", str(settings)])

    return Server("bitsferry", start)


def bcrypt_of(password: bytes) -> str:
    import bcrypt

    return bcrypt.hashpw(password, bcrypt.gensalt(11)).decode()


def highest(pid: int) -> int:
    """The most resident memory a process ever had."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * KIB if found else 0


# Sessions, by the hundred thousand


def sessions(harm: Harm, wanted: int) -> None:
    """What so many sessions cost, and what the server does with them after a restart."""
    print(f"{wanted:,} sessions, by 16 connections without a pause, not synced")
    server = ours('durability = "process"\n')
    rows = [["made", "per second", "CPU us each", "VmRSS", "disk each", "files"]]
    with (
        tempfile.TemporaryDirectory(prefix="bitsferry-harm-", dir=harm.root) as folder,
        tempfile.TemporaryDirectory(prefix="bitsferry-harm-work-") as work,
    ):
        made = 0
        with running(server, Path(folder), Path(work)) as it:
            free = os.statvfs(folder)
            while made < wanted:
                cpu = cpu_seconds(it.pid)
                command = [str(harm.tools / "load"), f"--port={it.port}", "--create", "--connections=16"]
                done = subprocess.run(
                    [*command, f"--prefix=/open/{made}-", "--seconds=30"],
                    capture_output=True,
                    text=True,
                    timeout=120,
                )
                if done.returncode:
                    raise BenchError(done.stderr.strip())
                counted = json.loads(done.stdout)
                made += int(counted["acks"])
                now = os.statvfs(folder)
                taken = (free.f_bfree - now.f_bfree) * now.f_frsize
                rows.append(
                    [
                        f"{made:,}",
                        f"{counted['acks'] / counted['seconds']:,.0f}",
                        f"{(cpu_seconds(it.pid) - cpu) / counted['acks'] * 1e6:,.0f}",
                        f"{resident(it.pid) / MIB:.0f} MiB",
                        f"{taken / made:,.0f} B",
                        f"{(free.f_ffree - now.f_ffree) / made:.1f}",
                    ]
                )
        begun = time.monotonic()
        with running(server, Path(folder), Path(work)) as it:
            ready = time.monotonic() - begun
            command = [str(harm.tools / "load"), f"--port={it.port}", "--create", "--connections=1"]
            begun = time.monotonic()
            subprocess.run(
                [*command, "--prefix=/limited/", "--seconds=0.01"], check=True, capture_output=True
            )
            counted_in = time.monotonic() - begun
    print_table(*rows)
    print(
        f"  ready again in {ready:.1f} s; the first session with a limit, for which all are counted, in"
        f" {counted_in:.1f} s\n"
    )


def arguments() -> argparse.Namespace:
    names = [*(attack.name for attack in ATTACKS), "none"]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where uploads go (default: /dev/shm)")
    parser.add_argument(
        "--only", action="append", help="attacks whose names begin so, or none; can be repeated"
    )
    parser.add_argument("--sessions", type=int, default=100_000, help="0: none (default: 100000)")
    parser.add_argument("--rounds", type=int, default=3, help="how often to measure each attack (default: 3)")
    chosen = parser.parse_args()
    if unknown := [one for one in chosen.only or () if not any(name.startswith(one) for name in names)]:
        parser.error(f"no attack begins with {unknown[0]!r}; there are: {', '.join(names)}")
    return chosen


def main() -> int:
    """0 when every attack could be made and was survived."""
    chosen = arguments()
    root = choose_root(chosen.folder, ROOM)
    raise_file_limit()
    with tempfile.TemporaryDirectory(prefix="bitsferry-harm-tools-") as folder:
        tools = Path(folder)
        compile_tools(tools)
        subprocess.run(["cc", "-O2", "-o", tools / "harm", HERE / "attacks.c"], check=True)
        harm = Harm(tools, root, chosen.rounds)
        rows = [
            [
                "attack",
                "asked/s",
                "answered/s",
                "without",
                "during",
                "kept",
                "machine",
                "VmRSS",
                "at most",
                "log KiB/s",
            ]
        ]
        failed = False
        for attack in ATTACKS:
            if chosen.only and not any(attack.name.startswith(one) for one in chosen.only):
                continue
            try:
                it = harm.run(attack)
            except BenchError as error:
                print(f"{attack.name}: {error}")
                failed = True
                continue
            rows.append(
                [
                    attack.name,
                    f"{it.asked:,.0f}",
                    f"{it.answered:,.0f}",
                    f"{it.without / MIB:,.0f}",
                    f"{it.during / MIB:,.0f}",
                    f"{it.during / it.without:.2f}",
                    f"{it.beside / it.without:.2f}",
                    f"{it.memory[0] / MIB:.0f} MiB",
                    f"{it.memory[1] / MIB:.0f} MiB",
                    f"{it.log / KIB:.0f}",
                ]
            )
            print(f"  {'   '.join(rows[-1])}", flush=True)
        print("\nhonest uploads in MiB/s: 4 connections, fragments of 1 MiB")
        print_table(*rows)
        if chosen.sessions:
            sessions(harm, chosen.sessions)
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"harm: {error}")
