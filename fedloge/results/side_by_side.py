"""Runs side by side: their figures, and what differs between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedloge.config import OPERATIONAL
from fedloge.results.figure_rows import labels
from fedloge.results.like_for_like import differences
from fedloge.results.recorded_run import RecordedRun
from fedloge.results.run_figures import mean_of_last
from fedloge.results.settings import Value, known_keys, settings, written

_WHERE_A_RUN_LIES = ("name", "runs-dir", "data-path", "table", "cache-dir")


@dataclass(frozen=True)
class ComparedRun:
    """One line of a comparison: primary figures in [0, 1], None if a run has none."""

    name: str
    method: str
    rounds_done: int
    global_last: float | None
    global_mean: float | None
    personal_last: float | None
    personal_mean: float | None
    worst_decile: float | None


@dataclass(frozen=True)
class SideBySide:
    """Several runs side by side, and what differs between them.

    Attributes
    ----------
    differing : config keys with unequal values, and the value in each run.
    sentence : the same as one sentence.
    warnings : what makes the runs not like for like; empty if nothing does.
    """

    rows: list[ComparedRun]
    differing: dict[str, list[Value | None]]
    sentence: str
    warnings: list[str]


def side_by_side(runs: Sequence[RecordedRun]) -> SideBySide:
    """Put runs side by side, and find what differs between them."""
    flats = [settings(run) for run in runs]
    differing: dict[str, list[Value | None]] = {}
    for key in known_keys(runs):
        values = [flat.get(key) for flat in flats]
        if key not in _WHERE_A_RUN_LIES and len(set(values)) > 1:
            differing[key] = values
    unlike = differences(runs)
    return SideBySide(
        rows=[_compared(run, name) for run, name in zip(runs, labels(runs), strict=True)],
        differing=differing,
        sentence=_difference(runs, differing),
        warnings=[f"Not like for like: the runs differ in {'; '.join(unlike)}."] if unlike else [],
    )


def _compared(run: RecordedRun, name: str) -> ComparedRun:
    last = run.evaluated[-1] if run.evaluated else {}
    mean = mean_of_last(run)
    of_all, of_clients = run.primary.get("global", ""), run.primary.get("personal", "")
    return ComparedRun(
        name=name,
        method=run.method,
        rounds_done=run.rounds_done,
        global_last=last.get(of_all),
        global_mean=mean.get(of_all),
        personal_last=last.get(of_clients),
        personal_mean=mean.get(of_clients),
        worst_decile=last.get(run.beside_primary("personal", "worst-decile")),
    )


def _difference(
    runs: Sequence[RecordedRun], differing: Mapping[str, Sequence[Value | None]]
) -> str:
    decisive = {key: values for key, values in differing.items() if key not in OPERATIONAL}
    budget = {key: values for key, values in differing.items() if key == "rounds"}
    operational = [key for key in differing if key in OPERATIONAL and key not in budget]
    named = {**decisive, **budget}
    if named:
        said = ", ".join(
            f"{key} ({' | '.join(written(value) for value in values)})"
            for key, values in named.items()
        )
        sentence = f"The runs differ in {said}."
    elif len({run.fingerprint for run in runs}) > 1:
        sentence = "The configurations are equal, but not the partition or the fixed classifier."
    else:
        sentence = "The runs have equal configurations and fingerprints."
    if operational:
        sentence += f" Without influence on the figures: {', '.join(operational)}."
    return sentence
