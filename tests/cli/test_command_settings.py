"""The settings of a directory whose uploads a command answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitsferry.cli.settings import SettingsError, read_settings
from bitsferry.server.backend import Timing
from bitsferry.server.command_backend import CommandBackend
from bitsferry.server.directory import Directory
from server.conftest import settings


def read(tmp_path: Path, directory: str) -> Directory:
    path = tmp_path / "bitsferry.toml"
    path.write_text(settings(directory=directory), encoding="utf-8")
    return read_settings(str(path)).directories[0]


def test_a_command_needs_nothing_else(tmp_path: Path) -> None:
    directory = read(tmp_path, """notification_command = ["/usr/bin/sha256sum", "{request}"]""")
    assert directory.backend == CommandBackend(("/usr/bin/sha256sum", "{request}"))
    assert directory.timing == Timing()


def test_everything_else_can_be_said(tmp_path: Path) -> None:
    directory = read(
        tmp_path,
        """
        notification_command = ["check"]
        notification_command_timeout = "5 minutes"
        notification_command_copy = false
        notification_command_refusals = [65, 77]
        notification_patience = "1 hour"
        max_reply_size = "1 MB"
        """,
    )
    assert directory.backend == CommandBackend(
        ("check",), keep=False, time_limit=300, refusals=frozenset({65, 77}), largest_reply=1_000_000
    )
    assert directory.timing == Timing(patience=3600)


def test_the_path_of_the_program_may_be_relative_to_the_file(tmp_path: Path) -> None:
    directory = read(tmp_path, """notification_command = ["./hooks/check", "./x"]""")
    assert isinstance(directory.backend, CommandBackend)
    assert directory.backend.arguments == (f"{tmp_path}/./hooks/check", "./x")


COMMAND = 'notification_command = ["true"]\n'


@pytest.mark.parametrize(
    ("directory", "sentence"),
    [
        ('notification_command = "true"', "write a program with its arguments"),
        ("notification_command = []", "write a program with its arguments"),
        ("notification_command = [1]", "1 is no text"),
        ('notification_command = [""]', "name the program"),
        ('notification_command = ["{request}"]', "must not depend on the upload"),
        ('notification_command = ["true", "{reqest}"]', "did you mean {request}?"),
        ('notification_command = ["sh", "-c", "echo {name}"]', "BITSFERRY_NAME"),
        ("notification_command_copy = true", "there is no notification_command;"),
        ('notification_command_timeout = "1 hour"', "there is no notification_command;"),
        ("notification_command_refusals = [77]", "there is no notification_command;"),
        (COMMAND + "notification_command_refusals = 77", "write a list of exit statuses"),
        (COMMAND + "notification_command_refusals = [0]", "0 is no whole number from 1 to 255"),
        (COMMAND + "notification_command_copy = 1", "neither true nor false"),
        (COMMAND + 'notification_command_timeout = "0 s"', "a time of 0 makes no sense"),
        (COMMAND + 'notification_type = "value"', "reached by HTTP"),
        (COMMAND + 'notification_url = "http://host/"', "reached by HTTP"),
    ],
)
def test_what_cannot_be_meant_is_an_error_at_its_line(tmp_path: Path, directory: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=r"line \d+: notification_") as caught:
        read(tmp_path, directory)
    assert sentence in str(caught.value)
