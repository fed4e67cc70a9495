"""What the pages name as proof exists: every test that a document points to."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")]
    if re.search(r"tests/[\w/]+\.py", path.read_text(encoding="utf-8"))
]


def names_in(path: Path) -> set[str]:
    """Names of the tests of a module, as pytest writes them after the first `::`."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            own = (part.name for part in node.body if isinstance(part, ast.FunctionDef))
            found |= {f"{node.name}::{name}" for name in own if name.startswith("test_")}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"(tests/[\w/]+\.py)(?:::([\w:]+))?", page.read_text(encoding="utf-8"))
    for file, test in named:
        assert (ROOT / file).is_file(), file
        if test:
            assert test in names_in(ROOT / file), f"{file}::{test}"


def test_the_security_review_has_a_proof_in_every_row() -> None:
    text = (ROOT / "docs" / "security-review.md").read_text(encoding="utf-8")
    (trust, *threats) = re.findall(r"^\|---.*\|\n((?:\|.*\|\n)+)", text, re.M)
    assert trust and len(threats) == text.count("**What does not hold.**")
    rows = [row for table in threats for row in table.splitlines()]
    assert len(rows) > 25
    assert [row for row in rows if "::test_" not in row and "::Test" not in row] == []
