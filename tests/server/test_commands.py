"""Commands that answer uploads, each a real process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from bitsferry.protocol.notification import Answer, ApplicationFailed, Later
from bitsferry.server.command_backend import CommandBackend

from . import raw
from .conftest import Serve
from .ferry import Upload
from .raw import eventually
from .whole import Whole


class Session(Whole):
    """A whole upload, with commands to tell it to."""

    def tell(self, *arguments: str, **options: Any) -> Answer | Later:
        return asyncio.run(CommandBackend(arguments, **options).tell(self.upload))

    def sh(self, script: str, *arguments: str, **options: Any) -> Answer | Later:
        """Tell a script of the shell, whose arguments are $1 and so on; what it prints is its reply."""
        script = f'exec >"$BITSFERRY_REPLY"\n{script}'
        return self.tell("/bin/sh", "-c", script, "sh", *arguments, **options)

    def fail(self, script: str, **options: Any) -> ApplicationFailed:
        with pytest.raises(ApplicationFailed) as caught:
            self.sh(script, **options)
        assert caught.value.transient
        assert caught.value.context == 7
        assert not self.reply.exists()
        return caught.value

    @property
    def replied(self) -> bytes | None:
        return self.reply.read_bytes() if self.reply.exists() else None

    @property
    def leftovers(self) -> set[str]:
        return {path.name for path in self.file.parent.iterdir()} - {"request.data", "reply.new"}


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path)


# What it is told


def test_placeholders_are_filled_in_whole_and_in_parts(session: Session) -> None:
    wanted = {
        "{name}": "café 1.csv",
        "-n{name}": "-ncafé 1.csv",
        "--file={request}": f"--file={session.file}",
        "{url}": "http://server:8080/in/caf%C3%A9%201.csv?x=1",
        "{user}@{address}": "anna@192.0.2.1",
        "{size} bytes, {id}": "8 bytes, A0FF5911-0000-4000-8000-000000000000",
        "{}{nothing}{{name}": "{}{nothing}{café 1.csv",
    }
    session.sh('printf "%s\\n" "$@"', *wanted)
    assert (session.replied or b"").decode().splitlines() == list(wanted.values())


@pytest.mark.parametrize(
    "name", ["a b", "a \"b\" 'c'", "$(touch x); `touch y`", "ä\u20ac\U0001f600", "a\\b", "*"]
)
def test_whatever_a_file_is_called_it_is_one_argument(session: Session, name: str) -> None:
    session.upload = replace(session.upload, name=name)
    session.sh('printf "%s|" "$#" "$1" "$BITSFERRY_NAME"', "{name}")
    assert (session.replied or b"").decode() == f"1|{name}|{name}|"


def test_the_environment_has_all_of_it_always(session: Session) -> None:
    session.sh("env")
    lines = (session.replied or b"").decode().splitlines()
    said = dict(line.split("=", 1) for line in lines if line.startswith("BITSFERRY_"))
    reply = said.pop("BITSFERRY_REPLY")
    assert os.path.dirname(reply) == str(session.reply.parent)
    assert said == {
        "BITSFERRY_REQUEST": str(session.file),
        "BITSFERRY_URL": "http://server:8080/in/caf%C3%A9%201.csv?x=1",
        "BITSFERRY_USER": "anna",
        "BITSFERRY_NAME": "café 1.csv",
        "BITSFERRY_SIZE": "8",
        "BITSFERRY_ID": "A0FF5911-0000-4000-8000-000000000000",
        "BITSFERRY_ADDRESS": "192.0.2.1",
    }


def test_nobody_has_no_name(session: Session) -> None:
    session.upload = replace(session.upload, user=None)
    session.sh('printf "%s|" "$1" "$BITSFERRY_USER"', "{user}")
    assert session.replied == b"||"


@pytest.mark.parametrize("template", ["{name}", "{user}{name}"])
def test_a_clients_word_never_becomes_an_option(session: Session, tmp_path: Path, template: str) -> None:
    session.upload = replace(session.upload, name="--help", user=None)
    with pytest.raises(ApplicationFailed, match="was not run: '--help'") as caught:
        session.tell("/usr/bin/touch", str(tmp_path / "touched"), template)
    assert caught.value.transient, "the mistake is ours, and can be mended"
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("arguments", [("--", "{name}"), ("--name={name}",), ("-n", "{request}")])
def test_where_it_can_be_none_it_is_passed_on(session: Session, arguments: tuple[str, ...]) -> None:
    session.upload = replace(session.upload, name="--help")
    session.sh('printf "%s" "$*"', *arguments)
    assert session.replied is not None


def test_it_runs_apart_with_nothing_to_read(session: Session) -> None:
    script = "import os, sys; print(os.getcwd(), os.getsid(0) == os.getpid(), sys.stdin.read() == '')"
    session.sh('exec "$1" -c "$2"', sys.executable, script)
    assert session.replied == b"/ True True\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "name the program"),
        (("",), "name the program"),
        (("{request}",), "must not depend on the upload"),
        (("/opt/{name}/run",), "must not depend on the upload"),
        (("prog", "a\0b"), "no NUL"),
        (("prog\0",), "no NUL"),
        (("prog", "{requests}"), "did you mean {request}?"),
        (("prog", "--user={usr}"), "did you mean {user}?"),
        (("sh", "-c", "echo {name}"), "BITSFERRY_NAME"),
        (("sudo", "bash", "-ec", "{url}"), "BITSFERRY_URL"),
        (("perl", "-ne", "print '{user}'"), "BITSFERRY_USER"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(arguments: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence.replace("?", r"\?")):
        CommandBackend(arguments)


# What it may answer


def test_the_reply_is_what_it_wrote_there(session: Session) -> None:
    assert session.tell("/bin/cp", "{request}", "{reply}") == Answer(copy=True)
    assert session.replied == b"uploaded"
    assert not session.leftovers
    session.sh('tr a-z A-Z <"$BITSFERRY_REQUEST" >"$BITSFERRY_REPLY"')
    assert session.replied == b"UPLOADED"
    assert not session.leftovers


def test_what_it_prints_is_for_the_log(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert session.tell("/bin/echo", "{name} is in {request}") == Answer(copy=True)
    assert session.replied is None
    assert f"said: café 1.csv is in {session.file}" in caplog.text


def test_one_that_writes_nothing_gives_no_reply(session: Session) -> None:
    session.tell("/bin/sh", "-c", "true")
    assert session.replied is None
    session.sh("true")
    assert not session.replied


def test_the_file_may_be_unwanted_after_it(session: Session) -> None:
    assert session.sh("true", keep=False) == Answer(copy=False)


@pytest.mark.parametrize("status", range(256))
def test_every_exit_status_means_something(session: Session, status: int) -> None:
    script = f'printf half >"$BITSFERRY_REPLY"; exit {status}'
    backend = CommandBackend(("/bin/sh", "-c", script), refusals=frozenset({65, 77}))

    async def tell() -> Answer | Later | ApplicationFailed:
        try:
            return await backend.tell(session.upload)
        except ApplicationFailed as error:
            return error

    said = asyncio.run(tell())
    match status:
        case 0:
            assert said == Answer(copy=True)
        case 75:
            assert said == Later()
        case 65 | 77:
            assert isinstance(said, Answer)
            assert said.refusal is not None
            assert (said.refusal.status, said.refusal.hresult) == (403, 0x80190193)
            assert f"by exit status {status}" in said.refusal.message
            assert not said.copy
        case _:
            assert isinstance(said, ApplicationFailed)
            assert (said.status, said.transient) == (503, True)
            assert f"ended with exit status {status}" in str(said)
    assert session.replied == (b"half" if status == 0 else None)
    assert not session.leftovers


def test_one_that_is_killed_has_failed(session: Session) -> None:
    assert "was killed by signal 9" in str(session.fail("kill -9 $$"))


@pytest.mark.parametrize(
    ("program", "sentence"),
    [("/there/is/no/such/program", "No such file"), ("/etc/passwd", "Permission denied"), ("/", "denied")],
)
def test_one_that_cannot_be_run_has_failed(session: Session, program: str, sentence: str) -> None:
    with pytest.raises(ApplicationFailed, match=f"{program} cannot be run: .*{sentence}") as caught:
        session.tell(program)
    assert caught.value.transient
    assert not session.leftovers


@pytest.mark.parametrize("make", ["mkdir -p", "mkfifo", "ln -s /etc/passwd"])
def test_a_reply_that_is_no_file_is_none(session: Session, make: str) -> None:
    with pytest.raises(ApplicationFailed, match="no file"):
        session.tell("/bin/sh", "-c", f'{make} "$1"', "sh", "{reply}")
    assert not session.reply.exists()
    assert not session.leftovers


# What it says


def test_the_end_of_what_it_says_is_in_the_log(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    session.fail("seq 100000 >&2; echo the last word >&2; exit 3")
    (record,) = (each for each in caplog.records if "said" in each.getMessage())
    said = record.getMessage().partition(" said: ")[2]
    assert said.endswith("99999\n100000\nthe last word")
    assert 4000 < len(said) <= 4096
    assert record.levelno == logging.WARNING
    assert vars(record)["exit_status"] == 3
    assert vars(record)["session"] == session.upload.id


def test_of_a_quiet_one_the_log_says_nothing(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    session.sh("true")
    assert not caplog.records


def test_what_is_no_text_does_not_hurt_the_log(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    session.fail(r"printf '\377\376 hm' >&2; exit 1")
    assert "\ufffd\ufffd hm" in caplog.text


def test_a_reply_without_end_is_not_waited_for(session: Session) -> None:
    assert "more than 1000 bytes" in str(session.fail("exec yes", largest_reply=1000))
    assert not session.leftovers


def test_a_reply_as_large_as_may_be_is_one(session: Session) -> None:
    session.sh("head -c 1000 /dev/zero", largest_reply=1000)
    assert session.replied == bytes(1000)
    session.reply.unlink()
    assert "more than 999 bytes" in str(session.fail("head -c 1000 /dev/zero", largest_reply=999))


# Its time


PAIR = """
sleep 60 &
echo $! $$ >"$BITSFERRY_REPLY.pids"
mv "$BITSFERRY_REPLY.pids" "$(dirname "$BITSFERRY_REPLY")/pids"
wait
"""
STUBBORN = "trap '' TERM; sh -c 'trap \"\" TERM; while :; do sleep 0.1; done' &" + PAIR


def is_alive(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def pids(session: Session) -> list[int]:
    """The process that works, and one it started, as they told."""
    return [int(each) for each in (session.file.parent / "pids").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("script", [PAIR, STUBBORN], ids=["obedient", "stubborn"])
def test_when_its_time_is_over_it_ends_with_all_it_started(
    session: Session, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr("bitsferry.server.command_backend._LAST_MOMENT", 0.3)
    error = session.fail(script, time_limit=0.5)
    assert (error.status, error.code) == (408, 0x80070112)
    assert "did not end within 0.5 s" in str(error)
    assert len(pids(session)) == 2
    assert eventually(lambda: not any(map(is_alive, pids(session))))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("script", [PAIR, STUBBORN], ids=["obedient", "stubborn"])
def test_when_nobody_waits_any_more_it_ends_with_all_it_started(
    session: Session, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr("bitsferry.server.command_backend._LAST_MOMENT", 0.3)
    backend = CommandBackend(("/bin/sh", "-c", script))

    async def story() -> None:
        telling = asyncio.create_task(backend.tell(session.upload))
        await there(lambda: (session.file.parent / "pids").exists())
        telling.cancel()
        await asyncio.sleep(0)
        telling.cancel()  # somebody is impatient
        await asyncio.wait({telling})
        assert telling.cancelled()
        assert not is_alive(pids(session)[1])

    asyncio.run(story())
    assert eventually(lambda: not any(map(is_alive, pids(session))))
    assert session.leftovers == {"pids"}


def test_cancelled_while_it_starts_it_ends_with_all_it_started(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = asyncio.create_subprocess_exec
    backend = CommandBackend(("/bin/sh", "-c", PAIR))

    async def story() -> None:
        async def start_slowly(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
            process = await start(*arguments, **options)
            await there(lambda: (session.file.parent / "pids").exists())
            telling.cancel()
            await asyncio.sleep(0.01)
            return process

        monkeypatch.setattr(asyncio, "create_subprocess_exec", start_slowly)
        telling = asyncio.create_task(backend.tell(session.upload))
        await asyncio.wait({telling})
        assert telling.cancelled()

    asyncio.run(story())
    assert eventually(lambda: not any(map(is_alive, pids(session))))


async def there(what: Callable[[], bool]) -> None:
    assert await asyncio.to_thread(eventually, what)


def test_one_may_leave_something_behind_that_is_not_waited_for(session: Session) -> None:
    session.tell("/bin/sh", "-c", 'sleep 60 & echo $! >"$BITSFERRY_REPLY"')
    left = int(session.replied or b"0")
    os.kill(left, 0)
    os.kill(left, signal.SIGKILL)


def test_no_more_run_at_once_than_was_said(session: Session, tmp_path: Path) -> None:
    """Also when the same settings serve in a second event loop."""
    script = 'mkdir "$1" || exit 3; sleep 0.02; rmdir "$1"'
    backend = CommandBackend(("/bin/sh", "-c", script, "sh", str(tmp_path / "busy")), at_once=1)

    async def story() -> None:
        await asyncio.gather(*(backend.tell(session.upload) for _ in range(4)))

    asyncio.run(story())
    asyncio.run(story())


def test_one_that_outlived_its_server_does_not_write_into_the_reply_of_another(session: Session) -> None:
    names = set()
    for _ in range(2):
        session.sh('printf %s "$1"', "{reply}")
        names.add(session.replied)
    assert len(names) == 2


# Served


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "answer-with-a-command.md"


def test_the_checksum_of_the_page_is_one(serve: Serve) -> None:
    (line,) = (line for line in PAGE.read_text().splitlines() if "sha256sum" in line)
    upload = serve(directory=line).begun()
    answer = get(upload, upload.fragment(b"abc").get("BITS-Reply-URL"))
    assert answer == sha256(b"abc").hexdigest().encode() + b"  -\n"
    assert upload.file.read_bytes() == b"abc"


def get(upload: Upload, url: str | None) -> bytes:
    assert url is not None
    upload.line.send(raw.request(f"GET /in/{url} HTTP/1.1", {}))
    answer = upload.line.answer()
    assert answer.status == 200
    return answer.body


def test_a_served_directory_answers_with_its_command(serve: Serve) -> None:
    upload = serve(directory="""notification_command = ["/bin/cp", "{request}", "{reply}"]""").begun()
    ack = upload.fragment(b"there and back")
    assert get(upload, ack.get("BITS-Reply-URL")) == b"there and back"
    assert upload.file.read_bytes() == b"there and back"
