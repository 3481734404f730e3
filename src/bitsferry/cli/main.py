"""The `bitsferry` command, whose parts are loaded only when they are used."""

from __future__ import annotations

import importlib
import io
import sys

import click

from bitsferry import __version__

__all__ = ["main"]

_COMMANDS = {
    "serve": "Receive uploads into a folder, or as a settings file says.",
    "users": "Manage who may enter: files of users for the server.",
    "send": "Send a file to a BITS server.",
    "jobs": "Send and fetch in the background, through reboots.",
    "bitsadmin": "Manage background jobs by the verbs of Windows' bitsadmin.",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"bitsferry.cli.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bitsferry")
def main() -> None:
    """Receive what Windows machines send with BITS, and send where only Windows could."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # Windows gives pipes and files few letters
            stream.reconfigure(errors="backslashreplace")
