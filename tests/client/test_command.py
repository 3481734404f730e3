"""`bitsferry send`: what it prints, to whom, and how it ends."""

import contextlib
import json
import os
import shlex
import signal
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner, Result

from bitsferry.cli.send import send
from bitsferry.client.places import Places
from bitsferry.client.sending import places_folder
from bitsferry.protocol.errors import AccessDenied, Busy, UploadsDisabled
from bitsferry.protocol.packets import Ack, CreateSession, Fragment

from .conftest import MIB, Sender, content
from .hostile import Exchange, HostileServer, Proxy


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this user's state is kept."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("WIN_PD_OVERRIDE_LOCAL_APPDATA", str(tmp_path / "state"))
    for name in ("BITSFERRY_PASSWORD", "BITSFERRY_PROXY_PASSWORD", "BITSFERRY_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return Path(places_folder()).parent


posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such thing")


def run(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(send, [str(argument) for argument in arguments], input=stdin)


def start(
    *arguments: object, env: dict[str, str] | None = None, stdin: int | None = None
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bitsferry", "send", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=stdin, stdout=pipe, stderr=pipe, text=True, env=env)


def remembered(state: Path) -> list[str]:
    """What is left of sends."""
    return sorted(path.name for folder in state.glob("*") for path in folder.iterdir())


def test_it_ends_with_where_the_file_is(sender: Sender, server: HostileServer, state: Path) -> None:
    result = run(sender.path, server.url("/in/"))
    assert result.exit_code == 0
    assert f"stored as {server.url()} (5.2 MB in " in result.stdout
    assert result.stderr == ""
    assert sender.arrived
    assert remembered(state) == []


def test_a_key_in_the_query_is_not_shown(sender: Sender, server: HostileServer) -> None:
    result = run(sender.path, server.url("/in/file.bin?key=k3y"))
    assert f"stored as {server.url()} (5.2 MB in " in result.stdout
    assert "k3y" not in result.output


def test_quiet_says_nothing(sender: Sender, server: HostileServer) -> None:
    result = run(sender.path, server.url(), "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_json_is_an_object_a_line(sender: Sender, server: HostileServer) -> None:
    @server.on(CreateSession, first=1)
    def be_busy(exchange: Exchange) -> None:
        exchange.refuse(Busy(retry_after=0))

    result = run(sender.path, server.url(), "--json")
    told = [json.loads(line) for line in result.stdout.splitlines()]
    size = sender.path.stat().st_size
    assert told[0] == {
        "event": "started",
        "file": str(sender.path),
        "url": server.url(),
        "size": size,
        "sent": 0,
        "resumable": True,
    }
    assert [each["event"] for each in told[1:3]] == ["connected", "retry"]
    assert told[2]["error"]["name"] == "BG_E_HTTP_ERROR_503"
    assert told[-3] == {"event": "progress", "sent": size, "offset": size, "size": size, "until": size}
    assert told[-2] == {"event": "whole", "size": size}
    assert told[-1]["event"] == "done"


# How it fails


def test_a_refusal_is_a_name_a_number_a_sentence_and_what_to_do(
    sender: Sender, server: HostileServer
) -> None:
    @server.on(CreateSession)
    def refuse(exchange: Exchange) -> None:
        exchange.refuse(AccessDenied())

    result = run(sender.path, server.url())
    assert result.exit_code == 1
    error, advice = result.stderr.splitlines()
    assert error.startswith("E_ACCESSDENIED (0x80070005): the server refuses")
    assert advice.startswith("Choose another name")


def test_a_refusal_in_json_has_name_number_and_context(sender: Sender, server: HostileServer) -> None:
    @server.on(CreateSession)
    def refuse(exchange: Exchange) -> None:
        exchange.refuse(AccessDenied())

    result = run(sender.path, server.url(), "--json")
    assert result.exit_code == 1
    failed = json.loads(result.stdout.splitlines()[-1])
    assert failed["event"] == "failed"
    assert failed["transient"] is False
    assert failed["error"]["name"] == "E_ACCESSDENIED"
    assert failed["error"]["hresult"] == "0x80070005"
    assert failed["error"]["context"] == 5


def test_what_may_go_better_later_ends_with_75(sender: Sender, server: HostileServer) -> None:
    @server.on(Fragment)
    def be_busy_for_long(exchange: Exchange) -> None:
        exchange.refuse(Busy(retry_after=3600))

    result = run(sender.path, server.url())
    assert result.exit_code == 75
    assert "Run the same command again later" in result.stderr


def test_how_long_it_tries_can_be_said(sender: Sender, server: HostileServer) -> None:
    server.close()
    result = run(sender.path, server.url(), "--retry-for", "0 s")
    assert result.exit_code == 75
    assert result.stdout == ""
    assert "ERROR_WINHTTP_CANNOT_CONNECT (0x80072EFD): the server 127.0.0.1 cannot be" in result.stderr


def test_a_retry_is_told_with_its_name_and_how_long_it_waits(sender: Sender, server: HostileServer) -> None:
    @server.on(Fragment, first=1)
    def be_busy_and_forget(exchange: Exchange) -> None:
        exchange.refuse(Busy(retry_after=0))
        server.sessions.clear()

    result = run(sender.path, server.url())
    assert result.exit_code == 0
    busy, lost = result.stdout.splitlines()[:2]
    assert busy.startswith(
        "BG_E_HTTP_ERROR_503 (0x801901F7): the server answered with HTTP status 503; trying again"
    )
    assert lost == (
        "BG_E_SESSION_NOT_FOUND (0x8020001F): the server no longer knows this upload; starting over (1 of 5)"
    )


def test_a_second_send_of_the_same_is_told_to_wait(
    sender: Sender, server: HostileServer, state: Path
) -> None:
    with Places(str(state / "sends")).take(str(sender.path), server.url()):
        result = run(sender.path, server.url())
    assert result.exit_code == 75
    assert "another process is sending file.bin" in result.stderr


USAGE = [
    (["{file}"], "Missing argument"),
    (["{file}.not", "{url}"], "there is no file "),
    (["{file}*x", "{url}"], "there is no file "),
    (["{folder}", "{url}"], "is a folder: say --recursive"),
    (["--recursive", "{folder}", "{url}"], "names one file; a URL to send several to ends in /"),
    (["{file}", "{file}2", "{url}"], "names one file; a URL to send several to ends in /"),
    (["{file}", "{folder}/tree/file.bin", "{url}/"], "would both be sent to "),
    pytest.param(["{folder}/pipe", "{url}"], "is a pipe; to send what comes out of it, pipe it", marks=posix),
    (["-", "{file}", "{url}/"], "standard input (-) is sent alone"),
    (["-", "{url}/"], "standard input needs a name"),
    (["{file}", "host/in/"], "is no URL to send to"),
    (["{file}", "http://inga:pw@host/in/"], "give the name with --user"),
    (["{file}", "{url}", "--limit", "fast"], "'fast' is not a rate"),
    (["{file}", "{url}", "--fragment", "1 KB"], "a fragment has 5 KiB to 64 MiB"),
    (["{file}", "{url}", "--fragment", "65 MiB"], "a fragment has 5 KiB to 64 MiB"),
    (["{file}", "{url}", "--retry-for", "ever"], "'ever' is not a time"),
    (["{file}", "{url}", "--header", "no colon"], "this is no header"),
    (["{file}", "{url}", "--header", "Content-Length: 5"], "belongs to the protocol"),
    (["{file}", "{url}", "--header", "X: a\r\nY: b"], "printable ASCII"),
    (["{file}", "{url}", *5 * ["--header", "X: " + 4000 * "a"]], "16384 are allowed"),
    (["{file}", "{url}", "--user", "inga"], "the password of inga is missing: set BITSFERRY_PASSWORD"),
    (["{file}", "{url}", "--auth", "basic"], "basic needs a name: say who you are with --user"),
    (["{file}", "{url}", "--auth", "bearer"], "the token is missing: set BITSFERRY_TOKEN"),
    (["{file}", "{url}", "--auth", "bearer", "--user", "inga:pw"], "a token says who you are"),
    (["{file}", "{url}", "--auth", "passport"], "'passport' is not one of"),
    (["{file}", "{url}", "--proxy-auth", "bearer"], "'bearer' is not one of"),
    (["{file}", "{url}", "--proxy-auth", "basic"], "basic needs a name: say who you are with --proxy-user"),
    (["{file}", "{url}", "--user", "a:b:c", "--auth", "bearer"], "a token says who you are"),
    (["{file}", "{url}", "--proxy", "socks5://host:1"], "only those that speak HTTP"),
    (["{file}", "{url}", "--proxy", "http://inga:pw@host:1"], "give name and password as credentials"),
    (["{file}", "{url}", "--no-proxy", "host"], "--no-proxy goes with --proxy URL"),
    (["{file}", "{url}", "--cacert", "{file}"], "the CA file "),
    (["{file}", "{url}", "--cert", "{file}.not"], "cannot be read"),
    (["{file}", "{url}", "--key", "{file}"], "a client's key needs its certificate"),
    (["{file}", "{url}", "--ignore-tls", "usage"], "'usage' can only be ignored together with 'ca'"),
    (["{file}", "{url}", "--reply", "{folder}"], "there can be no reply at "),
    (["{file}", "{url}", "--reply", "{file}/not/there"], "there can be no reply at "),
    (["{file}", "{url}", "--reply", "{file}"], "would take the place of the file that is sent"),
    (["{file}", "{file}2", "{url}/", "--reply", "{file}.reply"], "there are several"),
]


@pytest.mark.parametrize(("arguments", "complaint"), USAGE)
def test_wrong_usage_ends_with_2_and_a_sentence(
    sender: Sender, server: HostileServer, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    folder = tmp_path / "folder"
    (folder / "tree").mkdir(parents=True)
    (folder / "tree" / "file.bin").write_bytes(b"other")
    if sys.platform != "win32":
        os.mkfifo(folder / "pipe")
    sender.path.with_name("file.bin2").write_bytes(b"2")
    result = run(*(each.format(file=sender.path, folder=folder, url=server.url()) for each in arguments))
    assert result.exit_code == 2
    assert complaint in " ".join(result.stderr.split())
    assert "pw" not in result.stderr
    assert server.heard == []


# Who sends


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["--user", "inga:pw"], {}, "Basic aW5nYTpwdw=="),
        (["--user", "inga"], {"BITSFERRY_PASSWORD": "pw"}, "Basic aW5nYTpwdw=="),
        (["--user", "inga:"], {}, "Basic aW5nYTo="),
        (["--user", "inga", "--auth", "basic"], {"BITSFERRY_PASSWORD": "p:w"}, "Basic aW5nYTpwOnc="),
        (["--auth", "bearer"], {"BITSFERRY_TOKEN": "tok.en"}, "Bearer tok.en"),
    ],
)
def test_who_sends_is_said_when_it_is_asked_for(
    sender: Sender,
    server: HostileServer,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    environment: dict[str, str],
    said: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    @server.on()
    def ask(exchange: Exchange) -> None:
        if exchange.headers.get("authorization") == said:
            exchange.say(exchange.process())
        else:
            exchange.read_body()
            exchange.say(Ack(401, challenges=("Basic",)))

    assert run(sender.path, server.url(), *arguments).exit_code == 0


def test_a_password_may_come_from_the_keyring(sender: Sender, server: HostileServer, tmp_path: Path) -> None:
    (tmp_path / "ring.py").write_text(
        "from keyring.backend import KeyringBackend\n"
        "class Ring(KeyringBackend):\n"
        "    priority = 9\n"
        "    def get_password(self, service, name):\n"
        "        return 'pw' if (service, name) == ('bitsferry', 'inga') else None\n"
        "    set_password = delete_password = None\n"
    )

    @server.on()
    def ask(exchange: Exchange) -> None:
        known = exchange.headers.get("authorization") == "Basic aW5nYTpwdw=="
        exchange.say(exchange.process() if known else Ack(401, challenges=("Basic",)))

    environment = os.environ | {"PYTHON_KEYRING_BACKEND": "ring.Ring", "PYTHONPATH": str(tmp_path)}
    sender.path.write_bytes(b"short")
    process = start(sender.path, server.url(), "--user", "inga", env=environment, stdin=subprocess.DEVNULL)
    assert process.communicate(timeout=20)[1] == ""
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it stays in the title")
def test_a_password_on_the_command_line_is_soon_blotted_out(sender: Sender, server: HostileServer) -> None:
    seen = []

    @server.on(CreateSession)
    def look(exchange: Exchange) -> None:
        seen.append(Path(f"/proc/{process.pid}/cmdline").read_bytes())
        exchange.say(exchange.process())

    process = start(sender.path, server.url(), "--user", "inga:secret", "--proxy-user", "gate:sesame")
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert b"inga:******\0" in seen[0]
    assert b"gate:******\0" in seen[0]


SECRETS = ["s3cret", "s3same", "t1cket", "k3y", "czNjcmV0", "czNzYW1l"]  # some in Base64


@pytest.mark.parametrize("how", [[], ["--json"], ["--quiet"]])
def test_no_secret_is_ever_shown_or_kept(
    sender: Sender, server: HostileServer, state: Path, how: list[str]
) -> None:
    @server.on()
    def refuse(exchange: Exchange) -> None:
        if "authorization" not in exchange.headers:
            exchange.read_body()
            exchange.say(Ack(401, challenges=("Basic",)))
        elif isinstance(exchange.packet, Fragment) and len(server.fragments()) > 1:
            exchange.refuse(Busy(retry_after=3600))
        else:
            exchange.say(exchange.process())

    with contextlib.closing(Proxy(user="gate", password="s3same")) as proxy:
        process = start(
            *(sender.path, server.url("/in/file.bin?key=k3y"), *how),
            *("--user", "inga:s3cret", "--header", "X-Key: t1cket"),
            *("--proxy", f"http://{proxy.address}", "--proxy-user", "gate:s3same"),
        )
        said = "".join(process.communicate(timeout=20))
    assert process.returncode == 75
    kept = [path for path in state.rglob("*") if path.is_file()]
    assert kept
    if how == ["--json"]:
        said = said.replace("?key=k3y", "")  # programs are told the URL as it was given
    said += "".join(path.read_text() for path in kept)
    assert [secret for secret in SECRETS if secret in said] == []


# What is asked of the way


def test_what_the_options_say_is_done(sender: Sender, server: HostileServer) -> None:
    result = run(
        *(sender.path, server.url(), "--header", "X-Ticket: 4711", "--header", "Cookie: a=b", "--post"),
        *("--fragment", "100 KB", "--limit", "100 MB/s", "--background"),
    )
    assert result.exit_code == 0
    assert sender.arrived
    assert {heard.method for heard in server.heard} == {"POST"}
    assert {heard.headers["x-ticket"] for heard in server.heard} == {"4711"}
    assert {heard.headers["cookie"] for heard in server.heard} == {"a=b"}
    assert max(fragment.range.length for fragment in server.fragments()) == 100_000


@pytest.mark.parametrize(
    ("options", "methods"),
    [([], {"BITS_POST"}), (["--proxy-tunnel"], {"CONNECT"}), (["--no-proxy", "127.0.0.1,host"], set[str]())],
)
def test_the_proxy_is_asked(
    sender: Sender, server: HostileServer, options: list[str], methods: set[str]
) -> None:
    with contextlib.closing(Proxy()) as proxy:
        result = run(sender.path, server.url(), "--proxy", f"http://{proxy.address}", *options)
    assert result.exit_code == 0
    assert sender.arrived
    assert {method for method, _ in proxy.heard} == methods


def test_the_systems_proxy_is_not_asked_when_it_is_not_wanted(
    sender: Sender, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert run(sender.path, server.url(), "--proxy", "none").exit_code == 0


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[HostileServer]:
    """A server for which somebody unknown vouches."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with contextlib.closing(HostileServer(tls=context, scheme="https")) as server:
        yield server


def test_a_server_nobody_vouches_for_gets_nothing(sender: Sender, secure: HostileServer) -> None:
    result = run(sender.path, secure.url())
    assert result.exit_code == 1
    assert "ERROR_WINHTTP_SECURE_FAILURE (0x80072F8F): the certificate of 127.0.0.1" in result.stderr
    assert "--cacert FILE" in result.stderr
    assert secure.heard == []


def test_whom_to_trust_can_be_said(
    sender: Sender, secure: HostileServer, authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    result = run(sender.path, secure.url(), "--cacert", tmp_path / "ca.pem")
    assert (result.exit_code, result.stderr) == (0, "")


def test_every_fault_that_is_overlooked_is_warned_of(sender: Sender, secure: HostileServer) -> None:
    flags = [option for name in ("ca", "cn", "date", "usage") for option in ("--ignore-tls", name)]
    result = run(sender.path, secure.url(), *flags)
    assert result.exit_code == 0
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == 4 * ["warning"]


# Replies


def test_the_reply_is_put_where_it_was_asked_for(
    sender: Sender, server: HostileServer, tmp_path: Path
) -> None:
    server.replies["/replies/1"] = b"thank you"

    @server.on(Fragment)
    def reply(exchange: Exchange) -> None:
        received = exchange.process().received
        exchange.say(Ack(received=received, reply_url="/replies/1"))

    result = run(sender.path, server.url(), "--reply", tmp_path / "reply.txt")
    assert result.exit_code == 0
    assert f"the reply is {tmp_path / 'reply.txt'} (9 bytes)\n" in result.stdout
    assert (tmp_path / "reply.txt").read_bytes() == b"thank you"


def test_a_reply_that_cannot_be_kept_here_is_said_so(
    sender: Sender, server: HostileServer, tmp_path: Path
) -> None:
    server.replies["/replies/1"] = b"thank you"

    @server.on(Fragment)
    def reply(exchange: Exchange) -> None:
        received = exchange.process().received
        (tmp_path / "here").rename(tmp_path / "gone") if (tmp_path / "here").exists() else None
        exchange.say(Ack(received=received, reply_url="/replies/1"))

    (tmp_path / "here").mkdir()
    result = run(sender.path, server.url(), "--reply", tmp_path / "here" / "reply.txt")
    assert result.exit_code == 1
    assert "Make the folder" in result.stderr


# Several files


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    for name in ("b/deep/2.bin", "a.bin", "b/1.bin", "b/ü x.bin", "z.bin"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(name.encode() * 1000)
    return tree


IN_ORDER = ["/in/a.bin", "/in/z.bin", "/in/b/1.bin", "/in/b/%C3%BC%20x.bin", "/in/b/deep/2.bin"]


def created(server: HostileServer) -> list[str]:
    return [heard.target for heard in server.heard if isinstance(heard.packet, CreateSession)]


def test_a_folder_is_sent_as_a_tree_in_order(tree: Path, server: HostileServer, state: Path) -> None:
    result = run("--recursive", tree, server.url("/in/"))
    assert result.exit_code == 0
    assert created(server) == IN_ORDER
    assert server.files["/in/b/1.bin"] == (tree / "b/1.bin").read_bytes()
    assert result.stdout.splitlines()[-1].startswith("5 files stored (39 KB in ")
    assert server.connections == 1
    assert remembered(state) == []


def test_a_url_with_a_query_keeps_it_for_every_file(tree: Path, server: HostileServer) -> None:
    run(tree / "a.bin", tree / "z.bin", server.url("/in/?key=1"))
    assert created(server) == ["/in/a.bin?key=1", "/in/z.bin?key=1"]


def test_patterns_are_expanded_where_the_shell_did_not(tree: Path, server: HostileServer) -> None:
    result = run(f"{tree}/[az].bin", f"{tree}/**/?.bin", server.url("/in/"))
    assert result.exit_code == 0
    assert sorted(server.files) == ["/in/1.bin", "/in/2.bin", "/in/a.bin", "/in/z.bin"]


def test_a_file_that_looks_like_a_pattern_is_one(tmp_path: Path, server: HostileServer) -> None:
    (tmp_path / "[a].bin").write_bytes(b"itself")
    (tmp_path / "a.bin").write_bytes(b"another")
    assert run(tmp_path / "[a].bin", server.url("/in/")).exit_code == 0
    assert server.files == {"/in/%5Ba%5D.bin": b"itself"}


def test_what_is_no_file_is_left_out_with_a_sentence(tree: Path, server: HostileServer) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows has no such thing")
    (tree / "linked.bin").symlink_to(tree / "a.bin")
    (tree / "b" / "circle").symlink_to(tree)
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(tree)  # a socket's name is short
        listener.bind("socket")
        os.chdir(here)
        result = run("--recursive", tree, server.url("/in/"))
    assert result.exit_code == 0
    assert "/in/linked.bin" in server.files
    assert len(server.files) == 6
    assert [line for line in result.stdout.splitlines() if "left out" in line] == [
        f"{tree}/pipe is left out: it is a pipe",
        f"{tree}/socket is left out: it is a socket",
        f"{tree}/b/circle is left out: it is a link to a folder",
    ]


@posix
def test_what_cannot_be_read_fails_and_the_others_arrive(tree: Path, server: HostileServer) -> None:
    (tree / "b" / "dangling").symlink_to(tree / "nothing")
    result = run("--recursive", tree, server.url("/in/"))
    assert result.exit_code == 1
    assert len(server.files) == 5
    assert "b/dangling: ERROR_FILE_NOT_FOUND (0x80070002): " in result.stderr
    assert "5 files stored" in result.stdout
    assert "; 1 file failed" in result.stdout


def test_a_file_that_is_refused_does_not_stop_the_others(tree: Path, server: HostileServer) -> None:
    @server.on(CreateSession)
    def refuse_some(exchange: Exchange) -> None:
        if "z.bin" in exchange.target or "1.bin" in exchange.target:
            exchange.refuse(AccessDenied())
        else:
            exchange.say(exchange.process())

    result = run("--recursive", tree, server.url("/in/"))
    assert result.exit_code == 1
    assert len(server.files) == 3
    assert [line.partition(" ")[0] for line in result.stderr.splitlines()] == ["z.bin:", "Choose", "b/1.bin:"]
    assert "3 files stored" in result.stdout
    assert "2 files failed" in result.stdout

    server.behave()
    before = len(server.heard)
    result = run("--recursive", tree, server.url("/in/"))
    assert result.exit_code == 0
    assert {heard.target for heard in server.heard[before:]} == {"/in/z.bin", "/in/b/1.bin"}
    assert "3 files stored by an earlier run (--all sends them again)" in result.stdout


def test_all_means_all(tree: Path, server: HostileServer) -> None:
    @server.on(CreateSession)
    def refuse_one(exchange: Exchange) -> None:
        if "z.bin" in exchange.target:
            exchange.refuse(AccessDenied())
        else:
            exchange.say(exchange.process())

    run("--recursive", tree, server.url("/in/"))
    server.behave()
    server.heard.clear()
    assert run("--recursive", tree, server.url("/in/"), "--all").exit_code == 0
    assert created(server) == IN_ORDER


def test_what_changed_after_it_arrived_is_sent_again(tree: Path, server: HostileServer) -> None:
    @server.on(CreateSession)
    def refuse_one(exchange: Exchange) -> None:
        if "z.bin" in exchange.target:
            exchange.refuse(AccessDenied())
        else:
            exchange.say(exchange.process())

    run("--recursive", tree, server.url("/in/"))
    server.behave()
    server.heard.clear()
    (tree / "a.bin").write_bytes(b"newer")
    assert run("--recursive", tree, server.url("/in/")).exit_code == 0
    assert created(server) == ["/in/a.bin", "/in/z.bin"]
    assert server.files["/in/a.bin"] == b"newer"


def test_what_went_wrong_only_for_now_ends_with_75(tree: Path, server: HostileServer) -> None:
    @server.on(CreateSession)
    def be_busy(exchange: Exchange) -> None:
        if "z.bin" in exchange.target:
            exchange.refuse(Busy(retry_after=3600))
        else:
            exchange.say(exchange.process())

    result = run("--recursive", tree, server.url("/in/"))
    assert result.exit_code == 75
    assert "1 file left for later" in result.stdout
    assert len(server.files) == 4


def test_a_wrong_password_is_not_said_for_every_file(tree: Path, server: HostileServer) -> None:
    @server.on()
    def ask(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.say(Ack(401, challenges=("Basic",)))

    result = run("--recursive", tree, server.url("/in/"), "--user", "inga:wrong")
    assert result.exit_code == 1
    assert len([heard for heard in server.heard if "authorization" in heard.headers]) == 1
    assert "1 file failed; 4 files left for later" in result.stdout


def test_a_server_that_is_gone_is_waited_for_once(tree: Path, server: HostileServer) -> None:
    server.close()
    result = run("--recursive", tree, server.url("/in/"), "--retry-for", "1 s")
    assert result.exit_code == 75
    assert result.stdout.count("trying again") in (1, 2)  # a wait differs by chance
    assert result.stderr.count("cannot be reached") == 5
    assert result.stderr.count("Run the same command again later") == 1
    assert "0 files stored" in result.stdout


def test_several_files_in_json_can_be_told_apart(tree: Path, server: HostileServer) -> None:
    @server.on(CreateSession)
    def refuse_some(exchange: Exchange) -> None:
        if "1.bin" in exchange.target:
            exchange.refuse(UploadsDisabled())
        else:
            exchange.say(exchange.process())

    result = run("--recursive", tree, server.url("/in/"), "--json")
    told = [json.loads(line) for line in result.stdout.splitlines()]
    size = sum(path.stat().st_size for path in tree.rglob("*.bin"))
    assert told[0] == {"event": "listed", "files": 5, "size": size}
    assert {each["file"] for each in told if each["event"] == "started"} == {
        str(path) for path in tree.rglob("*.bin")
    }
    done = [each["file"] for each in told if each["event"] == "done"]
    assert done == ["a.bin", "z.bin", "b/ü x.bin", "b/deep/2.bin"]
    assert [each["file"] for each in told if each["event"] == "failed"] == ["b/1.bin"]
    summary = told[-1]
    assert (summary["event"], summary["sent"], summary["failed"], summary["left"]) == ("summary", 4, 1, 0)

    server.behave()
    again = [
        json.loads(line)
        for line in run("--recursive", tree, server.url("/in/"), "--json").stdout.splitlines()
    ]
    assert {"event": "skipped", "file": "a.bin", "size": 5000} in again


# Standard input


def test_standard_input_is_sent_and_not_kept(server: HostileServer, state: Path) -> None:
    dump = content(3 * MIB)
    result = run("-", server.url("/in/dump.sql"), stdin=dump)
    assert result.exit_code == 0
    assert server.files == {"/in/dump.sql": dump}
    assert remembered(state) == []


def test_standard_input_that_did_not_arrive_is_kept_for_another_run(
    server: HostileServer, state: Path
) -> None:
    @server.on(Fragment)
    def be_busy(exchange: Exchange) -> None:
        exchange.refuse(Busy(retry_after=3600))

    dump = content(MIB)
    result = run("-", server.url("/in/dump ü.sql"), stdin=dump)
    assert result.exit_code == 75
    (kept,) = (state / "spool").rglob("dump*")
    if sys.platform != "win32":
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert kept.read_bytes() == dump
    command = ["bitsferry", "send", str(kept), server.url("/in/dump ü.sql")]
    shown = subprocess.list2cmdline(command) if sys.platform == "win32" else shlex.join(command)
    assert result.stderr.splitlines()[-1] == (
        f"What came on standard input is kept. To go on, with the same options: {shown}"
    )
    server.behave()
    assert run(kept, server.url("/in/dump ü.sql")).exit_code == 0
    assert [*server.files.values()] == [dump]
    assert server.kinds().count("CreateSession") == 1
    assert remembered(state) == []


def test_standard_input_that_is_refused_is_kept_too(server: HostileServer, state: Path) -> None:
    @server.on(CreateSession)
    def refuse(exchange: Exchange) -> None:
        exchange.refuse(AccessDenied())

    result = run("-", server.url("/in/dump.sql"), stdin=b"all there is")
    assert result.exit_code == 1
    assert "Choose another name in the URL" in result.stderr
    assert "What came on standard input is kept." in result.stderr
    (kept,) = (state / "spool").rglob("dump.sql")
    assert kept.read_bytes() == b"all there is"


def test_where_standard_input_cannot_be_kept_nothing_is_sent(server: HostileServer, state: Path) -> None:
    state.mkdir(parents=True)
    (state / "spool").write_text("a file where a folder should be")
    result = run("-", server.url("/in/dump.sql"), stdin=b"all there is")
    assert result.exit_code == 1
    assert "standard input cannot be kept in " in result.stderr
    assert server.heard == []


# Interruptions


def test_where_nothing_can_be_remembered_the_file_is_sent_all_the_same(
    sender: Sender, server: HostileServer, state: Path
) -> None:
    state.parent.write_text("a file where a folder should be")
    result = run(sender.path, server.url())
    assert result.exit_code == 0
    assert "nowhere to remember" in result.stdout
    assert sender.arrived


INTERRUPTIONS = [
    pytest.param(signal.SIGINT, 130, id="Ctrl-C"),
    pytest.param(signal.SIGTERM, 75, id="SIGTERM"),
]


@posix
@pytest.mark.parametrize(("number", "code"), INTERRUPTIONS)
def test_interrupted_it_says_how_to_go_on_and_then_does(
    sender: Sender, server: HostileServer, number: signal.Signals, code: int
) -> None:
    process = start(sender.path, server.url())

    @server.on(Fragment, first=2)
    def interrupt_at_the_second(exchange: Exchange) -> None:
        if len(server.fragments()) == 2:
            process.send_signal(number)
            exchange.stay_silent(5)
        exchange.say(exchange.process())

    _, errors = process.communicate(timeout=20)
    assert process.returncode == code
    assert errors == "interrupted; run the same command again to go on\n"

    server.behave()
    before = len(server.heard)
    result = run(sender.path, server.url())
    assert result.exit_code == 0
    assert "going on at 262.1 KB of 5.2 MB, where it stopped before" in result.stdout
    assert server.kinds()[before] == "Ping"
    assert server.fragments()[2].range.start == server.fragments()[0].range.stop
    assert sender.arrived


@posix
def test_an_interrupted_tree_goes_on_where_it_was(tree: Path, server: HostileServer) -> None:
    process = start("--recursive", tree, server.url("/in/"), "--json")

    @server.on(CreateSession, first=3)
    def interrupt_at_the_third(exchange: Exchange) -> None:
        if len(created(server)) == 3:
            process.send_signal(signal.SIGINT)
            exchange.stay_silent(5)
        exchange.say(exchange.process())

    said, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert json.loads(said.splitlines()[-1])["event"] == "interrupted"

    server.behave()
    server.heard.clear()
    assert run("--recursive", tree, server.url("/in/")).exit_code == 0
    assert created(server) == IN_ORDER[2:]


@posix
def test_an_interrupted_standard_input_is_kept(server: HostileServer, state: Path) -> None:
    process = start("-", server.url("/in/dump.sql"), stdin=subprocess.PIPE)

    @server.on(Fragment)
    def interrupt(exchange: Exchange) -> None:
        process.send_signal(signal.SIGINT)
        exchange.stay_silent(5)

    _, errors = process.communicate("all there is", timeout=20)
    assert process.returncode == 130
    (kept,) = (state / "spool").rglob("dump.sql")
    assert errors.endswith(f": bitsferry send {kept} {server.url('/in/dump.sql')}\n")
    assert kept.read_text() == "all there is"


@posix
def test_half_of_standard_input_is_not_kept(server: HostileServer, state: Path) -> None:
    process = start("-", server.url("/in/dump.sql"), stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(3 * MIB * "x")
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    process.stdin.close()
    assert process.stderr is not None
    assert process.stdout is not None
    assert process.stderr.read() == "interrupted; nothing was sent\n"
    process.stdout.close()
    process.stderr.close()
    assert remembered(state) == []
    assert server.heard == []


STUCK = """
import os, time
from bitsferry.cli.interrupts import interruptible
with interruptible(lambda: os.write(1, b"at once\\n")):
    try:
        os.write(1, b"ready\\n")
        time.sleep(60)
    except BaseException as end:
        os.write(1, type(end).__name__.encode() + b"\\n")
        time.sleep(60)
"""


@posix
@pytest.mark.parametrize(
    ("number", "name", "code"),
    [(signal.SIGINT, "KeyboardInterrupt", 130), (signal.SIGTERM, "Terminated", 75)],
)
def test_the_second_interruption_does_not_wait_for_the_first(
    number: signal.Signals, name: str, code: int
) -> None:
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for said in ("ready\n", f"{name}\n"):
            assert process.stdout.readline() == said
            process.send_signal(number)
        assert process.stdout.readline() == "at once\n"
        assert process.wait(20) == code


def test_whoever_stops_listening_does_not_stop_the_send(sender: Sender, server: HostileServer) -> None:
    command = [sys.executable, "-m", "bitsferry", "send", str(sender.path), server.url(), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    @server.on(CreateSession)
    def close_the_pipe(exchange: Exchange) -> None:
        assert process.stdout is not None
        process.stdout.close()
        exchange.say(exchange.process())

    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(20), errors) == (0, "")
    assert sender.arrived


def test_a_state_of_the_first_version_is_gone_on_with(
    sender: Sender, server: HostileServer, state: Path
) -> None:
    """It said no `host_lost_at` and no `reply`, and always a `fragment_limit`."""
    with Places(str(state / "sends")).take(str(sender.path), server.url()):
        (lock,) = (state / "sends").glob("*.lock")
    size = sender.path.stat()
    server.sessions["{old}"] = bytearray(sender.path.read_bytes()[:MIB])
    old = {
        "file": str(sender.path),
        "url": server.url(),
        "user": None,
        "identity": {"size": size.st_size, "mtime_ns": size.st_mtime_ns, "inode": size.st_ino},
        "progress": {
            "session_id": "{old}",
            "sent": MIB,
            "host_id": None,
            "host_id_fallback_timeout": None,
            "fragment_limit": 13631488,
            "reply_url": None,
            "closing": False,
        },
    }
    lock.with_suffix(".json").write_text(json.dumps(old))
    assert run(sender.path, server.url()).exit_code == 0
    assert sender.arrived
    assert server.fragments()[0].session_id == "{old}"
    assert server.fragments()[0].range.start == MIB
