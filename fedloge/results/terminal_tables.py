"""A run's figures as plain rows, and as tables for a terminal of 80 columns.

The report shows the same rows, so that a figure reads alike wherever it stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedloge.config import OPERATIONAL, Scalar
from fedloge.results.run import Run, mean_of_last, total

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
_PREDICTORS = ("fixed", "raw", "tuned", "realigned")

# What must be equal for the figures of two runs to say something of their methods.
_SAME_DATA = (
    "dataset",
    "long-tail",
    "imbalance-factor",
    "image-size",
    "partitioner",
    "partitioner-options",
    "dirichlet-alpha",
    "num-clients",
    "shot-groups",
)
# evaluate-every decides which rounds a mean over the last ten evaluations is over.
_SAME_BUDGET = ("rounds", "local-epochs", "clients-per-round", "evaluate-every", "seed")
_NAMES_OF_A_RUN = ("name", "runs-dir", "data-path", "cache-dir")


@dataclass(frozen=True)
class FigureRow:
    """The figures of one predictor, in [0, 1]; absent ones are left out."""

    predictor: str
    primary: bool
    last: Mapping[str, float]
    mean: Mapping[str, float]


@dataclass(frozen=True)
class ComparedRun:
    """One line of a comparison: primary figures in [0, 1], None where a run has none."""

    name: str
    method: str
    rounds_done: int
    global_last: float | None
    global_mean: float | None
    personal_last: float | None
    personal_mean: float | None
    worst_decile: float | None


@dataclass(frozen=True)
class Comparison:
    """Several runs side by side, and in words what sets them apart.

    Attributes
    ----------
    differing : config keys with unequal values, and the value in each run.
    sentence : the same as one sentence.
    warnings : what makes the runs not comparable like for like; empty when nothing does.
    """

    rows: list[ComparedRun]
    differing: dict[str, list[Scalar]]
    sentence: str
    warnings: list[str]


def percent(value: float | None) -> str:
    """An accuracy in percent, one decimal.

    >>> percent(0.4233), percent(None)
    ('42.3', '–')
    """
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f}"


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(0.4), duration(75), duration(7384)
    ('0.4 s', '1 min 15 s', '2 h 03 min')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """Bytes in decimal units.

    >>> size(999), size(1_234_567)
    ('999 B', '1.2 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def plural(count: int, noun: str, several: str | None = None) -> str:
    """A count and its noun.

    >>> plural(1, "round"), plural(2000, "class", "classes")
    ('1 round', '2,000 classes')
    """
    return f"{count:,} {noun if count == 1 else several or noun + 's'}"


def predictors(run: Run, side: str) -> list[str]:
    """The predictors that a run has figures of, for side ``global`` or ``personal``."""
    found = {
        key.split("/")[1]
        for line in run.evaluated
        for key in line
        if key.startswith(f"{side}/") and key.count("/") == 2
    }
    known = [name for name in _PREDICTORS if name in found]
    return known + sorted(found.difference(known))


def figure_rows(run: Run, side: str) -> list[FigureRow]:
    """The figures of each predictor: last evaluated round, and mean over the last ten."""
    if not run.evaluated:
        return []
    last, mean = run.evaluated[-1], mean_of_last(run, 10)
    primary = (run.info.get("primary") or {}).get(side)
    return [
        FigureRow(
            predictor=name,
            primary=name == primary,
            last=_columns(last, f"{side}/{name}", side),
            mean=_columns(mean, f"{side}/{name}", side),
        )
        for name in predictors(run, side)
    ]


def progress(run: Run) -> str:
    """How far a run has come, as half a sentence."""
    if run.complete:
        return f"all {run.config.rounds} rounds done"
    return f"{run.rounds_done} of {run.config.rounds} rounds done"


def notes(run: Run) -> list[str]:
    """What a reader of the run's figures must know, a sentence each; mostly none."""
    said = []
    if not run.complete:
        said.append(f"The run is not complete: {progress(run)}.")
    if not run.evaluated:
        said.append("No round has been evaluated yet, so there are no figures.")
    if run.torn:
        said.append(f"The last line of {', '.join(run.torn)} was torn off and is not counted.")
    if run.config_changed:
        said.append("config.toml was changed after the run started: its fingerprint is another.")
    if run.failures:
        clients = len({line.get("client") for line in run.failures})
        said.append(f"{plural(len(run.failures), 'failure')} on {plural(clients, 'client')}.")
    return said


def show(run: Run) -> RenderableType:
    """One run for the terminal: what it was, its figures, what to know of them."""
    head = Text(f"{run.name}  ", style="bold")
    head.append(
        f"{run.method} on {run.config.dataset}, {run.config.num_clients} clients, {progress(run)}, "
        f"{duration(total(run.timing, 'seconds'))}",
        style="not bold",
    )
    parts: list[RenderableType] = [head, Text(f"fingerprint {run.fingerprint}", style="dim")]
    titles = {
        "global": "Global model, accuracy on the balanced test set, %",
        "personal": "Personal models, each on its client's own test images, %",
    }
    for side, title in titles.items():
        rows = figure_rows(run, side)
        if rows:
            parts += [Text(f"\n{title}"), _figure_table(run, side, rows)]
    if run.evaluated:
        parts.append(Text("* the model the method is judged by", style="dim"))
    parts += [Text(note, style="yellow") for note in notes(run)]
    return Group(*parts)


def labels(runs: Sequence[Run]) -> list[str]:
    """A name for each run that tells it from the others: its own, or else its path."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else str(run.path)
        for name, run in zip(names, runs, strict=True)
    ]


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Put runs side by side and say what sets them apart."""
    configs = [run.config.flat() for run in runs]
    differing: dict[str, list[Scalar]] = {
        key: [config[key] for config in configs]
        for key in configs[0]
        if key not in _NAMES_OF_A_RUN and len({config[key] for config in configs}) > 1
    }
    return Comparison(
        rows=[_compared(run, name) for run, name in zip(runs, labels(runs), strict=True)],
        differing=differing,
        sentence=_difference(runs, differing),
        warnings=_warnings(runs, differing),
    )


def compare(runs: Sequence[Run]) -> RenderableType:
    """Several runs for the terminal: primary figures, what differs, what makes them unequal."""
    comparison = compare_runs(runs)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("run", overflow="fold", ratio=1)
    table.add_column("method", overflow="fold")
    headings = (
        "round",
        "global\nlast",
        "global\nmean",
        "personal\nlast",
        "personal\nmean",
        "worst\n10 %",
    )
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparison.rows:
        figures = (
            row.global_last,
            row.global_mean,
            row.personal_last,
            row.personal_mean,
            row.worst_decile,
        )
        table.add_row(
            Text(row.name),
            Text(row.method),
            str(row.rounds_done),
            *(percent(figure) for figure in figures),
        )
    return Group(
        Text("Accuracy, %: last evaluated round, and mean of the last ten evaluations"),
        table,
        Text(comparison.sentence),
        *(Text(warning, style="bold yellow") for warning in comparison.warnings),
    )


def _columns(line: Mapping[str, float], prefix: str, side: str) -> dict[str, float]:
    return {
        column: line[f"{prefix}/{column}"]
        for column in COLUMNS[side]
        if f"{prefix}/{column}" in line
    }


def _figure_table(run: Run, side: str, rows: Sequence[FigureRow]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", overflow="fold")
    table.add_column("when", no_wrap=True)
    for heading in COLUMNS[side].values():
        table.add_column(heading.replace(" ", "\n", 1), justify="right", no_wrap=True)
    count = min(10, len(run.evaluated))
    for row in rows:
        whens = ((f"round {run.evaluated_rounds[-1]}", row.last), (f"mean of {count}", row.mean))
        for index, (when, figures) in enumerate(whens):
            label = f"{row.predictor}{' *' if row.primary else ''}" if index == 0 else ""
            table.add_row(
                Text(label),
                when,
                *(percent(figures.get(column)) for column in COLUMNS[side]),
                style="bold" if row.primary else "",
            )
    return table


def _compared(run: Run, name: str) -> ComparedRun:
    last = run.evaluated[-1] if run.evaluated else {}
    mean = mean_of_last(run, 10)
    of_all, of_clients = run.primary.get("global", ""), run.primary.get("personal", "")
    return ComparedRun(
        name=name,
        method=run.method,
        rounds_done=run.rounds_done,
        global_last=last.get(of_all),
        global_mean=mean.get(of_all),
        personal_last=last.get(of_clients),
        personal_mean=mean.get(of_clients),
        worst_decile=last.get(f"{of_clients.rpartition('/')[0]}/worst-decile"),
    )


def _difference(runs: Sequence[Run], differing: Mapping[str, Sequence[Scalar]]) -> str:
    decisive = {key: values for key, values in differing.items() if key not in OPERATIONAL}
    budget = {key: values for key, values in differing.items() if key == "rounds"}
    operational = [key for key in differing if key in OPERATIONAL and key not in budget]
    named = {**decisive, **budget}
    if named:
        said = ", ".join(f"{key} ({_values(values)})" for key, values in named.items())
        sentence = f"The runs differ in {said}."
    elif len({run.fingerprint for run in runs}) > 1:
        sentence = "The configurations are equal, but not the partition or the fixed classifier."
    else:
        sentence = "The runs have equal configurations and fingerprints."
    if operational:
        sentence += f" Without weight for the figures: {', '.join(operational)}."
    return sentence


def _warnings(runs: Sequence[Run], differing: Mapping[str, Sequence[Scalar]]) -> list[str]:
    unlike = [f"{key} ({_values(differing[key])})" for key in _SAME_DATA if key in differing]
    if len({run.info.get("partition") for run in runs}) > 1:
        unlike.append("the partition, so which images lie where")
    unlike += [f"{key} ({_values(differing[key])})" for key in _SAME_BUDGET if key in differing]
    reached: list[Scalar] = [run.rounds_done for run in runs]
    if len(set(reached)) > 1 and "rounds" not in differing:
        unlike.append(f"rounds done ({_values(reached)})")
    if not unlike:
        return []
    return [f"Not like for like: the runs differ in {', '.join(unlike)}."]


def _values(values: Sequence[Scalar]) -> str:
    return " | ".join(str(value) if value != "" else '""' for value in values)
