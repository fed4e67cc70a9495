from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from time_to_accuracy import Curve, curve_of, draw, table


def curve(kind: str, *values: float) -> Curve:
    return Curve(kind, tuple(10.0 * (n + 1) for n in range(len(values))), values)


def test_the_first_moment_counts_and_one_run_that_never_gets_there_empties_the_cell() -> None:
    curves = [curve("a", 0.2, 0.5, 0.4), curve("a", 0.1, 0.2, 0.6), curve("b", 0.1, 0.1, 0.3)]
    assert table(curves, [0.2, 0.5]).splitlines() == [
        "| | 20% | 50% | at the end |",
        "|---|---:|---:|---:|",
        "| a | 15 s | 25 s | 50.0% after 30 s |",
        "| b | 30 s | – | 30.0% after 30 s |",
    ]


def test_a_run_is_read_and_drawn(tmp_path: Path) -> None:
    run = tmp_path / "sync-3"
    run.mkdir()
    rows = [
        {"round": 1, "clock/seconds": 2.5},
        {"round": 2, "clock/seconds": 5.0, "global/raw/all": 0.25, "interval/x": [0.1, 0.2]},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert curve_of(run, "global/raw/all") == Curve("sync", (5.0,), (0.25,))
    with pytest.raises(typer.BadParameter, match="set speed-spread"):
        curve_of(run, "global/fixed/all")
    draw([curve_of(run, "global/raw/all")], tmp_path / "curves.svg")
    assert "<!-- sync -->" in (tmp_path / "curves.svg").read_text()
