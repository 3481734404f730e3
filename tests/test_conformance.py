"""The page on conformance stays true: what it names exists, and what is named after a sign is on it."""

from __future__ import annotations

import ast
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reference" / "conformance.md"

REFERENCE = re.compile(r"`tests/([^`\s]+\.py)::(test_\w+)`")
REASON = re.compile(r"(?:Not yet|In part|By choice|Does not apply): \S.*[.]")
NOTHING_TO_DECIDE = "–"
REQUIREMENT = ["sign", "requirement", "level", "who", "held by"]
DECISION = ["sign", "decided", "server", "client"]
LATE_PACKET = ["sign", "what comes, and what happens", "server", "client"]


@dataclass(frozen=True)
class Row:
    """One line of a table: `cells` by the names of its columns."""

    line: int
    cells: dict[str, str]

    @property
    def sign(self) -> str:
        return self.cells["sign"]

    @property
    def holding(self) -> list[str]:
        """The cells that say what holds it."""
        return [self.cells[name] for name in ("held by", "server", "client") if name in self.cells]


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def rows_of(page: str) -> list[Row]:
    """Every row of every table; a table begins with the names of its columns and a line of dashes."""
    rows, columns = [], list[str]()
    lines = page.splitlines()
    for number, line in enumerate(lines, 1):
        if not line.startswith("|"):
            columns = []
        elif not columns:
            columns = cells_of(line)
            assert columns in (REQUIREMENT, DECISION, LATE_PACKET), f"line {number}: an unknown table"
            assert cells_of(lines[number]) == ["---"] * len(columns), f"line {number}: no line of dashes"
        elif set(line) != {"|", "-"}:
            cells = cells_of(line)
            assert len(cells) == len(columns), f"line {number}: {len(cells)} cells"
            rows.append(Row(number, dict(zip(columns, cells, strict=True))))
    return rows


TEXT = PAGE.read_text(encoding="utf-8")
ROWS = rows_of(TEXT)


@cache
def functions_of(file: str) -> frozenset[str]:
    """The names of a file's test functions, those in classes apart: no test of them is on the page."""
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


def test_the_page_has_its_tables() -> None:
    kinds = Counter(tuple(row.cells) for row in ROWS)
    assert set(kinds) == {tuple(REQUIREMENT), tuple(DECISION), tuple(LATE_PACKET)}


def test_every_test_on_the_page_exists() -> None:
    named = sorted(set(REFERENCE.findall(TEXT)))
    assert named
    missing = [
        f"tests/{file}::{name}"
        for file, name in named
        if not Path(file).name.startswith("test_")
        or not (TESTS / file).is_file()
        or name not in functions_of(file)
    ]
    assert missing == []


def test_no_name_of_a_test_is_misspelt_so_that_it_is_none() -> None:
    around = REFERENCE.sub("", TEXT).replace("`tests/test_conformance.py`", "").replace("`test_c5_…`", "")
    assert re.findall(r"\S*(?:test_|\.py|::)\S*", around) == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.sign)
def test_every_row_has_a_test_or_a_reason(row: Row) -> None:
    assert set(row.holding) != {NOTHING_TO_DECIDE}, f"line {row.line}: nobody holds it"
    for cell in row.holding:
        if cell == NOTHING_TO_DECIDE and "held by" not in row.cells:
            continue
        assert cell, f"line {row.line}: neither a test nor a reason"
        for part in cell.split("<br>"):
            assert REFERENCE.fullmatch(part) or REASON.fullmatch(part), f"line {row.line}: {part!r}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.sign)
def test_every_row_says_what_who_and_how_strictly(row: Row) -> None:
    said = next(value for name, value in row.cells.items() if name not in ("sign", "server", "client"))
    assert said.endswith("."), f"line {row.line}: no sentence"
    if "level" in row.cells:
        assert row.cells["level"] in ("MUST", "SHOULD")
        assert row.cells["who"] in ("server", "client")
        assert re.fullmatch(r"\d(?:\.\d+)*-[a-z]", row.sign), f"line {row.line}: {row.sign}"


def test_every_sign_is_there_once() -> None:
    signs = Counter(sign for row in ROWS for sign in row.sign.split(", "))
    assert [sign for sign, count in signs.items() if count > 1] == []


def test_every_test_named_after_a_sign_is_on_the_page() -> None:
    named = set(REFERENCE.findall(TEXT))
    files = [str(path.relative_to(TESTS)) for path in TESTS.rglob("test_*.py")]
    after_a_sign = {
        (file, name) for file in files for name in functions_of(file) if re.match(r"test_c\d+_", name)
    }
    assert after_a_sign
    assert sorted(after_a_sign - named) == [], f"name them in {PAGE.relative_to(TESTS.parent)}"


def test_the_page_stands_alone() -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", TEXT)
    assert links
    for link in links:
        assert (PAGE.parent / link.partition("#")[0]).is_file(), link
    assert not re.search(r"PROTOCOL\.md|HOUSE\.md|/work/|/shared/", TEXT)
