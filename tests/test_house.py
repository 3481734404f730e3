"""The promises of the house: arrows point down, no circles, every file says what it is."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import bitsferry

HOUSE = Path(bitsferry.__file__).parent
NAME = bitsferry.__name__

# Each floor with those it may lean on: what is below it, never what is above or beside it.
BELOW = {
    "protocol": set[str](),
    "access": {"protocol"},
    "store": {"protocol"},
    "client": {"protocol"},
    "server": {"protocol", "access", "store"},
    "web": {"protocol", "access", "store", "client", "server"},
    "cli": {"protocol", "access", "store", "client", "server", "web"},
}

# What touches the world. The protocol is told what it needs to know.
WORLDLY = {
    *("asyncio", "concurrent", "contextvars", "multiprocessing", "queue", "sched", "signal", "subprocess"),
    *("threading", "http", "select", "selectors", "socket", "socketserver", "ssl"),
    *("builtins", "fileinput", "glob", "io", "mmap", "os", "pathlib", "shutil", "sqlite3", "sys", "tempfile"),
    *("datetime", "random", "secrets", "time", "uuid", "importlib", "logging", "platform", "warnings"),
}  # fmt: skip

FILES = sorted(HOUSE.rglob("*.py"))
NOT_ONE_THING = {"util", "utils", "helper", "helpers", "manager", "managers", "misc", "common"}


def called(path: Path) -> str:
    """The module's dotted name."""
    parts = path.relative_to(HOUSE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def shown(path: Path) -> str:
    return str(path.relative_to(HOUSE))


def floor(module: str) -> str:
    """The floor a module lives on; the doorstep, `bitsferry` and `bitsferry.__main__`, is none."""
    _, _, inside = module.partition(".")
    return inside.partition(".")[0]


MODULES = {called(path): path for path in FILES}
in_every_file = pytest.mark.parametrize("path", FILES, ids=shown)


@cache
def read(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    """The dotted names of all a file imports, at its top, in a function or for its types only."""
    package = called(path) if path.name == "__init__.py" else called(path).rpartition(".")[0]
    for node in ast.walk(read(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            near = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*near, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{origin}.{alias.name}"
                yield whole if whole in MODULES else origin


def own_imports(path: Path) -> set[str]:
    return {name for name in imports(path) if name.partition(".")[0] == NAME}


def test_the_house_has_the_floors_of_the_picture_and_no_others() -> None:
    floors = {path.name for path in HOUSE.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert floors <= set(BELOW)
    assert "protocol" in floors


@in_every_file
def test_what_is_imported_is_there(path: Path) -> None:
    assert own_imports(path) <= set(MODULES)


@in_every_file
def test_imports_point_down_only(path: Path) -> None:
    here = floor(called(path))
    for name in own_imports(path):
        if here in BELOW and name != NAME:
            assert floor(name) in BELOW[here] | {here}, f"{called(path)} leans on {name}"


def test_only_the_front_door_stands_outside_the_floors() -> None:
    outside = {name for name in MODULES if floor(name) not in BELOW}
    assert outside <= {NAME, f"{NAME}.__main__"}
    assert own_imports(MODULES[NAME]) == set()
    assert all(floor(name) == "cli" for name in own_imports(MODULES[f"{NAME}.__main__"]))


@in_every_file
def test_the_front_door_is_for_guests(path: Path) -> None:
    """What it gives is loaded when it is used, and no arrow would show that: inside, only the version is."""
    for node in ast.walk(read(path)):
        if isinstance(node, ast.Import):
            assert NAME not in {alias.name for alias in node.names if alias.asname is None}, shown(path)
        elif isinstance(node, ast.ImportFrom) and node.module == NAME:
            names = {alias.name for alias in node.names if f"{NAME}.{alias.name}" not in MODULES}
            assert names <= {"__version__"}, shown(path)


def test_a_server_brings_nothing_of_the_client_along() -> None:
    servers = ("server.running", "server.asgi", "cli.serve")
    code = f"import {', '.join(f'{NAME}.{name}' for name in servers)}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"{NAME}.server" in done.stdout.split()
    assert f"{NAME}.client" not in done.stdout.split()


def test_server_and_client_never_meet_not_even_through_others() -> None:
    for here, there in (("server", "client"), ("client", "server"), ("store", "client"), ("store", "server")):
        for name in (name for name in MODULES if floor(name) == here):
            assert there not in {floor(met) for met in reached(name)}


def reached(name: str) -> set[str]:
    """All modules of ours that importing `name` brings along."""
    met: set[str] = set()
    ahead = {name}
    while ahead:
        ahead = {further for one in ahead for further in own_imports(MODULES[one])} - met
        met |= ahead
    return met


def test_no_imports_go_in_a_circle_not_even_for_types() -> None:
    graph = {name: own_imports(path) - {name} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(f"these import each other: {' -> '.join(circle.args[1])}")


@in_every_file
def test_the_protocol_needs_python_only_and_touches_no_world(path: Path) -> None:
    if floor(called(path)) != "protocol":
        return
    for name in imports(path):
        root = name.partition(".")[0]
        assert root == NAME or root in sys.stdlib_module_names, f"{root} is not of Python itself"
        assert root not in WORLDLY, f"{root} touches the world"
    names = {node.id for node in ast.walk(read(path)) if isinstance(node, ast.Name)}
    assert not names & {"open", "print", "input", "exec", "eval", "__import__"}


@in_every_file
def test_every_file_begins_with_one_sentence_that_says_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(read(path))
    assert docstring, "the first statement is no docstring"
    first = docstring.splitlines()[0]
    assert first.endswith("."), first
    assert not re.search(r"[.!?] +[A-Z]", first), f"more than one sentence: {first}"
    assert len(docstring.splitlines()) == 1 or docstring.splitlines()[1] == "", "the sentence has one line"


@in_every_file
def test_every_file_has_a_name_that_says_what_it_is(path: Path) -> None:
    for part in path.relative_to(HOUSE).with_suffix("").parts:
        assert not NOT_ONE_THING & set(part.lower().strip("_").split("_"))
