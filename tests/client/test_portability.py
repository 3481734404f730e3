"""The client works on Windows and macOS, too: nothing stands alone that only some systems have."""

from __future__ import annotations

import ast
import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bitsferry.client.destination import Destination
from bitsferry.client.local_file import LocalFile
from bitsferry.client.transport import Transport
from bitsferry.protocol.errors import AccessDenied
from bitsferry.protocol.packets import Fragment
from bitsferry.protocol.ranges import ContentRange
from bitsferry.protocol.wire import ack_of_error
from test_house import MODULES, floor, reached, read

from . import test_transfer
from .conftest import MIB, Sender, content
from .hostile import Exchange, HostileServer

# What Windows or macOS do not have. `make check` asks mypy the same; this needs no mypy and says why.
ONLY_SOMEWHERE = {
    "os": """sendfile fork forkpty splice pipe2 getuid geteuid getgid getegid getpgid setsid killpg fchmod
        chown fchown lchown pread pwrite preadv pwritev readv writev fdatasync posix_fadvise sync
        copy_file_range memfd_create openpty mkfifo mknod nice getloadavg statvfs fstatvfs sched_getaffinity
        uname startfile O_CLOEXEC O_NOFOLLOW O_NONBLOCK O_DIRECTORY O_TMPFILE O_DSYNC O_SYNC O_BINARY""",
    "signal": """SIGHUP SIGKILL SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGPIPE SIGQUIT SIGWINCH SIGBREAK CTRL_C_EVENT
        CTRL_BREAK_EVENT pthread_sigmask pthread_kill sigwait alarm setitimer set_wakeup_fd""",
    "socket": """AF_UNIX AF_NETLINK SOCK_CLOEXEC SOCK_NONBLOCK TCP_INFO TCP_CORK TCP_QUICKACK TCP_CONGESTION
        TCP_NOTSENT_LOWAT TCP_USER_TIMEOUT TCP_KEEPIDLE SO_REUSEPORT MSG_DONTWAIT MSG_NOSIGNAL send_fds""",
    "select": "epoll kqueue poll",
    "time": "tzset clock_gettime pthread_getcpuclockid",
    "subprocess": "CREATE_NO_WINDOW CREATE_NEW_PROCESS_GROUP DETACHED_PROCESS STARTUPINFO",
    "ctypes": "WinError windll WinDLL FormatError",
    "fcntl resource pwd grp termios tty pty syslog msvcrt winreg winsound": "",
}
NAMES = {(module, name) for module, names in ONLY_SOMEWHERE.items() for name in names.split()}
WHOLE = {module for modules, names in ONLY_SOMEWHERE.items() if not names for module in modules.split()}

DOORS = ("bitsferry.cli.main", "bitsferry.cli.send", "bitsferry.cli.jobs", "bitsferry.cli.bitsadmin")
EVERYWHERE = sorted(
    {*DOORS, *(name for name in MODULES if floor(name) == "client")}.union(*(reached(door) for door in DOORS))
)
in_each = pytest.mark.parametrize("module", EVERYWHERE)


def asks_for_the_system(test: ast.expr) -> bool:
    text = ast.unparse(test)
    return "sys.platform" in text or "os.name" in text or "hasattr(" in text


def leaves(branch: list[ast.stmt]) -> bool:
    return isinstance(branch[-1], ast.Raise | ast.Return)


def unguarded(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run, or are imported, whatever the system is."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If | ast.IfExp) and asks_for_the_system(child.test):
            if isinstance(child, ast.If) and leaves(child.body):
                return  # what follows is for the others
            continue
        yield child
        yield from unguarded(child)


def taken_for_granted(tree: ast.Module) -> Iterator[str]:
    """What only some systems have, where nobody asked for the system."""
    for node in unguarded(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=origin), attr=name) if (origin, name) in NAMES:
                yield f"line {node.lineno}: {origin}.{name}"
            case ast.Import(names=names):
                yield from (f"line {node.lineno}: {each.name}" for each in names if each.name in WHOLE)
            case ast.ImportFrom(module=origin, names=names):
                for each in names:
                    if origin in WHOLE or (origin, each.name) in NAMES:
                        yield f"line {node.lineno}: {origin}.{each.name}"


@in_each
def test_what_only_some_systems_have_is_asked_for_first(module: str) -> None:
    assert list(taken_for_granted(read(MODULES[module]))) == []


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("os.fork()", 1),
        ("import fcntl", 1),
        ("def f():\n    from signal import SIGHUP", 1),
        ("if ready:\n    os.fork()", 1),
        ("if sys.platform == 'win32':\n    import msvcrt\nelse:\n    import fcntl", 0),
        ("def f():\n    if sys.platform == 'win32':\n        return 0\n    return os.fork()", 0),
        ("count = os.getuid() if hasattr(os, 'getuid') else 0", 0),
    ],
)
def test_nothing_is_overlooked(code: str, count: int) -> None:
    assert len(list(taken_for_granted(ast.parse(code)))) == count


@in_each
def test_text_is_utf_8_everywhere(module: str) -> None:
    """Where nobody says so, Windows takes a code page of its own."""
    for node in ast.walk(read(MODULES[module])):
        if not isinstance(node, ast.Call):
            continue
        called, said = ast.unparse(node.func), {keyword.arg for keyword in node.keywords}
        mode = ast.unparse(node.args[1]) if len(node.args) > 1 else ""
        if called.endswith(("read_text", "write_text")) or (called == "open" and "b" not in mode):
            assert "encoding" in said, f"line {node.lineno}"


@in_each
def test_bytes_stay_what_they_are(module: str) -> None:
    """Windows writes a descriptor's line ends in its own way, unless it is opened with O_BINARY."""
    source = MODULES[module].read_text(encoding="utf-8")
    if "os.open(" in source and ("os.write(" in source or "os.read(" in source):
        assert "O_BINARY" in source


# Without sendfile, as on Windows


@pytest.mark.parametrize(
    "promise",
    [
        test_transfer.test_a_file_arrives,
        test_transfer.test_an_empty_file_arrives,
        test_transfer.test_cut_bodies_end_in_a_whole_file,
        test_transfer.test_every_fourth_answer_may_be_a_503,
        test_transfer.test_fragments_shrink_until_the_server_takes_them,
        test_transfer.test_a_rewinding_server_gets_what_it_wants_again,
    ],
)
def test_promises_are_kept_without_sendfile(
    promise: Callable[[Sender, HostileServer], None],
    sender: Sender,
    server: HostileServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "sendfile", raising=False)
    promise(sender, server)


# As macOS says it


@pytest.mark.skipif(not hasattr(os, "sendfile"), reason="there is no sendfile here")
def test_an_early_answer_is_heard_after_enotconn(
    server: HostileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file.bin").write_bytes(content(8 * MIB) * 2)
    really = os.sendfile

    def sendfile(out: int, source: int, offset: int, count: int) -> int:
        try:
            return really(out, source, offset, count)
        except ConnectionError:
            raise OSError(errno.ENOTCONN, "Socket is not connected") from None

    @server.on(Fragment)
    def refuse_unread(exchange: Exchange) -> None:
        exchange.say(ack_of_error(AccessDenied()))
        exchange.hang_up()

    monkeypatch.setattr(os, "sendfile", sendfile)
    whole = ContentRange(0, 16 * MIB, 16 * MIB)
    with (
        contextlib.closing(Transport(Destination.parse(server.url()))) as transport,
        LocalFile(str(tmp_path / "file.bin")) as file,
    ):
        assert transport.send(Fragment("{session}", whole), file).status == 403


# Where a pipe has few letters, as on Windows


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_any_name_can_be_told_to_any_pipe(server: HostileServer, tmp_path: Path, options: list[str]) -> None:
    path = tmp_path / "жук → 🐞.bin"
    path.write_bytes(b"beetle")
    done = subprocess.run(
        [sys.executable, "-m", "bitsferry", "send", path, server.url("/in/"), *options],
        env=os.environ | {"PYTHONIOENCODING": "cp1252", "XDG_STATE_HOME": str(tmp_path / "state")},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    done.stdout.decode("ascii")
