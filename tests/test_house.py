"""The house keeps its own rules: short files and functions, unlike names, imports where a reader looks."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for room in ("fedloge", "clients", "server", "experiments", "tests")
    for path in (ROOT / room).rglob("*.py")
)
PACKAGE = [path for path in FILES if path.is_relative_to(ROOT / "fedloge")]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_there_is_something_to_check() -> None:
    assert len(PACKAGE) > 100


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    length = path.read_bytes().count(b"\n")
    assert length <= 400
    long = {f.name: n for f in functions(path) if (n := f.end_lineno - f.lineno + 1) > 60}
    assert not long


def test_no_two_files_of_the_package_share_a_name() -> None:
    names = Counter(path.name for path in PACKAGE if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_import_in_a_function_says_why(path: Path) -> None:
    """A comment beside it or in the lines before, or one for all at the top of the file."""
    lines = path.read_text("utf-8").splitlines()
    top = next((n for n, line in enumerate(lines) if line.startswith(("def ", "class ", "@"))), 0)
    for_all = any("import" in line and line.startswith(("# ", '"""')) for line in lines[:top])
    for function in functions(path):
        for node in ast.walk(function):
            if isinstance(node, ast.Import | ast.ImportFrom) and not for_all:
                around = lines[function.lineno - 1 : node.lineno]
                assert any("#" in line for line in around), f"line {node.lineno}"
