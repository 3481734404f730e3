"""The service files of the background queue: what systems read in them, and how they come and go."""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from bitsferry.cli.install_service import install_service
from bitsferry.cli.services import launch_agent, scheduled_task, systemd_unit

ODD = "a b%c'd\"e$HOME&f<g>\\h;ü"
COMMAND = ["-P", "-m", "bitsferry", "jobs", "run"]
XML = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"


def unit_problems(folder: Path, unit: bytes) -> list[str]:
    """What systemd has to say against a unit."""
    (folder / "bitsferry-jobs.service").write_bytes(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", "bitsferry-jobs.service"],
        cwd=folder,
        env={
            "SYSTEMD_UNIT_PATH": f"{folder}:",
            "XDG_RUNTIME_DIR": str(folder),
            "HOME": str(folder),
            "PATH": "/usr/bin:/bin",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stderr.splitlines()
    assert not any("Failed to initialize" in line for line in lines), lines
    return [line for line in lines if "bitsferry" in line or str(folder) in line]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize("name", [ODD, ODD.translate(str.maketrans("", "", "'\"\\"))])
def test_systemd_understands_any_path(tmp_path: Path, name: str) -> None:
    program = tmp_path / name / "python"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = systemd_unit([str(program), *COMMAND], {"XDG_STATE_HOME": str(tmp_path / name)})
    assert unit_problems(tmp_path, unit) == []
    if name != ODD:  # else it is the shell's to look for it
        program.unlink()
        assert any("is not executable" in problem for problem in unit_problems(tmp_path, unit))


def test_systemd_starts_it_again_when_it_failed_and_at_every_log_on() -> None:
    unit = systemd_unit(["/usr/bin/python3", *COMMAND], {}).decode()
    assert "\nExecStart=:/usr/bin/python3 -P -m bitsferry jobs run\n" in unit
    assert "\nRestart=on-failure\n" in unit
    assert "\nWantedBy=default.target\n" in unit
    assert "Environment" not in unit


def test_systemd_hides_no_file_from_it() -> None:
    unit = systemd_unit(["/usr/bin/python3"], {}).decode()
    assert not any(option in unit for option in ("Protect", "Private", "ReadOnly", "Inaccessible"))


def test_launchd_reads_what_was_meant() -> None:
    agent = plistlib.loads(launch_agent("label", [f"/{ODD}/python", *COMMAND], {"NAME": ODD}, f"/{ODD}.log"))
    assert agent["Label"] == "label"
    assert agent["ProgramArguments"] == [f"/{ODD}/python", *COMMAND]
    assert agent["EnvironmentVariables"] == {"NAME": ODD}
    assert agent["StandardErrorPath"] == f"/{ODD}.log"
    assert agent["RunAtLoad"] is True
    assert agent["KeepAlive"] == {"SuccessfulExit": False}


def test_task_scheduler_reads_what_was_meant() -> None:
    program = "C:\\Program Files\\a & b's 100% <ü>\\pythonw.exe"
    written = scheduled_task([program, *COMMAND, "two words"], "FERRY\\Zoë & Co")
    assert written[:2] in (b"\xff\xfe", b"\xfe\xff")
    task = ElementTree.fromstring(written)

    def text(path: str) -> str | None:
        return task.findtext(path.replace("/", f"/{XML}").replace("./", ".//", 1))

    assert text("./Command") == program
    assert text("./Arguments") == '-P -m bitsferry jobs run "two words"'
    assert text("./LogonTrigger/UserId") == text("./Principal/UserId") == "FERRY\\Zoë & Co"
    assert text("./ExecutionTimeLimit") == "PT0S"
    assert text("./StopIfGoingOnBatteries") == text("./DisallowStartIfOnBatteries") == "false"
    assert text("./RestartOnFailure/Interval") == "PT1M"


def test_task_scheduler_is_given_no_path_that_it_would_change() -> None:
    with pytest.raises(ValueError, match="would take what stands between '%'"):
        scheduled_task(["C:\\%TEMP%\\pythonw.exe", *COMMAND], "FERRY\\inga")


def test_a_path_that_cannot_be_written_down_is_refused() -> None:
    with pytest.raises(ValueError, match="control characters"):
        launch_agent("label", ["/a\x01b/python"], {}, "/log")
    with pytest.raises(ValueError, match="control characters"):
        scheduled_task(["C:\\a\x01b\\python.exe"], "inga")


# The command


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with a `systemctl` that writes down what it was told."""
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/told\n'
        f"[ -e {tmp_path}/fails ] && echo no bus >&2 && exit 1\nexit 0\n"
    )
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{systemctl.parent}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "the state"))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(install_service, arguments)


def told(home: Path) -> list[str]:
    path = home / "told"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems have other service files")


@on_linux
def test_it_writes_the_file_and_says_what_to_run(home: Path) -> None:
    result = run()
    path = home / "config" / "systemd" / "user" / "bitsferry-jobs.service"
    assert result.exit_code == 0
    assert str(path) in result.stdout
    assert "systemctl --user enable --now bitsferry-jobs.service" in result.stdout
    assert "loginctl enable-linger" in result.stdout
    assert f"ExecStart=:{sys.executable} -P -m bitsferry jobs run" in path.read_text(encoding="utf-8")
    assert f'Environment="XDG_STATE_HOME={home}/the state"' in path.read_text(encoding="utf-8")
    assert os.listdir(path.parent) == ["bitsferry-jobs.service"]
    assert told(home) == []


@on_linux
def test_with_now_it_runs_that_itself(home: Path) -> None:
    assert run("--now").exit_code == 0
    assert told(home) == ["--user daemon-reload", "--user enable --now bitsferry-jobs.service"]


@on_linux
def test_a_system_that_refuses_is_quoted(home: Path) -> None:
    (home / "fails").touch()
    result = run("--now")
    assert result.exit_code == 1
    assert result.stderr == "bitsferry: systemctl --user daemon-reload: no bus\n"


@on_linux
@pytest.mark.parametrize("fails", [False, True])
def test_removing_stops_it_if_it_can_and_leaves_nothing(home: Path, fails: bool) -> None:
    run()
    if fails:
        (home / "fails").touch()
    assert run("--remove").exit_code == 0
    assert told(home) == ["--user disable --now bitsferry-jobs.service"]
    assert os.listdir(home / "config" / "systemd" / "user") == []
    assert run("--remove").exit_code == 0


@pytest.mark.parametrize(
    ("system", "encoding", "words"),
    [
        ("linux", "utf-8", "[Install]"),
        ("macos", "utf-8", "<key>ProgramArguments</key>"),
        ("windows", "utf-16", "<LogonTrigger>"),
    ],
)
def test_the_file_of_any_system_can_be_printed_anywhere(
    home: Path, system: str, encoding: str, words: str
) -> None:
    result = run("--print", "--system", system)
    assert result.exit_code == 0
    assert words in result.stdout_bytes.decode(encoding)
    assert not (home / "config").exists()


def test_the_file_of_another_system_is_not_installed(home: Path) -> None:
    other = "windows" if sys.platform != "win32" else "linux"
    result = run("--system", other)
    assert result.exit_code == 2
    assert "can only be printed here" in result.stderr
