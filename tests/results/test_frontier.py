"""Which pairs of models no other beats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from frontier import Pair, draw, pairs_of, table, unbeaten
from matplotlib.figure import Figure

from fedloge.results.grouping import group_runs
from fedloge.results.run import open_run


def test_a_pair_is_beaten_by_one_that_is_nowhere_worse() -> None:
    good = Pair("a", "x and y", (50.0, 30.0, 80.0, 70.0))
    beaten = Pair("b", "x and y", (50.0, 30.0, 80.0, 69.0))
    other = Pair("c", "x and y", (40.0, 45.0, 75.0, 60.0))
    same = Pair("d", "x and y", good.figures)
    assert unbeaten([beaten, other, good, same]) == [good, same, other]
    assert table([other]).splitlines()[-1] == "| c | x and y | 40.0 | 45.0 | 75.0 | 60.0 |"
    panel = Figure().subplots()
    draw(panel, "set", [beaten, other, good, same], [good, same, other])
    assert [text.get_text() for text in panel.texts] == ["1, 2", "3"]


def test_every_global_model_goes_with_every_personal_one(make_run: Callable[..., Path]) -> None:
    runs = [open_run(make_run(f"f{seed}", method="fedloge", seed=seed)) for seed in range(3)]
    (row,) = group_runs(runs)[0].rows
    found = {pair.models: pair.figures for pair in pairs_of(row)}
    last = [run.evaluated[-1] for run in runs]
    of = found["realigned and raw"]
    assert of[0] == pytest.approx(sum(100 * line["global/realigned/all"] for line in last) / 3)
    assert of[2] == pytest.approx(sum(100 * line["personal/raw/mean"] for line in last) / 3)
    assert {name.split(" and ")[0] for name in found} >= {"raw", "realigned"}
