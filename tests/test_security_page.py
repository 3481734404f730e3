"""The page on security stays true: every statement has a test that exists, or a reason why there is none."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "explanation" / "security.md"
TEXT = PAGE.read_text(encoding="utf-8")

REFERENCE = re.compile(r"`tests/([^`\s]+\.py)::(test_\w+)`")
REASON = re.compile(r"(?:In the nature of it|By choice|Not yet|Elsewhere)(?:: \S.*)?[.]")
HOLDS = ["with what", "what holds", "held by"]
DOES_NOT_HOLD = ["what", "why", "held by"]
MEASURED = ["attack"]  # and figures


def statements() -> list[tuple[int, list[str]]]:
    """The lines of all tables, by the number they have on the page; those of figures apart."""
    found, columns = [], list[str]()
    for number, line in enumerate(TEXT.splitlines(), 1):
        if not line.startswith("|"):
            columns = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not columns:
            columns = cells
            assert columns in (HOLDS, DOES_NOT_HOLD) or columns[:1] == MEASURED, f"line {number}: {columns}"
        elif set(line) != {"|", "-"} and columns[:1] != MEASURED:
            assert len(cells) == len(columns), f"line {number}: {len(cells)} cells"
            found.append((number, cells))
    return found


STATEMENTS = statements()


@cache
def functions_of(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


def test_every_test_on_the_page_exists() -> None:
    named = sorted(set(REFERENCE.findall(TEXT)))
    assert len(named) > 100
    missing = [
        f"tests/{file}::{name}"
        for file, name in named
        if not (TESTS / file).is_file() or name not in functions_of(file)
    ]
    assert missing == []


def test_no_name_of_a_test_is_misspelt_so_that_it_is_none() -> None:
    around = REFERENCE.sub("", TEXT).replace("`tests/test_security_page.py`", "")
    assert re.findall(r"\S*(?:test_|\.py\b|::)\S*", around) == []


@pytest.mark.parametrize(("line", "cells"), STATEMENTS, ids=[f"line-{line}" for line, _ in STATEMENTS])
def test_every_statement_has_its_test_or_a_reason(line: int, cells: list[str]) -> None:
    said, held = cells[1], cells[2]
    assert said.endswith("."), "no sentence"
    assert held, "neither a test nor a reason"
    for part in held.split("<br>"):
        assert REFERENCE.fullmatch(part) or REASON.fullmatch(part), part


def test_what_holds_is_held_by_tests() -> None:
    """A reason is for what does not."""
    for line, cells in STATEMENTS:
        if REASON.search(cells[2]) and not REFERENCE.search(cells[2]):
            above = "\n".join(TEXT.splitlines()[:line])
            assert above.rindex("### What does not hold") > above.rindex("\n## "), f"line {line}"
