"""The pages say what is so: settings with their defaults, options, examples."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from operator import attrgetter
from pathlib import Path

import click
import pytest

from bitsferry.cli.applications import is_about_applications
from bitsferry.cli.guards import GUARD_KEYS
from bitsferry.cli.main import main
from bitsferry.cli.settings import KEYS, Settings, SettingsError, read_settings
from server.authority import Authority

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SETTINGS = DOCS / "reference" / "settings.md"
COMMANDS = DOCS / "reference" / "command-line.md"
SERVICE = DOCS / "how-to" / "run-as-a-service.md"
EXAMPLE = DOCS / "examples" / "bitsferry.toml"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])

HEADINGS = {
    "## At the top": "",
    "## In each `[[directory]]`": "directory",
    "## In `[tls]`": "tls",
    "## In `[limits]`": "limits",
}
LEFT_OUT = {"no limit", "none", "by itself"}
NECESSARY = '[[directory]]\nurl = "/in/"\nfolder = "in"\n'
TABLES = {"limits": "[limits]\n", "tls": '[tls]\ncertificate = "other.pem"\n'}
TOLD = 'notification_type = "value"\nnotification_url = "https://host/"\n'

# Settings that have another name where they arrive.
FIELDS = {
    "notification_url": "backend",
    "notification_command": "backend",
    "notification_user": "backend.authorization",
    "notification_password_file": "backend.authorization",
    "notification_token_file": "backend.authorization",
    "notification_ca": "backend.trust.ca",
    "notification_certificate": "backend.trust.certificate",
    "notification_key": "backend.trust.key",
    "reply_url_base": "reply_base",
    "webhook_url": "webhook",
    "webhook_secret_file": "webhook",
}
ALONE = {"notification_type", "notification_url", "notification_command"}

# What a setting needs beside it.
BESIDE = {
    **dict.fromkeys(
        (f"notification_command_{each}" for each in ("timeout", "copy", "refusals")),
        'notification_command = ["true"]\n',
    ),
    "create_hook_timeout": 'create_hook = "https://host/"\n',
    "webhook_events": 'webhook_url = "https://host/"\nwebhook_secret_file = "webhook-secret"\n',
    "realm": 'auth = ["bearer"]\ntokens = "tokens"\n',
    "api_key_header": 'auth = ["bearer"]\ntokens = "tokens"\n',
    "jwt_user_claim": 'auth = ["bearer"]\njwks = "https://host/"\njwt_issuer = "i"\njwt_audience = "a"\n',
    "certificate_user": 'auth = ["certificate"]\n',
    "one_client_per_connection": 'auth = ["certificate"]\n',
}
SECRET = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Every line of the page's tables: which table of the file, the setting, its default, its meaning."""
    table = None
    for line in SETTINGS.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            table = HEADINGS[line]
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("| `") else []
        if cells:
            assert table is not None
            setting, default, meaning, _ = cells
            yield table, setting.strip("`"), default, meaning


ROWS = list(rows())

# The files that settings in the pages name, which have to be there, with something right in them.
FILES = {
    "webhook-secret": SECRET,
    "nt-hashes": "alice:8846f7eaee8fb117ad06bdd830b7586c\n",
    # A key of 32 times "k" for HTTP/h@R, as MIT keeps it.
    "http.keytab": "\x05\x02\0\0\0;\0\x02\0\x01R\0\x04HTTP\0\x01h\0\0\0\x01\0\0\0\0\x01\0\x12\0 " + "k" * 32,
    "users": "alice:$2y$05$abcdefghijklmnopqrstuuT7q2zqZ1mnpXRVyGkWvCwvPAhFBOFRe\n",
    "groups": "collectors: alice bob\n",
    "users.digest": "alice:bitsferry:5ebe2294ecd0e0f08eab7690d2a6ee69\n",
    "tokens": "host1:sha256:b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c\n",
}


def furnish(folder: Path) -> None:
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    if not (folder / "server.pem").exists():
        authority = Authority(folder, "clients")
        authority.issue("server.pem", "localhost", key="server.key")
        authority.issue("other.pem", "localhost")
        authority.revoke()


def read(tmp_path: Path, table: str, line: str) -> Settings:
    """The settings of a file with nothing but what is necessary, and these lines in a table."""
    header = TABLES.get(table, "")
    text = f"{line}\n{NECESSARY}" if table == "" else f"{NECESSARY}{header}{line}\n"
    path = tmp_path / "bitsferry.toml"
    path.write_text(text, encoding="utf-8")
    return read_settings(str(path))


def test_the_page_lists_every_setting_there_is_and_no_other() -> None:
    there = {(table, key) for table, keys in KEYS.items() for key in keys} - {
        ("", "directory"),
        ("", "limits"),
        ("", "tls"),
    }
    listed = [(table, key) for table, key, _, _ in ROWS]
    assert set(listed) == there
    assert len(listed) == len(there)


@pytest.mark.parametrize(
    ("table", "key", "default", "meaning"), ROWS, ids=[f"{row[0]}.{row[1]}" for row in ROWS]
)
def test_the_page_tells_the_default(tmp_path: Path, table: str, key: str, default: str, meaning: str) -> None:
    assert meaning.endswith(".")
    context = BESIDE.get(key, TOLD if is_about_applications(key) and key not in ALONE else "")
    furnish(tmp_path)
    plain = read(tmp_path, table, context)
    if default.startswith("`"):
        assert made_of(read(tmp_path, table, f"{context}{key} = {default.strip('`')}")) == made_of(plain)
    elif default == "required":
        assert f"{key} = " in NECESSARY + TABLES.get(table, "")
    elif default == "not yet":
        with pytest.raises(SettingsError, match="this version of bitsferry does not have"):
            read(tmp_path, table, f'{key} = "x"')
    else:
        assert default in LEFT_OUT
        where = {"directory": plain.directories[0], "tls": plain.tls}.get(table, plain)
        if key == "key":
            assert plain.tls is not None
            assert [beside for _, beside in plain.tls.certificates] == [None]
        else:
            assert attrgetter("guard" if key in GUARD_KEYS else FIELDS.get(key, key))(where) is None


def made_of(value: object) -> object:
    """What can be compared of a value; the parts of a guard are each only equal to themselves."""
    if isinstance(value, list | tuple):
        return [made_of(each) for each in value]
    if is_dataclass(value):
        return type(value), {each.name: made_of(getattr(value, each.name)) for each in fields(value)}
    if type(value).__module__.startswith("bitsferry.access."):
        lasting = {name: each for name, each in vars(value).items() if not isinstance(each, float | bytes)}
        return type(value), {name: made_of(each) for name, each in lasting.items()}
    return value if type(value).__eq__ is not object.__eq__ else type(value)


def test_the_example_is_right() -> None:
    settings = read_settings(str(EXAMPLE))
    assert [directory.url for directory in settings.directories] == ["/backup/", "/evidence/"]
    assert Path(settings.directories[0].folder) == EXAMPLE.parent / "backup"


def blocks(kind: str) -> list[tuple[Path, str]]:
    """Every block of code of a kind, in all pages."""
    return [
        (page, block)
        for page in PAGES
        for block in re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    ]


@pytest.mark.parametrize(("page", "block"), blocks("toml"))
def test_settings_in_the_pages_are_right(tmp_path: Path, page: Path, block: str) -> None:
    path = tmp_path / "bitsferry.toml"
    path.write_text(block, encoding="utf-8")
    furnish(tmp_path)
    if "keytab" in block:
        pytest.importorskip("gssapi", reason="there is no GSSAPI here (pip install 'bitsferry[kerberos]')")
    read_settings(str(path))


@pytest.mark.parametrize("name", ["serve", "send"])
def test_the_page_lists_every_option_there_is_and_no_other(name: str) -> None:
    assert isinstance(main, click.Group)
    command = main.get_command(click.Context(main), name)
    assert command is not None
    options = [each for each in command.params if isinstance(each, click.Option)]
    there = {option for each in options for option in (*each.opts, *each.secondary_opts)}
    section = COMMANDS.read_text(encoding="utf-8").split(f"## `bitsferry {name}`\n")[1].split("\n## ")[0]
    listed = {
        option
        for line in section.splitlines()
        if line.startswith("| `--")
        for option in re.findall(r"--[a-z-]+", line.split("|")[1])
    }
    assert listed == there


def leaves(command: click.Command, *names: str) -> Iterator[tuple[str, click.Command]]:
    """Every command of a group, those inside its groups too, by its words."""
    if isinstance(command, click.Group):
        for name, inside in command.commands.items():
            yield from leaves(inside, *names, name)
    else:
        yield " ".join(names), command


def test_the_page_lists_every_option_of_the_commands_of_jobs_and_no_other() -> None:
    assert isinstance(main, click.Group)
    jobs = main.get_command(click.Context(main), "jobs")
    assert jobs is not None
    section = COMMANDS.read_text(encoding="utf-8").split("## `bitsferry jobs`\n")[1].split("\n## ")[0]
    commands, who, like = section.split("\n### ")[:3]

    def options(text: str) -> set[str]:
        return set(re.findall(r"--[a-z-]+", text))

    def listed(table: str) -> set[str]:
        return {
            each
            for row in table.splitlines()
            if row.startswith("| `--")
            for each in options(row.split("|")[1])
        }

    rows = {
        re.sub(r" *\[?[A-Z].*", "", cells[1].strip(" `")): cells[3]
        for cells in (row.split("|") for row in commands.splitlines() if row.startswith("| `"))
    }
    there = dict(leaves(jobs))
    assert set(rows) == set(there)
    for name, command in there.items():
        said = options(rows[name])
        said |= listed(who) if "#who-asks" in rows[name] else set()
        said |= listed(like) if "#what-a-job-is-like" in rows[name] else set()
        known = (each for each in command.params if isinstance(each, click.Option))
        assert said == {option for each in known for option in (*each.opts, *each.secondary_opts)}, name


def test_the_page_lists_every_option_of_the_commands_of_users_and_no_other() -> None:
    assert isinstance(main, click.Group)
    users = main.get_command(click.Context(main), "users")
    assert users is not None
    section = COMMANDS.read_text(encoding="utf-8").split("## `bitsferry users`\n")[1].split("\n## ")[0]
    rows = (row.strip("|").split("|") for row in section.splitlines() if row.startswith("| `"))
    listed = {
        form.strip(" `").partition(" ")[0]: set(re.findall(r"--[a-z-]+", options))
        for form, _, options in rows
    }
    assert listed == {
        name: {option for each in command.params if isinstance(each, click.Option) for option in each.opts}
        for name, command in leaves(users)
    }


def test_the_tour_names_every_file_and_no_other() -> None:
    floor, named = "", set()
    for line in (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines():
        if row := re.match(r"\| (\w*) ?\| (`[^|]+) \|", line):
            floor = row[1] or floor
            named |= {f"{floor}/{name}" for name in re.findall(r"`([\w*]+)`", row[2])}
    house = ROOT / "src" / "bitsferry"
    files = {
        f"{path.parent.name}/{path.stem}"
        for path in house.glob("*/*.py")
        if path.stem not in ("__init__", "demo")
    }
    for name in named:
        assert fnmatch.filter(files, name), f"{name} is not there"
    assert {file for file in files if not any(fnmatch.fnmatch(file, name) for name in named)} == set()


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    socket, service = (block for page, block in blocks("ini") if page == SERVICE)
    program = tmp_path / "bitsferry"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "bitsferry.socket").write_text(socket)
    (tmp_path / "bitsferry.service").write_text(
        service.replace("/opt/bitsferry/bin/bitsferry", str(program)).replace("=bitsferry\n", "=root\n")
    )
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "bitsferry.service", "bitsferry.socket"],
        cwd=tmp_path,
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "bitsferry" in line or str(tmp_path) in line]
    assert ours == []
