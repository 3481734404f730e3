"""A real file, a real server, a real client; the server is killed in the middle, and nothing is lost.

What `make demo` runs. Everything lies in ./demo/, where the received file stays.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import msgspec

from bitsferry.cli.display import Display, choose
from bitsferry.cli.quantities import spell_size
from bitsferry.client import events

__all__ = ["main"]

FOLDER = "demo"
NAME = "python-library.tar"
LOG = "server.log"
SIZE = 300_000_000  # bytes of the file, or a little more
RATE = "25 MB/s"  # slow enough that the kill comes in the middle
FRAGMENT = "8 MiB"  # short enough that there is something to see
KILL_AT = 0.45
AT_MOST = 110.0  # seconds for all of it


class NotAsItShould(Exception):
    """The demo saw something it must not see."""


def main() -> int:
    """Run the demo; 0 when everything was as it should be."""
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(number, _stop)
    # Nobody shall wait for ever for a demo.
    deadline = threading.Timer(AT_MOST, os.kill, (os.getpid(), signal.SIGTERM))
    deadline.daemon = True
    deadline.start()
    try:
        with ExitStack() as stack:
            _run(stack)
    except NotAsItShould as error:
        print(f"\nThis is not as it should be: {error}", file=sys.stderr)
        print(f"What the server said is in {os.path.join(FOLDER, LOG)}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    finally:
        deadline.cancel()
    return 0


def _stop(*_: object) -> None:
    raise NotAsItShould(f"it was stopped, or took longer than {AT_MOST:.0f} s")


def _run(stack: ExitStack) -> None:
    print("A file goes to a server, and the server is killed in the middle.\n")
    source = _make_file()
    inbox = os.path.join(FOLDER, "inbox")
    server = _Server(stack, inbox)
    server.start()
    _step(2, f"A server: bitsferry serve {inbox} --listen {server.address}  (process {server.pid})")
    _step(3, f"A client: bitsferry send {source} {server.url} --limit '{RATE}' --fragment '{FRAGMENT}'\n")
    journey = _Journey(server, stack.enter_context(choose(as_json=False, quiet=False)))
    client = stack.enter_context(
        _process(
            ["send", source, server.url, "--limit", RATE, "--fragment", FRAGMENT, "--json"],
            stdout=subprocess.PIPE,
        )
    )
    assert client.stdout is not None
    for line in client.stdout:
        journey.follow(msgspec.json.decode(line, type=events.Event))
    if client.wait() != 0:
        raise NotAsItShould(f"the client ended with exit code {client.returncode}")
    print()
    journey.check()
    _compare(source, os.path.join(inbox, NAME))
    os.unlink(source)
    _say_what_is_next(os.path.join(inbox, NAME))


def _step(number: int, text: str) -> None:
    print(f"{number}. {text}", flush=True)


def _make_file() -> str:
    """A tar of this Python's own library, again and again under other names until it is large enough."""
    os.makedirs(FOLDER, exist_ok=True)
    for leftover in ("inbox", "state"):
        shutil.rmtree(os.path.join(FOLDER, leftover), ignore_errors=True)
    with suppress(FileNotFoundError):
        os.unlink(os.path.join(FOLDER, LOG))
    free = shutil.disk_usage(FOLDER).free
    if free < 3 * SIZE:
        raise NotAsItShould(f"./{FOLDER}/ needs {spell_size(3 * SIZE)} of room and has {spell_size(free)}")
    path = os.path.join(FOLDER, NAME)
    count = 0
    with tarfile.open(path, "w") as tar:
        for name, file in _library():
            tar.add(file, name, recursive=False)
            count += 1
            if tar.offset >= SIZE:
                break
    size = os.path.getsize(path)
    _step(1, f"A real file: {path}, the library of this Python, {count:,} files, {spell_size(size)}")
    return path


def _library() -> Iterator[tuple[str, str]]:
    """Files with the names they get in the tar, without end; small ones would only take time."""
    roots = [sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")]
    found = [
        (os.path.relpath(path, root), path)
        for root in roots
        for folder, _, names in sorted(os.walk(root))
        for path in (os.path.join(folder, name) for name in sorted(names))
        if os.path.isfile(path) and os.access(path, os.R_OK) and os.path.getsize(path) > 8192
    ]
    for copy in itertools.count(1):
        yield from ((f"copy-{copy}/{name}", path) for name, path in found)


@contextmanager
def _process(arguments: list[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """`bitsferry` with these arguments, which does not outlive the demo."""
    # What the client remembers stays in ./demo/; Ctrl-C comes to the demo alone, which ends the others.
    environment = os.environ | {"XDG_STATE_HOME": os.path.abspath(os.path.join(FOLDER, "state"))}
    process: subprocess.Popen[bytes] = subprocess.Popen(
        [sys.executable, "-m", "bitsferry", *arguments],
        env=environment,
        start_new_session=True,
        **options,  # type: ignore[call-overload]
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


class _Server:
    """The server process, which is killed and started again on the same port."""

    def __init__(self, stack: ExitStack, inbox: str) -> None:
        self._stack = stack
        self._inbox = inbox
        self._process: subprocess.Popen[bytes]
        self.address = "127.0.0.1:0"
        self.url = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> None:
        """Return when it listens."""
        arguments = ["serve", self._inbox, "--listen", self.address]
        with open(os.path.join(FOLDER, LOG), "ab") as log:
            self._process = self._stack.enter_context(_process(arguments, stdout=subprocess.PIPE, stderr=log))
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        if not line.startswith("listening on "):
            raise NotAsItShould("the server does not start")
        self.url = line.removeprefix("listening on ").strip()
        self.address = self.url.removeprefix("http://").strip("/")

    def kill(self) -> None:
        """As a power cut does: no warning, no goodbye."""
        self._process.kill()
        self._process.wait()

    def held(self) -> int:
        """How many bytes of the unfinished upload lie on its disk."""
        return sum(
            os.path.getsize(os.path.join(folder, name))
            for folder, _, names in os.walk(self._inbox)
            for name in names
            if name == "request.data"
        )


class _Journey:
    """Follows what the client tells, and strikes when the file is half-way."""

    def __init__(self, server: _Server, display: Display) -> None:
        self._server = server
        self._display = display
        self._acknowledged = self._held = self._retries = 0
        self._killed = self._restarted = False
        self._went_on_at: int | None = None
        self._done: events.Done | None = None

    def follow(self, event: events.Event) -> None:
        """Show the event, and do what the demo does at this point."""
        match event:
            case events.Progress(sent, offset, size) if not self._killed:
                self._display.show(event)
                if sent >= KILL_AT * size and offset > sent:  # in the middle of a fragment
                    self._kill(sent)
                return
            case events.Progress(sent) if self._restarted and self._went_on_at is None:
                self._went_on_at = sent
            case events.Retry() if self._killed and not self._restarted:
                self._display.show(event)
                self._retries += 1
                if self._retries == 2:
                    self._restart()
                return
            case events.Done():
                self._done = event
        self._display.show(event)

    def _kill(self, acknowledged: int) -> None:
        self._killed = True
        self._acknowledged = acknowledged
        pid = self._server.pid
        self._server.kill()
        self._held = self._server.held()
        self._display.say(
            f"\n4. The server is killed (SIGKILL, process {pid}). The client saw it acknowledge"
        )
        self._display.say(f"   {acknowledged:,} bytes; {self._held:,} bytes are on the server's disk.\n")

    def _restart(self) -> None:
        self._server.start()
        self._restarted = True
        self._display.say(f"\n5. The server is started again (process {self._server.pid}).\n")

    def check(self) -> None:
        """Say how it went. Raises NotAsItShould when something was lost."""
        if not self._killed or not self._restarted or self._went_on_at is None or self._done is None:
            raise NotAsItShould("the file arrived before the server could be killed")
        if self._held < self._acknowledged:
            raise NotAsItShould(f"only {self._held:,} bytes were held of {self._acknowledged:,} acknowledged")
        if self._went_on_at < self._acknowledged:
            raise NotAsItShould(f"the client started again at byte {self._went_on_at:,}")
        _step(6, f"The client went on by itself at byte {self._went_on_at:,}, not at 0.")
        again = self._done.repeated
        print(f"   {again:,} bytes ({spell_size(again)}) went over the line more than once.")


def _compare(source: str, received: str) -> None:
    if not os.path.exists(received):
        raise NotAsItShould(f"{received} is not there")
    sums = []
    for path in (source, received):
        with open(path, "rb") as file:
            sums.append(hashlib.file_digest(file, "sha256").hexdigest())
    if sums[0] != sums[1]:
        raise NotAsItShould(f"the files differ: SHA-256 {sums[0]} was sent, {sums[1]} was received")
    _step(7, "The file that was sent and the file that was received are the same, byte for byte:")
    print(f"   SHA-256 {sums[0]}, both.")


def _say_what_is_next(received: str) -> None:
    print(f"""
The received file: {received}

Next, receive from a Windows machine. Here:

    make serve LISTEN=0.0.0.0:8080

there, in PowerShell (every Windows has this client):

    Start-BitsTransfer -TransferType Upload -Source C:\\some\\file.zip -Destination http://THIS-MACHINE:8080/file.zip

and the file appears in ./inbox/.""")


if __name__ == "__main__":
    sys.exit(main())
