"""The table of a paper, made from runs: figures over seeds, the best marked, paired tests.

Cells are means over seeds, with sample deviations (n - 1). See `paired_tests` for the tests
against one reference row.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fedloge.results.figure_rows import COLUMNS, NEW_CLIENTS, predictors
from fedloge.results.grouping import Row, Section, display_name, find_row
from fedloge.results.paired_tests import (
    PairedTest,
    TestOver,
    describe_test,
    tests_against,
)
from fedloge.results.recorded_run import JUDGED
from fedloge.results.run_figures import EVALUATIONS, When, figures_at
from fedloge.results.settings import Value
from fedloge.results.who_was_measured import Measured, in_percent, interval, measured

Figure = tuple[str, str]

FIGURES: tuple[Figure, ...] = (
    *(("global", name) for name in COLUMNS["global"]),
    *(("personal", name) for name in ("mean", "worst-decile", "std")),
    *(("new-clients", stage) for stage in NEW_CLIENTS),
)
NOISE = 2.0
"""Within how many standard errors of their difference two rows are not told apart."""
_LOWER_IS_BETTER = {("personal", "std")}


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
        """Sample deviation over seeds; None for a single seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class TableRow:
    """One row: its cells by figure, and its tests by side.

    `measured` says for each seed over how many clients and test images the personal figures are, and
    `intervals` the 95 % bootstrap interval over clients of each seed's personal mean, in [0, 1].
    """

    label: str
    seeds: tuple[int, ...]
    cells: Mapping[Figure, Cell]
    compared: Mapping[str, PairedTest]
    measured: tuple[Measured, ...] = ()
    intervals: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class PaperTable:
    """One table.

    Attributes
    ----------
    setting : the keys by which this table and others of one call were split, and their values.
    when : ``last`` (evaluated round) or ``mean`` (of the last ten evaluations).
    rounds : the evaluated rounds that the figures are of.
    reference : the row that the others were tested against; empty without tests.
    notes : sentences for a reader of the table.
    """

    setting: Mapping[str, Value | None]
    when: When
    rounds: tuple[int, ...]
    rows: list[TableRow]
    reference: str
    notes: list[str]

    def best(self) -> dict[Figure, set[str]]:
        """The labels of the rows that lead each column: the best, and all that seeds do not tell from it.

        A row is not told from the best if it is within `NOISE` standard errors of their difference,
        at the spread over seeds pooled over all rows. Where no row has two seeds the spread is not
        known, and no row leads; nor does any if that would be all of them.
        """
        leaders: dict[Figure, set[str]] = {}
        for figure in FIGURES:
            cells = {row.label: row.cells[figure] for row in self.rows if figure in row.cells}
            spread = _pooled_spread(list(cells.values()))
            if len(cells) < 2 or spread is None:
                continue
            better = min if figure in _LOWER_IS_BETTER else max
            top = better(cells.values(), key=lambda cell: cell.mean)
            leading = {
                label
                for label, cell in cells.items()
                # At the precision shown, equal figures are equal.
                if abs(cell.mean - top.mean) < max(0.0005, NOISE * _error(spread, cell, top))
            }
            leaders[figure] = leading if len(leading) < len(cells) else set()
        return leaders


def _pooled_spread(cells: Sequence[Cell]) -> float | None:
    """Standard deviation over seeds, pooled over the rows that have two seeds or more; None without any."""
    known = [(len(cell.values) - 1, cell.std) for cell in cells if cell.std is not None]
    freedom = sum(n for n, _ in known)
    return math.sqrt(sum(n * std**2 for n, std in known) / freedom) if freedom else None


def _error(spread: float, one: Cell, other: Cell) -> float:
    """Standard error of the difference of two means over seeds."""
    return spread * math.sqrt(1 / len(one.values) + 1 / len(other.values))


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
    all_predictors : one row for each model of a method (raw, realigned, ...), not only for
        the one it is judged by.
    test : what the pairs of a test are: ``seeds``, ``clients``, or ``auto``, which is seeds for
        the global and clients for the personal models; ``none`` for no tests.
    against : the reference row, by label or method; empty: FedLoGe, if one row is, or one is called so.

    Raises
    ------
    InputError
        `against` names no row, or more than one.
    """
    reference = _reference(section.rows, against)
    split = [
        (label, row, models)
        for row in section.rows
        for label, models in _models(row, all_predictors)
    ]
    rows = [_table_row(label, row, models, when) for label, row, models in split]
    notes = [f"The runs differ in {'; '.join(section.unlike)}."] if section.unlike else []
    wanted = test != "none" and not all_predictors
    if wanted and reference is None and len(section.rows) > 1:
        notes.append("Nothing is tested: there is no one row of FedLoGe; give --against ROW.")
    if reference and wanted:
        tested_rows = tests_against(section.rows, reference, when, test)
        rows = [replace(row, compared=tests) for row, tests in zip(rows, tested_rows, strict=True)]
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
    """Sentences that a reader of the table needs."""
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
        said.append(
            "One seed each, so the deviation over seeds is not known, and no row is marked as the best."
        )
    if any(table.best().values()):
        said.append(
            f"Marked are the best of each column and all within {NOISE:g} standard errors of the "
            "difference from it, at the spread over seeds pooled over the rows."
        )
    if len(seeds) > 1:
        said.append("Rows have unequal numbers of seeds; tests use those that both rows have.")
    said += _over_whom(table.rows)
    if any(("new-clients", "personalized") in row.cells for row in table.rows):
        said.append(
            "New clients are held out from training; each has its own model after one local step. Without "
            "a figure before training, a method keeps nothing at its clients between rounds; without one "
            "of an own model, it has none, so there is nothing to personalise."
        )
    for side in JUDGED:
        compared = [row.compared[side] for row in table.rows if side in row.compared]
        if compared:
            said.append(describe_test(side, compared, table.reference))
    return [*said, *table.notes]


def _over_whom(rows: Sequence[TableRow]) -> list[str]:
    """Over how many clients and images the personal means are, and how far they might vary."""
    found = [one for row in rows for one in row.measured]
    if not found:
        return []
    clients, images = (
        sorted({getattr(one, what) for one in found}) for what in ("clients", "images")
    )
    said = [f"Personal means are over {_range(clients)} clients with {_range(images)} test images."]
    spreads = [
        f"{row.label} {' and '.join(in_percent(spread) for spread in row.intervals)}"
        for row in rows
        if row.intervals
    ]
    if spreads:
        by_seed = ", of each seed" if any(len(row.intervals) > 1 for row in rows) else ""
        said.append(
            f"95 % bootstrap interval over clients of the personal mean{by_seed}: {'; '.join(spreads)}."
        )
    return said


def _range(values: Sequence[int]) -> str:
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"


def _reference(rows: Sequence[Row], against: str) -> Row | None:
    if against:
        return find_row(rows, against)
    own = [row for row in rows if row.method == "fedloge"]
    called = [row for row in own if row.label == display_name("fedloge")] or own
    return called[0] if len(called) == 1 else None


def _models(row: Row, all_predictors: bool) -> list[tuple[str, dict[str, str]]]:
    """For each line of the table its label and, by side, the model whose figures it holds."""
    run = row.runs[0]
    primary = {side: name.split("/")[1] for side, name in run.primary.items()}
    if not all_predictors:
        return [(row.label, primary)]
    # A model that was measured in some of the runs only has no mean over all seeds.
    others = [{side: predictors(run, side) for side in JUDGED} for run in row.runs[1:]]
    by_side = {
        side: [name for name in predictors(run, side) if all(name in one[side] for one in others)]
        for side in JUDGED
    }
    names = list(dict.fromkeys(name for found in by_side.values() for name in found))
    return [
        (
            f"{row.label} ({name})",
            {side: name for side, found in by_side.items() if name in found},
        )
        for name in names
    ]


def _table_row(label: str, row: Row, models: Mapping[str, str], when: When) -> TableRow:
    lines = [figures_at(run, when) for run in row.runs]
    judged = not models.get("personal") or all(
        run.primary.get("personal", "").split("/")[1:2] == [models["personal"]] for run in row.runs
    )
    cells = {}
    for side, figure in FIGURES:
        name = f"{side}/{models.get(side)}/{figure}"
        if side == "new-clients":
            # A new client has one model, that by which the method is judged.
            name = f"{side}/{figure}/mean" if judged else ""
        values = tuple(line[name] for line in lines if name in line)
        # A mean over some of the seeds could not be compared with one over all of them.
        if values and len(values) == len(lines):
            cells[side, figure] = Cell(values)
    personal = ("personal", "mean") in cells
    over = [measured(run) for run in row.runs] if personal else []
    spreads = []
    if personal and judged:
        spreads = [
            interval(run, evaluations=EVALUATIONS if when == "mean" else 1) for run in row.runs
        ]
    return TableRow(
        label,
        row.seeds,
        cells,
        {},
        tuple(one for one in over if one),
        tuple(one for one in spreads if one),
    )
