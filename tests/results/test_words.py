"""The examples in docstrings of modules that are all words and small rules."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest

from fedloge.results import grouping, number_words, paired_tests, settings
from fedloge.results.report import axis_ranges, printable_text


@pytest.mark.parametrize(
    "module", [number_words, settings, grouping, paired_tests, axis_ranges, printable_text]
)
def test_examples_hold(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0 and found.failed == 0
