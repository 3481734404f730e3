"""Users with passwords at a real server: who comes in, who does not, and what the others notice of it."""

from __future__ import annotations

import base64
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from bitsferry.access.htdigest import digest_lines
from bitsferry.client.challenges import read_challenges
from bitsferry.client.digest import Digest, best_digest
from bitsferry.protocol.hresult import HResult

from . import raw
from .conftest import end, settings
from .ferry import Ferry, Upload
from .raw import GUID, eventually

# Plain text, so that no test waits for a hash; tests/access has them all.
PASSWORDS = {"alice": "secret-of-alice", "bob": "secret-of-bob"}
USERS = "".join(f"{name}:{{PLAIN}}{password}\n" for name, password in PASSWORDS.items())
DIGESTS = "".join(
    line + "\n"
    for name, password in PASSWORDS.items()
    for line in digest_lines(name, "bitsferry", password.encode())
)
BOTH = 'auth = ["digest", "basic"]\nhtpasswd = "./users"\nhtdigest = "./users.digest"'
HELLO = 'notification_command = ["/bin/sh", "-c", "echo hello >$BITSFERRY_REPLY"]'
FRAGMENT = 100_001

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")


def started(folder: Path, directory: str = BOTH, *, limits: str = "", top: str = "") -> Ferry:
    (folder / "users").write_text(USERS, encoding="utf-8")
    (folder / "users.digest").write_text(DIGESTS, encoding="utf-8")
    return Ferry(folder, settings(directory=directory, limits=limits, top=top))


@pytest.fixture(scope="module")
def all_day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ferry]:
    """Nobody is slowed down here: all tests together guess more than one user should."""
    ferry = started(
        tmp_path_factory.mktemp("passwords"),
        f'{BOTH}\nread_back = "everybody"\n{HELLO}',
        limits="wrong_password_delay = 0\nidle_time = 600\nhead_time = 600\nstall_time = 600",
    )
    yield ferry
    end(ferry)


@pytest.fixture
def door(all_day: Ferry) -> Iterator[Ferry]:
    yield all_day
    all_day.forget()


@pytest.fixture
def own_door(tmp_path: Path) -> Iterator[Ferry]:
    """A server whose files of users a test may change, and where guessing is slow."""
    ferry = started(tmp_path, limits='wrong_password_delay = "1 s"')
    yield ferry
    end(ferry)


def basic(user: str = "alice", password: str | None = None) -> str:
    said = f"{user}:{PASSWORDS[user] if password is None else password}"
    return "Basic " + base64.b64encode(said.encode()).decode("ascii")


def asked(
    answer: raw.Answer, user: str = "alice", password: str | None = None, algorithm: str = ""
) -> Digest:
    """Somebody who answers this 401 by Digest."""
    offered = [
        each
        for each in read_challenges(answer.all("WWW-Authenticate"))
        if not algorithm or each.parameters.get("algorithm") == algorithm
    ]
    challenge = best_digest(offered)
    assert challenge is not None
    return Digest(challenge, user, PASSWORDS[user] if password is None else password)


def is_asked(answer: raw.Answer) -> bool:
    """It is a 401 as it has to be: an Ack without an error of BITS, which asks for every scheme."""
    schemes = [value.partition(" ")[0] for value in answer.all("WWW-Authenticate")]
    assert schemes == ["Digest", "Digest", "Basic"]
    return answer.is_ack and answer.verdict == (401, None)


# Who comes in


def curl(url: str, packet: str, *options: str, body: bytes | Path = b"", **headers: str) -> raw.Answer:
    """The last answer curl got."""
    return curls(url, packet, *options, body=body, **headers)[-1]


def curls(url: str, packet: str, *options: str, body: bytes | Path = b"", **headers: str) -> list[raw.Answer]:
    """All of them."""
    said = {"BITS-Packet-Type": packet} | {name.replace("_", "-"): value for name, value in headers.items()}
    told = [option for name, value in said.items() for option in ("-H", f"{name}: {value}")]
    always = ["-sS", "-q", "-i", "--noproxy", "*", "--max-time", "20", "-X", "BITS_POST"]
    sent = ["--data-binary", f"@{body}" if isinstance(body, Path) else "@-"]
    done = subprocess.run(
        ["curl", *always, *options, *told, *sent, url],
        input=b"" if isinstance(body, Path) else body,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    *heads, rest = done.stdout.split(raw.END)
    assert rest == b""
    return [_answer(head.decode()) for head in heads]


def _answer(head: str) -> raw.Answer:
    first, *lines = head.split("\r\n")
    fields = tuple((line.partition(": ")[0], line.partition(": ")[2]) for line in lines)
    return raw.Answer(first.split()[0], int(first.split()[1]), fields)


@needs_curl
@pytest.mark.parametrize("scheme", ["--basic", "--digest", "--anyauth"])
def test_curl_uploads_a_file(door: Ferry, scheme: str) -> None:
    upload = door.upload()
    url, data = f"http://127.0.0.1:{door.port}{upload.url}", os.urandom(300_000)
    who = (scheme, "-u", f"alice:{PASSWORDS['alice']}")
    session = curl(url, "Create-Session", *who, BITS_Supported_Protocols=GUID).session
    assert session
    for at in range(0, len(data), FRAGMENT):
        part = data[at : at + FRAGMENT]
        where = f"bytes {at}-{at + len(part) - 1}/{len(data)}"
        answer = curl(url, "Fragment", *who, body=part, BITS_Session_Id=session, Content_Range=where)
        assert answer.verdict == (200, None)
    assert curl(url, "Close-Session", *who, BITS_Session_Id=session).status == 200
    assert upload.file.read_bytes() == data
    wrong = (scheme, "-u", "alice:guess")
    assert is_asked(curl(url, "Create-Session", *wrong, BITS_Supported_Protocols=GUID))


@needs_curl
def test_curl_gets_over_a_401_with_64_mib_behind_it(door: Ferry, tmp_path: Path) -> None:
    upload = door.upload()
    url, size = f"http://127.0.0.1:{door.port}{upload.url}", 64 << 20
    who = ("--anyauth", "-u", f"alice:{PASSWORDS['alice']}", "-H", "Expect:")
    session = curl(url, "Create-Session", *who, BITS_Supported_Protocols=GUID).session or ""
    file = tmp_path / "large"
    with file.open("wb") as large:
        large.truncate(size)
    where = f"bytes 0-{size - 1}/{size}"
    refusal, answer = curls(url, "Fragment", *who, body=file, BITS_Session_Id=session, Content_Range=where)
    assert is_asked(refusal)
    assert answer.received == size
    assert upload.file.stat().st_size == size
    upload.file.unlink()


def test_http_client_of_python_says_basic(door: Ferry) -> None:
    upload = door.upload()
    line = HTTPConnection("127.0.0.1", door.port, timeout=10)
    headers = {"BITS-Packet-Type": "Create-Session", "BITS-Supported-Protocols": GUID, "Content-Length": "0"}
    for said, status in (
        ({}, 401),
        ({"Authorization": basic()}, 200),
        ({"Authorization": basic("bob", "x")}, 401),
    ):
        line.request("BITS_POST", upload.url, headers=headers | said)
        answer = line.getresponse()
        assert answer.status == status
        answer.read()
    line.close()


@pytest.mark.parametrize("scheme", ["HTTPBasicAuth", "HTTPDigestAuth"])
def test_requests_uploads_a_file(door: Ferry, scheme: str) -> None:
    requests = pytest.importorskip("requests")
    upload = door.upload()
    url = f"http://127.0.0.1:{door.port}{upload.url}"
    with requests.Session() as session:
        session.trust_env = False
        session.auth = getattr(requests.auth, scheme)("alice", PASSWORDS["alice"])

        def say(packet: str, data: bytes = b"", **headers: str) -> str:
            fields = {name.replace("_", "-"): value for name, value in headers.items()}
            fields |= {"BITS-Packet-Type": packet, "Content-Length": str(len(data))}
            answer = session.request("BITS_POST", url, data=data, headers=fields)
            assert answer.status_code == 200
            return str(answer.headers["BITS-Session-Id"])

        guid = say("Create-Session", BITS_Supported_Protocols=GUID)
        say("Fragment", b"some bytes", BITS_Session_Id=guid, Content_Range="bytes 0-9/20")
        say("Fragment", b"more bytes", BITS_Session_Id=guid, Content_Range="bytes 10-19/20")
        say("Close-Session", BITS_Session_Id=guid)
    assert upload.file.read_bytes() == b"some bytesmore bytes"


@pytest.mark.parametrize("scheme", ["basic", "digest", None])
def test_our_client_sends_a_file_and_brings_the_reply_home(
    door: Ferry, tmp_path: Path, scheme: str | None
) -> None:
    upload, file = door.upload(), tmp_path / "file"
    file.write_bytes(os.urandom(1_000_000))
    command = [sys.executable, "-m", "bitsferry", "send", "--quiet", "--reply", str(tmp_path / "reply")]
    command += ["--user", f"alice:{PASSWORDS['alice']}", *(["--auth", scheme] if scheme else [])]
    command += [str(file), f"http://127.0.0.1:{door.port}{upload.url}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert upload.file.read_bytes() == file.read_bytes()
    assert (tmp_path / "reply").read_bytes() == b"hello\n"


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
def test_a_client_like_windows_is_asked_once_for_a_whole_upload(door: Ferry, algorithm: str) -> None:
    upload = door.upload()
    digest = asked(upload.create(), algorithm=algorithm)

    def say() -> str:
        return digest.authorization("BITS_POST", upload.url)

    answer = upload.line.ask(raw.create(upload.url, authorization=say()))
    upload.session = answer.session or ""
    for at in range(0, 1000, 100):
        assert upload.fragment(b"x" * 100, at=at, total=1000, authorization=say()).received == at + 100
    assert upload.line.ask(raw.close(upload.url, upload.session, authorization=say())).status == 200
    assert upload.file.read_bytes() == b"x" * 1000


def test_what_a_401_answers_to_may_come_again_on_the_same_connection(door: Ferry) -> None:
    """So Windows does it: the fragment, the 401, the fragment."""
    upload = begun(door)
    data = b"y" * 50_000
    assert is_asked(upload.fragment(data))
    answer = upload.fragment(data, authorization=basic())
    assert answer.verdict == (200, None)
    assert upload.file.read_bytes() == data


def test_the_log_knows_who_sent_a_file(door: Ferry) -> None:
    upload = begun(door)
    upload.fragment(b"some bytes", authorization=basic())
    said = [line for line in log(door) if "file received" in line and upload.url in line]
    assert [("user=alice" in line, "address=127.0.0.1" in line) for line in said] == [(True, True)]


# Who does not


@pytest.mark.parametrize(
    ("packet", "method"), [("Ping", "BITS_POST"), ("Create-Session", "BITS_POST"), ("Create-Session", "POST")]
)
def test_nobody_enters_without_a_name(door: Ferry, packet: str, method: str) -> None:
    with door.line() as line:
        fields: dict[str, str | None] = {
            "BITS-Packet-Type": packet,
            "BITS-Supported-Protocols": GUID,
            "X-HTTP-Method-Override": "BITS_POST",
            "Content-Length": "0",
        }
        answer = line.ask(raw.request(f"{method} /in/nobody HTTP/1.1", fields))
        assert is_asked(answer)
        assert not answer.closes
        assert line.ask(raw.ping("/in/nobody", authorization=basic())).status == 200


def test_files_are_read_back_by_users_only(door: Ferry) -> None:
    upload = begun(door)
    upload.fragment(b"some bytes", authorization=basic())
    with door.line() as line:
        get = f"GET {upload.url} HTTP/1.1"
        answer = line.ask(raw.request(get, {}))
        assert answer.status == 401
        assert answer.body == b""
        assert line.ask(raw.request(get, {"Authorization": basic("bob")})).body == b"some bytes"


@pytest.mark.parametrize("password", ["guess-of-mallory", ""])
def test_a_wrong_password_is_refused_and_told_to_the_log_without_the_password(
    door: Ferry, password: str
) -> None:
    with door.line() as line:
        answer = line.ask(raw.ping("/in/a", authorization=basic("alice", password)))
        assert is_asked(answer)
        digest = asked(answer, password=password)
        assert is_asked(line.ask(raw.ping("/in/a", authorization=digest.authorization("BITS_POST", "/in/a"))))
    told = [line for line in log(door) if "refused: wrong user name or password" in line][-2:]
    assert [re.search(r"scheme=(\w+) user=alice address=127\.0\.0\.1", line)[1] for line in told] == [  # type: ignore[index]
        "basic",
        "digest",
    ]
    text = door.log.read_text(encoding="utf-8")
    for secret in ("guess-of-mallory", basic("alice", "guess-of-mallory").split()[1], *PASSWORDS.values()):
        assert secret not in text


def test_refusals_are_counted(door: Ferry) -> None:
    with door.line() as line:
        for _ in range(3):
            line.ask(raw.ping("/in/a", authorization=basic("alice", "guess")))
    counts = [int(each) for each in re.findall(r"scheme=basic .*refused=(\d+)", door.log.read_text("utf-8"))]
    assert counts == sorted(counts)
    assert counts[-1] == counts[-3] + 2


def test_a_proof_that_somebody_overheard_is_worth_nothing(door: Ferry) -> None:
    upload = door.upload()
    digest = asked(upload.create())
    said = digest.authorization("BITS_POST", upload.url)
    assert upload.line.ask(raw.create(upload.url, authorization=said)).status == 200
    with door.line() as eve:
        answer = eve.ask(raw.create(upload.url, authorization=said))
        assert is_asked(answer)
        assert all("stale=true" in each for each in answer.all("WWW-Authenticate")[:2])
        assert is_asked(eve.ask(raw.create(upload.url + "-2", authorization=said)))
    assert any("refused: said before" in line for line in log(door))


def test_who_is_wrong_by_one_scheme_is_not_let_in_by_another(door: Ferry) -> None:
    with door.line() as line:
        for said in ("Bearer abc", "NTLM TlRMTVNTUAABAAAA", "Basic", "", "alice", "Negotiate YII="):
            assert is_asked(line.ask(raw.ping("/in/a", authorization=said)))
        two = raw.ping("/in/a", authorization=basic()).replace(
            b"\r\n\r\n", b"\r\nAuthorization: Basic eDp4\r\n\r\n"
        )
        assert is_asked(line.ask(two))


# Whose an upload is


def begun(door: Ferry, user: str = "alice") -> Upload:
    upload = door.upload()
    answer = upload.line.ask(raw.create(upload.url, authorization=basic(user)))
    assert answer.verdict == (200, None)
    upload.session = answer.session or ""
    return upload


DENIED = (403, HResult.E_ACCESSDENIED)


def test_session_id_of_another_user_gets_403(door: Ferry) -> None:
    upload = begun(door)
    assert upload.fragment(b"some", total=10, authorization=basic()).received == 4
    eve = basic("bob")
    assert upload.fragment(b"evil", at=4, total=10, authorization=eve).verdict == DENIED
    for verb in (raw.close, raw.cancel):
        assert upload.line.ask(verb(upload.url, upload.session, authorization=eve)).verdict == DENIED
    answer = upload.ping(bits_session_id=upload.session, authorization=eve)
    assert (answer.status, answer.session) == (200, None), "not even that there is one"
    assert upload.fragment(b" bytes", at=4, total=10, authorization=basic()).received == 10
    assert upload.file.read_bytes() == b"some bytes"


def test_the_same_user_goes_on_by_another_scheme(door: Ferry) -> None:
    upload = begun(door)
    digest = asked(upload.fragment(b"some", total=10))
    said = digest.authorization("BITS_POST", upload.url)
    assert upload.fragment(b"some", total=10, authorization=said).received == 4


def test_a_reply_of_another_user_is_not_given_out(door: Ferry) -> None:
    upload = begun(door)
    reply = upload.fragment(b"some bytes", authorization=basic()).get("BITS-Reply-URL")
    assert reply is not None
    get = f"GET /in/{reply} HTTP/1.1"
    with door.line() as line:
        assert line.ask(raw.request(get, {})).status == 401
        assert line.ask(raw.request(get, {"Authorization": basic("bob")})).status == 403
        assert line.ask(raw.request(get, {"Authorization": basic()})).body == b"hello\n"


def test_two_users_on_one_connection_stay_two(door: Ferry) -> None:
    """As a proxy in front may send them."""
    with door.line() as line:
        for user in ("alice", "bob", "alice"):
            url = f"/in/{user}-{time.monotonic_ns()}"
            assert line.ask(raw.create(url, authorization=basic(user))).status == 200
            assert any(f"path={url} " in each and f"user={user}" in each for each in log(door))
            assert is_asked(line.ask(raw.create(url)))


# In which order


def test_form_comes_before_rights_and_rights_before_the_session(door: Ferry) -> None:
    with door.line() as line:
        assert line.ask(raw.packet("Create-Session", "/in/a")).verdict == (400, HResult.E_INVALIDARG)
        assert line.ask(raw.packet("Nonsense", "/in/a")).status == 400
        unknown = "{00000000-0000-0000-0000-000000000000}"
        assert is_asked(line.ask(raw.close("/in/a", unknown)))
        assert is_asked(line.ask(raw.fragment("/in/a", unknown, b"some bytes")))
        answer = line.ask(raw.close("/in/a", unknown, authorization=basic()))
        assert answer.verdict == (500, HResult.BG_E_SESSION_NOT_FOUND)
        assert line.ask(raw.ping("/elsewhere/a")).status == 404


def test_a_fragment_that_keeps_its_body_back_until_it_is_asked_is_asked(door: Ferry) -> None:
    """`curl --digest` says Content-Length: 0 first."""
    upload = begun(door)
    ahead = raw.fragment(upload.url, upload.session, b"some bytes", content_length="0")
    assert is_asked(upload.line.ask(raw.head_of(ahead)))
    known = raw.fragment(upload.url, upload.session, b"", content_range="bytes 0-9/10", authorization=basic())
    assert upload.line.ask(known).verdict == (400, HResult.E_INVALIDARG)


# What is behind a 401


def test_a_401_with_gigabytes_behind_it_comes_at_once_and_ends_the_connection(door: Ferry) -> None:
    upload = begun(door)
    size = 64 << 20
    head = raw.head_of(
        raw.fragment(
            upload.url,
            upload.session,
            b"",
            content_range=f"bytes 0-{size - 1}/{size}",
            content_length=str(size),
        )
    )
    upload.line.send(head)
    answer = upload.line.answer()
    assert is_asked(answer)
    assert answer.closes
    assert upload.line.send_what_is_taken(bytes(size)) < size, "it is not read to its end"
    upload.line.hang_up()


def test_a_401_with_little_behind_it_leaves_the_connection_as_it_is(door: Ferry) -> None:
    upload = begun(door)
    for _ in range(3):
        answer = upload.fragment(b"x" * 60_000)
        assert is_asked(answer)
        assert not answer.closes
    assert upload.fragment(b"x" * 60_000, authorization=basic()).received == 60_000


def test_a_nonce_that_grew_old_costs_a_large_fragment_no_connection(door: Ferry) -> None:
    upload = begun(door)
    digest = asked(upload.ping())
    said = digest.authorization("BITS_POST", upload.url)
    old = re.sub(r'nonce="[^"]*"', 'nonce="of another worker"', said)
    data = b"z" * 3_000_000
    answer = upload.fragment(data, authorization=old)
    assert is_asked(answer)
    assert not answer.closes
    again = asked(answer).authorization("BITS_POST", upload.url)
    assert upload.fragment(data, authorization=again).received == len(data)
    assert upload.file.read_bytes() == data


# Files that change, guesses that do not end


def test_who_is_taken_out_of_the_file_is_out_on_open_connections_too(own_door: Ferry) -> None:
    with own_door.line() as line:
        assert line.ask(raw.ping("/in/a", authorization=basic())).status == 200
        (own_door.folder / "users").write_text("bob:{PLAIN}secret-of-bob\n", encoding="utf-8")
        assert eventually(lambda: line.ask(raw.ping("/in/a", authorization=basic())).status == 401)
        assert line.ask(raw.ping("/in/a", authorization=basic("bob"))).status == 200


def test_a_mistake_in_the_file_keeps_nobody_out_and_the_log_says_where(own_door: Ferry) -> None:
    (own_door.folder / "users").write_text("alice:what is that\n", encoding="utf-8")

    def is_told() -> bool:
        with own_door.line() as line:
            assert line.ask(raw.ping("/in/a", authorization=basic())).status == 200
        return any("what it said before holds: line 1: " in each for each in log(own_door))

    assert eventually(is_told)


def call_from(address: str, ferry: Ferry) -> socket.socket:
    """A connection from another address of this machine."""
    return socket.create_connection(("127.0.0.1", ferry.port), timeout=10, source_address=(address, 0))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
def test_the_right_password_comes_in_while_somebody_hammers_at_the_same_name(own_door: Ferry) -> None:
    guess = raw.ping("/in/a", authorization=basic("alice", "guess"))
    over = threading.Event()
    answers: list[bytes] = []

    def hammer() -> None:
        while not over.is_set():
            with call_from("127.0.0.66", own_door) as line:
                line.sendall(guess)
                answers.append(line.recv(12))

    attackers = [threading.Thread(target=hammer) for _ in range(10)]
    for each in attackers:
        each.start()
    try:
        assert eventually(lambda: b"HTTP/1.1 503" in answers), "they are slowed down"
        for user, address in (("alice", "127.0.0.2"), ("alice", "127.0.0.2"), ("bob", "127.0.0.66")):
            begun = time.monotonic()
            with call_from(address, own_door) as line:
                line.sendall(raw.ping("/in/a", authorization=basic(user)))
                assert line.recv(12) == b"HTTP/1.1 200"
            assert time.monotonic() - begun < 5
    finally:
        over.set()
        for each in attackers:
            each.join()
    assert answers.count(b"HTTP/1.1 401") < 40
    assert set(answers) == {b"HTTP/1.1 401", b"HTTP/1.1 503"}


def test_guesses_are_remembered_when_the_settings_are_read_again(own_door: Ferry) -> None:
    def guess() -> raw.Answer:
        with own_door.line() as line:
            return line.ask(raw.ping("/in/a", authorization=basic("alice", "guess")))

    for _ in range(6):
        guess()
    own_door.reload()
    assert eventually(lambda: any("settings read again" in line for line in log(own_door)))
    begun = time.monotonic()
    guess()
    assert time.monotonic() - begun >= 0.2
    assert "refused=7" in [line for line in log(own_door) if "refused: " in line][-1]


def test_several_workers_let_in_whoever_comes_to_any_of_them(tmp_path: Path) -> None:
    """And what somebody overheard is refused by all of them."""
    ferry = started(tmp_path, top="workers = 3")
    try:
        with ferry.line() as line:
            digest = asked(line.ask(raw.ping("/in/a")))
        for _ in range(12):
            with ferry.line() as line:
                said = raw.ping("/in/a", authorization=digest.authorization("BITS_POST", "/in/a"))
                assert line.ask(said).status == 200
        for _ in range(12):
            with ferry.line() as line:
                assert is_asked(line.ask(said))
    finally:
        ferry.terminate()
        ferry.ended()
        ferry.forget()


def log(ferry: Ferry) -> list[str]:
    return ferry.log.read_text(encoding="utf-8").splitlines()
