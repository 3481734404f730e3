"""What is said to an application, and what its answers mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsferry.protocol.errors import BitsError, Context, InvalidMessage
from bitsferry.protocol.hresult import HResult, http_error
from bitsferry.protocol.notification import (
    LONGEST_URL,
    Answer,
    ApplicationFailed,
    Later,
    Notification,
    Refusal,
    read_answer,
    write_notification,
)
from transcripts.reader import Direction, read

(NOTIFIED,) = (m for m in read("upload-reply") if m.direction is Direction.SERVER_NOTIFIES)
(ANSWERED,) = (m for m in read("upload-reply") if m.direction is Direction.APPLICATION_ANSWERS)


def failure(status: int, headers: dict[str, str]) -> BitsError:
    with pytest.raises(BitsError) as failed:
        read_answer(status, headers)
    assert failed.value.context is Context.REMOTE_APPLICATION
    return failed.value


# What is said


def test_by_reference_it_is_said_in_the_words_and_the_order_of_the_transcript() -> None:
    theirs = dict(NOTIFIED.headers)
    said = write_notification(
        Notification(
            theirs["BITS-Original-Request-URL"],
            "A0FF5911",
            theirs["BITS-Request-DataFile-Name"],
            theirs["BITS-Response-DataFile-Name"],
        )
    )
    ours = [(name, value) for name, value in said if name not in ("Idempotency-Key", "User-Agent")]
    assert ours == NOTIFIED.headers[:4]


def test_by_value_no_paths_are_said() -> None:
    names = [name for name, _ in write_notification(Notification("http://h/in/f", "A0FF5911"))]
    assert names == ["Accept", "BITS-Original-Request-URL", "Idempotency-Key", "User-Agent"]


def test_the_key_is_the_same_each_time() -> None:
    notification = Notification("http://h/in/f", "A0FF5911")
    assert dict(write_notification(notification))["Idempotency-Key"] == "A0FF5911"
    assert write_notification(notification) == write_notification(notification)


# What an answer means


def test_the_answer_of_the_transcript_is_a_success_that_wants_nothing() -> None:
    headers = {name.lower(): value for name, value in ANSWERED.headers}
    assert read_answer(200, headers) == Answer()


@pytest.mark.parametrize("value", ["", "yes", "no", "0"])
def test_the_wish_to_have_the_file_copied_has_any_value(value: str) -> None:
    assert read_answer(200, {"bits-copy-file-to-destination": value}) == Answer(copy=True)


@pytest.mark.parametrize("url", ["http://a/b", "HTTPS://a", "http://[::1]:80/b?c=d#e", " http://a/b "])
def test_a_static_url_is_absolute(url: str) -> None:
    assert read_answer(200, {"bits-static-response-url": url}) == Answer(static_url=url.strip())


@pytest.mark.parametrize(
    "url",
    ["b", "/b", "//a/b", "a:b", "ftp://a/b", "http:/a", "http:///b", "http://", "http://a b", "http://ä/"],
)
def test_any_other_breaks_the_rules_for_a_while(url: str) -> None:
    error = failure(200, {"bits-static-response-url": url})
    assert (error.status, error.hresult, error.transient) == (502, HResult.E_INVALIDARG, True)


def test_a_static_url_that_is_too_long_is_the_one_mistake_that_ends_an_upload() -> None:
    """MC-BUP 2.2.1.2 has a MUST for it."""
    longest = "http://a/" + "a" * (LONGEST_URL - 9)
    assert read_answer(200, {"bits-static-response-url": longest}) == Answer(static_url=longest)
    error = failure(200, {"bits-static-response-url": longest + "a"})
    assert isinstance(error, InvalidMessage)
    assert (error.status, error.hresult) == (400, HResult.E_INVALIDARG)


def test_an_empty_static_url_is_none() -> None:
    assert read_answer(200, {"bits-static-response-url": " "}) == Answer()


@pytest.mark.parametrize(
    ("headers", "later"),
    [
        ({}, Later()),
        ({"retry-after": "5"}, Later(5)),
        ({"retry-after": "0", "location": " /jobs/1 "}, Later(0, "/jobs/1")),
        ({"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT", "location": ""}, Later()),
        ({"retry-after": "-5"}, Later()),
        ({"bits-copy-file-to-destination": "too early"}, Later()),
    ],
)
def test_202_is_no_answer_yet(headers: dict[str, str], later: Later) -> None:
    assert read_answer(202, headers) == later


def test_403_is_an_answer() -> None:
    said = read_answer(403, {"bits-error": "x80070005"}, who="the application at http://a/")
    refusal = Refusal(403, HResult.E_ACCESSDENIED, "the application at http://a/ refuses this upload")
    assert said == Answer(refusal=refusal)
    said = read_answer(403, {"bits-copy-file-to-destination": "yes"})
    assert isinstance(said, Answer)
    assert not said.copy
    assert said.refusal is not None
    assert said.refusal.hresult == http_error(403)


# Learn's table of an application's statuses: those after which a client gives up for good.
FATAL = {300, 301, 302, 303, 304, 305, 307, 501, 505} | (set(range(400, 500)) - {403, 408, 409})
# Those that would mean something of ours are told as others: nothing that tries again may become fatal.
MENDED = {401: True, 407: True}


@pytest.mark.parametrize("status", sorted(set(range(300, 600)) - {403}))
def test_a_client_gives_up_where_it_should(status: int) -> None:
    error = failure(status, {})
    assert isinstance(error, ApplicationFailed)
    assert error.transient == MENDED.get(status, status not in FATAL)
    assert error.hresult == http_error(status)
    assert str(status) in error.message


@pytest.mark.parametrize("status", [101, 199, 600, 999])
def test_what_is_no_status_of_an_end_does_not_reach_an_ack(status: int) -> None:
    assert failure(status, {}).status == 502


@pytest.mark.parametrize(
    ("spelt", "number"),
    [
        ("0x80070005", 0x80070005),
        ("x80070005", 0x80070005),
        ("A0001234", 0xA0001234),
        ("0x0", http_error(500)),
        ("0x8020001F", http_error(500)),
        ("nonsense", http_error(500)),
        ("0x123456789", http_error(500)),
        ("", http_error(500)),
    ],
)
def test_an_hresult_of_its_own_goes_on_unless_it_would_mean_something_else(spelt: str, number: int) -> None:
    assert failure(500, {"bits-error-code": spelt}).hresult == number
    assert failure(500, {"bits-error": spelt}).hresult == number


def test_documentations_name_of_the_header_counts_before_the_specifications() -> None:
    both = {"bits-error-code": "0xA0000001", "bits-error": "0xA0000002"}
    assert failure(500, both).hresult == 0xA0000001


NAMES = [
    *("bits-static-response-url", "bits-copy-file-to-destination", "bits-error", "bits-error-code"),
    *("location", "retry-after", "x"),
]


def outcome(status: int, headers: dict[str, str]) -> Answer | Later | BitsError:
    try:
        return read_answer(status, headers)
    except BitsError as error:
        return error


@given(
    status=st.integers(100, 999),
    headers=st.dictionaries(
        st.sampled_from(NAMES),
        st.text() | st.text(alphabet="0123456789abcdefx") | st.just("x" * 4097),
    ),
)
def test_whatever_it_says_is_an_answer_or_an_error_an_ack_can_tell(
    status: int, headers: dict[str, str]
) -> None:
    said = outcome(status, headers)
    if isinstance(said, BitsError):
        assert 300 <= said.status < 600
        assert said.context is Context.REMOTE_APPLICATION
    else:
        assert isinstance(said, Later) == (status == 202)
