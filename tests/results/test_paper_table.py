from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fedloge.commands.main import main
from fedloge.errors import InputError, RunDirError
from fedloge.results.grouping import Row, Section, find_row, gather, group_runs
from fedloge.results.like_for_like import differences
from fedloge.results.paper_table import describe, paper_table
from fedloge.results.run import Run, open_run
from fedloge.results.table_formats import csv_text, json_text, latex, markdown, text

Figures = Callable[..., Run]


def table(runs: Sequence[Run], when: str = "last", **options: Any):
    (section,) = group_runs(runs)
    return paper_table(section, when, **options)  # type: ignore[arg-type]


def cells(tables: Any) -> dict[str, dict[str, float]]:
    return {
        row.label: {f"{side}/{name}": cell.mean for (side, name), cell in row.cells.items()}
        for row in tables.rows
    }


def test_mean_and_deviation_over_seeds(figures: Figures) -> None:
    made = table([figures("fedavg", seed, [0.1, 0.5 + seed / 10]) for seed in (2, 0, 1)])
    (row,) = made.rows
    assert row.seeds == (0, 1, 2)
    assert row.cells["global", "all"].values == (0.5, 0.6, 0.7)
    assert row.cells["global", "all"].mean == pytest.approx(0.6)
    assert row.cells["global", "all"].std == pytest.approx(0.1)
    assert "60.0 ± 10.0" in markdown([made])


def test_last_round_and_mean_of_the_last_ten(figures: Figures) -> None:
    run = figures("fedavg", 0, [r / 20 for r in range(1, 13)])
    assert cells(table([run]))["FedAvg"]["global/all"] == pytest.approx(0.6)
    mean = table([run], "mean")
    assert cells(mean)["FedAvg"]["global/all"] == pytest.approx(sum(range(3, 13)) / 200)
    assert mean.rounds == tuple(range(3, 13))
    assert "mean of the last 10 evaluations (rounds 3 to 12)" in describe(mean)[0]
    assert "± " not in markdown([mean])


def test_the_best_is_bold_and_a_small_spread_is_good(figures: Figures) -> None:
    runs = [
        figures(method, seed, [accuracy + 0.01 * seed], [[personal - 0.1, personal + 0.1 * seed]])
        for seed in (0, 1)
        for method, accuracy, personal in (
            ("fedavg", 0.501, 0.2),
            ("fedloge", 0.5014, 0.5),
            ("fedprox", 0.4, 0.3),
        )
    ]
    best = table(runs).best()
    assert best["global", "all"] == {"FedAvg", "FedLoGe"}
    assert best["personal", "mean"] == {"FedLoGe"}
    assert "**50.6 ± 0.7**" in markdown([table(runs)])
    assert r"\textbf{50.6" in latex([table(runs)]) and "50.6 ± 0.7*" in text([table(runs)])


@pytest.mark.parametrize(("gap", "leading"), [(0.016, {"FedAvg", "FedLoGe"}), (0.017, {"FedLoGe"})])
def test_within_two_standard_errors_is_no_finding(
    figures: Figures, gap: float, leading: set[str]
) -> None:
    runs = [
        figures(method, seed, [0.5 + more + 0.01 * (seed - 1)])
        for seed in range(3)
        for method, more in (("fedavg", 0.0), ("fedloge", gap), ("fedprox", -0.2))
    ]
    # Each has a deviation of .01 over three seeds: the error is .01 sqrt(2/3) = .0082.
    assert table(runs).best()["global", "all"] == leading


def test_none_leads_where_all_are_alike_or_alone(figures: Figures) -> None:
    alike = [figures(name, seed, [0.5]) for name in ("fedavg", "fedloge") for seed in (0, 1)]
    assert table(alike).best()["global", "all"] == set()
    assert table(alike[:2]).best() == {}
    assert table([alike[0], figures("fedprox", 0, [0.7])]).best() == {}


def test_a_figure_that_a_method_lacks_is_a_dash(figures: Figures) -> None:
    runs = [figures("fedavg", 0, [0.5], [[0.5]]), figures("fedper", 0, [None], [[0.6]])]
    rows = [line.split("|") for line in markdown([table(runs)]).splitlines()]
    fedper = next(row for row in rows if len(row) > 1 and row[1].strip() == "FedPer")
    assert [cell.strip() for cell in fedper[3:6]] == ["–", "–", "–"]
    assert " 60.0 " in "|".join(fedper)


# Tests of significance, by hand


def test_a_paired_t_test_over_seeds(figures: Figures) -> None:
    ours = [figures("fedloge", s, [v]) for s, v in enumerate((0.51, 0.63, 0.72))]
    theirs = [figures("fedavg", s, [v]) for s, v in enumerate((0.50, 0.61, 0.69))]
    made = table([*ours, *theirs])
    compared = {row.label: row.compared for row in made.rows}
    assert made.reference == "FedLoGe" and compared["FedLoGe"] == {}
    # Gaps of 1, 2 and 3 points: t = 2 sqrt(3) on two degrees of freedom.
    t_test = compared["FedAvg"]["global"]
    assert (t_test.test, t_test.pairs) == ("t", 3)
    t = 2 * 3**0.5
    assert t_test.p == pytest.approx(1 - t / (t**2 + 2) ** 0.5)
    assert "two-sided paired t-test over seeds (3 pairs) against FedLoGe" in " ".join(
        describe(made)
    )


def test_a_signed_rank_test_over_clients(figures: Figures) -> None:
    theirs = [0.1 * k for k in range(8)]
    ours = [accuracy + 0.01 * (k + 1) for k, accuracy in enumerate(theirs)]
    made = table([figures("fedloge", 0, [0.5], [ours]), figures("fedavg", 0, [0.5], [theirs])])
    found = made.rows[1].compared
    # All eight ahead: the most extreme of 2^8 sign patterns, on either side.
    assert found["personal"].p == pytest.approx(2 / 2**8)
    assert (found["personal"].test, found["personal"].pairs) == ("wilcoxon", 8)
    # One seed says nothing of the global model.
    assert "global" not in found
    assert "One seed each" in " ".join(describe(made))


def test_clients_pair_within_a_seed_and_over_the_rounds_shown(figures: Figures) -> None:
    def of(method: str, seed: int, shift: float) -> Run:
        rounds = [[0.5 + shift * (r + 1) + 0.01 * k for k in range(4)] for r in range(3)]
        return figures(method, seed, [0.5] * 3, rounds)

    runs = [
        of("fedloge", 0, 0.02),
        of("fedloge", 1, 0.02),
        of("fedavg", 0, 0.0),
        of("fedavg", 2, 0),
    ]
    assert table(runs, test="clients").rows[1].compared == {}  # four common clients: too few
    runs.append(of("fedavg", 1, 0.0))
    last, mean = (table(runs, when).rows[1].compared["personal"] for when in ("last", "mean"))
    assert last.pairs == mean.pairs == 8


def test_equal_figures_are_no_difference(figures: Figures) -> None:
    same = [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]]
    runs = [figures(m, s, [0.5 + s / 9], same) for m in ("fedavg", "fedloge") for s in range(3)]
    found = table(runs).rows[0].compared
    assert found["global"].p == 1.0 and found["personal"].p == 1.0


def test_against_says_which_row_is_the_reference(figures: Figures) -> None:
    runs = [figures(m, s, [0.5 + s / 9]) for m in ("fedavg", "fedprox") for s in range(3)]
    assert table(runs).reference == ""  # no FedLoGe, nothing asked for
    assert table(runs, against="fedprox").reference == "FedProx"
    assert table(runs, against="fedprox", test="none").reference == ""
    assert any("Nothing is tested" in note for note in table(runs).notes)
    own = [figures("fedloge", s, [0.5], [[0.1 * s]], f"own{s}") for s in range(3)]
    other = [
        figures("fedloge", s, [0.5], [[0.1]], f"other{s}", method_options={"gamma": 1.0})
        for s in range(3)
    ]
    assert table(own + other).reference == "FedLoGe"  # not "FedLoGe, gamma 1"
    with pytest.raises(InputError, match="unknown row 'fedpox' \\(did you mean 'FedProx'"):
        table(runs, against="fedpox")


# Like for like


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"local_epochs": 9}, r"local-epochs \(5: fedavg-0, 9: fedloge-0\)"),
        ({"batch_size": 32}, "batch-size"),
        ({"clients_per_round": 2}, "clients-per-round"),
        ({"imbalance_factor": 0.5}, "imbalance-factor"),
        ({"model": "resnet8"}, "model"),
        ({"partitioner": "iid"}, "partitioner"),
        ({"dataset": "cifar10"}, "dataset"),
    ],
)
def test_unequal_runs_are_refused(figures: Figures, changes: dict[str, Any], said: str) -> None:
    runs = [figures("fedavg", 0, [0.5]), figures("fedloge", 0, [0.5], **changes)]
    with pytest.raises(InputError, match=f"not like for like: the runs differ in .*{said}"):
        group_runs(runs)
    (section,) = group_runs(runs, allow_unequal=True)
    said_below = " ".join(describe(paper_table(section, "last")))
    assert next(iter(changes)).replace("_", "-") in said_below


def test_unequal_rounds_and_unfinished_runs_are_refused(figures: Figures) -> None:
    short, long = figures("fedavg", 0, [0.5]), figures("fedloge", 0, [0.5, 0.6])
    with pytest.raises(InputError, match=r"differ in rounds \(1: fedavg-0, 2: fedloge-0\)"):
        group_runs([short, long])
    log = long.path / "metrics.jsonl"
    log.write_text(log.read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match=r"rounds done \(fedloge-0: 1 of 2\)"):
        group_runs([open_run(long.path)])


def test_another_split_of_the_same_seed_is_refused(figures: Figures) -> None:
    runs = [figures("fedavg", 0, [0.5]), figures("fedloge", 0, [0.5])]
    info = runs[1].path / "run.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"partition": "beef"}))
    assert "the partition of seed 0" in " ".join(differences([runs[0], open_run(runs[1].path)]))


def test_a_methods_own_keys_may_differ_and_tell_rows_apart(figures: Figures) -> None:
    runs = [
        figures("fedprox", 0, [0.5], name="a", method_options={"mu": 0.1}),
        figures("fedprox", 0, [0.5], name="b", method_options={"mu": 1.0}, lr=0.1),
        figures("fedavg", 0, [0.5]),
    ]
    (section,) = group_runs(runs)
    labels = [row.label for row in section.rows]
    assert labels == ["FedProx, mu = 0.1", "FedProx, mu = 1.0, lr = 0.1", "FedAvg"]
    with pytest.raises(InputError, match="'fedprox' is not one row but"):
        find_row(section.rows, "fedprox")
    assert find_row(section.rows, "fedavg") is section.rows[2]


def test_one_run_twice_is_refused(figures: Figures) -> None:
    runs = [figures("fedavg", 0, [0.5]), figures("fedavg", 0, [0.6], name="again")]
    with pytest.raises(InputError, match="the same run twice"):
        group_runs(runs, allow_unequal=True)


def test_settings_make_a_table_each(figures: Figures) -> None:
    runs = [
        figures(m, 0, [0.5], name=f"{m}-{f}", imbalance_factor=f)
        for f in (0.02, 0.01)
        for m in ("fedavg", "fedloge")
    ]
    sections = group_runs(runs, ["imbalance-factor"])
    assert [dict(s.setting) for s in sections] == [
        {"imbalance-factor": 0.01},
        {"imbalance-factor": 0.02},
    ]
    assert all([row.label for row in s.rows] == ["FedAvg", "FedLoGe"] for s in sections)
    with pytest.raises(InputError, match="unknown key 'imbalance'"):
        group_runs(runs, ["imbalance"])


def test_where_chooses_runs(figures: Figures) -> None:
    paths = [figures("fedavg", seed, [0.5]).path for seed in (0, 1)]
    runs, _ = gather(paths, None, ["seed=1"])
    assert [run.config.seed for run in runs] == [1]
    with pytest.raises(InputError, match="no run is left"):
        gather(paths, None, ["method=ditto"])
    with pytest.raises(InputError, match="unknown key 'sed'"):
        gather(paths, None, ["sed=1"])
    with pytest.raises(RunDirError, match="no such folder"):
        gather([], paths[0].parent / "nowhere")


def test_a_row_for_each_model(figures: Figures, make_run: Callable[..., Path]) -> None:
    run = open_run(make_run("many-models"))
    made = table([run], all_predictors=True)
    assert [row.label for row in made.rows] == [
        f"FedLoGe ({m})" for m in ("fixed", "raw", "realigned")
    ]
    assert ("personal", "mean") not in made.rows[0].cells
    assert ("personal", "mean") in made.rows[2].cells


# Formats


@pytest.fixture
def two(figures: Figures):
    runs = [
        figures(m, s, [v + s / 100], [[v] * 7])
        for m, v in (("fedavg", 0.4), ("fedloge", 0.5))
        for s in range(3)
    ]
    runs.append(figures("fedprox", 0, [0.45], [[0.45] * 7], method_options={"mu": 0.1}))
    return table(runs)


def test_csv_holds_full_precision(two: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text([two]))))
    assert [row["method"] for row in rows] == ["FedAvg", "FedLoGe", "FedProx"]
    assert float(rows[0]["global/all mean"]) == pytest.approx(0.41)
    assert float(rows[0]["global/all std"]) == pytest.approx(0.01)
    assert rows[2]["global/all std"] == "" and rows[2]["seeds"] == "0"
    assert float(rows[0]["personal p (Holm)"]) < 0.05


def test_json_holds_every_seed(two: Any) -> None:
    (plain,) = json.loads(json_text([two]))
    first = plain["rows"][0]["figures"]["global/all"]
    assert first["values"] == pytest.approx([0.4, 0.41, 0.42])
    assert plain["reference"] == "FedLoGe"


def test_markdown_is_a_table(two: Any) -> None:
    lines = [line for line in markdown([two]).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 5


def test_latex_is_balanced_and_escaped(figures: Figures) -> None:
    run = figures("fedavg", 0, [0.5], [[0.5]], method_options={"loss": "focal"})
    other = figures("fedavg", 0, [0.5], [[0.5]], name="b_c")
    section = Section(
        {"imbalance-factor": 0.01}, [Row("50 % & a_b", (run,)), Row("x", (other,))], []
    )
    made = latex([paper_table(section, "last")])
    assert r"50 \% \& a\_b" in made
    assert made.count("{") == made.count("}")
    rows = [
        line for line in made.splitlines() if line.endswith(r"\\") and "multicolumn" not in line
    ]
    columns = made[made.index("{tabular}{") + 10 :].split("}")[0]
    assert {line.replace(r"\&", "").count("&") + 1 for line in rows} == {len(columns)}


def test_text_fits_a_terminal(two: Any) -> None:
    assert max(map(len, text([two]).splitlines())) <= 80


# The command


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fedloge", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    code = stopped.value.code
    return code if isinstance(code, int) else 0


def test_the_command_prints_or_writes(figures, monkeypatch, capsys, tmp_path: Path) -> None:
    paths = [str(figures(m, 0, [0.5], [[0.5, 0.6]]).path) for m in ("fedavg", "fedloge")]
    assert command(monkeypatch, "table", *paths, "--when", "last", "--format", "md") == 0
    assert capsys.readouterr().out.startswith("| method | seeds |")
    assert command(monkeypatch, "table", *paths, "--row", "fedavg=Theirs", "--up-to", "1") == 0
    assert "Theirs" in (said := capsys.readouterr().out) and "FedLoGe" not in said
    out = tmp_path / "made" / "table.tex"
    assert command(monkeypatch, "table", *paths, "--out", str(out)) == 0
    assert out.read_text().count(r"\begin{table}") == 2  # the last round, and the mean
    assert str(out) in capsys.readouterr().out.replace("\n", "")


def test_the_command_refuses_in_one_line(figures, monkeypatch, capsys) -> None:
    paths = [
        str(figures("fedavg", 0, [0.5]).path),
        str(figures("fedloge", 0, [0.5], lr=0.5, local_epochs=1).path),
    ]
    assert command(monkeypatch, "table", *paths) == 2
    said = capsys.readouterr().err
    assert said.startswith("fedloge: not like for like") and said.count("\n") == 1
    assert command(monkeypatch, "table", *paths, "--allow-unequal") == 0
    assert command(monkeypatch, "table", *paths, "--format", "pdf") == 2
    assert command(monkeypatch, "table") == 2
