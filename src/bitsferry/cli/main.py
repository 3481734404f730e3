"""The `bitsferry` command, whose parts are loaded only when they are used."""

from __future__ import annotations

import importlib

import click

from bitsferry import __version__

__all__ = ["main"]

_COMMANDS = {
    "serve": "Receive uploads into a folder, or as a settings file says.",
    "send": "Send a file to a BITS server.",
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
