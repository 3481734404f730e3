"""The settings of who hears of a directory's uploads, or is asked before them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitsferry.cli.settings import SettingsError, read_settings
from bitsferry.server.create_hook import CreateHook
from bitsferry.server.directory import Directory
from bitsferry.server.upload_events import Kind
from bitsferry.server.webhook import TOLD, Webhook
from server.conftest import settings
from server.receiver import KEY, SECRET

HEARD = 'webhook_url = "https://host/x"\nwebhook_secret_file = "secret"\n'


def read(tmp_path: Path, directory: str) -> Directory:
    path = tmp_path / "bitsferry.toml"
    path.write_text(settings(directory=directory), encoding="utf-8")
    return read_settings(str(path)).directories[0]


def test_a_webhook_hears_everything(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    assert read(tmp_path, HEARD).webhook == Webhook("https://host/x", KEY, TOLD)


def test_a_webhook_may_want_to_hear_less(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    webhook = read(tmp_path, HEARD + 'webhook_events = ["expired", "created"]').webhook
    assert webhook == Webhook("https://host/x", KEY, (Kind.CREATED, Kind.EXPIRED))


def test_the_create_hook_has_a_time_limit(tmp_path: Path) -> None:
    assert read(tmp_path, 'create_hook = "http://host/"').create_hook == CreateHook("http://host/", 10.0)
    told = 'create_hook = "http://host/"\ncreate_hook_timeout = "2 s"'
    assert read(tmp_path, told).create_hook == CreateHook("http://host/", 2.0)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ('webhook_url = "https://host/"', "webhook_url: there is no webhook_secret_file"),
        ('webhook_secret_file = "secret"', "webhook_secret_file: there is no webhook_url"),
        ('webhook_events = ["created"]', "webhook_events: there is no webhook_url"),
        ('create_hook_timeout = "1 s"', "create_hook_timeout: there is no create_hook"),
        ('create_hook = "http://host/"\ncreate_hook_timeout = "61 s"', "a minute is the most"),
        ('webhook_url = "host/"', "webhook_url: a URL begins with http"),
        ('create_hook = "http://me:pass@host/"', "create_hook: a name or a password must not stand in a URL"),
        (HEARD + "webhook_events = []", "webhook_events: write a list of some of"),
        (HEARD + 'webhook_events = ["creating"]', 'webhook_events: "creating" is none of'),
        (HEARD + 'webhook_events = "created"', "webhook_events: write a list"),
        (HEARD + "webhook_events = [[]]", "webhook_events: [] is none of"),
    ],
)
def test_what_makes_no_sense_is_told(tmp_path: Path, told: str, said: str) -> None:
    (tmp_path / "secret").write_text(SECRET)
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, told)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "hunter2-hunter2-hunter2", "whsec_hunter2", "whsec_aHVudGVyMg==", "whsec_" + "A" * 400, "ü"]
)
def test_a_secret_that_is_none_is_told_without_showing_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "secret").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, HEARD)
    assert "webhook_secret_file: " in str(caught.value)
    assert "head -c 32 /dev/urandom" in str(caught.value)
    assert not text or text not in str(caught.value)


def test_a_secret_is_not_in_what_is_printed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    assert repr(KEY) not in repr(read(tmp_path, HEARD))


def test_a_missing_secret_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"webhook_secret_file: .*secret cannot be read"):
        read(tmp_path, HEARD)
