"""Bytes on bad lines: cut, doubled, in crowds and in odd sizes, they all arrive once and in their place."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from . import raw
from .conftest import Serve
from .ferry import Ferry, Upload
from .raw import Line

FINE = (200, None)
MIB = 1024 * 1024


# Cut bodies


def vanish(line: Line) -> None:
    """The client ends in good order."""
    line.hang_up()


def half_close(line: Line) -> None:
    """The client will say no more, and listens."""
    line.stop_sending()
    assert line.is_closed()
    line.hang_up()


@pytest.mark.parametrize("end", [vanish, half_close])
@pytest.mark.parametrize("arrived", [1, 999, 20_000, 300_000])
def test_every_byte_that_arrived_counts(
    server: Ferry, upload: Upload, arrived: int, end: Callable[[Line], None]
) -> None:
    data = os.urandom(400_000)
    request = raw.fragment(upload.url, upload.session, data)
    line = server.line()
    line.send(request[: len(request) - len(data) + arrived])
    end(line)
    server.catch_up()
    assert upload.held(len(data)) == arrived
    assert upload.fragment(data[arrived:], at=arrived).received == len(data)
    assert upload.file.read_bytes() == data


def test_what_the_server_read_before_a_reset_counts(server: Ferry, upload: Upload) -> None:
    data = os.urandom(400_000)
    line = server.line()
    line.send(raw.fragment(upload.url, upload.session, data)[:-100_000])
    server.catch_up()
    line.break_off()
    assert upload.held(len(data)) == 300_000
    assert upload.fragment(data[300_000:], at=300_000).received == len(data)
    assert upload.file.read_bytes() == data


def test_cut_after_cut_the_file_comes_together(server: Ferry, upload: Upload) -> None:
    data = os.urandom(100_000)
    chance = random.Random(1)
    held = 0
    while held < len(data) - 1:
        until = min(len(data) - 1, held + chance.randrange(1, 20_000))
        start = max(0, held - chance.randrange(0, 3000))
        line = server.line()
        request = raw.fragment(upload.url, upload.session, data[start:], at=start)
        line.send(request[: len(request) - (len(data) - until)])
        line.hang_up()
        server.catch_up()
        held = upload.fragment(data[:1], total=len(data)).received or 0
        assert held == until
    upload.fragment(data[-1:], at=held)
    assert upload.file.read_bytes() == data


def test_the_last_byte_missing_is_not_a_file(server: Ferry, upload: Upload) -> None:
    line = server.line()
    line.send(raw.fragment(upload.url, upload.session, b"0123456789")[:-1])
    line.hang_up()
    server.catch_up()
    assert upload.fragment(b"0", total=10).received == 9
    assert not upload.file.exists()
    assert upload.fragment(b"9", at=9).received == 10


def test_what_was_acknowledged_and_what_arrived_counts_after_the_server_was_killed(serve: Serve) -> None:
    ferry = serve()
    data = os.urandom(400_000)
    upload = ferry.begun()
    assert upload.fragment(data[:100_000], total=len(data)).received == 100_000
    upload.line.send(raw.fragment(upload.url, upload.session, data[100_000:], at=100_000)[:-100_000])
    ferry.catch_up()
    assert upload.line.is_silent()
    ferry.restart()
    assert upload.held(len(data)) == 300_000
    upload.fragment(data[300_000:], at=300_000)
    assert upload.file.read_bytes() == data


def test_killed_again_and_again_the_file_is_whole_at_last(serve: Serve) -> None:
    ferry = serve()
    data = os.urandom(300_000)
    upload = ferry.begun()
    for at in range(0, len(data), 100_000):
        assert upload.fragment(data[at : at + 100_000], at=at, total=len(data)).received == at + 100_000
        ferry.restart()
    assert upload.file.read_bytes() == data
    assert upload.close().verdict == FINE


# Two requests of one session


@pytest.mark.parametrize("workers", [1, 2])
def test_the_newest_request_of_a_session_wins_within_5_seconds_and_the_file_is_right(
    serve: Serve, workers: int
) -> None:
    ferry = serve(top=f"workers = {workers}")
    upload = ferry.begun()
    data = os.urandom(1_000_000)
    with ExitStack() as lines:
        older = [lines.enter_context(ferry.line()) for _ in range(8)]
        for number, line in enumerate(older):
            line.send(raw.fragment(upload.url, upload.session, data)[: (number - 9) * 100_000])
            ferry.catch_up()
        begun = time.monotonic()
        answer = upload.fragment(data)
        assert time.monotonic() - begun < 5
        assert (answer.verdict, answer.received) == (FINE, len(data))
        assert {line.answer().verdict for line in older} == {(503, None)}
    assert upload.file.read_bytes() == data


def test_a_cancel_does_not_wait_for_a_body_on_its_way(server: Ferry, upload: Upload) -> None:
    with server.line() as older:
        older.send(raw.fragment(upload.url, upload.session, b"0123456789")[:-1])
        server.catch_up()
        assert upload.cancel().verdict == FINE
        assert older.answer().status == 503
    assert not upload.file.exists()


def test_a_request_whose_body_has_not_begun_keeps_no_newer_one_waiting(server: Ferry) -> None:
    """The newer one may come while the older one is still looking for its session."""
    for _ in range(20):
        upload = server.begun()
        request = raw.fragment(upload.url, upload.session, b"0123456789")
        with server.line() as older:
            older.send(raw.head_of(request))
            begun = time.monotonic()
            assert upload.line.ask(request).received == 10
            assert time.monotonic() - begun < 4


def test_the_same_fragment_on_many_lines_at_once_is_stored_once(server: Ferry, upload: Upload) -> None:
    """A newer one may cut an older one short, with 503; the client then goes on where the server is."""
    data = os.urandom(200_000)
    with ExitStack() as lines:
        crowd = [lines.enter_context(server.line()) for _ in range(10)]
        for line in crowd:
            line.send(raw.fragment(upload.url, upload.session, data[:150_000], total=len(data)))
        answers = [line.answer() for line in crowd]
    assert {answer.verdict for answer in answers} <= {FINE, (503, None)}
    assert FINE in {answer.verdict for answer in answers}
    assert upload.held(len(data)) == 150_000
    upload.fragment(data[150_000:], at=150_000)
    assert upload.file.read_bytes() == data


# Crowds


def test_a_hundred_clients_at_once_are_all_served(server: Ferry) -> None:
    files = [os.urandom(20_000 + number) for number in range(100)]
    uploads = [server.upload() for _ in files]
    for upload in uploads:
        upload.line.send(raw.create(upload.url))
    for upload in uploads:
        answer = upload.line.answer()
        assert answer.verdict == FINE
        upload.session = answer.session or ""
    assert len({upload.session for upload in uploads}) == 100
    for at in range(0, 21_000, 7000):
        for upload, data in zip(uploads, files, strict=True):
            part = data[at : at + 7000]
            upload.line.send(raw.fragment(upload.url, upload.session, part, at=at, total=len(data)))
        for upload, data in zip(uploads, files, strict=True):
            answer = upload.line.answer()
            assert (answer.verdict, answer.received) == (FINE, min(at + 7000, len(data)))
    for upload, data in zip(uploads, files, strict=True):
        assert upload.file.read_bytes() == data


def test_of_many_sessions_for_one_destination_one_file_arrives_whole(server: Ferry) -> None:
    first = server.begun()
    uploads = [first, *(server.begun(name=first.file.name) for _ in range(9))]
    files = [os.urandom(1000) for _ in uploads]
    for upload, data in zip(uploads, files, strict=True):
        upload.line.send(raw.fragment(upload.url, upload.session, data))
    statuses = [upload.line.answer().status for upload in uploads]
    assert sorted(statuses) == [200] + [403] * 9
    assert first.file.read_bytes() == files[statuses.index(200)]


def test_while_a_file_is_replaced_again_and_again_whoever_looks_sees_a_whole_one(server: Ferry) -> None:
    first = server.begun("/over/")
    first.fragment(bytes([0]) * 50_000)
    uploads = [server.begun("/over/", first.file.name) for _ in range(10)]
    for number, upload in enumerate(uploads, start=1):
        upload.line.send(raw.fragment(upload.url, upload.session, bytes([number]) * 50_000))
        for _ in range(20):
            seen = first.file.read_bytes()
            assert seen == seen[:1] * 50_000
        assert upload.line.answer().verdict == FINE
    assert first.file.read_bytes() == bytes([10]) * 50_000


# What arrives


def test_a_file_that_arrived_is_like_any_other(server: Ferry, upload: Upload) -> None:
    upload.fragment(b"whole")
    figures, other = upload.file.stat(), server.folder / "an-other-file"
    other.touch()
    assert (figures.st_mode, figures.st_uid) == (other.stat().st_mode, other.stat().st_uid)
    assert figures.st_nlink == 1
    with upload.file.open("ab") as file:
        file.write(b" and more")
    assert upload.close().verdict == FINE
    assert upload.file.read_bytes() == b"whole and more"


# Sizes


@pytest.mark.parametrize("size", [1, 2, 5119, 5120, 65_535, 65_536, 65_537, 262_143, 262_144, 262_145])
def test_a_file_of_one_fragment_of_any_size_arrives(server: Ferry, size: int) -> None:
    data = os.urandom(size)
    upload = server.begun()
    assert upload.fragment(data).received == size
    assert upload.file.read_bytes() == data


def test_a_file_in_fragments_of_one_byte_arrives(upload: Upload) -> None:
    data = os.urandom(200)
    upload.send(data, 1)
    assert upload.file.read_bytes() == data


def test_a_large_file_in_fragments_of_odd_sizes_arrives(upload: Upload) -> None:
    chance = random.Random(2)
    data = chance.randbytes(48 * MIB + 17)
    at = 0
    while at < len(data):
        size = chance.choice([1, 4093, 5 * 1024, 65_537, 131_072, 999_983, 2 * MIB + 1, 13 * MIB])
        overlap = min(at, chance.choice([0, 0, 1, 4096, 300_001]))
        part = data[at - overlap : at + size]
        answer = upload.fragment(part, at=at - overlap, total=len(data))
        at = min(at + size, len(data))
        assert (answer.verdict, answer.received) == (FINE, at)
    with upload.file.open("rb") as file:
        arrived = hashlib.file_digest(file, "sha256").digest()
    assert arrived == hashlib.sha256(data).digest()


def test_the_rest_of_a_file_beyond_4_gib_is_counted_right(upload: Upload) -> None:
    """Only its first bytes are sent: offsets of 64 bits are what is promised, not an hour of sending."""
    total = 2**63 - 1
    assert upload.fragment(b"first", total=total).received == 5
    gap = upload.fragment(b"?", at=2**62, total=total)
    assert (gap.verdict, gap.received) == ((416, None), 5)
