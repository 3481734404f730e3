"""`bitsferry bitsadmin`: the queue for fingers and scripts that know Windows' bitsadmin."""

from __future__ import annotations

import re
import sys
import textwrap

import click

from bitsferry.cli.bitsadmin_desk import Desk, Failed, Verb, spell_failure
from bitsferry.cli.bitsadmin_grammar import Misused, NotSupported, switch_name
from bitsferry.cli.bitsadmin_verbs import UNSUPPORTED, VERBS
from bitsferry.cli.interrupts import Terminated, exit_code_of
from bitsferry.cli.job_client import REFUSED, USAGE
from bitsferry.protocol.errors import BitsError

__all__ = ["bitsadmin"]

WIDTH = 79

_HELP = ("help", "h", "?")
_SWITCHES = ("rawreturn", "wrap", "nowrap")
_INTRODUCTION = """\
usage: bitsferry bitsadmin [/rawreturn] [/wrap|/nowrap] /verb ...

The queue by the verbs of Windows' bitsadmin. Verbs and switches may be written
in any case, and begin with / or -; in Git Bash, which takes /x for a path,
with //. A job is named by its display name or its id. Nothing moves until
a runner works: 'bitsferry jobs run', or the service. Only /transfer does
the work itself where there is none.

Exit codes: 0 done, 1 it failed, 2 wrong usage, 130 interrupted.

/rawreturn  Print the mere value, without words or a line end.
/wrap       Let long lines go on in the next one (for all but /monitor).
/nowrap     Cut them at the edge of the terminal (for /monitor).
/help       Print this.
"""


@click.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def bitsadmin(words: tuple[str, ...]) -> None:
    """Manage the queue by the verbs of Windows' bitsadmin."""
    sys.exit(_serve(list(words)))


def _serve(words: list[str]) -> int:
    """Do what these words say; the exit code says how it ended."""
    switches = set()
    while words and (switch := switch_name(words[0])) in _SWITCHES:
        switches.add(switch)
        del words[0]
    word = words.pop(0) if words else "/help"
    name = switch_name(word)
    if name in _HELP:
        print(_help())
        return 0
    if name in UNSUPPORTED:
        return _complain(f"/{name} is not supported: {UNSUPPORTED[name]}.", REFUSED)
    if name not in VERBS:
        return _complain(_advise(word), USAGE)
    wraps = "wrap" in switches or ("nowrap" not in switches and name != "monitor")
    with Desk(raw="rawreturn" in switches, wraps=wraps) as desk:
        return _do(name, VERBS[name], words, desk)


def _do(name: str, verb: Verb, words: list[str], desk: Desk) -> int:
    try:
        verb.do(desk, verb.usage.read(words))
    except Misused as error:
        return _complain(f"usage: bitsferry bitsadmin /{name} {verb.usage.text}\n{error}", USAGE)
    except NotSupported as error:
        return _complain(f"{error}.", REFUSED)
    except (BitsError, ValueError) as error:
        return _complain(spell_failure(verb.failure, error), REFUSED)
    except Failed:
        return REFUSED
    except (KeyboardInterrupt, Terminated) as end:
        return exit_code_of(end)
    return 0


def _complain(lines: str, code: int) -> int:
    print(lines, file=sys.stderr, flush=True)
    return code


def _advise(word: str) -> str:
    """What is wrong with a word that should be a verb."""
    mangled = re.search(r"[/\\](\w+)$", word)
    if mangled and mangled[1].lower() in (*VERBS, *UNSUPPORTED, *_HELP):
        return f"{word!r} is no verb: in Git Bash, which takes /x for a path, write //{mangled[1]}"
    return f"{word!r} is no verb; 'bitsferry bitsadmin /help' lists them"


def _help() -> str:
    lines = [_INTRODUCTION]
    for name, verb in VERBS.items():
        lines += textwrap.wrap(f"/{name} {verb.usage.text}", WIDTH, subsequent_indent=" " * 8)
        lines += textwrap.wrap(verb.help, WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4)
    lines += ["", "Verbs of Windows that are not supported; each says why:"]
    return "\n".join(lines + textwrap.wrap(", ".join("/" + name for name in UNSUPPORTED), WIDTH))
