"""Which rounds of a run and which rows and models a table shows."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from fedloge.errors import InputError, RunDirError
from fedloge.results.grouping import gather, group_runs, shown_rows
from fedloge.results.paper_table import TableRow, paper_table
from fedloge.results.run import Run, open_run

Figures = Callable[..., Run]


def cells(row: TableRow) -> dict[str, float]:
    return {f"{side}/{name}": cell.mean for (side, name), cell in row.cells.items()}


def test_a_longer_run_is_cut_to_the_rounds_of_a_shorter(figures: Figures) -> None:
    short = figures("fedavg", 0, [0.1, 0.2], [[0.1, 0.1], [0.2, 0.4]])
    long = figures("fedloge", 0, [0.3, None, 0.5], [[0.3, 0.3], [0.4, 0.4], [0.5, 0.7]])
    with pytest.raises(InputError, match="rounds"):
        group_runs([short, long])
    cut, _ = gather([short.path, long.path], up_to=1)
    made = paper_table(group_runs(cut)[0], "last")
    assert made.rounds == (1,)
    assert cells(made.rows[1]) == pytest.approx(
        {
            "global/all": 0.3,
            "global/many": 0.3,
            "global/few": 0.3,
            "personal/mean": 0.3,
            "personal/std": 0,
        }
    )
    assert cells(made.rows[0])["personal/mean"] == pytest.approx(0.1)
    with pytest.raises(InputError, match="rounds"):  # the shorter run has no third round
        group_runs(gather([short.path, long.path], up_to=3)[0])


def test_a_round_that_was_not_evaluated_is_refused(figures: Figures) -> None:
    run = figures("fedavg", 0, [0.1, None, 0.3])
    with pytest.raises(RunDirError, match="not evaluated after round 2; they were after 1, 3"):
        gather([run.path], up_to=2)


def with_second_model(run: Run) -> Run:
    """The run with another personal model, ``tuned``, that is .1 better on every client."""
    for path in (run.files.metrics, run.files.clients):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            for end in ("mean", "accuracy"):
                if (name := f"personal/realigned/{end}") in line:
                    line[f"personal/tuned/{end}"] = line[name] + 0.1
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return open_run(run.path)


def test_named_rows_are_tested_by_the_models_named(figures: Figures) -> None:
    run = with_second_model(figures("fedloge", 0, [0.5], [[0.1 * k for k in range(1, 8)]]))
    (section,) = group_runs([run])
    wanted = ["FedLoGe (realigned, tuned)=Tuned", "FedLoGe"]
    made = paper_table(shown_rows(section, wanted), "last", test="clients", against="Tuned")
    tuned, own = made.rows
    assert tuned.cells["global", "all"] == own.cells["global", "all"]
    assert tuned.cells["personal", "mean"].mean == pytest.approx(0.5)
    assert own.cells["personal", "mean"].mean == pytest.approx(0.4)
    assert made.reference == "Tuned"
    # All of seven differences have one sign: two of 2^7 arrangements.
    assert own.compared["personal"].pairs == 7
    assert own.compared["personal"].p == pytest.approx(2 / 2**7)


def test_runs_that_measure_more_make_a_row_with_those_that_do_not(figures: Figures) -> None:
    more = figures("fedloge", 0, [0.5], [[0.1, 0.3]], personal_heads="own-prior")
    (section,) = group_runs([with_second_model(more), figures("fedloge", 1, [0.6], [[0.5, 0.7]])])
    (row,) = paper_table(section, "last", all_predictors=True).rows
    # The second model has a figure for one of two seeds, and so no mean.
    assert row.label == "FedLoGe (realigned)" and row.seeds == (0, 1)
    assert row.cells["personal", "mean"].values == pytest.approx((0.2, 0.6))


def test_a_tail_that_was_asked_for_by_name_is_the_one_that_auto_cuts(figures: Figures) -> None:
    runs = [
        figures("fedavg", seed, [0.5], dataset="cifar10", long_tail=tail)
        for seed, tail in enumerate(("auto", "exp"))
    ]
    (section,) = group_runs(runs)
    (row,) = section.rows
    assert row.seeds == (0, 1) and not section.unlike
    with pytest.raises(InputError, match="long-tail"):
        group_runs([runs[0], figures("fedavg", 2, [0.5], dataset="cifar10", long_tail="pareto")])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["FedLoGe (tuned, tuned)"], "unknown global model 'tuned'"),
        (["FedLoGe (realigned, raw)"], "unknown personal model 'raw'"),
        (["FedLoGe (raw)"], "unknown model 'raw'"),
        (
            ["FedLoGe (realigned, tuned, raw)"],
            "expected one model, or two, global and personal; got 3",
        ),
        (["FedLoGe", "fedloge"], "two rows are called 'FedLoGe'; call one by =LABEL"),
        (["FedLoG"], "unknown row 'FedLoG'"),
    ],
)
def test_rows_that_cannot_be_shown_are_refused(
    figures: Figures, rows: list[str], said: str
) -> None:
    (section,) = group_runs([with_second_model(figures("fedloge", 0, [0.5], [[0.1, 0.2]]))])
    with pytest.raises(InputError, match=said):
        shown_rows(section, rows)
