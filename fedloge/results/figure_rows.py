"""A run's figures as rows, one per model, and notes that a reader of them needs.

The terminal and the report show the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedloge.methods import METHODS
from fedloge.results.number_words import plural
from fedloge.results.recorded_run import GROUPS, RecordedRun
from fedloge.results.run_figures import mean_of_last

# Column headings of the figures that each side has, in the order they are shown.
COLUMNS: dict[str, dict[str, str]] = {
    "global": {"all": "all", "many": "many", "medium": "medium", "few": "few"},
    "personal": {
        "mean": "mean",
        "std": "std",
        "worst-decile": "worst 10\N{NO-BREAK SPACE}%",
        "macro-f1": "macro F1",
        "many": "many",
        "medium": "medium",
        "few": "few",
    },
}
QUALITY = {"recall": "mean recall", "macro-f1": "macro F1", "auroc": "AUROC", "ece": "ECE"}
"""Column headings of the figures beside accuracy (`fedloge.learning.guesses.Guesses.quality`)."""
NEW_CLIENTS = {
    "shared": "global model",
    "untrained": "own, before training",
    "personalized": "own model",
}
"""Names of the stages of a client that never took part (`fedloge.federation.new_clients.STAGES`)."""
_PREDICTORS = ("fixed", "raw", "tuned", "own-prior", "own-prior-tuned", "realigned")


@dataclass(frozen=True)
class FigureRow:
    """The figures of one predictor, in [0, 1]; unknown ones are left out.

    Attributes
    ----------
    primary : whether the method is judged by this predictor.
    last : figures after the last evaluated round, by column.
    mean : their means over the last ten evaluated rounds.
    """

    predictor: str
    primary: bool
    last: Mapping[str, float]
    mean: Mapping[str, float]


def predictors(run: RecordedRun, side: str) -> list[str]:
    """The predictors that a run has figures of, for side ``global`` or ``personal``."""
    found = {
        key.split("/")[1]
        for line in run.evaluated
        for key in line
        if key.startswith(f"{side}/") and key.count("/") == 2
    }
    known = [name for name in _PREDICTORS if name in found]
    return known + sorted(found.difference(known))


def figure_rows(run: RecordedRun, side: str) -> list[FigureRow]:
    """The figures of each predictor: last evaluated round, and mean over the last ten."""
    if not run.evaluated:
        return []
    last, mean = run.evaluated[-1], mean_of_last(run)
    primary = (run.info.get("primary") or {}).get(side)
    # If the class counts are unknown, all classes are called many-shot, which says nothing.
    told = run.train_counts is not None
    columns = [column for column in COLUMNS[side] if told or column not in GROUPS]
    rows = []
    for name in predictors(run, side):
        keys = {column: f"{side}/{name}/{column}" for column in columns}
        rows.append(
            FigureRow(
                predictor=name,
                primary=name == primary,
                last={column: last[key] for column, key in keys.items() if key in last},
                mean={column: mean[key] for column, key in keys.items() if key in mean},
            )
        )
    return rows


def quality_rows(run: RecordedRun) -> list[tuple[str, bool, dict[str, float]]]:
    """The figures beside accuracy in the last evaluated round: each model, whether it is primary, and they."""
    last = run.evaluated[-1] if run.evaluated else {}
    rows = []
    for side in COLUMNS:
        primary = (run.info.get("primary") or {}).get(side)
        for name in predictors(run, side):
            keys = {column: f"{side}/{name}/{column}" for column in QUALITY}
            found = {column: last[key] for column, key in keys.items() if key in last}
            # Macro-F1 alone is all that earlier versions recorded, and stands in the other table.
            if found.keys() - {"macro-f1"}:
                rows.append((f"{side} {name}", name == primary, found))
    return rows


def new_client_rows(run: RecordedRun) -> list[tuple[str, dict[str, float]]]:
    """Means over the clients held out from training, in the last evaluated round, stage by stage.

    Of each stage its name, and ``mean`` (accuracy), ``std``, ``worst-decile`` and those of `QUALITY`.
    """
    last = run.evaluated[-1] if run.evaluated else {}
    rows = []
    for stage, name in NEW_CLIENTS.items():
        prefix = f"new-clients/{stage}/"
        found = {key.removeprefix(prefix): last[key] for key in last if key.startswith(prefix)}
        if found:
            rows.append((name, found))
    return rows


def shown_columns(side: str, rows: Sequence[FigureRow]) -> dict[str, str]:
    """The columns of `COLUMNS` that some row has a figure for."""
    return {
        column: heading
        for column, heading in COLUMNS[side].items()
        if any(column in row.last or column in row.mean for row in rows)
    }


def progress(run: RecordedRun) -> str:
    """How far a run has come, as half a sentence."""
    if run.stopped_early:
        return f"stopped early after {run.rounds_done} of {run.config.rounds} rounds"
    if run.complete:
        return f"all {run.config.rounds} rounds done"
    return f"{run.rounds_done} of {run.config.rounds} rounds done"


def notes(run: RecordedRun) -> list[str]:
    """Sentences that a reader of the run's figures needs; usually none."""
    said = []
    if not run.complete:
        said.append(f"The run is not complete: {progress(run)}.")
    if run.choice is not None:
        said.append(
            f"Round {run.choice.round} is chosen by validation examples: {run.choice.figure} {run.choice.value:.1%}."
        )
    if run.stopped_early:
        said.append(f"The run has {progress(run)}.")
    if not run.evaluated:
        said.append("No round has been evaluated yet, so there are no figures.")
    if run.torn:
        said.append(f"The last line of {', '.join(run.torn)} was torn off and is not counted.")
    if run.config_changed:
        said.append("config.toml was changed after the run started: its fingerprint differs.")
    if run.failure_lines:
        clients = len({line.get("client") for line in run.failure_lines})
        said.append(f"{plural(len(run.failure_lines), 'failure')} on {plural(clients, 'client')}.")
    return said + [f"{remark[0].upper()}{remark[1:]}." for remark in remarks(run)]


def remarks(run: RecordedRun) -> list[str]:
    """What the run's method says of its rounds; nothing of a user's own method, whose code is not run here."""
    method = METHODS.get(run.method)
    if method is None:
        return []
    return method.remarks(run.config, len(run.class_names), run.metric_lines)


def labels(runs: Sequence[RecordedRun]) -> list[str]:
    """A name for each run that is unique among them: its own, or else its path."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else str(run.path)
        for name, run in zip(names, runs, strict=True)
    ]
