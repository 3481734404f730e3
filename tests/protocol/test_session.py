"""The promises of `Session`, the server's half: where bytes belong, and what an end leaves behind."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsferry.protocol.errors import (
    AccessDenied,
    BitsError,
    FileTooLarge,
    InvalidMessage,
    OutOfStep,
    SessionNotFound,
)
from bitsferry.protocol.ranges import ContentRange, Placement
from bitsferry.protocol.session import Closing, Session, State, normal_session_id, spell_session_id

GUID = "A0FF5911-4144-45B3-BF27-27AFC8EC8A67"
ENDS = [State.COMPLETE, State.CANCEL]


def a_session(total: int | None = None, *, published: bool = False, state: State | None = None) -> Session:
    session = Session(GUID, "/in/a.bin", "ann", created=0.0)
    if total is not None:
        session.start(total)
    if published:
        session.publish()
    if state is not None:
        session.end(state)
    return session


# Who it is


@pytest.mark.parametrize("text", [GUID, "{" + GUID + "}", "{" + GUID.lower() + "}", GUID.title()])
def test_a_session_is_found_whatever_the_case_and_the_braces(text: str) -> None:
    assert normal_session_id(text) == GUID


def test_an_id_is_spelt_upper_case_in_braces_as_iis_does() -> None:
    assert spell_session_id(GUID) == "{A0FF5911-4144-45B3-BF27-27AFC8EC8A67}"
    assert normal_session_id(spell_session_id(GUID)) == GUID


@given(st.text() | st.from_regex(r"\{?[0-9A-F-]{30,40}\}?"))
def test_a_malformed_id_is_an_unknown_session_and_no_path_either(text: str) -> None:
    try:
        guid = normal_session_id(text)
    except SessionNotFound:
        return
    assert len(guid) == 36
    assert set(guid) <= set("0123456789ABCDEF-")


def test_another_user_gets_no_access() -> None:
    with pytest.raises(AccessDenied):
        a_session().check_owner("/in/a.bin", "ben")


def test_nobody_gets_no_access_to_a_users_upload_nor_a_user_to_nobodys() -> None:
    with pytest.raises(AccessDenied):
        a_session().check_owner("/in/a.bin", None)
    with pytest.raises(AccessDenied):
        Session(GUID, "/in/a.bin", None, created=0.0).check_owner("/in/a.bin", "ann")


def test_another_path_is_an_invalid_message() -> None:
    with pytest.raises(InvalidMessage):
        a_session().check_owner("/in/b.bin", "ann")


def test_another_user_at_another_path_learns_only_that_access_is_denied() -> None:
    with pytest.raises(AccessDenied):
        a_session().check_owner("/in/b.bin", "ben")


def test_the_owner_at_the_same_path_is_welcome() -> None:
    a_session().check_owner("/in/a.bin", "ann")


# Where the bytes belong


def test_the_first_fragment_begins_at_zero() -> None:
    assert a_session().place(ContentRange(0, 100, 1000), 0, None) == Placement(0, 100)


def test_a_first_fragment_that_does_not_is_a_gap() -> None:
    with pytest.raises(OutOfStep) as gap:
        a_session().place(ContentRange(1, 100, 1000), 0, None)
    assert gap.value.held == 0


def test_c5_an_overlap_is_skipped() -> None:
    assert a_session(1000).place(ContentRange(50, 150, 1000), 100, None) == Placement(50, 50)


@pytest.mark.parametrize("total", [999, 1001])
def test_a_changed_total_is_refused_and_the_first_one_kept(total: int) -> None:
    session = a_session(1000)
    with pytest.raises(InvalidMessage):
        session.place(ContentRange(0, 100, total), 0, None)
    assert session.total == 1000


def test_a_changed_total_is_told_before_a_gap() -> None:
    with pytest.raises(InvalidMessage):
        a_session(1000).place(ContentRange(500, 600, 999), 0, None)


def test_a_total_smaller_than_what_is_held_is_refused() -> None:
    with pytest.raises(InvalidMessage):
        a_session().place(ContentRange(0, 300, 300), 500, None)
    with pytest.raises(InvalidMessage):
        a_session().place(ContentRange(0, 0, 0), 500, None)


def test_c7_a_file_over_the_limit_is_refused_before_its_first_byte() -> None:
    session = a_session()
    with pytest.raises(FileTooLarge):
        session.place(ContentRange(0, 1, 1001), 0, 1000)
    assert session == a_session()


def test_c7_a_file_of_just_the_limit_is_taken() -> None:
    assert a_session().place(ContentRange(0, 1000, 1000), 0, 1000) == Placement(0, 1000)


@pytest.mark.parametrize("end", ENDS)
def test_a_fragment_after_the_end_finds_no_session(end: State) -> None:
    with pytest.raises(SessionNotFound):
        a_session(1000, state=end).place(ContentRange(0, 100, 1000), 0, None)


def test_the_last_fragment_said_again_is_old_and_welcome() -> None:
    session = a_session(1000, published=True)
    assert session.place(ContentRange(900, 1000, 1000), 1000, None) == Placement(100, 0)


@given(
    st.builds(
        lambda start, length, rest: ContentRange(start, start + length, start + length + rest),
        st.integers(0, 50),
        st.integers(0, 50),
        st.integers(0, 50),
    ),
    st.integers(0, 150),
    st.none() | st.integers(0, 150),
    st.none() | st.integers(0, 150),
    st.sampled_from(list(State)),
)
def test_placing_is_an_answer_or_an_error_and_never_changes_the_session(
    range_: ContentRange, held: int, largest: int | None, total: int | None, state: State
) -> None:
    session, before = (Session(GUID, "/in/a.bin", None, 0.0, state, total) for _ in range(2))
    try:
        placement = session.place(range_, held, largest)
        assert held + placement.take >= held
    except (SessionNotFound, FileTooLarge, InvalidMessage, OutOfStep):
        pass
    assert session == before


# When it is whole


def test_a_file_is_whole_with_its_last_byte_and_not_before() -> None:
    assert not a_session(1000).is_whole(999)
    assert a_session(1000).is_whole(1000)


def test_nothing_is_whole_before_a_fragment_named_the_total() -> None:
    assert not a_session().is_whole(0)
    assert not a_session().is_whole(1000)


def test_an_empty_fragment_makes_an_empty_file_whole() -> None:
    session = a_session()
    assert session.place(ContentRange(0, 0, 0), 0, 1000) == Placement(0, 0)
    session.start(0)
    assert session.is_whole(0)


def test_c16_a_published_file_waits_for_close_with_its_reply() -> None:
    session = a_session(1000)
    session.publish("replies/1")
    assert (session.state, session.published, session.reply_url) == (State.WAIT_FOR_CLOSE, True, "replies/1")
    assert not session.over


# How it ends


def test_close_without_a_fragment_asks_for_an_empty_file() -> None:
    assert a_session().closing(held=0) is Closing.EMPTY_FILE


def test_c9_close_before_the_last_byte_asks_to_discard() -> None:
    assert a_session(1000).closing(held=999) is Closing.DISCARD
    assert a_session(1000).closing(held=0) is Closing.DISCARD


def test_bytes_without_a_total_are_no_empty_file() -> None:
    assert a_session().closing(held=1) is Closing.DISCARD


def test_close_of_a_whole_file_that_is_not_in_place_asks_to_finish() -> None:
    assert a_session(1000).closing(held=1000) is Closing.FINISH
    assert a_session(0).closing(held=0) is Closing.FINISH


def test_close_of_a_published_file_asks_only_to_release() -> None:
    assert a_session(1000, published=True).closing(held=1000) is Closing.RELEASE
    assert a_session(1000, published=True).closing(held=0) is Closing.RELEASE  # the store has let go of it


def test_c12_a_close_that_was_done_is_done_however_often_it_is_said() -> None:
    assert a_session(1000, published=True, state=State.COMPLETE).closing(held=0) is Closing.RELEASE
    assert a_session(1000, state=State.COMPLETE).closing(held=0) is Closing.RELEASE


def test_a_close_after_a_half_way_cancel_promises_no_file() -> None:
    with pytest.raises(SessionNotFound):
        a_session(1000, state=State.CANCEL).closing(held=500)


def test_c16_a_close_after_a_cancel_that_came_too_late_finds_the_file_in_its_place() -> None:
    assert a_session(1000, published=True, state=State.CANCEL).closing(held=1000) is Closing.RELEASE


@pytest.mark.parametrize("first", ENDS)
@pytest.mark.parametrize("second", ENDS)
def test_a_tombstone_stays_what_it_was(first: State, second: State) -> None:
    session = a_session(1000, state=first)
    session.end(second)
    assert session.state is first
    assert session.over


def test_only_the_ends_are_over() -> None:
    assert [s for s in State if Session(GUID, "/", None, 0.0, s).over] == ENDS


@given(
    st.none() | st.integers(0, 5),
    st.integers(0, 5),
    st.booleans(),
    st.sampled_from(list(State)),
)
def test_close_asks_for_a_file_only_when_every_byte_of_it_is_held(
    total: int | None, held: int, published: bool, state: State
) -> None:
    session = Session(GUID, "/in/a.bin", None, 0.0, state, total, published=published)
    try:
        closing = session.closing(held)
    except BitsError:
        assert state is State.CANCEL
        return
    if closing in (Closing.EMPTY_FILE, Closing.FINISH):
        assert held >= (total or 0)
        assert not published
        assert not session.over
