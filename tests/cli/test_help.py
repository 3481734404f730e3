"""What the command says about itself, and how much of itself it brings along for that."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from bitsferry import __version__
from bitsferry.cli.main import main


@pytest.mark.parametrize("command", [(), ("serve",), ("send",)])
@pytest.mark.parametrize("columns", ["80", "200"])
def test_help_fits_into_80_columns(command: tuple[str, ...], columns: str) -> None:
    result = CliRunner().invoke(main, [*command, "--help"], env={"COLUMNS": columns})
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_help_names_the_commands_and_what_they_do() -> None:
    lines = [line.split(maxsplit=1) for line in CliRunner().invoke(main, ["--help"]).stdout.splitlines()]
    assert ["serve", "Receive uploads into a folder, or as a settings file says."] in lines
    assert ["send", "Send a file to a BITS server."] in lines
    assert ["bitsadmin", "Manage background jobs by the verbs of Windows' bitsadmin."] in lines


@pytest.mark.parametrize(
    "option",
    [
        *("[FOLDER]", "--config FILE", "--listen HOST:PORT", "--allow-overwrites", "--max-upload-size SIZE"),
        *("--store URL", "--workers N", "--log-format [text|json]", "--check-config"),
    ],
)
def test_help_of_serve_names_every_option(option: str) -> None:
    assert option in CliRunner().invoke(main, ["serve", "--help"]).stdout


def test_version() -> None:
    assert CliRunner().invoke(main, ["--version"]).stdout == f"bitsferry, version {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["serve"], "name a FOLDER to receive into, or a settings file with --config FILE"),
        (["serve", "in", "--config", "file"], "name a FOLDER to receive into, or a settings file"),
        (["serve", "in", "--listen", "8080"], "'8080' is no address to listen on"),
        (["serve", "in", "--listen", "[::1]:65536"], "is no address to listen on"),
        (["serve", "in", "--max-upload-size", "10 GG"], "'GG' in '10 GG' is no unit of a size"),
        (["serve", "in", "--max-upload-size", "0"], "a limit of 0 would let nothing in"),
        (["serve", "in", "--store", "s3://bucket"], 'there is no store of the kind "s3"; write file:FOLDER'),
        (["serve", "in", "--workers", "0"], "0 is not in the range 1<=x<=64"),
        (["serve", "in", "--log-format", "xml"], "'xml' is not one of 'text', 'json'"),
        (["sevre"], "No such command 'sevre'"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_would_be_right(arguments: list[str], complaint: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr.replace("\n", " ")


def brought(statements: str) -> set[str]:
    """The modules a fresh Python has after these statements."""
    code = f"{statements}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


HELP = "from bitsferry.cli.main import main\nmain({arguments}, standalone_mode=False)"
# What only the client needs, or what takes long and nobody here needs at all.
HEAVY = {"rich", "http.client", "platformdirs", "bitsferry.client", "pydoc", "unittest", "multiprocessing"}


def test_help_loads_no_command() -> None:
    met = brought(HELP.format(arguments=["--help"]))
    assert not met & {"asyncio", "ssl", "msgspec", "bitsferry.cli.serve", "bitsferry.cli.send", *HEAVY}


def test_serving_loads_nothing_of_the_client() -> None:
    met = brought("import bitsferry.cli.serve")
    assert not met & (HEAVY - {"http.client"})  # with that it speaks to applications


def test_sending_loads_nothing_of_the_server() -> None:
    met = brought("import bitsferry.cli.send")
    assert not met & {"bitsferry.server", "bitsferry.store", "asyncio", "httptools"}
