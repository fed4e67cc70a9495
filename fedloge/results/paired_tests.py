"""Paired tests of rows against a reference row, and Holm's correction of their p-values.

By default this is Student's paired t-test for the global model, over the seeds that both rows
have, and Wilcoxon's signed-rank test for the personal models, over clients. The p-values of a
column are corrected for their number after Holm (1979).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fedloge.results.grouping import Row
from fedloge.results.recorded_run import JUDGED, RecordedRun
from fedloge.results.run_figures import EVALUATIONS, When, client_accuracies, figures_at

TestOver = Literal["auto", "seeds", "clients", "none"]

# With fewer pairs than these a test can hardly reach 5 %, whatever the figures.
_FEWEST_SEEDS, _FEWEST_CLIENTS = 3, 6


@dataclass(frozen=True)
class PairedTest:
    """The result of a paired test against the reference row, for one side.

    Attributes
    ----------
    test : ``t`` (paired, over seeds) or ``wilcoxon`` (signed-rank, over clients).
    pairs : the number of pairs.
    p : two-sided, uncorrected.
    p_holm : corrected for the number of comparisons in this column.
    """

    test: Literal["t", "wilcoxon"]
    pairs: int
    p: float
    p_holm: float


def tests_against(
    rows: Sequence[Row], reference: Row, when: When, over: TestOver
) -> list[dict[str, PairedTest]]:
    """For each row, its tests against the reference by side; a test with too few pairs is left out."""
    tested: list[dict[str, PairedTest]] = [{} for _ in rows]
    if over == "none":
        return tested
    for side in JUDGED:
        pairs_over = {"global": "seeds", "personal": "clients"}[side] if over == "auto" else over
        if pairs_over == "clients" and side == "global":
            continue
        paired = _paired_seeds if pairs_over == "seeds" else _paired_clients
        found: dict[int, PairedTest] = {}
        for index, row in enumerate(rows):
            if row is not reference:
                mine, theirs = paired(row, reference, side, when)
                outcome = _paired_test(mine, theirs, pairs_over)
                if outcome is not None:
                    found[index] = outcome
        corrected = holm([one.p for one in found.values()])
        for (index, one), p in zip(found.items(), corrected, strict=True):
            tested[index][side] = replace(one, p_holm=p)
    return tested


def describe_test(side: str, tests: Sequence[PairedTest], reference: str) -> str:
    """The tests of one side as a sentence."""
    pairs = sorted({one.pairs for one in tests})
    count = str(pairs[0]) if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]}"
    test = {
        "t": f"paired t-test over seeds ({count} pairs)",
        "wilcoxon": f"Wilcoxon signed-rank test over clients ({count} pairs)",
    }[tests[0].test]
    number = len(tests)
    corrected = f", Holm-corrected for {number} comparisons" if number > 1 else ""
    return f"p ({side}, {JUDGED[side]}): two-sided {test} against {reference}{corrected}."


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


def _paired_seeds(
    row: Row, reference: Row, side: str, when: When
) -> tuple[list[float], list[float]]:
    """The judged figure of both rows for the seeds that both have."""

    def of_seeds(runs: Sequence[RecordedRun]) -> dict[int, float | None]:
        return {
            run.config.seed: figures_at(run, when).get(run.primary.get(side, "")) for run in runs
        }

    return _joined(of_seeds(row.runs), of_seeds(reference.runs))


def _paired_clients(
    row: Row, reference: Row, side: str, when: When
) -> tuple[list[float], list[float]]:
    """The accuracy of both rows' personal models, client by client, for the seeds that both have."""
    common = set(row.seeds) & set(reference.seeds)
    evaluations = EVALUATIONS if when == "mean" else 1

    def of_clients(runs: Sequence[RecordedRun]) -> dict[tuple[int, int], float]:
        return {
            (run.config.seed, client): accuracy
            for run in runs
            if run.config.seed in common
            for client, accuracy in client_accuracies(run, evaluations).items()
        }

    return _joined(of_clients(row.runs), of_clients(reference.runs))


def _joined(
    mine: Mapping[Any, float | None], theirs: Mapping[Any, float | None]
) -> tuple[list[float], list[float]]:
    pairs = [
        (a, b) for key, a in mine.items() if a is not None and (b := theirs.get(key)) is not None
    ]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _paired_test(mine: Sequence[float], theirs: Sequence[float], over: str) -> PairedTest | None:
    """A two-sided test; None if there are too few pairs, or no spread between seeds."""
    # scipy.stats takes a second to import, and most tables need no test.
    from scipy import stats

    by_seed = over == "seeds"
    if len(mine) < (_FEWEST_SEEDS if by_seed else _FEWEST_CLIENTS):
        return None
    gaps = [a - b for a, b in zip(mine, theirs, strict=True)]
    if not any(gaps):
        p = 1.0
    elif by_seed:
        if statistics.pstdev(gaps) < 1e-12:
            return None  # the t-test needs some spread
        p = float(stats.ttest_rel(mine, theirs).pvalue)
    else:
        # Pratt's treatment of ties: clients with equal accuracy count as evidence against a difference.
        p = float(stats.wilcoxon(gaps, zero_method="pratt").pvalue)
    return PairedTest("t" if by_seed else "wilcoxon", len(gaps), p, p) if math.isfinite(p) else None
