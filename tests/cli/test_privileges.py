"""Root's rights are given up for good, and what is secret stays with its owner."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import ssl
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPSConnection
from pathlib import Path

import pytest
import trustme

import bitsferry
from bitsferry.cli.privileges import Account, PrivilegesError, become
from bitsferry.cli.settings import read_settings
from server import raw
from server.raw import Line
from server.receiver import SECRET, Receiver

from .conftest import Configure, Start
from .serving import Served, put

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the server's home is Linux")

ROOT = Path(__file__).parent.parent.parent
NAME = "nobody"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

COMMAND = [sys.executable, "-c", "import os; open(os.environ['BITSFERRY_REPLY'], 'w').write('reply')"]


def is_readable(path: str) -> bool:
    """By everybody: each folder above it may be entered."""
    real = Path(os.path.realpath(path))
    return all(above.stat().st_mode & stat.S_IXOTH for above in real.parents)


def a_program_for_all() -> tuple[list[str], dict[str, str]]:
    """How to run the server by an interpreter that everybody may read."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/python{own}"):
        if os.path.exists(python) and is_readable(python):
            break
    else:
        pytest.skip(f"no Python {own} here that another user may run")
    house = str(Path(bitsferry.__file__).parent.parent)
    path = [house, *(each for each in sys.path if each.endswith("site-packages"))]
    if not all(map(is_readable, path)):
        pytest.skip("Bitsferry lies where another user may not read it")
    return [python, "-m", "bitsferry", "serve"], {"PYTHONPATH": ":".join(path)}


@pytest.fixture
def room() -> Iterator[Path]:
    """A folder of root's in which there is one of the other user's, `own`; both may be seen by all."""
    folder = Path(tempfile.mkdtemp(prefix="bitsferry-test-"))
    folder.chmod(0o755)
    (folder / "own").mkdir()
    account = pwd.getpwnam(NAME)
    os.chown(folder / "own", account.pw_uid, account.pw_gid)
    yield folder
    shutil.rmtree(folder)


SETTINGS = """
listen = ["127.0.0.1:0", "unix:./socket"]
store = "own/store"
audit_log = "own/audit.jsonl"
{top}
[[directory]]
url = "/in/"
folder = "own/in"
read_back = "everybody"
{directory}
"""


def configured(room: Path, *, top: str = "", directory: str = "", mode: int = 0o600) -> str:
    path = room / "bitsferry.toml"
    path.write_text(SETTINGS.format(top=top, directory=directory))
    path.chmod(mode)
    return str(path)


def identity(pid: int) -> dict[str, set[str]]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return {line.partition(":")[0]: set(line.partition(":")[2].split()) for line in lines}


def serve_as(start: Start, settings: str, who: str = NAME) -> Served:
    command, environment = a_program_for_all()
    return start("--config", settings, "--user", who, command=command, environment=environment)


@as_root
@pytest.mark.parametrize("workers", [1, 2])
def test_the_server_becomes_another_user_for_good(start: Start, room: Path, workers: int) -> None:
    """It opened its sockets and read its settings where that user may not."""
    served = serve_as(start, configured(room, top=f"workers = {workers}")).ready(2)
    account = pwd.getpwnam(NAME)
    for pid in [served.pid, *served.workers]:
        told = identity(pid)
        assert told["Uid"] == {str(account.pw_uid)}
        assert told["Gid"] == {str(account.pw_gid)}
        assert "0" not in told["Groups"]
        assert {int(bits, 16) for name in ("CapPrm", "CapEff", "CapAmb") for bits in told[name]} == {0}
    for where in (served.port, str(room / "socket")):
        with Line(where) as line:
            name = f"/in/file{len(str(where))}"
            assert put(line, name, b"bytes").verdict == (200, None)
            assert line.ask(raw.request(f"GET {name} HTTP/1.1", {})).body == b"bytes"
    for path in (room / "own").rglob("*"):
        figures = path.stat()
        assert (figures.st_uid, figures.st_gid) == (account.pw_uid, account.pw_gid), path
    served.tell(signal.SIGTERM)
    assert served.ended() == 0


@as_root
def test_a_group_may_be_named(start: Start, room: Path) -> None:
    served = serve_as(start, configured(room), f"{NAME}:daemon").ready(2)
    import grp

    assert identity(served.pid)["Gid"] == {str(grp.getgrnam("daemon").gr_gid)}


@as_root
def test_a_key_that_only_root_may_read_is_used(start: Start, room: Path) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(room / "pem"))
    (room / "pem").chmod(0o600)
    settings = Path(configured(room))
    settings.write_text(settings.read_text() + '\n[tls]\ncertificate = "pem"\n')
    served = serve_as(start, str(settings)).ready(2)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with closing(HTTPSConnection("127.0.0.1", served.port, context=context, timeout=10)) as line:
        line.request("BITS_POST", "/in/a", headers={"BITS-Packet-Type": "Ping", "Content-Length": "0"})
        assert line.getresponse().status == 200


@as_root
def test_settings_it_may_not_read_again_leave_it_as_it_is(start: Start, room: Path) -> None:
    served = serve_as(start, configured(room)).ready(2)
    served.tell(signal.SIGHUP)
    assert served.says("bitsferry.toml cannot be read: Permission denied")
    with served.line() as line:
        assert put(line, "/in/a", b"bytes").verdict == (200, None)


@as_root
def test_folders_it_may_not_use_are_told_at_the_start(start: Start, room: Path) -> None:
    (room / "own" / "in").mkdir(mode=0o755)  # root's
    served = serve_as(start, configured(room))
    assert served.ended() == 2
    assert "the server's account may not write there" in served.log
    assert served.out == ""


@as_root
def test_a_program_it_may_not_read_is_told_at_the_start(room: Path) -> None:
    if is_readable(sys.executable):
        pytest.skip("everybody may read this interpreter")
    command = [sys.executable, "-m", "bitsferry", "serve", "--config", configured(room), "--user", NAME]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 1
    assert f"{NAME} may not read the program itself" in done.stderr
    assert done.stderr.count("\n") == 1


@as_root
def test_who_has_no_right_to_become_somebody_is_told(start: Start, room: Path) -> None:
    command, environment = a_program_for_all()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("no setpriv here")
    before = [setpriv, "--reuid=1", "--regid=1", "--clear-groups"]
    settings = configured(room, mode=0o644).replace("socket", "own")
    (room / "own").chmod(0o777)
    path = Path(settings)
    path.write_text(path.read_text().replace(', "unix:./socket"', ""))
    served = start("--config", settings, "--user", NAME, command=[*before, *command], environment=environment)
    assert served.ended() == 1
    assert f"only root can become {NAME}" in served.log


def test_who_is_there_already_has_nothing_to_do() -> None:
    me = pwd.getpwuid(os.geteuid())
    if os.geteuid() == 0:
        pytest.skip("root is never there")
    become(Account(me.pw_name, os.geteuid(), os.getegid(), me.pw_dir))


def test_rights_that_do_not_go_stop_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a kernel or a sandbox lets the calls pass and does nothing."""
    for call in ("initgroups", "setresgid", "setresuid"):
        monkeypatch.setattr(f"os.{call}", lambda *_: None)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(PrivilegesError, match="did not go"):
        become(Account(NAME, 65534, 65534, "/"))


@pytest.mark.parametrize(
    ("who", "why"),
    [
        ("no-such-user", "there is no user 'no-such-user'"),
        ("4294967", "there is no user"),
        (f"{NAME}:no-such-group", "there is no group 'no-such-group'"),
        ("root", "root's rights are to be given up"),
        ("0", "root's rights are to be given up"),
        ("", "there is no user ''"),
    ],
)
def test_who_cannot_be_meant_is_told(who: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        Account.parse(who)


@as_root
def test_root_is_warned(start: Start, configure: Configure) -> None:
    served = start("--config", configure()).ready()
    assert served.says("the server runs as root")


# What is on the disk


@pytest.mark.parametrize("umask", [0o000, 0o022])
@pytest.mark.parametrize("workers", [1, 2])
def test_the_store_is_for_its_owner_alone_whatever_the_umask(
    start: Start, tmp_path: Path, umask: int, workers: int
) -> None:
    """After uploads that are open, whole, replied to, closed, given up; with what is still to be told."""
    receiver = Receiver()
    url = receiver.url()
    receiver.close()  # so that events wait
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "own").mkdir()
    settings = configured(
        tmp_path,
        top=f"workers = {workers}",
        directory=f"notification_command = {json.dumps(COMMAND)}\n"
        f'webhook_url = "{url}"\nwebhook_secret_file = "secret"\ndigest = "sha-256"\ndigest_file = true',
    )
    command = [
        sys.executable,
        "-c",
        f"import os, sys; os.umask({umask}); os.execv(sys.argv[1], sys.argv[1:])",
        *(sys.executable, "-m", "bitsferry", "serve"),
    ]
    served = start("--config", settings, command=command).ready(2)
    with served.line() as line:
        for name, size in (("open", 100), ("whole", 4), ("closed", 4), ("given-up", 100)):
            session = line.ask(raw.create(f"/in/{name}")).session or ""
            answer = line.ask(raw.fragment(f"/in/{name}", session, b"data", total=size))
            assert answer.verdict == (200, None)
            assert bool(answer.get("BITS-Reply-URL")) == (size == 4)
            if name == "closed":
                assert line.ask(raw.close(f"/in/{name}", session)).status == 200
            if name == "given-up":
                assert line.ask(raw.cancel(f"/in/{name}", session)).status == 200
    store = tmp_path / "own" / "store"
    found = [store, tmp_path / "own" / "audit.jsonl", *store.rglob("*")]
    names = {path.name for path in found}
    assert {"lock", "request.data", "session.json", "reply.data", "dialogue.json", "outbox"} <= names
    for path in found:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    for path in (tmp_path / "own" / "in").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, path


def test_settings_show_no_secret(tmp_path: Path) -> None:
    """Neither in a traceback nor where somebody prints them."""
    secrets = ["a-secret-password", "a-secret-token", SECRET.removeprefix("whsec_")[:20]]
    for name, text in zip(("password", "token", "webhook"), [*secrets[:2], SECRET], strict=True):
        (tmp_path / name).write_text(text)
    necessary = 'notification_type = "value"\nnotification_url = "https://host/"\n'
    path = tmp_path / "bitsferry.toml"
    path.write_text(
        f'[[directory]]\nurl = "/a/"\nfolder = "a"\n{necessary}'
        'notification_user = "me"\nnotification_password_file = "password"\n'
        'webhook_url = "https://host/"\nwebhook_secret_file = "webhook"\n'
        f'[[directory]]\nurl = "/b/"\nfolder = "b"\n{necessary}notification_token_file = "token"\n'
    )
    shown = repr(read_settings(str(path)))
    assert "https" in shown
    assert not [secret for secret in secrets if secret in shown]


# In systemd's sandbox


@pytest.fixture(scope="module")
def unit() -> str:
    page = (ROOT / "docs/how-to/run-as-a-service.md").read_text(encoding="utf-8")
    return str(re.findall(r"^```ini\n(.*?)^```$", page, re.M | re.S)[1])


def systemd_analyze(*arguments: str) -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd here")
    done = subprocess.run(
        [program, *arguments, "--no-pager"], capture_output=True, text=True, check=False, timeout=30
    )
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze is too old")
    return done.stdout


def test_the_sandbox_leaves_little_to_do_harm_with(unit: str, tmp_path: Path) -> None:
    (tmp_path / "bitsferry.service").write_text(unit)
    said = systemd_analyze("security", "--offline=true", str(tmp_path / "bitsferry.service"))
    level = re.search(r"Overall exposure level for bitsferry.service: ([0-9.]+)", said)
    assert level is not None, said
    assert float(level[1]) < 1.6


def allowed(name: str) -> set[str]:
    """The system calls of one of systemd's sets."""
    calls: set[str] = set()
    for line in systemd_analyze("syscall-filter", name).splitlines()[1:]:
        word = line.strip()
        if word.startswith("@"):
            calls |= allowed(word)
        elif word and not word.startswith("#"):
            calls.add(word)
    return calls


def test_the_server_makes_no_system_call_that_the_sandbox_forbids(
    start: Start, configure: Configure, unit: str, tmp_path: Path
) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("no strace here")
    filters = re.findall(r"^SystemCallFilter=(.*)$", unit, re.M)
    assert [one.startswith("~") for one in filters] == [False, True]
    permitted = {call for name in ("@default", *filters[0].split()) for call in allowed(name)}
    permitted -= {call for name in filters[1].removeprefix("~").split() for call in allowed(name)}
    command = json.dumps(COMMAND)
    settings = configure(
        top='workers = 2\naudit_log = "./audit.jsonl"',
        directory=f'notification_command = {command}\ndigest = "sha-256"\nallow_overwrites = true\n'
        'bandwidth = "10 MB/s"\nuser_quota = "1 GB"\nname_template = "{date}/{name}"',
    )
    trace = [strace, "-f", "-qq", "-c", "-U", "name", "-o", str(tmp_path / "trace")]
    serve = [*trace, sys.executable, "-m", "bitsferry", "serve"]
    served = start("--config", settings, command=serve).ready()
    with served.line() as line:
        for _ in range(2):
            assert put(line, "/in/a", bytes(1 << 20)).verdict == (200, None)
    for pid in served.workers:
        os.kill(pid, signal.SIGTERM)
    assert served.ended() == 0
    made = {
        word for word in (tmp_path / "trace").read_text().split() if re.fullmatch(r"[a-z_0-9]*[a-z]\w*", word)
    }
    made -= {"syscall", "name", "total"}
    assert "openat" in made
    assert made - permitted == set()


def test_nothing_needs_memory_that_is_written_and_executed() -> None:
    """As MemoryDenyWriteExecute forbids it; by the system's own switch for that, Linux 6.3 and later."""
    pr_set_mdwe, refuse_exec_gain = 65, 1
    code = (
        "import ctypes, mmap, sys\n"
        f"if ctypes.CDLL(None).prctl({pr_set_mdwe}, {refuse_exec_gain}, 0, 0, 0): sys.exit(77)\n"
        "try: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
        "except OSError: pass\n"
        "else: sys.exit(77)\n"
        "import bcrypt, hashlib, ssl\n"
        "from cryptography import x509\n"
        "from cryptography.hazmat.primitives.asymmetric import rsa\n"
        "import bitsferry.cli.serve\n"
        "rsa.generate_private_key(65537, 1024)\n"
        "bcrypt.hashpw(b'x', bcrypt.gensalt(4)); hashlib.sha256(b'x').digest()\n"
        "ssl.create_default_context()\n"
        "ctypes.CDLL(None).renameat2\n"
        "for extra in ('blake3', 'joserfc', 'spnego', 'gssapi'):\n"
        "    try: __import__(extra)\n"
        "    except ModuleNotFoundError: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("this system cannot forbid it")
    assert done.returncode == 0, done.stderr
