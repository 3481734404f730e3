"""Service files by which systemd, launchd or Task Scheduler run a command for one user."""

from __future__ import annotations

import plistlib
import re
import subprocess
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

__all__ = ["launch_agent", "scheduled_task", "systemd_unit"]

DESCRIPTION = "Bitsferry's background transfers"
TRY_AGAIN = 30  # seconds between a failure and the next start

_UNIT = """\
[Unit]
Description={description}
StartLimitIntervalSec=0

[Service]
ExecStart=:{command}
{environment}Restart=on-failure
RestartSec={try_again}
TimeoutStopSec=30
# It reads and writes any file that its user may. The programs that tell of finished jobs run in here, too.
NoNewPrivileges=yes
LockPersonality=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native

[Install]
WantedBy=default.target
"""

_TASKS = "http://schemas.microsoft.com/windows/2004/02/mit/task"


def systemd_unit(command: Sequence[str], environment: Mapping[str, str]) -> bytes:
    """A unit of a user's own systemd. The colon before the command keeps `$` what it is (systemd 244).

    systemd starts no program with a quote or a backslash in its path; a shell does.
    """
    if set(command[0]) & set("'\"\\"):
        command = ["/bin/sh", "-c", 'exec "$0" "$@"', *command]
    return _UNIT.format(
        description=DESCRIPTION,
        command=" ".join(_quoted(word) for word in command),
        environment="".join(
            f"Environment={_quoted(f'{name}={value}')}\n" for name, value in environment.items()
        ),
        try_again=TRY_AGAIN,
    ).encode()


def _quoted(word: str) -> str:
    """As systemd reads a word: C's escapes between quotes, and `%` said twice (systemd.syntax, .unit)."""
    if re.fullmatch(r"[A-Za-z0-9_./=+-]+", word):
        return word
    escaped = "".join(_escaped(letter) for letter in word)
    return f'"{escaped}"'


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    if letter == "%":
        return "%%"
    if not letter.isprintable():
        return "".join(f"\\x{byte:02x}" for byte in letter.encode())
    return letter


def launch_agent(label: str, command: Sequence[str], environment: Mapping[str, str], log: str) -> bytes:
    """A property list for a LaunchAgents folder of macOS; what the command says goes to the file `log`.

    Raises ValueError when there are control characters in a path.
    """
    return plistlib.dumps(
        {
            "Label": label,
            "ProgramArguments": list(command),
            "EnvironmentVariables": dict(environment),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": TRY_AGAIN,
            "StandardOutPath": log,
            "StandardErrorPath": log,
        },
        sort_keys=False,
    )


def scheduled_task(command: Sequence[str], user: str) -> bytes:
    """A task for `schtasks /create /xml`, in UTF-16 as it wants it; `user` is `DOMAIN\\NAME`.

    Raises ValueError for a path that Task Scheduler would read in its own way: nothing keeps it from
    replacing the names of variables between percent signs.
    """
    program, arguments = command[0], subprocess.list2cmdline(command[1:])
    if re.search("%[^%]+%", f"{program} {arguments}"):
        raise ValueError(f"Task Scheduler would take what stands between '%' in {program} for a variable")
    task = ElementTree.Element("Task", {"version": "1.2", "xmlns": _TASKS})
    _add(task, "RegistrationInfo", Description=DESCRIPTION)
    _add(_add(task, "Triggers"), "LogonTrigger", Enabled="true", UserId=user)
    principal = _add(
        _add(task, "Principals"),
        "Principal",
        UserId=user,
        LogonType="InteractiveToken",
        RunLevel="LeastPrivilege",
    )
    settings = _add(
        task,
        "Settings",
        MultipleInstancesPolicy="IgnoreNew",
        DisallowStartIfOnBatteries="false",
        StopIfGoingOnBatteries="false",
        StartWhenAvailable="true",
        ExecutionTimeLimit="PT0S",
    )
    _add(settings, "RestartOnFailure", Interval="PT1M", Count="999")
    actions = _add(task, "Actions")
    _add(actions, "Exec", Command=program, Arguments=arguments)
    principal.set("id", "Author")
    actions.set("Context", "Author")
    ElementTree.indent(task)
    return bytes(ElementTree.tostring(task, encoding="utf-16", xml_declaration=True))


def _add(parent: ElementTree.Element, name: str, **texts: str) -> ElementTree.Element:
    """An element inside `parent`, with others inside it that hold a text each."""
    element = ElementTree.SubElement(parent, name)
    for inside, text in texts.items():
        if not text.isprintable():
            raise ValueError(f"there are control characters in {text!r}")
        ElementTree.SubElement(element, inside).text = text
    return element
