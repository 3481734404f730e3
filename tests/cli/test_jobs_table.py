"""How jobs look: in a table, alone, on the monitor's screen, in a log and to programs."""

from __future__ import annotations

import json
import re
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from bitsferry.cli.job_monitor import Rates, all_jobs, one_job
from bitsferry.cli.job_news import News
from bitsferry.cli.job_table import details, table
from bitsferry.cli.job_words import advise, as_object, spell_rates
from bitsferry.cli.rates import parse_rates
from bitsferry.client.credential_store import CredentialName
from bitsferry.client.credentials import Target
from bitsferry.client.job import Debt, Job, JobError, JobFile, JobState, JobType, Priority, new_id
from bitsferry.client.options import HttpOptions
from bitsferry.protocol.errors import Context
from bitsferry.protocol.hresult import HResult
from bitsferry.protocol.upload import Progress

NOW = time.mktime((2026, 1, 31, 14, 0, 0, 0, 0, -1))
MB = 1_000_000

BUSY = JobError(
    hresult=0x801901F7,
    context=Context.REMOTE_FILE,
    message="the server cannot take this just now",
    at=NOW,
)
DENIED = JobError(
    hresult=HResult.E_ACCESSDENIED, context=Context.REMOTE_FILE, message="the server refuses the file", at=NOW
)


def make(
    name: str = "backup.tar",
    state: JobState = JobState.QUEUED,
    done: int = 0,
    size: int | None = 100 * MB,
    **rest: object,
) -> Job:
    file = JobFile(
        remote=f"http://receiver/in/{name}",
        local=f"/home/inga/{name}",
        size=size,
        transferred=done,
        done=done == size,
    )
    job = Job(
        id=new_id(),
        name=name,
        type=JobType.UPLOAD,
        created=NOW - 60,
        modified=NOW,
        state=state,
        turn=NOW - 10,
        files=(file,),
    )
    return msgspec.structs.replace(job, **rest)


def short(job: Job) -> str:
    return job.id[1:9]


MOVING = make("backup.tar", JobState.TRANSFERRING, 20 * MB)
WAITING = make("image.iso", JobState.TRANSIENT_ERROR, 5 * MB, error=BUSY, retry_at=NOW + 300)
FAILED = make("evidence.zip", JobState.ERROR, error=DENIED)
FETCHED = make("tool.exe", JobState.TRANSFERRED, 100 * MB, type=JobType.DOWNLOAD)
LONG = make("日本語の名前がとても長いファイルで、どこまでも続く.vhdx", size=None)
EMPTY = make("later", JobState.SUSPENDED, files=())
JOBS = [MOVING, WAITING, FAILED, FETCHED, LONG, EMPTY]


def plain(lines: list[Text]) -> list[str]:
    return [line.plain for line in lines]


def lines_of(jobs: list[Job], width: int | None = 80) -> list[str]:
    return plain(table(jobs, width=width, now=NOW))


# The table


def test_a_line_says_which_job_how_it_is_how_far_and_how_fast() -> None:
    line = lines_of([MOVING])[1]
    assert line.split() == [
        short(MOVING),
        "↑",
        "backup.tar",
        "transferring",
        "20/100",
        "MB",
        "20",
        "%",
        "2",
        "MB/s",
    ]


def test_an_error_has_its_name_when_it_is_tried_again_and_its_sentence() -> None:
    assert lines_of([WAITING], 100)[2].strip() == (
        "BG_E_HTTP_ERROR_503, again at 14:05: the server cannot take this just now"
    )
    assert lines_of([FAILED])[2].strip() == "E_ACCESSDENIED: the server refuses the file"


def test_a_job_that_waits_for_the_network_says_so() -> None:
    job = msgspec.structs.replace(WAITING, retry_at=None)
    assert ", again when the network is back: " in lines_of([job])[2]


def test_what_a_person_has_to_do_stands_below_the_job() -> None:
    assert lines_of([FETCHED])[2].strip() == f"to have it: bitsferry jobs complete {short(FETCHED)}"
    assert lines_of([EMPTY])[2].strip() == f"without a file yet: bitsferry jobs add {short(EMPTY)} FILE URL"


@pytest.mark.parametrize("width", [80, 60, 40])
def test_it_fits_and_keeps_id_name_and_state(width: int) -> None:
    lines = table(JOBS, width=width, now=NOW)
    assert max(line.cell_len for line in lines) <= width
    for job in JOBS:
        (line,) = (line.plain for line in lines if line.plain.startswith(short(job)))
        assert job.name[:3] in line
        assert job.state.name.lower().replace("_", " ") in line


@given(width=st.integers(1, 120))
def test_it_fits_into_any_width(width: int) -> None:
    assert max(line.cell_len for line in table(JOBS, width=width, now=NOW, bars=True)) <= width


def test_without_a_terminal_nothing_is_cut() -> None:
    text = "\n".join(lines_of(JOBS, None))
    assert LONG.name in text
    assert "…" not in text


def test_nothing_from_outside_moves_the_cursor() -> None:
    error = msgspec.structs.replace(DENIED, message="no\x1b[2J\r\nno")
    job = msgspec.structs.replace(FAILED, error=error)
    lines = [*table([job], width=80, now=NOW), *details(job, [], now=NOW)]
    assert all(line.isprintable() for line in plain(lines))


# All about one


def test_one_job_is_told_with_all_it_has() -> None:
    job = make(
        "evidence.zip",
        JobState.ERROR,
        error=msgspec.structs.replace(DENIED, file="http://receiver/in/evidence.zip"),
        error_count=3,
        priority=Priority.HIGH,
        description="weekly",
        retry_delay=60,
        limit=parse_rates("1 MB/s 08:00-18:00, 10 MB/s"),
        notify_command=("/usr/bin/notify-send", "two words"),
        debts=(Debt(cancel=True, url="http://receiver/x", progress=Progress(), since=NOW, due=NOW),),
    )
    text = "\n".join(plain(details(job, [CredentialName(Target.SERVER, None, "inga")], now=NOW)))
    for words in (
        *(job.id, "high priority", "weekly", "/home/inga/evidence.zip", "http://receiver/in/evidence.zip"),
        *("E_ACCESSDENIED (0x80070005): the server refuses the file", "in context 5, the file on the server"),
        *(f"Then: bitsferry jobs resume {short(job)}", "3 so far", "after 1 min", "14 days after"),
        *(
            "1 MB/s 08:00-18:00, 10 MB/s",
            "/usr/bin/notify-send 'two words'",
            "inga (server, as it asks)",
        ),
        "http://receiver/x is still to be told that the upload is given up",
    ):
        assert words in text


def test_values_of_write_only_headers_are_shown_to_nobody() -> None:
    http = HttpOptions(headers=(("X-Key", "hush"),))
    job = make(http=http, headers_are_write_only=True)
    assert "hush" not in "\n".join(plain(details(job, [], now=NOW)))
    told = as_object(job, [], NOW)
    assert "hush" not in json.dumps(told)
    assert told["headers"] == [["X-Key", None]]
    seen = as_object(make(http=http), [], NOW)
    assert seen["headers"] == [["X-Key", "hush"]]


@pytest.mark.parametrize(
    ("hresult", "context", "words"),
    [
        (0x80190191, Context.REMOTE_FILE, "jobs credentials set {id} --user NAME"),
        (0x80190197, Context.GENERAL_TRANSPORT, "jobs credentials set {id} --proxy-user NAME"),
        (0x80190194, Context.REMOTE_FILE, "Check the URL"),
        (0x80190195, Context.REMOTE_FILE, "does not know BITS uploads"),
        (HResult.BG_E_TOO_LARGE, Context.REMOTE_FILE, "larger limit"),
        (HResult.BG_E_LOCAL_FILE_CHANGED, Context.LOCAL_FILE, "starts over"),
        (HResult.ERROR_FILE_NOT_FOUND, Context.LOCAL_FILE, "where it was"),
        (HResult.ERROR_PATH_NOT_FOUND, Context.REMOTE_FILE, "no such folder"),
        (HResult.ERROR_WINHTTP_SECURE_FAILURE, Context.GENERAL_TRANSPORT, "jobs set {id} --cacert FILE"),
        (HResult.BG_E_INVALID_PROXY_INFO, Context.GENERAL_TRANSPORT, "jobs set {id} --proxy URL"),
        (HResult.BG_E_MAXDOWNLOAD_TIMEOUT, Context.GENERAL_QUEUE_MANAGER, "--max-download-time TIME"),
        (HResult.E_FAIL, Context.UNKNOWN, "When the cause is gone"),
    ],
)
def test_every_error_comes_with_what_to_do(hresult: int, context: Context, words: str) -> None:
    job = make(state=JobState.ERROR, error=JobError(hresult=hresult, context=context, message="no", at=NOW))
    advice = advise(job, NOW)
    assert words.format(id=short(job)) in advice
    assert advice.endswith(f": bitsferry jobs resume {short(job)}")


@pytest.mark.parametrize(
    "text",
    [
        "2 MB/s",
        "1234567",
        "1 MB/s mon-fri 08:00-18:00, unlimited sat-sun, 0 KB/s 22:00-06:00",
        "1 MB/s tue thu",
    ],
)
def test_a_limit_is_told_so_that_it_can_be_typed_again(text: str) -> None:
    rates = parse_rates(text)
    assert parse_rates(spell_rates(rates)) == rates


# The monitor


def test_the_screen_has_bars_and_what_is_left_to_wait() -> None:
    lines = plain(all_jobs(JOBS, {MOVING.id: 2.0 * MB}, width=80, height=24, now=NOW, works=True))
    assert lines[0] == "6 jobs, 2 MB/s"
    assert re.fullmatch(r" {10}━+─+  40 s left", lines[4])
    assert len(lines) == 24
    assert lines[-1] == "q: quit"


def test_the_screen_says_that_no_runner_works() -> None:
    lines = plain(all_jobs(JOBS, {}, width=80, height=24, now=NOW, works=False))
    assert "no runner is working: start one with 'bitsferry jobs run'" in " ".join(lines)


@given(width=st.integers(10, 100), height=st.integers(6, 40))
def test_the_screen_fits_into_any_terminal(width: int, height: int) -> None:
    for lines in (
        all_jobs(JOBS, {}, width=width, height=height, now=NOW, works=True),
        one_job(FAILED, [], None, width=width, height=height, now=NOW, works=True),
    ):
        assert len(lines) == height
        assert max(line.cell_len for line in lines) <= width


def test_where_not_all_fit_those_that_move_come_first() -> None:
    many = [make(f"{number}") for number in range(50)]
    lines = plain(all_jobs([*many, MOVING], {}, width=80, height=24, now=NOW, works=True))
    assert "backup.tar" in lines[3]
    assert any(line.startswith("… ") for line in lines)


def test_the_rate_is_that_of_the_last_half_minute() -> None:
    rates, job = Rates(), msgspec.structs.replace(MOVING, turn=NOW)
    for second in range(61):
        count = second * MB if second < 30 else 30 * MB + (second - 30) * 3 * MB
        file = msgspec.structs.replace(job.files[0], transferred=count, size=1000 * MB)
        at = NOW + second
        job = msgspec.structs.replace(job, files=(file,), modified=at)
        rate = rates.look([job], at).get(job.id)
    assert rate == pytest.approx(3 * MB, rel=0.05)
    assert rates.look([job], NOW + 600)[job.id] < MB
    assert rates.look([msgspec.structs.replace(job, state=JobState.QUEUED)], NOW + 600) == {}


# The log


def words_of(news: News, job: Job, now: float = NOW) -> list[str]:
    return [line.partition(f"{short(job)} {job.name}: ")[2] for line in news.of(job, now)]


def test_the_log_tells_each_thing_once() -> None:
    news, job = News(), make()
    assert words_of(news, job) == ["queued"]
    assert words_of(news, job) == []
    for state, error, words in (
        (JobState.CONNECTING, None, []),
        (JobState.TRANSFERRING, None, ["transferring"]),
        (
            JobState.TRANSIENT_ERROR,
            BUSY,
            ["BG_E_HTTP_ERROR_503 (0x801901F7): the server cannot take this just now; trying again at 14:05"],
        ),
        (JobState.TRANSFERRED, None, ["transferred, 100 MB"]),
    ):
        done = 100 * MB if state is JobState.TRANSFERRED else 0
        file = msgspec.structs.replace(job.files[0], transferred=done)
        job = msgspec.structs.replace(job, state=state, error=error, retry_at=NOW + 300, files=(file,))
        assert words_of(news, job) == words


def test_the_log_says_how_far_it_is_every_ten_per_cent() -> None:
    news, said = News(), []
    for done in range(0, 100, 3):
        said += words_of(news, msgspec.structs.replace(MOVING, files=make(done=done * MB).files))
    assert said[0] == "transferring"
    assert said[1] == "12 %, 12/100 MB"
    assert len(said) == 10


def test_the_log_says_what_to_do_about_an_error() -> None:
    (line,) = words_of(News(), FAILED)
    assert line.startswith(
        "E_ACCESSDENIED (0x80070005): the server refuses the file. Ask the server's people"
    )


def test_a_job_that_is_gone_is_told_once() -> None:
    news = News()
    news.of_all([MOVING, FAILED], NOW)
    (line,) = news.of_all([MOVING], NOW)
    assert line.endswith(f"{short(FAILED)} evidence.zip: gone; somebody has completed or cancelled it")
    assert news.of_all([MOVING], NOW) == []


# For programs


def test_the_object_of_a_job_has_its_error_with_what_to_do() -> None:
    told = as_object(WAITING, [CredentialName(Target.PROXY, None, "inga")], NOW)
    error = told["error"]
    assert isinstance(error, dict)
    assert (error["name"], error["hresult"], error["context"]) == ("BG_E_HTTP_ERROR_503", "0x801901F7", 5)
    assert error["advice"]
    assert re.fullmatch(r"2026-01-31T\d\d:\d5:00Z", str(told["retry_at"]))
    assert told["credentials"] == [{"target": "proxy", "scheme": None, "user": "inga"}]
    assert json.loads(json.dumps(told)) == told
