"""The promises of `Upload`, the client's half: what it says, and what it makes of any answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bitsferry.protocol import errors
from bitsferry.protocol.errors import BitsError, Context
from bitsferry.protocol.hresult import HResult
from bitsferry.protocol.packets import (
    BITS_1_5,
    Ack,
    CancelSession,
    CloseSession,
    CreateSession,
    Fragment,
    Packet,
    Ping,
)
from bitsferry.protocol.ranges import ContentRange
from bitsferry.protocol.upload import (
    LARGEST_FRAGMENT,
    RESTARTS,
    SETBACKS,
    Progress,
    State,
    Upload,
    error_of_ack,
)

ID = "{A0FF5911-4144-45B3-BF27-27AFC8EC8A67}"
CREATED = Ack(session_id=ID, protocol=BITS_1_5)
OK = Ack()
VANISHED = Ack(500, hresult=HResult.BG_E_SESSION_NOT_FOUND, context=Context.REMOTE_FILE)
BUSY = Ack(503, retry_after=10)

SERVER = Context.REMOTE_FILE
APPLICATION = Context.REMOTE_APPLICATION


def talk(upload: Upload, *acks: Ack) -> list[Packet | None]:
    """What the upload says when it is answered `acks`, with what it says after the last of them."""
    said = []
    for ack in acks:
        said.append(upload.next_packet())
        upload.receive(ack)
    return [*said, upload.next_packet()]


def an_upload(size: int = 1000, *, fragment_length: int = 400) -> Upload:
    """One that has a session and is about to send its first byte."""
    upload = Upload(size, fragment_length=fragment_length)
    talk(upload, CREATED)
    return upload


def resumed(progress: Progress, size: int = 1000) -> Upload:
    """One that goes on after an interruption and has said its Ping."""
    upload = Upload(size, progress=progress, fragment_length=400)
    assert talk(upload, OK)[0] == Ping()
    return upload


def fragment(start: int, stop: int, size: int = 1000) -> Fragment:
    return Fragment(ID, ContentRange(start, stop, size))


def refusal(upload: Upload, ack: Ack) -> BitsError:
    """The error the upload raises for `ack`."""
    assert upload.next_packet() is not None
    with pytest.raises(BitsError) as raised:
        upload.receive(ack)
    return raised.value


# A file on its way


def test_a_file_is_a_session_its_fragments_and_a_close() -> None:
    upload = Upload(1000, fragment_length=400)
    assert talk(upload, CREATED, Ack(received=400), Ack(received=800), Ack(received=1000), OK) == [
        CreateSession((BITS_1_5,)),
        fragment(0, 400),
        fragment(400, 800),
        fragment(800, 1000),
        CloseSession(ID),
        None,
    ]
    assert upload.state is State.DONE


def test_a_zero_length_file_is_a_session_and_a_close() -> None:
    upload = Upload(0)
    assert talk(upload, CREATED, OK) == [CreateSession(), CloseSession(ID), None]
    assert upload.state is State.DONE


def test_the_name_of_the_file_goes_with_every_fragment_and_the_close_as_windows_does() -> None:
    upload = Upload(10, name="rfc2119.txt")
    said = talk(upload, CREATED, Ack(received=10))
    assert [packet.content_name for packet in said if isinstance(packet, Fragment | CloseSession)] == [
        "rfc2119.txt",
        "rfc2119.txt",
    ]


def test_nothing_new_is_said_before_an_answer() -> None:
    upload = an_upload()
    assert [upload.next_packet() for _ in range(3)] == [fragment(0, 400)] * 3


def test_an_answer_nobody_asked_for_is_an_error() -> None:
    with pytest.raises(errors.InvalidServerResponse):
        Upload(1000).receive(OK)


def test_nothing_is_said_after_the_end_and_no_answer_opens_it_again() -> None:
    upload = Upload(0)
    talk(upload, CREATED, OK)
    with pytest.raises(errors.InvalidServerResponse):
        upload.receive(VANISHED)
    upload.failed()
    upload.resume()
    upload.cancel()
    assert (upload.state, upload.next_packet()) == (State.DONE, None)


def test_c16_the_last_acknowledged_byte_leaves_only_the_close() -> None:
    upload = an_upload()
    talk(upload, Ack(received=400), Ack(received=800), Ack(received=1000))
    assert upload.state is State.CLOSE_SESSION


@pytest.mark.parametrize("status", [200, 201])
def test_c17_both_200_and_201_are_success(status: int) -> None:
    upload = Upload(10)
    talk(upload, Ack(status, session_id=ID, protocol=BITS_1_5), Ack(status, received=10), Ack(status))
    assert upload.state is State.DONE


def test_c4_only_the_ack_of_create_must_name_the_session() -> None:
    upload = Upload(10)
    assert isinstance(refusal(upload, Ack(protocol=BITS_1_5)), errors.InvalidServerResponse)
    assert refusal(Upload(10), Ack(protocol=BITS_1_5)).transient
    upload.resume()
    talk(upload, CREATED, Ack(received=10), OK)
    assert upload.state is State.DONE


@given(st.text(min_size=1))
def test_c26_a_session_id_is_echoed_as_it_came(session_id: str) -> None:
    upload = Upload(10)
    said = talk(upload, Ack(session_id=session_id), Ack(received=10))
    assert [packet.session_id for packet in said if isinstance(packet, Fragment | CloseSession)] == [
        session_id,
        session_id,
    ]


def test_an_ack_that_names_another_session_changes_nothing() -> None:
    assert talk(an_upload(), Ack(received=400, session_id="{another}"))[-1] == fragment(400, 800)


@pytest.mark.parametrize("protocol", [BITS_1_5, BITS_1_5.upper(), None])
def test_the_offered_protocol_is_accepted_in_any_case(protocol: str | None) -> None:
    assert talk(Upload(1000), Ack(session_id=ID, protocol=protocol))[-1] == fragment(0, 1000)


def test_a_protocol_nobody_offered_is_a_mismatch_for_good() -> None:
    error = refusal(Upload(10), Ack(session_id=ID, protocol="{00000000-0000-0000-0000-000000000001}"))
    assert error.code == HResult.BG_E_CLIENT_SERVER_PROTOCOL_MISMATCH
    assert not error.transient


def test_no_fragment_is_longer_than_wished_nor_shorter_than_a_byte() -> None:
    upload = an_upload(fragment_length=0)
    assert upload.next_packet() == fragment(0, 1)
    upload.fragment_length = 7
    assert upload.next_packet() == fragment(0, 7)


def test_nobody_who_says_nothing_sends_longer_fragments_than_windows() -> None:
    upload = Upload(10**9)
    assert talk(upload, CREATED)[-1] == fragment(0, 13 * 1024 * 1024, 10**9)


def test_a_fallback_timer_goes_on_in_the_next_process() -> None:
    upload = Upload(1000)
    talk(upload, Ack(session_id=ID, protocol=BITS_1_5, host_id="node7", host_id_fallback_timeout=60))
    upload.next_packet(1000.0)
    upload.failed(1000.0)
    later = Upload(1000, progress=upload.progress)
    later.next_packet(1059.0)
    assert later.host == "node7"
    later.failed(1059.0)
    later.resume()
    later.next_packet(1060.0)
    assert later.host is None


# Where to go on: the server names the offset


def test_a_416_moves_the_client_to_the_offset_the_server_wants() -> None:
    assert talk(an_upload(), Ack(received=400), Ack(416, received=150))[-1] == fragment(150, 550)


def test_c5_the_client_takes_any_offset_of_the_file_even_one_behind_its_own() -> None:
    upload = an_upload()
    assert talk(upload, Ack(received=400), Ack(received=100))[-1] == fragment(100, 500)
    assert talk(upload, Ack(416, received=0))[-1] == fragment(0, 400)
    assert talk(upload, Ack(received=999))[-1] == fragment(999, 1000)
    assert talk(upload, Ack(416, received=1000))[-1] == CloseSession(ID)


def test_a_part_of_a_fragment_counts() -> None:
    assert talk(an_upload(), Ack(received=1))[-1] == fragment(1, 401)


@pytest.mark.parametrize("status", [200, 416])
@pytest.mark.parametrize("received", [-1, 1001, 2**63])
def test_an_offset_outside_the_file_is_no_answer(status: int, received: int) -> None:
    upload = an_upload()
    error = refusal(upload, Ack(status, received=received))
    assert isinstance(error, errors.InvalidServerResponse)
    assert error.transient
    assert upload.progress.sent == 0


def test_a_416_that_names_no_offset_is_no_answer() -> None:
    assert isinstance(refusal(an_upload(), Ack(416)), errors.InvalidServerResponse)


def test_a_200_that_names_no_offset_took_the_whole_fragment() -> None:
    # OneDrive's retired variant said nothing.
    assert talk(an_upload(), OK, OK, OK, OK)[:4] == [
        fragment(0, 400),
        fragment(400, 800),
        fragment(800, 1000),
        CloseSession(ID),
    ]


def test_an_offset_in_the_ack_of_anything_but_a_fragment_means_nothing() -> None:
    upload = Upload(1000, fragment_length=400)
    assert talk(upload, Ack(session_id=ID, received=1000))[-1] == fragment(0, 400)
    upload.resume()
    assert talk(upload, Ack(received=1000))[-1] == fragment(0, 400)


# Broken lines


def test_after_a_broken_line_the_client_pings_and_goes_on_from_its_own_offset() -> None:
    upload = an_upload()
    talk(upload, Ack(received=400))
    upload.failed()
    assert (upload.state, upload.next_packet()) == (State.ERROR, None)
    upload.resume()
    assert talk(upload, OK) == [Ping(), fragment(400, 800)]


def test_a_lost_answer_to_create_makes_a_second_session() -> None:
    upload = Upload(1000)
    assert upload.next_packet() == CreateSession()
    upload.failed()
    upload.resume()
    assert upload.next_packet() == CreateSession()


def test_a_late_answer_to_a_packet_of_a_broken_line_is_not_taken() -> None:
    upload = an_upload()
    upload.next_packet()
    upload.failed()
    with pytest.raises(errors.InvalidServerResponse):
        upload.receive(Ack(received=400))
    assert upload.progress.sent == 0


def test_a_pause_ends_with_a_ping() -> None:
    upload = an_upload()
    upload.resume()
    assert talk(upload, OK) == [Ping(), fragment(0, 400)]


def test_what_was_saved_is_enough_to_go_on() -> None:
    first = an_upload()
    talk(first, Ack(received=400))
    assert resumed(first.progress).next_packet() == fragment(400, 800)


def test_an_interrupted_upload_without_a_session_begins_with_one() -> None:
    assert Upload(1000, progress=Progress()).next_packet() == CreateSession()


def test_an_upload_interrupted_before_its_close_only_closes() -> None:
    assert resumed(Progress(ID, sent=1000)).next_packet() == CloseSession(ID)


def test_c9_a_file_that_shrank_is_not_closed_as_if_it_were_whole() -> None:
    upload = Upload(999, progress=Progress(ID, sent=1000))
    error = refusal(upload, OK)
    assert isinstance(error, errors.LocalFileChanged)
    assert upload.next_packet() is None


# The session is gone


def test_a_vanished_session_starts_over_from_byte_0() -> None:
    upload = an_upload()
    assert talk(upload, Ack(received=400), VANISHED, CREATED)[-2:] == [CreateSession(), fragment(0, 400)]


def test_a_session_that_vanished_while_we_slept_starts_over_too() -> None:
    upload = Upload(1000, progress=Progress(ID, sent=400), fragment_length=400)
    assert talk(upload, VANISHED, CREATED) == [Ping(), CreateSession(), fragment(0, 400)]


def test_a_session_that_vanishes_while_it_is_made_is_made_again() -> None:
    named = Ack(500, session_id=ID, hresult=HResult.BG_E_SESSION_NOT_FOUND)
    assert talk(Upload(1000), VANISHED, named) == [CreateSession()] * 3


def test_five_sessions_may_vanish_without_a_new_byte_and_no_more() -> None:
    upload = an_upload()
    for _ in range(2):  # and after a rest five again
        talk(upload, *[VANISHED, CREATED] * 5)
        error = refusal(upload, VANISHED)
        assert error.code == HResult.BG_E_NO_PROGRESS
        assert error.transient
        upload.resume()
        assert talk(upload, CREATED) == [CreateSession(), fragment(0, 400)]


def test_a_new_byte_gives_the_session_new_lives_and_an_old_one_does_not() -> None:
    upload = an_upload()
    talk(upload, Ack(received=100))
    for received in range(101, 130):
        talk(upload, VANISHED, CREATED, Ack(received=received))
    with pytest.raises(errors.NoProgress):
        for _ in range(RESTARTS + 1):
            talk(upload, VANISHED, CREATED, Ack(received=129))


def test_the_session_of_an_application_that_says_so_is_not_ours() -> None:
    error = refusal(an_upload(), Ack(500, hresult=HResult.BG_E_SESSION_NOT_FOUND, context=APPLICATION))
    assert isinstance(error, errors.ServerFailed)


# Too large


def test_c7_a_413_halves_the_fragments_and_the_client_remembers() -> None:
    upload = an_upload(100_000, fragment_length=64_000)
    assert talk(upload, Ack(413)) == [fragment(0, 64_000, 100_000), fragment(0, 32_000, 100_000)]
    talk(upload, Ack(received=32_000))
    assert upload.next_packet() == fragment(32_000, 64_000, 100_000)
    again = Upload(100_000, progress=upload.progress)
    assert talk(again, OK)[-1] == fragment(32_000, 64_000, 100_000)
    assert talk(again, VANISHED, CREATED)[-1] == fragment(0, 32_000, 100_000)


def test_c7_no_413_makes_fragments_smaller_than_windows_sends() -> None:
    upload = an_upload(10**6, fragment_length=5121)
    assert talk(upload, Ack(413))[-1] == fragment(0, 5120, 10**6)
    error = refusal(upload, Ack(413))
    assert (error.status, error.transient) == (413, False)


def test_c7_a_server_that_wants_no_fragment_at_all_is_soon_believed() -> None:
    upload = an_upload(LARGEST_FRAGMENT, fragment_length=LARGEST_FRAGMENT)
    with pytest.raises(errors.Refused):
        talk(upload, *[Ack(413)] * 20)


def test_c7_a_short_last_fragment_that_is_too_large_is_a_refusal() -> None:
    assert refusal(an_upload(10), Ack(413)).transient is False


def test_c7_a_file_over_the_limit_is_refused_for_good() -> None:
    error = refusal(an_upload(), Ack(500, hresult=HResult.BG_E_TOO_LARGE, context=SERVER))
    assert isinstance(error, errors.FileTooLarge)
    assert not error.transient


# What an answer means


@pytest.mark.parametrize("number", [0x80070070, 0x80070112])
def test_c8_a_full_disk_is_waited_for_under_both_numbers(number: int) -> None:
    upload = an_upload()
    talk(upload, Ack(received=400))
    error = refusal(upload, Ack(500, hresult=number, context=SERVER, received=500))
    assert isinstance(error, errors.DiskFull)
    assert error.transient
    upload.resume()
    assert talk(upload, OK)[-1] == fragment(400, 800)


@pytest.mark.parametrize("status", [403, 409])
@pytest.mark.parametrize("hresult", [None, 0x80070005])
def test_c6_403_and_409_alike_may_mean_that_the_file_is_already_there(
    status: int, hresult: int | None
) -> None:
    error = refusal(Upload(10), Ack(status, hresult=hresult))
    assert isinstance(error, errors.AccessDenied)
    assert not error.transient
    assert "already there" in error.message


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_a_redirect_is_fatal_with_a_hint(status: int) -> None:
    error = refusal(Upload(10), Ack(status))
    assert not error.transient
    assert "redirect" in error.message
    assert "URL" in error.message
    assert "redirect" not in refusal(Upload(10), Ack(400)).message


def test_a_busy_server_is_waited_for_as_long_as_it_says() -> None:
    error = refusal(Upload(10), BUSY)
    assert (error.transient, error.retry_after) == (True, 10)


def test_an_unauthorized_client_says_so_and_may_go_on() -> None:
    upload = an_upload()
    assert isinstance(refusal(upload, Ack(401)), errors.AuthenticationRequired)
    upload.resume()
    assert talk(upload, OK) == [Ping(), fragment(0, 400)]


def test_c20_uploads_that_are_switched_off_are_reported() -> None:
    error = refusal(Upload(10), Ack(501, hresult=0x80070005, context=SERVER))
    assert isinstance(error, errors.UploadsDisabled)
    assert not error.transient


@pytest.mark.parametrize("status", [400, 411])
def test_c18_wrong_headers_are_reported_under_either_status(status: int) -> None:
    error = refusal(an_upload(), Ack(status, hresult=0x80070057, context=SERVER))
    assert (error.status, error.code, error.transient) == (status, 0x80070057, False)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507, 599])
def test_what_may_pass_is_transient(status: int) -> None:
    assert error_of_ack(Ack(status)).transient


@pytest.mark.parametrize(
    "status", [100, 204, 206, 300, 400, 402, 404, 405, 406, 407, 410, 415, 422, 501, 505]
)
def test_what_will_not_pass_is_fatal(status: int) -> None:
    assert not error_of_ack(Ack(status)).transient


def test_a_proxy_that_asks_who_is_there_is_not_taken_for_the_server() -> None:
    error = error_of_ack(Ack(407))
    assert isinstance(error, errors.ProxyAuthenticationRequired)
    assert "proxy" in error.message


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 504, 599])
def test_an_application_that_may_think_better_of_it_is_asked_again(status: int) -> None:
    assert error_of_ack(Ack(status, context=APPLICATION)).transient


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 307, 400, 401, 403, 404, 410, 501, 505])
def test_an_application_that_refused_the_file_is_not_asked_again(status: int) -> None:
    assert not error_of_ack(Ack(status, context=APPLICATION)).transient


@pytest.mark.parametrize("hresult", [None, 0x80070005, 0x80070070, 0x80200020, 0xA0001234])
@pytest.mark.parametrize("status", [400, 403, 409, 500, 501])
def test_an_error_of_the_application_is_called_one_and_keeps_its_numbers(
    status: int, hresult: int | None
) -> None:
    error = error_of_ack(Ack(status, hresult=hresult, context=APPLICATION))
    assert (error.status, error.hresult, error.context) == (status, hresult, APPLICATION)
    assert "application" in error.message


def test_an_error_without_a_class_keeps_the_servers_numbers() -> None:
    error = error_of_ack(Ack(418, hresult=0xA0001234))
    assert (error.status, error.code, error.context) == (418, 0xA0001234, SERVER)
    assert "418" in error.message
    assert "0xA0001234" in error.message


@given(st.integers(100, 599), st.none() | st.integers(1, 2**32 - 1) | st.sampled_from(list(HResult)))
def test_every_answer_that_is_no_success_is_an_error_one_can_read(status: int, hresult: int | None) -> None:
    for context in (None, SERVER, APPLICATION):
        error = error_of_ack(Ack(status, hresult=hresult, context=context, retry_after=7))
        assert error.message
        assert str(error)


# The reply

WITH_REPLY = Ack(received=1000, reply_url="replies/1")


def test_c31_the_reply_is_fetched_before_the_close() -> None:
    upload = an_upload()
    assert talk(upload, WITH_REPLY)[-1] is None
    assert (upload.state, upload.progress.reply_url) == (State.GET_REPLY, "replies/1")
    upload.reply_fetched()
    assert talk(upload, OK) == [CloseSession(ID), None]
    assert upload.state is State.DONE


def test_c31_a_reply_that_could_not_be_fetched_is_fetched_after_a_ping() -> None:
    upload = an_upload()
    talk(upload, WITH_REPLY)
    upload.failed()
    upload.resume()
    assert talk(upload, OK) == [Ping(), None]
    assert upload.state is State.GET_REPLY


def test_c31_a_reply_is_not_fetched_again_when_the_close_may_have_released_it() -> None:
    upload = an_upload()
    talk(upload, WITH_REPLY)
    upload.reply_fetched()
    for go_on in (upload, Upload(1000, progress=upload.progress)):
        assert isinstance(go_on.next_packet(), CloseSession | Ping)
        go_on.failed()
        go_on.resume()
        assert talk(go_on, OK) == [Ping(), CloseSession(ID)]


def test_c10_a_missing_reply_url_is_an_empty_reply() -> None:
    assert talk(an_upload(), Ack(received=1000))[-1] == CloseSession(ID)


def test_a_reply_url_before_the_last_byte_means_nothing() -> None:
    upload = an_upload()
    assert talk(upload, Ack(received=400, reply_url="too-early"), Ack(received=1000))[-1] == CloseSession(ID)


def test_a_reply_url_counts_on_a_416_that_says_all_is_held() -> None:
    upload = an_upload()
    talk(upload, Ack(416, received=1000, reply_url="replies/1"))
    assert upload.state is State.GET_REPLY


def test_a_reply_of_a_session_that_is_gone_is_forgotten() -> None:
    upload = resumed(Progress(ID, sent=1000, reply_url="old"))
    assert upload.state is State.GET_REPLY
    upload.resume()
    talk(upload, VANISHED)
    assert upload.progress.reply_url is None


# The end


def at_close(size: int = 1000) -> Upload:
    return resumed(Progress(ID, sent=size), size)


def at_cancel() -> Upload:
    upload = an_upload()
    upload.cancel()
    return upload


@pytest.mark.parametrize("at_end", [at_close, at_cancel])
def test_c12_a_close_of_a_vanished_session_counts_as_done_and_so_does_a_cancel(
    at_end: Callable[[], Upload],
) -> None:
    upload = at_end()
    assert talk(upload, VANISHED)[-1] is None
    assert upload.state in (State.DONE, State.CANCELLED)


def test_c12_an_empty_file_whose_session_vanished_before_its_close_is_made_anew() -> None:
    # There the Close is what makes the file: nobody knows whether it did.
    upload = Upload(0)
    talk(upload, CREATED)
    upload.failed()
    upload.resume()
    assert talk(upload, OK, VANISHED, CREATED, OK) == [
        Ping(),
        CloseSession(ID),
        CreateSession(),
        CloseSession(ID),
        None,
    ]
    assert upload.state is State.DONE


@pytest.mark.parametrize("at_end", [at_close, at_cancel])
@pytest.mark.parametrize("status", [200, 204, 304, 400, 401, 403, 404, 409, 429])
def test_c12_a_close_or_cancel_that_is_not_the_servers_failure_is_not_repeated(
    at_end: Callable[[], Upload], status: int
) -> None:
    upload = at_end()
    assert talk(upload, Ack(status))[-1] is None
    assert upload.state in (State.DONE, State.CANCELLED)


@pytest.mark.parametrize("at_end", [at_close, at_cancel])
@pytest.mark.parametrize("status", [500, 501, 503, 505])
@pytest.mark.parametrize("hresult", [None, 0x80070005, 0x8007045D])
def test_a_close_or_cancel_the_server_failed_at_is_said_again(
    at_end: Callable[[], Upload], status: int, hresult: int | None
) -> None:
    upload = at_end()
    said = upload.next_packet()
    error = refusal(upload, Ack(status, hresult=hresult, retry_after=3))
    assert (error.transient, error.retry_after) == (True, 3)
    upload.resume()
    assert said in talk(upload, OK)


@pytest.mark.parametrize("status", [400, 403, 404, 409])
def test_an_empty_file_that_is_refused_at_its_close_is_refused(status: int) -> None:
    assert not refusal(at_close(0), Ack(status)).transient


# Giving up


def fetching_the_reply() -> Upload:
    upload = an_upload()
    talk(upload, WITH_REPLY)
    return upload


def broken() -> Upload:
    upload = an_upload()
    upload.failed()
    return upload


def between_hosts() -> Upload:
    upload = Upload(1000)
    talk(upload, Ack(session_id=ID, host_id="node1"))
    return upload


WITH_A_SESSION = [an_upload, at_close, fetching_the_reply, broken, between_hosts]


@pytest.mark.parametrize("at_any_state", WITH_A_SESSION)
def test_a_cancel_is_said_in_any_state_that_has_a_session(at_any_state: Callable[[], Upload]) -> None:
    upload = at_any_state()
    upload.cancel()
    assert talk(upload, OK) == [CancelSession(ID), None]
    assert upload.state is State.CANCELLED


def test_a_cancel_without_a_session_is_not_said() -> None:
    upload = Upload(1000)
    upload.cancel()
    assert upload.next_packet() is None
    assert upload.state is State.CANCELLED


@pytest.mark.parametrize("at_any_state", [*WITH_A_SESSION, lambda: Upload(1000)])
@pytest.mark.parametrize(
    "ack", [CREATED, Ack(received=400), Ack(416, received=9), Ack(413), WITH_REPLY, VANISHED, BUSY, Ack(403)]
)
def test_an_answer_under_way_does_not_undo_a_cancel(at_any_state: Callable[[], Upload], ack: Ack) -> None:
    upload = at_any_state()
    upload.next_packet()
    upload.cancel()
    try:
        upload.receive(ack)
    except BitsError:
        pass
    assert upload.state in (State.CANCEL, State.DONE)
    assert upload.next_packet() in (CancelSession(ID), None)


def test_a_session_made_while_the_user_gives_up_is_cancelled_too() -> None:
    upload = Upload(1000)
    upload.next_packet()
    upload.cancel()
    upload.receive(CREATED)
    assert upload.next_packet() == CancelSession(ID)


def test_a_close_that_was_answered_needs_no_cancel() -> None:
    upload = at_close()
    upload.next_packet()
    upload.cancel()
    upload.receive(OK)
    assert (upload.state, upload.next_packet()) == (State.DONE, None)


def test_a_cancel_whose_answer_is_lost_is_said_again() -> None:
    upload = at_cancel()
    assert upload.next_packet() == CancelSession(ID)
    upload.failed()
    upload.resume()
    assert talk(upload, VANISHED) == [CancelSession(ID), None]


# Another host


def on_node1(timeout: int | None = 110) -> Upload:
    """One that speaks to the host it was sent to."""
    upload = Upload(1000, fragment_length=400)
    talk(upload, Ack(session_id=ID, host_id="node1", host_id_fallback_timeout=timeout), OK)
    return upload


def test_a_host_id_is_tried_with_a_ping_before_a_byte_is_sent_there() -> None:
    upload = Upload(1000, fragment_length=400)
    assert upload.host is None
    assert talk(upload, Ack(session_id=ID, host_id="node1"))[-1] == Ping()
    assert upload.host == "node1"
    assert talk(upload, OK)[-1] == fragment(0, 400)


def test_a_host_id_outlives_an_interruption() -> None:
    assert Upload(1000, progress=on_node1().progress).host == "node1"


def unreached(upload: Upload, at: float) -> str | None:
    """The host the upload tries at that time, and does not reach."""
    upload.resume()
    upload.next_packet(at)
    host = upload.host
    upload.failed(at)
    return host


def test_c23_an_unreachable_host_is_left_after_its_timeout() -> None:
    upload = on_node1()
    tried = [unreached(upload, at) for at in (1000, 1050, 1109.9, 1110, 1200)]
    assert tried == ["node1", "node1", "node1", None, None]


def test_c23_the_timeout_starts_again_after_a_success() -> None:
    upload = on_node1()
    unreached(upload, 1000)
    upload.resume()
    upload.next_packet(1100)
    upload.receive(OK, 1100)
    assert [unreached(upload, at) for at in (1150, 1259, 1260)] == ["node1", "node1", None]


def test_c23_a_host_without_a_timeout_is_never_left() -> None:
    upload = on_node1(timeout=None)
    assert [unreached(upload, at) for at in (0, 1e6, 1e12)] == ["node1"] * 3


def test_c23_a_host_with_a_timeout_of_nothing_is_left_at_the_first_failure() -> None:
    upload = on_node1(timeout=0)
    assert [unreached(upload, at) for at in (5, 5)] == ["node1", None]


def test_c23_without_a_host_id_there_is_nothing_to_leave() -> None:
    upload = an_upload()
    assert [unreached(upload, at) for at in (0, 1e12)] == [None, None]


def test_after_falling_back_a_session_the_other_host_does_not_know_starts_over() -> None:
    upload = on_node1()
    for at in (0, 200):
        unreached(upload, at)
    upload.resume()
    assert talk(upload, OK, VANISHED) == [Ping(), fragment(0, 400), CreateSession()]


def test_a_new_session_is_asked_for_at_the_first_host() -> None:
    upload = on_node1()
    assert talk(upload, VANISHED)[-1] == CreateSession()
    assert upload.host is None


# Servers that mean no good


numbers = st.none() | st.integers(-1, 12)
any_ack = st.builds(
    Ack,
    status=st.sampled_from([200, 200, 200, 201, 204, 301, 401, 403, 409, 413, 416, 416, 500, 503]),
    session_id=st.sampled_from([None, ID]),
    protocol=st.sampled_from([None, BITS_1_5, "{other}"]),
    host_id=st.sampled_from([None, None, "node1"]),
    host_id_fallback_timeout=st.sampled_from([None, 0, 5]),
    received=numbers,
    reply_url=st.sampled_from([None, None, "replies/1"]),
    hresult=st.sampled_from([None, None, HResult.BG_E_SESSION_NOT_FOUND, HResult.BG_E_TOO_LARGE]),
    context=st.sampled_from([None, Context.REMOTE_FILE, Context.REMOTE_APPLICATION]),
    retry_after=st.none(),
)
sizes = st.integers(0, 8)


@given(sizes, st.lists(any_ack, min_size=1, max_size=6), st.integers(1, 3))
@example(8, [CREATED, VANISHED], 1)
@example(8, [CREATED, Ack(416, received=0)], 1)
@example(8, [CREATED, *[Ack(received=4), Ack(received=0)] * 2], 1)
@example(0, [CREATED, VANISHED], 1)
@example(8, [Ack(session_id=ID, host_id="node1"), OK, VANISHED], 1)
def test_no_server_that_repeats_itself_holds_the_client_for_ever(
    size: int, acks: list[Ack], fragment_length: int
) -> None:
    upload = Upload(size, fragment_length=fragment_length)
    # Between two new bytes: so many setbacks and restarts, and after each of them a climb of the whole file.
    bound = (size + 1) * (SETBACKS + RESTARTS + 2) * (size + 4)
    for turn in range(bound):
        if upload.next_packet() is None:
            if upload.state is not State.GET_REPLY:
                return
            upload.reply_fetched()
            continue
        try:
            upload.receive(acks[turn % len(acks)])
        except BitsError:
            return
    raise AssertionError(f"still talking after {bound} packets")


def test_a_server_that_swings_to_and_fro_is_left_in_the_end() -> None:
    upload = an_upload()
    with pytest.raises(errors.NoProgress):
        talk(upload, *[Ack(received=300), Ack(416, received=0)] * (SETBACKS + 1))


def test_a_server_that_takes_nothing_is_left_in_the_end_and_may_be_tried_again() -> None:
    upload = an_upload()
    with pytest.raises(errors.NoProgress):
        talk(upload, *[Ack(received=0)] * (SETBACKS + 1))
    upload.resume()
    assert talk(upload, OK)[-1] == fragment(0, 400)


happenings = st.lists(
    st.one_of(
        any_ack,
        st.sampled_from(["line breaks", "resume", "cancel", "client restarts", "asks twice", "time passes"]),
    ),
    max_size=60,
)


@given(sizes, st.integers(0, 9), happenings)
def test_whatever_happens_only_sound_packets_are_said_and_only_bits_errors_raised(
    size: int, fragment_length: int, happened: list[Ack | str]
) -> None:
    upload, now, given_up = Upload(size, fragment_length=fragment_length), 0.0, False
    for happening in happened:
        packet = upload.next_packet(now)
        if isinstance(packet, Fragment):
            assert 0 <= packet.range.start < packet.range.stop <= size == packet.range.total
            assert packet.range.length <= max(1, fragment_length)
        if isinstance(packet, CloseSession):
            assert upload.progress.sent == size  # C9: never before the last byte
        assert not (given_up and packet is not None and not isinstance(packet, CancelSession))
        assert (upload.state is State.CANCELLED) <= given_up
        match happening:
            case Ack():
                try:
                    upload.receive(happening, now)
                except BitsError:
                    upload.resume()
            case "line breaks":
                upload.failed(now)
            case "resume":
                upload.resume()
            case "cancel":
                given_up = given_up or upload.state is not State.DONE
                upload.cancel()
            case "client restarts" if not given_up and upload.state is not State.DONE:
                upload = Upload(size, progress=upload.progress, fragment_length=fragment_length)
            case "time passes":
                now += 10
        if upload.state is State.DONE:
            given_up = False
        if upload.state is State.GET_REPLY and happening != "asks twice":
            upload.reply_fetched()
