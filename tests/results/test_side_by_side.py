from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedloge.errors import InputError
from fedloge.results.figure_rows import labels
from fedloge.results.grouping import group_runs
from fedloge.results.run import open_run
from fedloge.results.side_by_side import side_by_side

Make = Callable[..., Path]


def test_equal_but_for_the_method(make_run: Make) -> None:
    compared = side_by_side([open_run(make_run("a")), open_run(make_run("b", method="fedavg"))])
    assert compared.differing == {"method": ["fedloge", "fedavg"]}
    assert compared.sentence == "The runs differ in method (fedloge | fedavg)."
    assert compared.warnings == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rounds": 25}, "rounds (20: a, 25: b)"),
        ({"local_epochs": 2}, "local-epochs (5: a, 2: b)"),
        ({"clients_per_round": 3}, "clients-per-round (6: a, 3: b)"),
        ({"batch_size": 64}, "batch-size (8: a, 64: b)"),
        ({"model": "resnet18"}, "model ('cnn': a, 'resnet18': b)"),
        ({"dataset": "cifar10"}, "dataset ('digits': a, 'cifar10': b)"),
        ({"evaluate_every": 2}, "evaluate-every (5: a, 2: b)"),
        ({"done": 15}, "rounds done (20: a, 15: b)"),
    ],
)
def test_one_rule_warns_here_and_refuses_in_a_table(
    make_run: Make, change: dict[str, Any], said: str
) -> None:
    runs = [open_run(make_run("a")), open_run(make_run("b", method="fedavg", **change))]
    (warning,) = side_by_side(runs).warnings
    assert warning.startswith("Not like for like") and said in warning
    with pytest.raises(InputError) as refused:
        group_runs(runs)
    assert said in str(refused.value)


def test_seeds_may_differ_only_where_they_are_averaged_over(make_run: Make) -> None:
    runs = [open_run(make_run(f"s{seed}", seed=seed)) for seed in (0, 7)]
    assert side_by_side(runs).warnings == [
        "Not like for like: the runs differ in seed (0: s0, 7: s7)."
    ]
    (section,) = group_runs(runs)
    assert section.rows[0].seeds == (0, 7)


def test_unequal_partition_alone_is_said(make_run: Make) -> None:
    runs = [open_run(make_run("a")), open_run(make_run("b"))]
    runs[1].info["partition"] = "f" * 16
    assert "the partition of seed 0" in side_by_side(runs).warnings[0]


def test_where_it_ran_does_not_weigh(make_run: Make) -> None:
    compared = side_by_side([open_run(make_run("a")), open_run(make_run("b", device="cpu"))])
    assert compared.warnings == []
    assert compared.sentence == (
        "The runs have equal configurations and fingerprints. "
        "Without influence on the figures: device."
    )


def test_runs_of_one_name_are_told_apart_by_their_paths(make_run: Make) -> None:
    runs = [open_run(make_run("a")), open_run(make_run("b")), open_run(make_run("c"))]
    runs[1].info["name"] = "a"
    assert labels(runs) == [str(runs[0].path), str(runs[1].path), "c"]


def test_figures_are_the_judged_ones(make_run: Make) -> None:
    folder = make_run("a")
    last = {"round": 20, "global/realigned/all": 0.5, "personal/realigned/worst-decile": 0.3}
    lines = [{"round": 10, "global/realigned/all": 0.3}, last]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (row,) = side_by_side([open_run(folder)]).rows
    assert (row.global_last, row.global_mean, row.worst_decile) == (0.5, pytest.approx(0.4), 0.3)
    assert row.personal_last is None
