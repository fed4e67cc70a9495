"""The table of a paper, from runs: figures over seeds, the best in bold, paired tests.

Cells are means over seeds; their deviation is the sample one (n - 1). Tests compare every
row with one reference row: by default Student's paired t-test over the seeds both have
for the global model, and Wilcoxon's signed-rank test over clients for the personal ones.
The p-values of a column are corrected for their number after Holm (1979).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fedloge.config import Scalar
from fedloge.results.grouping import Row, Section, find_row
from fedloge.results.run import Run, mean_of_last
from fedloge.results.terminal_tables import COLUMNS, predictors

When = Literal["last", "mean"]
TestOver = Literal["auto", "seeds", "clients", "none"]
Figure = tuple[str, str]

FIGURES: tuple[Figure, ...] = (
    *(("global", name) for name in COLUMNS["global"]),
    *(("personal", name) for name in ("mean", "worst-decile", "std")),
)
JUDGED: Mapping[str, str] = {"global": "all", "personal": "mean"}
"""The figure of each side that is tested."""
EVALUATIONS = 10
_LOWER_IS_BETTER = {("personal", "std")}
# Below these a test cannot reach 5 % whatever the figures, or nearly so.
_FEWEST_SEEDS, _FEWEST_CLIENTS = 3, 6


@dataclass(frozen=True)
class Cell:
    """One figure of a row: its value for each seed, in [0, 1]."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """Sample deviation over seeds; None for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """What a paired test against the reference row said, of one side.

    Attributes
    ----------
    test : ``t`` (paired, over seeds) or ``wilcoxon`` (signed-rank, over clients).
    pairs : how many pairs.
    p : two-sided, as the test gave it.
    p_holm : corrected for the comparisons of this column.
    """

    test: Literal["t", "wilcoxon"]
    pairs: int
    p: float
    p_holm: float


@dataclass(frozen=True)
class TableRow:
    """A method's line: its cells by figure, and its comparisons by side."""

    label: str
    seeds: tuple[int, ...]
    cells: Mapping[Figure, Cell]
    compared: Mapping[str, Comparison]


@dataclass(frozen=True)
class PaperTable:
    """One table.

    Attributes
    ----------
    setting : the keys that tell this table from others of the same call.
    when : ``last`` (evaluated round) or ``mean`` (of the last ten evaluations).
    rounds : the rounds that were evaluated and counted.
    reference : the row the others were tested against; empty without tests.
    """

    setting: Mapping[str, Scalar]
    when: When
    rounds: tuple[int, ...]
    rows: list[TableRow]
    reference: str
    notes: list[str]

    def best(self) -> dict[Figure, set[str]]:
        """The labels of the rows that lead a column, at the precision shown; none where all are alike."""
        leaders: dict[Figure, set[str]] = {}
        for figure in FIGURES:
            shown = {
                row.label: round(100 * row.cells[figure].mean, 1)
                for row in self.rows
                if figure in row.cells
            }
            if len(shown) > 1:
                top = (min if figure in _LOWER_IS_BETTER else max)(shown.values())
                leading = {label for label, value in shown.items() if value == top}
                leaders[figure] = leading if len(leading) < len(shown) else set()
        return leaders


def paper_table(
    section: Section,
    when: When,
    *,
    all_predictors: bool = False,
    test: TestOver = "auto",
    against: str = "",
) -> PaperTable:
    """Make the table of one section.

    Parameters
    ----------
    all_predictors : a row for each model a method has (raw, realigned, ...), not only for
        the one it is judged by.
    test : over what pairs are formed; ``auto``: seeds for the global, clients for the
        personal models.
    against : the reference row, by label or method; empty: FedLoGe where one row is.

    Raises
    ------
    InputError
        `against` names no row, or several.
    """
    reference = _reference(section.rows, against)
    split = [
        (label, row, models)
        for row in section.rows
        for label, models in _models(row, all_predictors)
    ]
    rows = [_table_row(label, row, models, when) for label, row, models in split]
    notes = [f"The runs differ in {'; '.join(section.unlike)}."] if section.unlike else []
    if reference and test != "none" and not all_predictors:
        rows = _tested(rows, section.rows, reference, when, test)
    any_row = section.rows[0].runs[0]
    last = any_row.evaluated_rounds[-EVALUATIONS if when == "mean" else -1 :]
    tested = any(row.compared for row in rows)
    return PaperTable(
        section.setting,
        when,
        tuple(last),
        rows,
        reference.label if reference and tested else "",
        notes,
    )


def describe(table: PaperTable) -> list[str]:
    """What a reader of the table must know, a sentence each."""
    count = len(table.rounds)
    if not count:
        return ["No round has been evaluated yet."]
    when = (
        f"after round {table.rounds[-1]}"
        if table.when == "last"
        else f"mean of the last {count} evaluations (rounds {table.rounds[0]} to {table.rounds[-1]})"
    )
    said = [f"Accuracy in %, {when}."]
    seeds = {len(row.seeds) for row in table.rows}
    if seeds != {1}:
        said.append("± is the sample standard deviation over seeds.")
    elif table.rows:
        said.append("One seed each, so nothing is known of the deviation over seeds.")
    if len(seeds) > 1:
        said.append("Rows are over unequal numbers of seeds; tests use those that both rows have.")
    for side, name in JUDGED.items():
        compared = [row.compared[side] for row in table.rows if side in row.compared]
        if compared:
            said.append(_describe_test(side, name, compared, table.reference))
    return [*said, *table.notes]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given.

    Holm 1979, "A simple sequentially rejective multiple test procedure".

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def _reference(rows: Sequence[Row], against: str) -> Row | None:
    if against:
        return find_row(rows, against)
    own = [row for row in rows if row.method == "fedloge"]
    return own[0] if len(own) == 1 else None


def _models(row: Row, all_predictors: bool) -> list[tuple[str, dict[str, str]]]:
    """Labels and, by side, the model whose figures a line of the table holds."""
    run = row.runs[0]
    primary = {side: name.split("/")[1] for side, name in run.primary.items()}
    if not all_predictors:
        return [(row.label, primary)]
    by_side = {side: predictors(run, side) for side in JUDGED}
    names = list(dict.fromkeys(name for found in by_side.values() for name in found))
    return [
        (
            f"{row.label} ({name})",
            {side: name for side, found in by_side.items() if name in found},
        )
        for name in names
    ]


def _table_row(label: str, row: Row, models: Mapping[str, str], when: When) -> TableRow:
    lines = [_figures(run, when) for run in row.runs]
    cells = {}
    for side, figure in FIGURES:
        name = f"{side}/{models.get(side)}/{figure}"
        values = tuple(line[name] for line in lines if name in line)
        # A mean over some of the seeds beside one over all of them would say nothing.
        if values and len(values) == len(lines):
            cells[side, figure] = Cell(values)
    return TableRow(label, row.seeds, cells, {})


def _figures(run: Run, when: When) -> Mapping[str, float]:
    if when == "mean":
        return mean_of_last(run, EVALUATIONS)
    return run.evaluated[-1] if run.evaluated else {}


def _tested(
    lines: Sequence[TableRow], rows: Sequence[Row], reference: Row, when: When, test: TestOver
) -> list[TableRow]:
    """The table's rows with their comparisons filled in."""
    compared: list[dict[str, Comparison]] = [{} for _ in lines]
    for side in JUDGED:
        over = {"global": "seeds", "personal": "clients"}[side] if test == "auto" else test
        paired = _paired_seeds if over == "seeds" else _paired_clients
        if over == "clients" and side == "global":
            continue
        found: dict[int, Comparison] = {}
        for index, row in enumerate(rows):
            if row is not reference:
                mine, theirs = paired(row, reference, side, when)
                outcome = _paired_test(mine, theirs, over)
                if outcome is not None:
                    found[index] = outcome
        corrected = holm([comparison.p for comparison in found.values()])
        for (index, comparison), p in zip(found.items(), corrected, strict=True):
            compared[index][side] = replace(comparison, p_holm=p)
    return [replace(line, compared=said) for line, said in zip(lines, compared, strict=True)]


def _paired_seeds(
    row: Row, reference: Row, side: str, when: When
) -> tuple[list[float], list[float]]:
    """The judged figure of both rows for the seeds that both have."""
    return _joined(
        {run.config.seed: _figures(run, when).get(run.primary.get(side, "")) for run in row.runs},
        {
            run.config.seed: _figures(run, when).get(run.primary.get(side, ""))
            for run in reference.runs
        },
    )


def _paired_clients(
    row: Row, reference: Row, side: str, when: When
) -> tuple[list[float], list[float]]:
    """The accuracy of both rows' personal models, client by client, of the seeds that both have."""
    common = set(row.seeds) & set(reference.seeds)
    return _joined(
        _client_accuracies([r for r in row.runs if r.config.seed in common], when),
        _client_accuracies([r for r in reference.runs if r.config.seed in common], when),
    )


def _client_accuracies(runs: Sequence[Run], when: When) -> dict[tuple[int, int], float]:
    found = {}
    for run in runs:
        if "personal" not in run.primary:
            continue
        name = f"{run.primary['personal'].rpartition('/')[0]}/accuracy"
        rounds = run.evaluated_rounds[-EVALUATIONS if when == "mean" else -1 :]
        by_client: dict[int, list[float]] = {}
        for line in run.client_lines(rounds):
            if name in line:
                by_client.setdefault(line["client"], []).append(line[name])
        for client, values in by_client.items():
            if len(values) == len(rounds):
                found[run.config.seed, client] = statistics.fmean(values)
    return found


def _describe_test(side: str, name: str, compared: Sequence[Comparison], reference: str) -> str:
    pairs = sorted({comparison.pairs for comparison in compared})
    count = str(pairs[0]) if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]}"
    test = {
        "t": f"paired t-test over seeds ({count} pairs)",
        "wilcoxon": f"Wilcoxon signed-rank test over clients ({count} pairs)",
    }[compared[0].test]
    number = len(compared)
    corrected = f", Holm-corrected for {number} comparisons" if number > 1 else ""
    return f"p ({side}, {name}): two-sided {test} against {reference}{corrected}."


def _joined(
    mine: Mapping[Any, float | None], theirs: Mapping[Any, float | None]
) -> tuple[list[float], list[float]]:
    pairs = [
        (a, b) for key, a in mine.items() if a is not None and (b := theirs.get(key)) is not None
    ]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _paired_test(mine: Sequence[float], theirs: Sequence[float], over: str) -> Comparison | None:
    """Two-sided; None where there are too few pairs."""
    from scipy import stats

    by_seed = over == "seeds"
    if len(mine) < (_FEWEST_SEEDS if by_seed else _FEWEST_CLIENTS):
        return None
    gaps = [a - b for a, b in zip(mine, theirs, strict=True)]
    if not any(gaps):
        p = 1.0
    elif by_seed:
        if statistics.pstdev(gaps) < 1e-12:
            return None  # no spread to judge a difference by
        p = float(stats.ttest_rel(mine, theirs).pvalue)
    else:
        # Pratt's treatment of ties: clients that both serve alike count against a difference.
        p = float(stats.wilcoxon(gaps, zero_method="pratt").pvalue)
    return Comparison("t" if by_seed else "wilcoxon", len(gaps), p, p) if math.isfinite(p) else None
