"""The `bitsferry` command, whose parts are loaded only when they are used."""

from __future__ import annotations

import importlib

import click

from bitsferry import __version__

__all__ = ["main"]

_COMMANDS = {
    "serve": "receive uploads into a folder, or as a settings file says",
    "send": "send a file to a BITS server",
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


@click.command(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="bitsferry")
def main() -> None:
    """Receive what Windows machines send with BITS, and send where only Windows could."""
