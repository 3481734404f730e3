"""What may happen to a job in which state: Windows' life cycle, and what is owed because of it."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsferry.client.job import (
    LONGEST_DEBT,
    NO_PROGRESS_TIMEOUT,
    RETRY_DELAY,
    Debt,
    InvalidState,
    Job,
    JobFile,
    JobState,
    JobType,
    NoFiles,
    Notify,
    TooManyFiles,
    new_id,
)
from bitsferry.client.local_file import Identity
from bitsferry.protocol.errors import (
    AccessDenied,
    BitsError,
    Busy,
    Context,
    LocalFileChanged,
    TransportFailed,
)
from bitsferry.protocol.hresult import HResult
from bitsferry.protocol.upload import Progress

NOW = 1_000_000.0
LATER = NOW + 10
URL = "http://127.0.0.1/in/file.bin"
SESSION = Progress("{session}", 3, host_id="node")
FILE = Identity(5, 6, 7)


def new(type: JobType = JobType.UPLOAD, state: JobState = JobState.SUSPENDED) -> Job:
    """A job with a file, moved to a state without going there."""
    job = Job(id=new_id(), name="a", type=type, created=NOW, modified=NOW).add_file(URL, "/file.bin", NOW)
    return msgspec.structs.replace(job, state=state)


def carried(job: Job) -> Job:
    """A job of which all has been carried."""
    if job.is_upload:
        return msgspec.structs.replace(job, identity=FILE)
    return msgspec.structs.replace(
        job, files=tuple(msgspec.structs.replace(file, done=True) for file in job.files)
    )


def under_way(type: JobType = JobType.UPLOAD) -> Job:
    """A job in the middle of its first turn."""
    job = new(type).resume(NOW).connecting(NOW)
    if job.is_upload:
        job = job.begun(FILE, NOW).uploaded(SESSION, NOW)
    return job.transferring(NOW)


def words(text: str) -> list[str]:
    return re.split(r" +", text.strip())


Verb = Callable[[Job], Job]
VERBS: dict[str, Verb] = {
    "resume": lambda job: job.resume(LATER),
    "suspend": lambda job: job.suspend(LATER),
    "complete": lambda job: job.complete(LATER),
    "cancel": lambda job: job.cancel(LATER),
    "add": lambda job: job.add_file(URL + "2", "/file2.bin", LATER),
    "turn": lambda job: job.connecting(LATER),
    "answer": lambda job: job.transferring(LATER),
    "over": lambda job: job.turn_over(LATER),
    "kill": lambda job: job.interrupted(LATER),
    "again": lambda job: job.again(LATER),
    "done": lambda job: carried(job).transferred(LATER),
    "hitch": lambda job: job.failed(TransportFailed(), LATER),
    "refuse": lambda job: job.failed(AccessDenied(), LATER),
    "no_net": lambda job: job.disconnected(LATER),
    "stall": lambda job: job.stalled(LATER),
}

# Rows are states, columns verbs: `.` nothing happens, `!` BG_E_INVALID_STATE, `*` too many files, else where
# it leads, by these letters.
LETTERS = {
    "Q": JobState.QUEUED,
    "C": JobState.CONNECTING,
    "T": JobState.TRANSFERRING,
    "S": JobState.SUSPENDED,
    "E": JobState.ERROR,
    "R": JobState.TRANSIENT_ERROR,
    "D": JobState.TRANSFERRED,
    "A": JobState.ACKNOWLEDGED,
    "X": JobState.CANCELLED,
}
UPLOAD = """
                resume suspend complete cancel add turn answer over kill again done hitch refuse no_net stall
SUSPENDED       Q      .       !        X      *   .    .      .    .    .     .    .     .      .      .
QUEUED          .      S       !        X      *   C    .      .    .    .     .    .     .      R      .
CONNECTING      .      S       !        X      *   .    T      Q    Q    .     D    R     E      R      .
TRANSFERRING    .      S       !        X      *   .    .      Q    Q    .     D    R     E      R      .
TRANSIENT_ERROR Q      S       !        X      *   .    .      .    .    Q     .    .     .      .      E
ERROR           Q      S       !        X      *   .    .      .    .    .     .    .     .      .      .
TRANSFERRED     !      !       A        X      !   .    .      .    .    .     .    .     .      .      .
ACKNOWLEDGED    !      !       !        !      !   .    .      .    .    .     .    .     .      .      .
CANCELLED       !      !       !        !      !   .    .      .    .    .     .    .     .      .      .
"""

DOWNLOAD = """
                resume suspend complete cancel add
SUSPENDED       Q      .       A        X      .
QUEUED          .      S       A        X      .
CONNECTING      .      S       A        X      .
TRANSFERRING    .      S       A        X      .
TRANSIENT_ERROR Q      S       A        X      .
ERROR           Q      S       A        X      .
TRANSFERRED     !      !       A        X      Q
ACKNOWLEDGED    !      !       !        !      !
CANCELLED       !      !       !        !      !
"""


def table(text: str, type: JobType) -> list[tuple[JobType, JobState, str, str]]:
    head, *rows = text.strip().splitlines()
    return [
        (type, JobState[words(row)[0]], verb, outcome)
        for row in rows
        for verb, outcome in zip(words(head), words(row)[1:], strict=True)
    ]


@pytest.mark.parametrize(
    ("type", "state", "verb", "outcome"),
    [
        *table(UPLOAD, JobType.UPLOAD),
        *table(UPLOAD, JobType.UPLOAD_REPLY),
        *table(DOWNLOAD, JobType.DOWNLOAD),
    ],
)
def test_life_cycle(type: JobType, state: JobState, verb: str, outcome: str) -> None:
    job = new(type, state)
    if outcome == "!":
        with pytest.raises(InvalidState, match=state.name) as caught:
            VERBS[verb](job)
        assert caught.value.code == HResult.BG_E_INVALID_STATE
    elif outcome == "*":
        with pytest.raises(TooManyFiles):
            VERBS[verb](job)
    elif outcome == ".":
        assert VERBS[verb](job).state is state
    else:
        assert VERBS[verb](job).state is LETTERS[outcome]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize("type", JobType)
def test_an_error_and_a_retry_belong_to_the_states_of_errors(
    type: JobType, state: JobState, verb: str
) -> None:
    job = new(type).resume(NOW).connecting(NOW).failed(Busy(), NOW)
    if state is not JobState.TRANSIENT_ERROR:
        job = msgspec.structs.replace(job, state=state, error=None, retry_at=None)
    try:
        after = VERBS[verb](job)
    except BitsError:
        return
    if after.state not in (state, JobState.ERROR, JobState.TRANSIENT_ERROR):
        assert after.error is None
    if after.state is not JobState.TRANSIENT_ERROR:
        assert after.retry_at is None


def test_an_empty_job_is_not_resumed() -> None:
    with pytest.raises(NoFiles):
        Job(id=new_id(), name="a", type=JobType.UPLOAD, created=NOW, modified=NOW).resume(NOW)


def test_a_reply_goes_beside_the_file_where_nobody_said_another_place() -> None:
    job = new(JobType.UPLOAD_REPLY)
    assert job.reply_path == f"/file.bin.{job.id[1:9]}.reply"
    assert new(JobType.UPLOAD).reply_path is None


# Errors


def test_a_transient_error_is_tried_again_after_the_retry_delay() -> None:
    job = under_way().failed(TransportFailed("the line broke"), NOW, file=URL)
    assert job.retry_at == NOW + RETRY_DELAY
    assert job.error is not None
    assert (job.error.message, job.error.context) == ("the line broke", Context.GENERAL_TRANSPORT)
    assert (job.error.file, job.error.status, job.error_count) == (URL, None, 1)


def test_a_server_that_wants_more_time_gets_it() -> None:
    assert under_way().failed(Busy(retry_after=10_000), NOW).retry_at == NOW + 10_000
    assert under_way().failed(Busy(retry_after=1), NOW).retry_at == NOW + RETRY_DELAY


def test_an_error_of_a_bare_status_says_the_status() -> None:
    error = under_way().failed(Busy(), NOW).error
    assert error is not None
    assert (error.hresult, error.status) == (0x801901F7, 503)


def test_no_headway_for_too_long_makes_every_error_final() -> None:
    job = under_way().failed(TransportFailed(), NOW)
    end = NOW + NO_PROGRESS_TIMEOUT
    assert (
        job.again(end).connecting(end - 1).failed(TransportFailed(), end - 1).state.name == "TRANSIENT_ERROR"
    )
    assert job.again(end).connecting(end).failed(TransportFailed(), end).state is JobState.ERROR


def test_headway_makes_the_time_count_anew() -> None:
    job = under_way().failed(TransportFailed(), NOW).again(NOW).connecting(NOW)
    assert job.uploaded(SESSION, NOW).stalled_since == NOW  # not one new byte
    assert job.uploaded(Progress("{session}", 4), NOW).stalled_since is None


def test_bytes_a_server_had_before_it_forgot_them_are_no_headway() -> None:
    job = under_way().uploaded(Progress("{one}", 4), NOW).failed(TransportFailed(), NOW)
    job = job.again(NOW).connecting(NOW)
    again = job.uploaded(Progress("{two}", 0), LATER).uploaded(Progress("{two}", 4), LATER)
    assert again.stalled_since == NOW
    assert again.uploaded(Progress("{two}", 5), LATER).stalled_since is None


@pytest.mark.parametrize(("delay", "timeout"), [(600, 0), (600, 599)])
def test_a_retry_that_would_come_too_late_is_none(delay: int, timeout: int) -> None:
    job = msgspec.structs.replace(under_way(), retry_delay=delay, no_progress_timeout=timeout)
    assert job.failed(TransportFailed(), NOW).state is JobState.ERROR


def test_without_a_network_a_job_waits_for_it_and_not_for_the_retry_delay() -> None:
    job = new().resume(NOW).disconnected(NOW)
    assert job.state is JobState.TRANSIENT_ERROR
    assert job.retry_at is None
    assert job.error is not None
    assert job.error.hresult == HResult.BG_E_NETWORK_DISCONNECTED
    assert job.again(LATER).state is JobState.QUEUED


# The server's side


def test_a_cancelled_upload_owes_the_server_a_cancel() -> None:
    (debt,) = under_way().cancel(LATER).debts
    assert debt == Debt(cancel=True, url=URL, progress=SESSION, since=LATER, due=LATER)


def test_a_transferred_upload_owes_it_a_close_after_the_reply() -> None:
    job = under_way().transferred(LATER)
    (debt,) = job.debts
    assert (debt.cancel, debt.progress.closing, debt.progress.sent, job.upload) == (False, True, 5, None)
    assert job.files[0] == JobFile(remote=URL, local="/file.bin", size=5, transferred=5, done=True)
    assert job.cancel(LATER).debts == (debt,)
    assert job.complete(LATER).debts == (debt,)
    assert job.paid("{session}").debts == ()


@pytest.mark.parametrize("job", [new(), under_way(JobType.DOWNLOAD)], ids=["never begun", "download"])
def test_what_holds_no_session_owes_nothing(job: Job) -> None:
    assert job.cancel(LATER).debts == ()


def test_a_session_that_is_made_while_its_job_is_cancelled_is_cancelled_too() -> None:
    job = new().resume(NOW).connecting(NOW).begun(FILE, NOW).cancel(NOW)
    assert job.debts == ()
    (debt,) = job.uploaded(SESSION, LATER).uploaded(SESSION, LATER).debts
    assert debt.cancel


def test_a_debt_is_paid_again_each_retry_delay_for_a_day() -> None:
    job = under_way().cancel(NOW)
    (debt,) = job.debts
    (later,) = job.not_paid("{session}", NOW).debts
    assert later == msgspec.structs.replace(debt, due=NOW + RETRY_DELAY)
    assert job.not_paid("{session}", NOW + LONGEST_DEBT - RETRY_DELAY).debts != ()
    assert job.not_paid("{session}", NOW + LONGEST_DEBT - RETRY_DELAY + 1).debts == ()


def test_a_file_that_changed_is_sent_anew_once_its_job_is_resumed() -> None:
    job = under_way().failed(LocalFileChanged(), LATER)
    assert job.state is JobState.ERROR
    assert job.error is not None
    assert job.error.context is Context.LOCAL_FILE
    assert (job.upload, job.identity, job.files) == (None, None, new().files)
    (debt,) = job.resume(LATER).debts
    assert debt.cancel


def test_another_url_is_another_upload() -> None:
    job = under_way().replace_remote_prefix("HTTP://127.0.0.1/in/", "https://host/new/", LATER)
    assert job.files == (JobFile(remote="https://host/new/file.bin", local="/file.bin"),)
    assert [debt.url for debt in job.debts] == [URL]
    assert job.uploaded(SESSION, LATER).transferred(LATER) == job  # from a thread that has not heard of it
    with pytest.raises(ValueError, match="no URL"):
        job.replace_remote_prefix("https://host/", "host/", LATER)


def test_another_url_for_files_elsewhere_changes_nothing() -> None:
    job = under_way()
    assert job.replace_remote_prefix("http://elsewhere/", "http://new/", LATER) == job


def test_two_debts_of_one_job_are_paid_one_by_one() -> None:
    job = under_way().failed(LocalFileChanged(), NOW).resume(NOW).connecting(NOW).begun(FILE, NOW)
    job = job.uploaded(Progress("{second}", 5), NOW).transferred(NOW)
    first, second = job.debts
    assert (first.cancel, second.cancel) == (True, False)
    assert job.paid(first.progress.session_id).debts == (second,)
    assert job.not_paid("{second}", NOW).debts[0] == first


# Downloads


def test_a_download_is_transferred_when_all_its_files_are_here() -> None:
    job = under_way(JobType.DOWNLOAD).add_file(URL + "2", "/file2.bin", NOW)
    done = job.downloaded(0, NOW, done=True, transferred=5, size=5)
    assert done.transferred(NOW).state is JobState.TRANSFERRING
    done = done.downloaded(1, NOW, done=True)
    assert done.transferred(NOW).state is JobState.TRANSFERRED


def test_the_time_of_a_download_counts_its_turns_only() -> None:
    job = new(JobType.DOWNLOAD).resume(0.0).connecting(10.0).turn_over(30.0).connecting(100.0)
    job = msgspec.structs.replace(job, max_download_time=50)
    assert not job.took_too_long(129.0)
    assert job.took_too_long(130.0)
    assert not msgspec.structs.replace(under_way(), max_download_time=0).took_too_long(NOW + 1)


def test_the_time_a_machine_was_off_does_not_count() -> None:
    job = new(JobType.DOWNLOAD).resume(0.0).connecting(10.0).interrupted(1_000_000.0)
    assert job.active_seconds == 0.0


# Its owner


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (Notify.TRANSFERRED | Notify.ERROR, (True, True)),
        (Notify.TRANSFERRED, (True, False)),
        (Notify.ERROR, (False, True)),
        (Notify.TRANSFERRED | Notify.ERROR | Notify.DISABLE, (False, False)),
        (Notify.MODIFICATION, (False, False)),
    ],
)
def test_its_owner_hears_what_the_flags_say(flags: Notify, told: tuple[bool, bool]) -> None:
    job = msgspec.structs.replace(under_way(), notify_flags=flags)
    notices = job.transferred(NOW).notice, job.failed(AccessDenied(), NOW).notice
    assert tuple(notice is not None for notice in notices) == told


def test_who_does_not_hear_is_told_again_later() -> None:
    job = under_way().transferred(NOW)
    assert job.notice is not None
    later = job.noticed(job.notice, LATER, heard=False).notice
    assert later is not None
    assert (later.event, later.due) == (Notify.TRANSFERRED, LATER + RETRY_DELAY)
    assert job.noticed(job.notice, LATER, heard=True).notice is None


@pytest.mark.parametrize("verb", ["complete", "cancel"])
def test_who_acted_need_not_be_told(verb: str) -> None:
    assert VERBS[verb](under_way().transferred(NOW)).notice is None


@given(st.lists(st.sampled_from(sorted(VERBS)), max_size=30), st.sampled_from(JobType))
def test_whatever_happens_a_job_can_be_written_and_read(verbs: list[str], type: JobType) -> None:
    job = new(type)
    for verb in verbs:
        try:
            job = VERBS[verb](job)
        except BitsError:
            continue
        assert msgspec.json.decode(msgspec.json.encode(job), type=Job) == job
        assert job.modified in (NOW, LATER)
