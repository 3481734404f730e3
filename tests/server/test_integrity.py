"""What a client says of its bytes is held against them, and what the server says of them is right."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from bitsferry.protocol.digests import Digest
from bitsferry.protocol.session import Session
from bitsferry.server.callable_backend import ReceivedUpload
from bitsferry.server.directory import Directory
from bitsferry.server.embedding import Server
from bitsferry.server.integrity import companion
from store.tracing import traced

from . import raw
from .conftest import Serve
from .ferry import Ferry, Upload
from .guest import Guest
from .raw import Answer, eventually
from .receiver import SECRET, Receiver

MIB = 1 << 20
CRC = 0x80070017
INVALID = 0x80070057
DATA = random.Random(9530).randbytes(3 * MIB + 12_345)
HASHED = 'digest = "sha-256"\ndigest_file = true'


def spelt(data: bytes, algorithm: str = "sha-256") -> str:
    return str(Digest(algorithm, hashlib.new(algorithm.replace("-", ""), data).digest()))


RIGHT, WRONG = spelt(DATA), spelt(b"something else")


def send_the_last(upload: Upload, **headers: str) -> Answer:
    """All of `DATA` in two fragments, `headers` on the second."""
    assert upload.fragment(DATA[:MIB], at=0, total=len(DATA)).received == MIB
    return upload.fragment(DATA[MIB:], at=MIB, total=len(DATA), **headers)


# What a client says of the whole file


@pytest.mark.parametrize("algorithm", ["sha-256", "sha-512"])
def test_a_file_that_is_what_its_client_meant_appears(server: Ferry, algorithm: str) -> None:
    upload = server.begun()
    assert send_the_last(upload, repr_digest=spelt(DATA, algorithm)).verdict == (200, None)
    assert upload.file.read_bytes() == DATA


def test_a_file_that_is_not_appears_nowhere_and_its_bytes_stay_until_it_is_given_up(server: Ferry) -> None:
    upload = server.begun()
    answer = send_the_last(upload, repr_digest=WRONG)
    for _ in range(2):
        assert answer.verdict == (400, CRC)
        assert answer.received == len(DATA)
        assert answer.is_ack
        answer = upload.fragment(DATA[-1:], at=len(DATA) - 1, total=len(DATA))
    assert not upload.file.exists()
    assert upload.cancel().verdict == (200, None)
    assert not upload.file.exists()


def test_a_digest_that_was_wrong_itself_may_be_said_again(server: Ferry) -> None:
    upload = server.begun()
    assert send_the_last(upload, repr_digest=WRONG).verdict == (400, CRC)
    again = upload.fragment(DATA[-5:], at=len(DATA) - 5, total=len(DATA), repr_digest=RIGHT)
    assert again.verdict == (200, None)
    assert upload.file.read_bytes() == DATA


def test_a_digest_may_come_with_any_packet_and_is_remembered(serve: Serve) -> None:
    ferry = serve()
    early = ferry.upload()
    early.session = early.line.ask(raw.create(early.url, repr_digest=WRONG)).session or ""
    between = ferry.begun()
    between.fragment(DATA[:10], total=len(DATA), repr_digest=WRONG)
    ferry.restart()
    for upload, at in ((early, 0), (between, 10)):
        assert upload.fragment(DATA[at:], at=at, total=len(DATA)).verdict == (400, CRC)
        assert upload.line.ask(raw.close(upload.url, upload.session)).verdict == (400, CRC)
        right = raw.close(upload.url, upload.session, repr_digest=RIGHT)
        assert upload.line.ask(right).verdict == (200, None)
        assert upload.file.read_bytes() == DATA


def test_a_later_digest_takes_the_place_of_an_earlier_one(server: Ferry) -> None:
    upload = server.begun()
    upload.fragment(DATA[:MIB], total=len(DATA), repr_digest=WRONG)
    assert upload.fragment(DATA[MIB:], at=MIB, total=len(DATA), repr_digest=RIGHT).verdict == (200, None)
    other = server.begun()
    other.fragment(DATA[:MIB], total=len(DATA), repr_digest=RIGHT)
    assert other.fragment(DATA[MIB:], at=MIB, total=len(DATA), repr_digest=WRONG).verdict == (400, CRC)


def test_a_digest_on_every_request_of_a_job_is_right_everywhere(server: Ferry) -> None:
    upload = server.upload()
    upload.session = upload.line.ask(raw.create(upload.url, repr_digest=RIGHT)).session or ""
    assert upload.ping(repr_digest=RIGHT).verdict == (200, None)
    for at in range(0, len(DATA), MIB):
        answer = upload.fragment(DATA[at : at + MIB], at=at, total=len(DATA), repr_digest=RIGHT)
        assert answer.verdict == (200, None)
    assert upload.line.ask(raw.close(upload.url, upload.session, repr_digest=RIGHT)).verdict == (200, None)
    assert upload.file.read_bytes() == DATA


@pytest.mark.parametrize("with_fragment", [True, False])
def test_an_empty_file_has_a_digest_too(server: Ferry, with_fragment: bool) -> None:
    def say(digest: str) -> Answer:
        if with_fragment:
            return upload.fragment(b"", content_range="bytes */0", repr_digest=digest)
        return upload.line.ask(raw.close(upload.url, upload.session, repr_digest=digest))

    upload = server.begun()
    assert say(WRONG).verdict == (400, CRC)
    assert not upload.file.exists()
    assert say(spelt(b"")).verdict == (200, None)
    assert upload.file.read_bytes() == b""


def test_a_digest_by_what_nobody_may_trust_is_passed_over(server: Ferry) -> None:
    upload = server.begun()
    assert send_the_last(upload, repr_digest="md5=:AAAAAAAAAAAAAAAAAAAAAA==:, crc32c=:AA==:").status == 200


@pytest.mark.parametrize("name", ["repr_digest", "content_digest"])
def test_a_digest_that_cannot_be_read_is_refused_before_a_byte_is_kept(server: Ferry, name: str) -> None:
    upload = server.begun()
    for wrong in ("sha-256=cafe", "x" * 5000):
        headers: dict[str, Any] = {name: wrong}
        assert upload.fragment(DATA[:10], total=20, **headers).verdict == (400, INVALID)
    assert upload.held() == 0


def test_two_fields_are_one(server: Ferry) -> None:
    upload = server.begun()
    both = f"md5=:AAAA:\r\nRepr-Digest: {WRONG}"
    assert send_the_last(upload, repr_digest=both).verdict == (400, CRC)


def test_who_announces_a_digest_is_told_that_it_is_wanted(server: Ferry) -> None:
    upload = server.upload()
    answer = upload.line.ask(raw.create(upload.url, bitsferry_digest="sha-256"))
    assert answer.get("Want-Repr-Digest") == "sha-256=10"
    upload.session = answer.session or ""
    assert send_the_last(upload, repr_digest=RIGHT).verdict == (200, None)
    for unknown in ("md5", "", None):
        answer = upload.line.ask(raw.create(server.upload().url, bitsferry_digest=unknown))
        assert answer.get("Want-Repr-Digest") is None


def test_who_announced_a_digest_and_says_none_has_promised_nothing(server: Ferry) -> None:
    upload = server.upload()
    upload.session = upload.line.ask(raw.create(upload.url, bitsferry_digest="sha-256")).session or ""
    assert send_the_last(upload).verdict == (200, None)


# What a client says of a fragment


def test_a_fragment_that_is_not_what_was_meant_does_not_count_and_is_welcome_again(server: Ferry) -> None:
    upload = server.begun()
    first, second = DATA[:MIB], DATA[MIB:]
    assert upload.fragment(first, total=len(DATA), content_digest=spelt(first)).verdict == (200, None)
    for _ in range(2):
        answer = upload.fragment(second, at=MIB, total=len(DATA), content_digest=WRONG)
        assert answer.verdict == (500, CRC)
        assert answer.received == MIB
    assert upload.held(len(DATA)) == MIB
    answer = upload.fragment(second, at=MIB, total=len(DATA), content_digest=spelt(second, "sha-512"))
    assert answer.verdict == (200, None)
    assert upload.file.read_bytes() == DATA


def test_of_a_fragment_that_overlaps_all_bytes_are_compared_and_the_new_ones_cut(server: Ferry) -> None:
    upload = server.begun()
    upload.fragment(DATA[:MIB], total=len(DATA))
    half = MIB // 2
    assert upload.fragment(DATA[half:], at=half, total=len(DATA), content_digest=WRONG).received == MIB
    assert upload.fragment(DATA[:half], total=len(DATA), content_digest=WRONG).verdict == (500, CRC)
    assert upload.fragment(DATA[:half], total=len(DATA), content_digest=spelt(DATA[:half])).received == MIB
    rest = DATA[half:]
    assert upload.fragment(rest, at=half, total=len(DATA), content_digest=spelt(rest)).status == 200
    assert upload.file.read_bytes() == DATA


def test_a_fragment_that_broke_off_was_not_compared_and_does_not_count(server: Ferry) -> None:
    upload = server.begun()
    whole = raw.fragment(upload.url, upload.session, DATA, content_digest=RIGHT)
    upload.line.send(whole[: len(whole) // 2])
    server.catch_up()
    upload.line.stop_sending()
    upload.call_again()
    assert upload.held(len(DATA)) == 0


def test_what_a_crash_left_of_a_fragment_was_not_compared_and_does_not_count(serve: Serve) -> None:
    ferry = serve()
    upload = ferry.begun()
    assert upload.fragment(DATA[:100], total=len(DATA), content_digest=spelt(DATA[:100])).received == 100
    whole = raw.fragment(upload.url, upload.session, DATA[100:], at=100, content_digest=spelt(DATA[100:]))
    upload.line.send(whole[: len(whole) // 2])
    (data,) = ferry.folder.glob("store/sessions/*/*/request.data")
    assert eventually(lambda: data.stat().st_size > MIB)
    ferry.restart()
    assert upload.held(len(DATA)) == 100
    assert data.stat().st_size == 100
    assert upload.line.ask(whole).verdict == (200, None)
    assert upload.file.read_bytes() == DATA


# What the server says of a file


def test_a_digest_stands_beside_the_file_before_the_client_hears_of_it(serve: Serve) -> None:
    ferry = serve(directory=HASHED)
    for size in (0, 5, len(DATA)):
        upload = ferry.upload(name=f"file {size} ä.bin")
        upload.url = "/in/" + f"file%20{size}%20%C3%A4.bin"
        upload.create()
        if size:
            assert upload.send(DATA[:size], 700_000).status == 200
        else:
            assert upload.close().status == 200
        beside = upload.file.with_name(upload.file.name + ".sha256")
        assert beside.read_text() == f"{hashlib.sha256(DATA[:size]).hexdigest()}  {upload.file.name}\n"
    told = subprocess.run(
        "sha256sum --check --strict *.sha256", shell=True, cwd=ferry.folder / "in", check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert told.stdout.count(": OK") == 3
    assert f"sha-256={hashlib.sha256(DATA).hexdigest()}" in ferry.log.read_text()


@pytest.mark.parametrize("name", ["plain", " two  words ", "back\\slash", "new\nline", "-dash", "ä", "\\"])
def test_its_line_is_what_sha256sum_reads_whatever_the_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(DATA)
    session = Session("A", "/" + name, None, 0.0, digest={"sha-256": hashlib.sha256(DATA).hexdigest()})
    beside = companion(Directory("/", "", digest="sha-256", digest_file=True), name, session)
    assert beside is not None
    assert beside.name == name + ".sha256"
    (tmp_path / "sums").write_bytes(beside.content)
    subprocess.run(
        ["sha256sum", "--check", "--strict", "sums"], cwd=tmp_path, check=True, capture_output=True
    )


def test_blake3_is_as_good(serve: Serve) -> None:
    blake3 = pytest.importorskip("blake3")
    ferry = serve(directory='digest = "blake3"\ndigest_file = true')
    upload = ferry.begun(name="file")
    assert send_the_last(upload, repr_digest=RIGHT).status == 200
    digest = blake3.blake3(DATA).hexdigest()
    assert (ferry.folder / "in/file.blake3").read_text() == f"{digest}  file\n"
    log = ferry.log.read_text()
    assert f"blake3={digest}" in log
    assert f"sha-256={hashlib.sha256(DATA).hexdigest()}" in log


def test_repeated_overlapping_and_broken_fragments_are_hashed_once_and_in_order(serve: Serve) -> None:
    ferry = serve(directory=HASHED)
    upload = ferry.begun(name="file")
    chance = random.Random(1)
    at = 0
    while at < len(DATA):
        start = max(0, at - chance.randrange(400_000))
        stop = min(len(DATA), start + chance.randrange(1, MIB))
        whole = raw.fragment(upload.url, upload.session, DATA[start:stop], at=start, total=len(DATA))
        if chance.random() < 0.3 and stop < len(DATA):
            upload.line.send(whole[: -(stop - start) // 2])
            upload.line.stop_sending()
            upload.call_again()
            at = upload.held(len(DATA))
        else:
            at = upload.line.ask(whole).received or 0
    assert (ferry.folder / "in/file").read_bytes() == DATA
    check(ferry.folder / "in/file.sha256", DATA)


def check(beside: Path, data: bytes) -> None:
    digest, _, name = beside.read_text().rstrip("\n").partition("  ")
    assert digest == hashlib.sha256(data).hexdigest()
    assert name == beside.name.removesuffix(".sha256")


def test_hashing_goes_on_after_a_crash(serve: Serve) -> None:
    ferry = serve(directory=HASHED)
    upload = ferry.begun(name="file")
    for at in range(0, len(DATA), MIB):
        assert upload.fragment(DATA[at : at + MIB], at=at, total=len(DATA)).status == 200
        if at + MIB < len(DATA):
            ferry.restart()
    assert upload.file.read_bytes() == DATA
    check(ferry.folder / "in/file.sha256", DATA)


def test_killed_at_any_moment_of_its_end_a_file_and_its_digest_are_there_when_that_is_repeated(
    serve: Serve,
) -> None:
    ferry = serve(directory=HASHED)
    for milliseconds in (0, 3, 6, 10, 15, 25):
        upload = ferry.begun()
        upload.fragment(DATA[: 2 * MIB], total=len(DATA))
        upload.line.send(raw.fragment(upload.url, upload.session, DATA[2 * MIB :], at=2 * MIB))
        time.sleep(milliseconds / 1000)  # not to wait for anything: to die at another moment
        ferry.restart()
        again = upload.fragment(DATA[2 * MIB :], at=2 * MIB, total=len(DATA))
        assert (again.verdict, again.received) == ((200, None), len(DATA))
        assert upload.file.read_bytes() == DATA
        check(upload.file.with_name(upload.file.name + ".sha256"), DATA)


def test_bytes_that_were_cut_off_are_not_hashed(serve: Serve) -> None:
    ferry = serve(directory=HASHED)
    upload = ferry.begun(name="file")
    assert upload.fragment(DATA[: 2 * MIB], total=len(DATA)).status == 200
    other = bytes(len(DATA) - 2 * MIB)
    assert upload.fragment(other, at=2 * MIB, total=len(DATA), content_digest=WRONG).status == 500
    assert upload.fragment(DATA[2 * MIB :], at=2 * MIB, total=len(DATA), repr_digest=RIGHT).status == 200
    check(ferry.folder / "in/file.sha256", DATA)


def test_a_session_may_wander_from_worker_to_worker(serve: Serve) -> None:
    ferry = serve(directory=HASHED, top="workers = 2")
    for _ in range(3):
        upload = ferry.begun()
        for at in range(0, len(DATA), 300_000):
            upload.call_again()
            piece = DATA[at : at + 300_000]
            last = {"repr_digest": RIGHT} if at + 300_000 >= len(DATA) else {}
            assert upload.fragment(piece, at=at, total=len(DATA), **last).verdict == (200, None)
        check(upload.file.with_name(upload.file.name + ".sha256"), DATA)


# Whose file stands beside


def test_a_digest_that_somebody_else_put_there_stays_and_the_upload_is_refused(serve: Serve) -> None:
    ferry = serve(directory=HASHED)
    beside = ferry.folder / "in/file.sha256"
    beside.write_text("mine")
    assert ferry.upload(name="file").create().verdict == (403, 0x80070005)
    beside.unlink()
    upload = ferry.begun(name="file")
    beside.write_text("mine")
    assert upload.fragment(DATA).verdict == (403, 0x80070005)
    assert ferry.files == {"in", "in/file.sha256"}
    beside.unlink()
    assert upload.fragment(DATA).verdict == (200, None)
    check(beside, DATA)


def test_where_files_may_be_replaced_their_digests_are(serve: Serve) -> None:
    ferry = serve(directory=HASHED + "\nallow_overwrites = true")
    for data in (DATA, b"other", DATA):
        assert ferry.begun(name="file").fragment(data).verdict == (200, None)
        check(ferry.folder / "in/file.sha256", data)
    assert ferry.files == {"in", "in/file", "in/file.sha256"}


@pytest.mark.parametrize("name", ["file.sha256", "FILE.SHA256"])
def test_no_client_writes_what_the_server_says_of_files(serve: Serve, name: str) -> None:
    ferry = serve(directory=HASHED + "\nallow_overwrites = true")
    assert ferry.upload(name=name).create().verdict == (403, 0x80070005)


def test_a_name_must_leave_room_for_the_digests(serve: Serve) -> None:
    ferry = serve(directory=HASHED)
    assert ferry.upload(name="n" * 249).create().verdict == (400, INVALID)
    assert ferry.begun(name="n" * 248).fragment(DATA).verdict == (200, None)
    check(ferry.folder / "in" / ("n" * 248 + ".sha256"), DATA)


# Whoever else hears of it


def test_an_application_never_gets_a_file_that_is_not_what_was_meant(serve: Serve, tmp_path: Path) -> None:
    told = tmp_path / "told"
    ferry = serve(directory=f'notification_command = ["/bin/sh", "-c", "echo >>{told}"]')
    upload = ferry.begun()
    assert send_the_last(upload, repr_digest=WRONG).verdict == (400, CRC)
    assert not told.exists()
    again = upload.fragment(DATA[MIB:], at=MIB, total=len(DATA), repr_digest=RIGHT)
    assert again.verdict == (200, None)
    assert told.read_text() == "\n"


def test_events_tell_the_digest_and_that_a_file_is_refused(serve: Serve, tmp_path: Path) -> None:
    receiver = Receiver()
    (tmp_path / "secret").write_text(SECRET)
    told = f'webhook_url = "{receiver.url("/")}"\nwebhook_secret_file = "{tmp_path / "secret"}"\n'
    try:
        ferry = serve(directory=told + 'webhook_events = ["refused", "completed"]')
        assert ferry.begun().fragment(DATA).verdict == (200, None)
        (completed,) = receiver.hears("completed")
        assert "digest" not in completed["data"]
        upload = ferry.begun()
        assert upload.fragment(DATA, repr_digest=WRONG).verdict == (400, CRC)
        assert upload.fragment(DATA, repr_digest=spelt(DATA, "sha-512")).verdict == (200, None)
        _, refused, completed = receiver.hears("completed", "refused", "completed")
        assert hashlib.sha256(DATA).hexdigest() in refused["data"]["reason"]
        assert completed["data"]["digest"] == {"sha-512": hashlib.sha512(DATA).hexdigest()}
    finally:
        receiver.close()


def test_a_function_hears_the_digest(tmp_path: Path) -> None:
    server = Server(directories=[Directory("/", str(tmp_path / "in"), digest="sha-256")])
    heard: list[dict[str, str]] = []

    @server.on_upload()
    def take(upload: ReceivedUpload) -> None:
        heard.append(dict(upload.digest))

    with server.running(), Guest(server.urls[0], "/file", DATA) as guest:
        assert guest.send().status == 200
    assert heard == [{"sha-256": hashlib.sha256(DATA).hexdigest()}]


def test_a_program_hears_at_once_of_digests_nobody_can_compute(tmp_path: Path) -> None:
    for wrong in ({"digest": "md5"}, {"digest_file": True}):
        options: dict[str, Any] = wrong
        with pytest.raises(ValueError, match=r"files are hashed by|has no digest"):
            Server(directories=[Directory("/", str(tmp_path), **options)])


def test_http_client_and_curl_say_digests_as_well(server: Ferry, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl here")
    upload = server.begun()
    line = HTTPConnection("127.0.0.1", server.port)
    fields = {
        "BITS-Packet-Type": "Fragment",
        "BITS-Session-Id": upload.session,
        "Content-Range": f"bytes 0-{len(DATA) - 1}/{len(DATA)}",
        "Content-Digest": RIGHT,
    }
    line.request("BITS_POST", upload.url, DATA, fields | {"Repr-Digest": WRONG})
    assert line.getresponse().status == 400
    line.close()
    (tmp_path / "data").write_bytes(DATA)
    headers = [part for each in (fields | {"Repr-Digest": RIGHT}).items() for part in ("-H", ": ".join(each))]
    command = [curl, "-sS", "-X", "BITS_POST", "--data-binary", f"@{tmp_path / 'data'}", "-w", "%{http_code}"]
    url = f"http://127.0.0.1:{server.port}{upload.url}"
    assert subprocess.check_output([*command, *headers, url], text=True) == "200"
    assert upload.file.read_bytes() == DATA


# What it costs


@pytest.fixture
def strace() -> None:
    if shutil.which("strace") is None:
        pytest.skip("there is no strace here")


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("directory", ["", HASHED])
def test_without_a_digest_no_byte_is_read_again(serve: Serve, directory: str) -> None:
    ferry = serve(directory=directory)
    upload = ferry.begun(name="file")
    with traced(ferry.process.pid, "preadv,preadv2") as trace:
        assert upload.send(DATA, MIB).status == 200
        trace.stop()
    assert any("preadv" in line for line in trace.lines) == bool(directory)
