"""Packets said twice or too late, because an Ack was lost, also after the server died."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bitsferry.protocol.hresult import HResult

from . import raw
from .conftest import Serve
from .ferry import Ferry, Upload

FINE = (200, None)
NOT_FOUND = (500, HResult.BG_E_SESSION_NOT_FOUND)
HALF, REST = b"half", b"rest"

Say = Callable[[Upload], raw.Answer]


def create(upload: Upload) -> raw.Answer:
    return upload.create()


def half(upload: Upload) -> raw.Answer:
    return upload.fragment(HALF, total=8)


def rest(upload: Upload) -> raw.Answer:
    return upload.fragment(REST, at=4)


def whole(upload: Upload) -> raw.Answer:
    return upload.fragment(HALF + REST)


def close(upload: Upload) -> raw.Answer:
    return upload.close()


def cancel(upload: Upload) -> raw.Answer:
    return upload.cancel()


def ping(upload: Upload) -> raw.Answer:
    return upload.ping()


# What was said and answered, what is said then, the answer to that, and whether the file is there.
LATE: list[tuple[list[Say], Say, tuple[int, int | None], bool]] = [
    ([create, half], half, FINE, False),
    ([create, half, rest], half, FINE, True),
    ([create, half, rest], rest, FINE, True),
    ([create, half, rest], whole, FINE, True),
    ([create, half, rest, close], close, FINE, True),
    ([create, half, rest, close], cancel, FINE, True),
    ([create, half, rest, close], rest, NOT_FOUND, True),
    ([create, half, rest, close], half, NOT_FOUND, True),
    ([create, half, rest, close], ping, FINE, True),
    ([create, half, rest, cancel], cancel, FINE, True),
    ([create, half, rest, cancel], close, FINE, True),
    ([create, half, rest, cancel], rest, NOT_FOUND, True),
    ([create, half, cancel], cancel, FINE, False),
    # A 200 to this Close would say that the file arrived.
    ([create, half, cancel], close, NOT_FOUND, False),
    ([create, cancel], close, NOT_FOUND, False),
    ([create, half, cancel], rest, NOT_FOUND, False),
    ([create, half, cancel], ping, FINE, False),
    # There are no partial files: this Close gave the upload up.
    ([create, half, close], close, FINE, False),
    ([create, half, close], cancel, FINE, False),
    ([create, half, close], rest, NOT_FOUND, False),
    ([create, close], cancel, FINE, True),
]


def story(case: tuple[list[Say], Say, tuple[int, int | None], bool]) -> str:
    said, late, _, _ = case
    return f"{late.__name__} after {', '.join(one.__name__ for one in said)}"


def check(upload: Upload, late: Say, verdict: tuple[int, int | None], there: bool) -> None:
    answer = late(upload)
    assert answer.verdict == verdict
    if late in (half, rest, whole) and verdict == FINE:
        assert answer.received == (8 if there else 4)
    assert upload.file.exists() == there


@pytest.mark.parametrize("case", LATE, ids=story)
def test_a_late_packet_gets_the_answer_of_the_table_however_often(
    server: Ferry, case: tuple[list[Say], Say, tuple[int, int | None], bool]
) -> None:
    said, late, verdict, there = case
    upload = server.upload()
    for say in said:
        assert say(upload).verdict == FINE
    for _ in range(3):
        check(upload, late, verdict, there)


def test_late_packets_get_the_same_answers_after_the_server_was_killed(serve: Serve) -> None:
    ferry = serve()
    uploads = [ferry.upload() for _ in LATE]
    for upload, (said, _, _, _) in zip(uploads, LATE, strict=True):
        for say in said:
            assert say(upload).verdict == FINE
    ferry.restart()
    for upload, (_, late, verdict, there) in zip(uploads, LATE, strict=True):
        check(upload, late, verdict, there)


def test_the_last_ack_repeated_is_the_same_but_for_its_date(server: Ferry) -> None:
    upload = server.begun()
    half(upload)
    first, again = rest(upload), rest(upload)
    dateless = [[header for header in ack.headers if header[0] != "Date"] for ack in (first, again)]
    assert dateless[0] == dateless[1]


def test_create_session_repeated_makes_a_second_session_and_the_first_goes_on_until_it_expires(
    server: Ferry,
) -> None:
    lost = server.begun()
    used = server.begun(name=lost.file.name)
    assert used.session != lost.session
    assert half(used).received == 4
    assert half(lost).received == 4
    assert rest(used).verdict == FINE
    assert used.file.read_bytes() == HALF + REST


def test_a_close_after_the_session_timed_out_is_not_found(serve: Serve) -> None:
    ferry = serve(directory="session_timeout = 0.5", top="cleanup_interval = 0.1")
    upload = ferry.begun()
    half(upload)
    assert raw.eventually(lambda: upload.fragment(b"?", at=7).verdict == NOT_FOUND)
    assert (close(upload).verdict, cancel(upload).verdict) == (NOT_FOUND, NOT_FOUND)
    assert not upload.file.exists()


def test_cancel_after_the_last_fragment_releases_all_but_the_file(serve: Serve) -> None:
    """What the session had is free for the next one."""
    ferry = serve(directory="sessions_per_user = 1")
    upload = ferry.begun()
    whole(upload)
    assert ferry.upload().create().status == 503
    assert cancel(upload).verdict == FINE
    assert ferry.upload().create().verdict == FINE
    assert upload.file.read_bytes() == HALF + REST
