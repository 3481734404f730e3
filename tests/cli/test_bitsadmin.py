"""`bitsferry bitsadmin`: whole sessions as scripts have them, each verb, what is printed, how it ends."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import msgspec
import pytest
import trustme
from click.testing import CliRunner, Result

from bitsferry import __version__
from bitsferry.cli.bitsadmin_desk import Desk
from bitsferry.cli.bitsadmin_verbs import UNSUPPORTED, VERBS
from bitsferry.cli.bitsadmin_words import spell_state
from bitsferry.cli.main import main
from bitsferry.client.client import Client
from bitsferry.client.job import Job, JobError, JobFile, JobState
from bitsferry.client.job_queue import JobQueue
from bitsferry.protocol.errors import Context
from bitsferry.protocol.hresult import HResult

from .conftest import Configure, Start
from .serving import Served

COMMANDS = Path(__file__).parents[2] / "docs" / "reference" / "command-line.md"

GUID = r"\{[0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12}\}"
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
NOWHERE = "http://127.0.0.1:1/in/file"  # nobody listens at port 1


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without jobs, in a folder of his own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def server(start: Start, configure: Configure, folder: Path) -> Served:
    """Takes files at /in/, and gives them out again."""
    (folder / "in").mkdir()
    return start("--config", configure(directory='read_back = "everybody"')).ready()


def ask(*words: str) -> Result:
    return CliRunner().invoke(main, ["bitsadmin", *words])


def say(*words: str) -> str:
    """The answer to what must not fail."""
    result = ask(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def value(verb: str, job: str = "job") -> str:
    return say("/rawreturn", verb, job)


def jobs() -> list[Job]:
    with Client() as client:
        return client.jobs()


def become(**changes: object) -> None:
    """What a runner would have made of the only job."""
    with JobQueue() as queue:
        (job,) = queue.all()
        queue.change(job.id, lambda job: msgspec.structs.replace(job, **changes))


def run() -> None:
    with Client() as client:
        client.run()


# Sessions, as they stand in scripts


def test_a_file_goes_up_and_comes_back_by_transfer(server: Served, folder: Path) -> None:
    data = bytes(range(256)) * 4096
    (folder / "up").write_bytes(data)
    url = f"{server.urls[0]}in/file"

    said = say("/transfer", "my upload", "/upload", url, str(folder / "up")).splitlines()
    assert re.fullmatch("DISPLAY: 'my upload' TYPE: UPLOAD STATE: [A-Z]+", said[0])
    assert re.fullmatch(r"PRIORITY: NORMAL FILES: \d / 1 BYTES: \d+ / (UNKNOWN|1048576 \(\d+%\))", said[1])
    assert said[-3:] == [
        "DISPLAY: 'my upload' TYPE: UPLOAD STATE: TRANSFERRED",
        "PRIORITY: NORMAL FILES: 1 / 1 BYTES: 1048576 / 1048576 (100%)",
        "Transfer complete.",
    ]
    assert (folder / "in" / "file").read_bytes() == data

    said = say("/TRANSFER", "back", "/Priority", "foreground", url, str(folder / "down")).splitlines()
    assert said[-3] == "DISPLAY: 'back' TYPE: DOWNLOAD STATE: TRANSFERRED"
    assert said[-2].startswith("PRIORITY: FOREGROUND FILES: 1 / 1")
    assert (folder / "down").read_bytes() == data
    assert jobs() == []


def test_a_job_is_made_filled_resumed_watched_and_completed(server: Served, folder: Path) -> None:
    (folder / "report.zip").write_bytes(b"a report")
    guid = say("/rawreturn", "/create", "/upload", "report")
    assert re.fullmatch(GUID, guid)
    url = f"{server.urls[0]}in/report.zip"
    local = str(folder / "report.zip")
    assert say("/addfile", "report", url, local) == f"Added {url} -> {local} to job.\n"
    assert say("/setpriority", guid, "HIGH") == "Priority set.\n"
    assert say("/resume", guid) == "Job resumed.\n"
    assert value("/getstate", guid) == "QUEUED"

    run()

    assert value("/getstate", guid) == "TRANSFERRED"
    assert say("/list").splitlines() == [f"{guid} report TRANSFERRED 1/1 8/8", "Listed 1 job(s)."]
    assert value("/getfilestransferred", guid) == "1"
    assert re.fullmatch(TIME, value("/getcompletiontime", guid))
    assert say("/complete", "report") == "Job completed.\n"
    assert say("/list") == "Listed 0 job(s).\n"
    assert (folder / "in" / "report.zip").read_bytes() == b"a report"


def test_several_files_come_down_in_one_job(server: Served, folder: Path) -> None:
    for name in ("one", "two", "with blank"):
        (folder / "in" / name).write_text(name)
    base = server.urls[0] + "in/"
    (folder / "files.txt").write_text(
        f'# URL and local name\n\n{base}one {folder / "1"}\n{base}with%20blank "{folder / "with blank"}"\n'
    )
    say("/create", "files")
    say("/addfileset", "files", str(folder / "files.txt"))
    say("/addfile", "files", base + "two", str(folder / "2"))
    say("/resume", "files")
    run()
    assert say("/listfiles", "files").splitlines() == [
        f"3 / 3 COMPLETED {base}one -> {folder / '1'}",
        f"10 / 10 COMPLETED {base}with%20blank -> {folder / 'with blank'}",
        f"3 / 3 COMPLETED {base}two -> {folder / '2'}",
        "Listed 3 file(s).",
    ]
    assert (value("/getbytestotal", "files"), value("/getbytestransferred", "files")) == ("16", "16")
    assert not (folder / "1").exists()
    say("/complete", "files")
    assert [(folder / name).read_text() for name in ("1", "2", "with blank")] == ["one", "two", "with blank"]


def test_a_transfer_that_is_refused_says_so_and_leaves_no_job(server: Served, folder: Path) -> None:
    (folder / "file").write_bytes(b"new")
    (folder / "in" / "file").write_bytes(b"old")
    url = f"{server.urls[0]}in/file"
    result = ask("/transfer", "job", "/upload", url, str(folder / "file"))
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert lines[0] == "Unable to complete transfer."
    assert lines[1] == f"ERROR FILE:    {url} -> {folder / 'file'}"
    assert lines[2].startswith("ERROR CODE:    0x80070005 - ")
    assert lines[3].startswith("ERROR CONTEXT: 0x00000005 - ")
    assert jobs() == []


def test_a_transfer_of_files_that_cannot_be_makes_no_job(folder: Path) -> None:
    result = ask("/transfer", "two", "/upload", NOWHERE, "a", NOWHERE, "b")
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "Unable to complete transfer - 0x8020001c\nBG_E_TOO_MANY_FILES (0x8020001C)"
    )
    result = ask("/transfer", "none", "ftp://host/file", "a")
    assert result.exit_code == 1
    assert result.stderr.startswith("Unable to complete transfer - 0x80070057\nE_INVALIDARG (0x80070057)")
    assert jobs() == []


class Begin(Protocol):
    """Starts the command as a process of its own, which does not outlive the test."""

    def __call__(self, *words: str) -> subprocess.Popen[str]: ...


@pytest.fixture
def begin() -> Iterator[Begin]:
    with ExitStack() as stack:

        def begin(*words: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-m", "bitsferry", "bitsadmin", *words]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield begin


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What it prints, up to a line with this text."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    pytest.fail(f"it ended without {text!r}: {said}")


def end(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    """How it ends when it gets this signal, and what it says to that."""
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    return process.returncode, errors


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_transfer_waits_while_the_server_is_away_and_is_canceled_by_ctrl_c(
    number: signal.Signals, code: int, folder: Path, begin: Begin
) -> None:
    (folder / "file").write_bytes(b"data")
    waiting = begin("/transfer", "job", "/upload", NOWHERE, "file")
    said = read_until(waiting, "ERROR CONTEXT")
    assert "STATE: TRANSIENT_ERROR\n" in said
    assert "ERROR CODE:    0x80072efd - " in said
    assert [job.state for job in jobs()] == [JobState.TRANSIENT_ERROR]
    assert end(waiting, number) == (code, "Transfer canceled.\n")
    assert jobs() == []


def test_a_transfer_that_waits_keeps_no_other_from_its_end(
    server: Served, folder: Path, begin: Begin
) -> None:
    (folder / "file").write_bytes(b"data")
    waiting = begin("/transfer", "first", "/upload", NOWHERE, "file")
    read_until(waiting, "ERROR CONTEXT")
    say("/transfer", "second", "/upload", f"{server.urls[0]}in/file", "file")
    assert (folder / "in" / "file").read_bytes() == b"data"
    assert [job.name for job in jobs()] == ["first"]


def test_a_transfer_goes_on_when_the_runner_that_carried_it_is_killed(
    start: Start, configure: Configure, folder: Path, begin: Begin
) -> None:
    (folder / "file").write_bytes(b"data")
    runner = begin("/transfer", "first", "/upload", NOWHERE, "file")
    read_until(runner, "ERROR CONTEXT")
    second = begin("/transfer", "second", "/upload", NOWHERE, "file")
    read_until(second, "ERROR CONTEXT")
    runner.kill()
    say("/cancel", "first")
    (folder / "in").mkdir()
    server = start("--config", configure()).ready()
    say("/replaceremoteprefix", "second", "http://127.0.0.1:1/", server.urls[0])
    say("/resume", "second")
    assert "Transfer complete." in read_until(second, "Transfer complete.")
    assert (folder / "in" / "file").read_bytes() == b"data"


def test_a_transfer_whose_job_is_canceled_elsewhere_fails(folder: Path, begin: Begin) -> None:
    (folder / "file").write_bytes(b"data")
    waiting = begin("/transfer", "job", "/upload", NOWHERE, "file")
    read_until(waiting, "ERROR CONTEXT")
    say("/cancel", "job")
    _, errors = waiting.communicate(timeout=20)
    assert waiting.returncode == 1
    assert errors.startswith("Unable to complete transfer")


def test_monitor_lists_again_and_again_until_ctrl_c(begin: Begin) -> None:
    say("/create", "job")
    watching = begin("/monitor", "/refresh", "1")
    began = time.monotonic()
    said = read_until(watching, "CTRL-C to quit.")
    assert said.startswith("MONITORING BACKGROUND COPY MANAGER(1 second refresh)\n{")
    assert "job SUSPENDED 0/0 0/0" in said
    say("/setdisplayname", "job", "renamed")
    assert " renamed SUSPENDED" in read_until(watching, "CTRL-C to quit.")
    assert time.monotonic() - began >= 1
    assert end(watching, signal.SIGINT) == (0, "")


def test_reset_cancels_all_jobs() -> None:
    guids = [say("/rawreturn", "/create", name) for name in ("one", "two")]
    assert say("/reset", "/allusers").splitlines() == [
        f"{guids[0]} canceled.",
        f"{guids[1]} canceled.",
        "2 out of 2 jobs canceled.",
    ]
    assert say("/reset") == "0 out of 0 jobs canceled.\n"


# Every verb

# The words after it, {} is a file that is there; and what it prints, of a download job with one file
LINES: dict[str, tuple[list[str], str]] = {
    "transfer": (["other", "/download", "x://", "{}", "odd"], ""),
    "create": (["/upload-reply", "other"], f"Created job {GUID}.\n"),
    "addfile": (["job", "http://host/b", "{}"], "Added http://host/b -> .+ to job.\n"),
    "addfileset": (["job", "{}"], ""),
    "replaceremoteprefix": (["job", "http://HOST/", "https://other:8080/"], r"1 URL\(s\) replaced.\n"),
    "resume": (["job"], "Job resumed.\n"),
    "suspend": (["job"], "Job suspended.\n"),
    "complete": (["job"], "Job completed.\n"),
    "cancel": (["job"], "Job canceled.\n"),
    "reset": ([], f"{GUID} canceled.\n1 out of 1 jobs canceled.\n"),
    "list": (["/allusers"], rf"{GUID} job SUSPENDED 0/1 0/UNKNOWN\nListed 1 job\(s\).\n"),
    "monitor": (["/refresh", "0"], ""),
    "info": (["job"], f"{GUID} job SUSPENDED 0/1 0/UNKNOWN\n"),
    "listfiles": (["job"], r"0 / UNKNOWN WORKING http://host/a -> .+\nListed 1 file\(s\).\n"),
    "gettype": (["job"], "DOWNLOAD\n"),
    "getstate": (["job"], "SUSPENDED\n"),
    "getpriority": (["job"], "NORMAL\n"),
    "getdisplayname": (["job"], "job\n"),
    "getdescription": (["job"], "\n"),
    "getowner": (["job"], r"\S+\n"),
    "getbytestotal": (["job"], "UNKNOWN\n"),
    "getbytestransferred": (["job"], "0\n"),
    "getfilestotal": (["job"], "1\n"),
    "getfilestransferred": (["job"], "0\n"),
    "getcreationtime": (["job"], TIME + "\n"),
    "getmodificationtime": (["job"], TIME + "\n"),
    "getcompletiontime": (["job"], "UNKNOWN\n"),
    "geterror": (["job"], ""),
    "geterrorcount": (["job"], "0\n"),
    "getminretrydelay": (["job"], "600\n"),
    "getnoprogresstimeout": (["job"], "1209600\n"),
    "getmaxdownloadtime": (["job"], "7776000\n"),
    "getreplyfilename": (["job"], "NULL\n"),
    "getreplyprogress": (["job"], "0 / 0\n"),
    "getreplydata": (["job"], ""),
    "getnotifyflags": (["job"], "3\n"),
    "getnotifyinterface": (["job"], "UNREGISTERED\n"),
    "getnotifycmdline": (["job"], "none\n"),
    "getproxyusage": (["job"], "PRECONFIG\n"),
    "getproxylist": (["job"], "NULL\n"),
    "getproxybypasslist": (["job"], "NULL\n"),
    "getcustomheaders": (["job"], "NULL\n"),
    "gethttpmethod": (["job"], "GET\n"),
    "getsecurityflags": (["job"], "0x0\n"),
    "getclientcertificate": (["job"], "NULL\n"),
    "gettemporaryname": (["job", "0"], "NULL\n"),
    "setdisplayname": (["job", "other"], "Display name set.\n"),
    "setdescription": (["job", "what it is for"], "Description set.\n"),
    "setpriority": (["job", "foreground"], "Priority set.\n"),
    "setminretrydelay": (["job", "60"], "Retry delay set.\n"),
    "setnoprogresstimeout": (["job", "0"], "No progress timeout set.\n"),
    "setmaxdownloadtime": (["job", "86400"], "Maximum download time set.\n"),
    "setreplyfilename": (["job", "{}"], ""),
    "setnotifyflags": (["job", "1"], "Notification flags set.\n"),
    "setnotifycmdline": (["job", "/bin/true", "NULL"], "Notification command line set.\n"),
    "setproxysettings": (["job", "NO_PROXY"], "Proxy settings set.\n"),
    "setcustomheaders": (["job", "X-One: 1", "X-Two: 2"], "Custom headers set.\n"),
    "makecustomheaderswriteonly": (["job"], "Custom headers are write-only.\n"),
    "setcredentials": (["job", "SERVER", "BASIC", "inga", "secret"], "Credentials set.\n"),
    "removecredentials": (["job", "PROXY", "DIGEST"], "Credentials removed.\n"),
    "setsecurityflags": (["job", "0x6"], "Security flags set.\n"),
    "setclientcertificatebyfile": (["job", "{}"], ""),
    "removeclientcertificate": (["job"], "Client certificate removed.\n"),
    "util": (["/version"], f"bitsferry {re.escape(__version__)}\n"),
}


def test_every_verb_has_its_line() -> None:
    assert list(LINES) == list(VERBS)


@pytest.mark.parametrize("verb", LINES)
def test_a_verb_says_what_it_did_or_why_not(verb: str, folder: Path) -> None:
    there = folder / "there.txt"
    there.write_text("no URL")
    say("/create", "job")
    say("/addfile", "job", "http://host/a", "a")
    words, expected = LINES[verb]
    result = ask("/" + verb, *(word.format(there) if word == "{}" else word for word in words))
    assert re.fullmatch(expected, result.stdout), result.output
    assert (result.exit_code == 0) == bool(expected)
    assert bool(expected) or result.stderr


@pytest.mark.parametrize("verb", UNSUPPORTED)
def test_a_verb_that_is_not_supported_says_why(verb: str) -> None:
    result = ask("/" + verb.upper(), "job", "/whatever", "5")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert re.fullmatch(rf"/{verb} is not supported: [^.]{{20,}}\.\n", result.stderr)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["/util", "/repairservice"], "/util /repairservice is not supported: there is no service"),
        (["/util", "/setieproxy"], "say /setproxysettings for each job"),
        (["/setcredentials", "job", "SERVER", "PASSPORT", "inga", "secret"], "PASSPORT is not supported"),
        (["/setsecurityflags", "job", "0x200"], "0x200 is not supported: downloads follow redirects"),
        (["/setsecurityflags", "job", "0x800"], "0x800 is not supported: a redirect from https to http"),
    ],
)
def test_what_a_verb_of_ours_cannot_do_it_says_with_the_reason(words: list[str], reason: str) -> None:
    say("/create", "job")
    result = ask(*words)
    assert result.exit_code == 1
    assert reason in result.stderr
    assert "secret" not in result.output


# Wrong usage


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["/lits"], "'/lits' is no verb; 'bitsferry bitsadmin /help' lists them"),
        (["list"], "'list' is no verb"),
        (["C:/Program Files/Git/list"], "in Git Bash, which takes /x for a path, write //list"),
        (["/addfile", "job"], "usage: bitsferry bitsadmin /addfile job remote_url local_name\nsomething is"),
        (["/list", "job"], "'job' is too much; quote words that belong together"),
        (["/create", "/upload", "/download", "job"], "say either /download or /upload"),
        (["/setpriority", "job", "urgent"], "'urgent' is none of FOREGROUND, HIGH, NORMAL, LOW"),
        (["/setminretrydelay", "job", "soon"], "'soon' is no number"),
        (["/setminretrydelay", "job", "-5"], "'-5' is no number"),
        (["/setsecurityflags", "job", "0x1"], "0x1 needs the file that lists revoked certificates"),
        (["/setsecurityflags", "job", "0x40"], "0x40 has flags that mean nothing"),
        (["/setcredentials", "job", "PRINTER", "BASIC", "inga", "secret"], "is none of SERVER, PROXY"),
        (["/setcredentials", "job", "SERVER", "MAGIC", "inga", "secret"], "is none of BASIC, DIGEST"),
        (["/transfer", "job", NOWHERE], "something is missing"),
        (["/transfer", "job", NOWHERE, "a", NOWHERE], "every remote URL needs a local name after it"),
        (["/transfer", "job", "/priority"], "/priority needs a word after it"),
        (["/util"], "say what: /util /version"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_would_be_right(words: list[str], complaint: str) -> None:
    say("/create", "job")
    result = ask(*words)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("spelt", ["/list", "/LIST", "-list", "-List", "--list", "//list"])
def test_a_verb_may_be_spelt_in_these_ways(spelt: str) -> None:
    assert say(spelt) == "Listed 0 job(s).\n"


@pytest.mark.parametrize("asked", [(), ("/help",), ("/?",), ("--help",), ("-h",), ("//HELP",)])
def test_help_names_every_verb_in_80_columns(asked: tuple[str, ...]) -> None:
    text = say(*asked)
    named = set(re.findall(r"/([a-z]+)", text))
    assert named >= {*VERBS, *UNSUPPORTED, "rawreturn", "wrap", "nowrap"}
    assert max(map(len, text.splitlines())) < 80


def test_the_page_lists_every_verb() -> None:
    text = COMMANDS.read_text(encoding="utf-8")
    section = text.split("## `bitsferry bitsadmin`\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `/")]
    listed = [verb for row in rows for verb in re.findall(r"`/([a-z]+)", row)]
    assert sorted(listed) == sorted([*VERBS, *UNSUPPORTED])


# How errors are told


def test_an_error_is_told_as_windows_begins_it_and_then_as_we_do() -> None:
    say("/create", "/upload", "job")
    result = ask("/complete", "job")
    assert (result.exit_code, result.stdout) == (1, "")
    first, second = result.stderr.splitlines()
    assert first == "Unable to complete job - 0x80200002"
    assert second.startswith("BG_E_INVALID_STATE (0x80200002): it cannot be completed")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["/getstate", "nobody"], "0x80200001"),
        (["/resume", "empty"], "0x80200003"),
        (["/geterror", "empty"], "0x8020000f"),
        (["/getreplydata", "empty"], "0x80200002"),
        (["/gettemporaryname", "empty", "0"], "0x80070057"),
        (["/addfile", "empty", "ftp://host/a", "a"], "0x80070057"),
        (["/addfileset", "empty", "not there"], "0x80070002"),
        (["/setdisplayname", "empty", "x" * 257], "0x80070057"),
        (["/setproxysettings", "empty", "OVERRIDE"], "0x8020003f"),
        (["/setcustomheaders", "empty", "no colon"], "0x80070057"),
        (["/setreplyfilename", "empty", "reply"], "0x80070057"),
        (["/setcredentials", "empty", "SERVER", "BASIC", "x" * 301, "secret"], "0x80200025"),
        (["/setclientcertificatebyfile", "empty", "not there"], "0x80072f8f"),
    ],
)
def test_windows_number_stands_in_the_first_line(words: list[str], code: str) -> None:
    say("/create", "empty")
    result = ask(*words)
    assert result.exit_code == 1
    assert re.match(rf"Unable to [a-zA-Z ]+ - {code}\n[A-Z_]+ \(0x[0-9A-F]{{8}}\): .+\n", result.stderr)


def test_a_line_of_a_file_set_that_is_none_adds_no_file(folder: Path) -> None:
    (folder / "set").write_text("http://host/a a\nhttp://host/b\n")
    say("/create", "job")
    assert "line 2 of set is no URL with a local name after it" in ask("/addfileset", "job", "set").stderr
    assert value("/getfilestotal") == "0"


def test_of_two_jobs_of_one_name_the_id_says_which() -> None:
    guids = [say("/rawreturn", "/create", "twin") for _ in range(2)]
    result = ask("/cancel", "twin")
    assert result.exit_code == 1
    assert all(guid in result.stderr for guid in guids)
    say("/cancel", guids[0].lower())
    assert [job.id for job in jobs()] == guids[1:]


def test_resume_says_when_there_is_no_runner() -> None:
    say("/create", "job")
    say("/addfile", "job", "http://host/a", "a")
    result = ask("/resume", "job")
    assert result.exit_code == 0
    assert "no runner is working: start one with 'bitsferry jobs run'" in result.stderr


# What is asked


@pytest.mark.parametrize("state", [state for state in JobState if state < JobState.ACKNOWLEDGED])
def test_states_have_the_words_of_windows(state: JobState) -> None:
    say("/create", "job")
    become(state=state)
    assert value("/getstate") == state.name
    assert re.search(rf"job {state.name} 0/0 0/0$", say("/info", "job"))


def test_canceled_has_one_l() -> None:
    assert spell_state(JobState.CANCELLED) == "CANCELED"


def test_info_verbose_shows_all_of_a_job() -> None:
    guid = say("/rawreturn", "/create", "/upload-reply", "job")
    say("/addfile", "job", "http://host/a", "a")
    lines = say("/info", "job", "/verbose")
    assert lines == say("/list", "/verbose").removesuffix("Listed 1 job(s).\n")
    path = str(Path("a").absolute())
    assert re.sub(TIME, "TIME", lines).splitlines() == [
        f"GUID: {guid} DISPLAY: 'job'",
        f"TYPE: UPLOAD-REPLY STATE: SUSPENDED OWNER: {value('/getowner')}",
        "PRIORITY: NORMAL FILES: 0 / 1 BYTES: 0 / UNKNOWN",
        "CREATION TIME: TIME MODIFICATION TIME: TIME",
        "COMPLETION TIME: UNKNOWN",
        "NOTIFY INTERFACE: UNREGISTERED NOTIFICATION FLAGS: 3",
        "RETRY DELAY: 600 NO PROGRESS TIMEOUT: 1209600 ERROR COUNT: 0",
        "PROXY USAGE: PRECONFIG PROXY LIST: NULL PROXY BYPASS LIST: NULL",
        "DESCRIPTION: ",
        "JOB FILES:",
        f"\t0 / UNKNOWN WORKING http://host/a -> {path}",
        "NOTIFICATION COMMAND LINE: none",
        "MAX DOWNLOAD TIME: 7776000",
        "CUSTOM HEADERS: NULL",
        f"REPLY FILE: {path}.{guid[1:9]}.reply 0 / UNKNOWN",
    ]


def test_an_error_has_file_code_and_context() -> None:
    say("/create", "/upload", "job")
    say("/addfile", "job", "http://host/a", "a")
    local = str(Path("a").absolute())
    error = JobError(
        hresult=HResult.BG_E_LOCAL_FILE_CHANGED,
        context=Context.LOCAL_FILE,
        message="the file changed",
        file=local,
        at=0.0,
    )
    become(state=JobState.ERROR, error=error, error_count=3)
    lines = [
        f"ERROR FILE:    http://host/a -> {local}",
        "ERROR CODE:    0x8020001d - the file changed",
        "ERROR CONTEXT: 0x00000004 - The error occurred while the local file was being processed.",
    ]
    assert say("/geterror", "job").splitlines() == lines
    assert "\n".join(lines) in say("/info", "job", "/verbose")
    assert value("/geterrorcount") == "3"


def test_a_reply_is_told_in_hexadecimal_digits_while_the_job_is_transferred(folder: Path) -> None:
    say("/create", "/upload-reply", "job")
    say("/addfile", "job", "http://host/a", "a")
    say("/setreplyfilename", "job", "reply")
    assert value("/getreplyfilename") == str(folder / "reply")
    assert value("/getreplyprogress") == "0 / UNKNOWN"
    assert "BG_E_INVALID_STATE" in ask("/getreplydata", "job").stderr
    path = folder / "reply"
    path.write_bytes(b"a reply of more than 16 bytes")
    reply = JobFile(remote="http://host/reply", local=str(path), size=29, transferred=29, done=True)
    become(state=JobState.TRANSFERRED, reply=reply)
    assert value("/getreplyprogress") == "29 / 29"
    shown = say("/getreplydata", "job")
    assert bytes.fromhex(shown) == path.read_bytes()
    assert shown.startswith("61 20 72 65 70 6C 79 20 6F 66 20 6D 6F 72 65 20\n74 ")
    path.write_bytes(bytes(1024 * 1024))
    assert ask("/getreplydata", "job").exit_code == 0
    path.write_bytes(bytes(1024 * 1024 + 1))
    assert "BG_E_TOO_LARGE (0x80200020)" in ask("/getreplydata", "job").stderr
    path.unlink()
    assert value("/getreplydata") == ""


# What is set


@pytest.mark.parametrize(
    ("words", "asked", "answer"),
    [
        (["/setdescription", "job", "what it is for"], "/getdescription", "what it is for"),
        (["/setpriority", "job", "Low"], "/getpriority", "LOW"),
        (["/setminretrydelay", "job", "1"], "/getminretrydelay", "5"),
        (["/setnoprogresstimeout", "job", "0"], "/getnoprogresstimeout", "0"),
        (["/setmaxdownloadtime", "job", "60"], "/getmaxdownloadtime", "60"),
        (["/setnotifyflags", "job", "0x4"], "/getnotifyflags", "4"),
        (["/setnotifycmdline", "job", "/bin/true", "NULL"], "/getnotifycmdline", "/bin/true"),
        (
            ["/setnotifycmdline", "job", r"C:\a b.exe", r'"C:\a b.exe" one "and two"'],
            "/getnotifycmdline",
            r'"C:\a b.exe" one "and two"',
        ),
        (["/setnotifycmdline", "job", "NULL", "NULL"], "/getnotifycmdline", "none"),
        (["/setproxysettings", "job", "no_proxy"], "/getproxyusage", "NO_PROXY"),
        (["/setproxysettings", "job", "OVERRIDE", "a:1 b:2", "NULL"], "/getproxylist", "a:1 b:2"),
        (["/setproxysettings", "job", "OVERRIDE", "a:1", "<local>"], "/getproxybypasslist", "<local>"),
        (["/setcustomheaders", "job", "X-One: 1", "X-Two:2"], "/getcustomheaders", "X-One: 1\nX-Two: 2"),
        (["/setsecurityflags", "job", "30"], "/getsecurityflags", "0x1e"),
    ],
)
def test_what_is_set_can_be_asked_for(words: list[str], asked: str, answer: str) -> None:
    say("/create", "job")
    say(*words)
    assert value(asked) == answer


def test_headers_that_are_write_only_are_shown_to_nobody() -> None:
    say("/create", "job")
    say("/setcustomheaders", "job", "X-Key: sesame")
    assert "CUSTOM HEADERS: X-Key: sesame" in say("/info", "job", "/verbose")
    say("/makecustomheaderswriteonly", "job")
    result = ask("/getcustomheaders", "job")
    assert result.exit_code == 1
    assert "E_ACCESSDENIED (0x80070005): the headers of this job are write-only" in result.stderr
    assert "CUSTOM HEADERS: WRITE-ONLY" in say("/info", "job", "/verbose")
    assert "sesame" not in result.output + say("/info", "job", "/verbose")


def test_credentials_are_kept_until_they_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    say("/create", "job")
    say("/setcredentials", "job", "server", "digest", "inga", "secret")
    say("/setcredentials", "job", "PROXY", "BASIC", "petra", "secret")
    monkeypatch.setenv("BITSFERRY_PASSWORD", "from the environment")
    say("/setcredentials", "job", "SERVER", "BASIC", "jan")
    assert known() == {("server", "digest", "inga"), ("proxy", "basic", "petra"), ("server", "basic", "jan")}
    say("/removecredentials", "job", "SERVER", "DIGEST")
    assert known() == {("proxy", "basic", "petra"), ("server", "basic", "jan")}


@pytest.mark.parametrize("scheme", ["NTLM", "NEGOTIATE"])
@pytest.mark.parametrize("password", [[], ["NULL"]])
def test_null_is_the_log_on_of_whoever_runs_the_job(scheme: str, password: list[str]) -> None:
    pytest.importorskip("krb5", reason="the packages of bitsferry[kerberos] are not installed")
    say("/create", "job")
    say("/setcredentials", "job", "SERVER", scheme, "NULL", *password)
    say("/setcredentials", "job", "PROXY", scheme, "SALES\\inga", "secret")
    assert known() == {("server", scheme.lower(), ""), ("proxy", scheme.lower(), "SALES\\inga")}


def known() -> set[tuple[str, str | None, str]]:
    with Client() as client:
        return {(each.target, each.scheme, each.user) for each in client.credentials(client.find("job"))}


def test_a_client_certificate_comes_from_files(folder: Path) -> None:
    ours = trustme.CA().issue_cert("client.example")
    ours.cert_chain_pems[0].write_to_path("certificate.pem")
    ours.private_key_pem.write_to_path("key.pem")
    trustme.CA().issue_cert("other.example").private_key_pem.write_to_path("other.pem")
    say("/create", "job")
    refused = ask("/setclientcertificatebyfile", "job", "certificate.pem", "other.pem")
    assert "the key belongs to another certificate" in refused.stderr
    say("/setclientcertificatebyfile", "job", "certificate.pem", "key.pem")
    assert value("/getclientcertificate") == str(folder / "certificate.pem")
    say("/removeclientcertificate", "job")
    assert value("/getclientcertificate") == "NULL"


def test_the_list_of_revoked_certificates_stands_after_its_flag(folder: Path) -> None:
    (folder / "crl.pem").write_text("no list")
    say("/create", "job")
    result = ask("/setsecurityflags", "job", "0x1", "crl.pem")
    assert result.exit_code == 1
    assert f"the list of revoked certificates {folder / 'crl.pem'} cannot be used" in result.stderr


# Lines


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("wraps", "line"), [(False, "0123456789"), (True, "0123456789abcdef")])
def test_nowrap_cuts_lines_at_the_edge_of_a_terminal(
    wraps: bool, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "10")
    with Desk(wraps=wraps) as desk:
        desk.say("0123456789abcdef")
    assert terminal.getvalue() == line + "\n"


def test_nowrap_cuts_nothing_where_there_is_no_terminal() -> None:
    name = "x" * 256
    say("/create", name)
    assert name in say("/nowrap", "/list")
