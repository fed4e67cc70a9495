"""Charts over rounds: accuracies, losses and times, of one run or of several overlaid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedloge.results.report.figure import (
    GROUP_STYLES,
    GROUPS,
    MAX_HOVER,
    MAX_POINTS,
    Key,
    figure,
    in_percent,
    predictor_style,
    run_style,
    thin,
)
from fedloge.results.report.html import Markup
from fedloge.results.report.svg import Plot, Style, linear
from fedloge.results.run import Run
from fedloge.results.terminal_tables import labels, predictors


@dataclass(frozen=True)
class Series:
    """One curve: a value a round, in the unit of the axis."""

    name: str
    style: Style
    rounds: Sequence[int]
    values: Sequence[float | None]


def curves(
    title: str, label: str, series: Sequence[Series], text: Callable[[float], str], unit: str = ""
) -> Markup | None:
    """Values by round, a line a series; the legend carries each one's last value."""
    drawn = [s for s in series if any(value is not None for value in s.values)]
    if not drawn:
        return None
    known = [value for s in drawn for value in s.values if value is not None]
    all_rounds = sorted({r for s in drawn for r in s.rounds})
    high = 100.0 if unit == " %" else math.inf
    plot = Plot(
        title,
        "By round. " + ", ".join(f"{s.name}: last {_last(s, text)}{unit}" for s in drawn) + ".",
        linear("round", all_rounds, include=[0], pad=False),
        linear(label, known, limits=(0.0, high)),
    )
    for s in drawn:
        points = thin(list(zip(s.rounds, s.values, strict=True)), MAX_POINTS)
        few = len(points) <= 25
        plot.line([x for x, _ in points], [y for _, y in points], s.style, marks=few)
    at = [dict(zip(s.rounds, s.values, strict=True)) for s in drawn]
    for r in thin(all_rounds, MAX_HOVER):
        said = [
            f"{s.name} {text(value)}{unit}"
            for s, values in zip(drawn, at, strict=True)
            if (value := values.get(r)) is not None
        ]
        plot.hover(r, None, "\n".join([f"round {r}", *said]))
    keys: list[Key] = [(s.style, "line", f"{s.name} {_last(s, text)}{unit}") for s in drawn]
    return figure(title, plot.render(), keys)


def accuracy_series(run: Run, name: str, figure_name: str, style: Style) -> Series:
    """A recorded accuracy as a series in percent."""
    return Series(
        name,
        style,
        run.evaluated_rounds,
        [in_percent(line.get(figure_name)) for line in run.evaluated],
    )


def accuracy_curves(title: str, series: Sequence[Series]) -> Markup | None:
    """Curves of accuracies in percent."""
    return curves(title, "accuracy, %", series, lambda v: f"{v:.1f}", " %")


def run_curves(run: Run) -> list[Markup | None]:
    """How one run went: each side by predictor and by shot group, and the training loss."""
    figures = []
    titles = {"global": "Global model", "personal": "Personal models, mean over clients"}
    for side, end in (("global", "all"), ("personal", "mean")):
        by_predictor = [
            accuracy_series(run, name, f"{side}/{name}/{end}", predictor_style(name, i))
            for i, name in enumerate(predictors(run, side))
        ]
        figures.append(accuracy_curves(titles[side], by_predictor))
        if side in run.primary:
            of = run.primary[side].rpartition("/")[0]
            by_group = [
                accuracy_series(run, group, f"{of}/{group}", style)
                for group, style in zip(GROUPS, GROUP_STYLES, strict=True)
            ]
            figures.append(accuracy_curves(f"{titles[side].split(',')[0]} by class size", by_group))
    worst = [
        accuracy_series(run, name, f"personal/{name}/worst-decile", predictor_style(name, i))
        for i, name in enumerate(predictors(run, "personal"))
    ]
    figures.append(accuracy_curves("Personal models, worst tenth of the clients", worst))
    names = [k for k in (run.metrics[-1] if run.metrics else {}) if k.startswith("train/loss")]
    losses = [
        Series(
            name.removeprefix("train/"),
            run_style(i),
            [line["round"] for line in run.metrics],
            [line.get(name) for line in run.metrics],
        )
        for i, name in enumerate(names)
    ]
    figures.append(curves("Training loss", "loss", losses, lambda v: f"{v:.3g}"))
    return figures


def overlay_curves(runs: Sequence[Run]) -> list[Markup | None]:
    """The primary figures of several runs, a chart a figure and a line a run."""
    wanted = {
        "Global model": ("global", "all"),
        "Global model, many-shot classes": ("global", "many"),
        "Global model, medium-shot classes": ("global", "medium"),
        "Global model, few-shot classes": ("global", "few"),
        "Personal models, mean over clients": ("personal", "mean"),
        "Personal models, worst tenth of the clients": ("personal", "worst-decile"),
    }
    return [
        accuracy_curves(
            title,
            [
                accuracy_series(
                    run, name, f"{run.primary[side].rpartition('/')[0]}/{end}", run_style(i)
                )
                for i, (run, name) in enumerate(zip(runs, labels(runs), strict=True))
                if side in run.primary
            ],
        )
        for title, (side, end) in wanted.items()
    ]


def time_curve(run: Run) -> Markup | None:
    """Seconds of each round, and what went into training and evaluation."""
    names = {
        "seconds": "whole round",
        "train-seconds": "training",
        "evaluate-seconds": "evaluation",
    }
    rounds = [line["round"] for line in run.timing]
    series = [
        Series(text, run_style(i), rounds, [line.get(name) for line in run.timing])
        for i, (name, text) in enumerate(names.items())
    ]
    return curves("Seconds a round", "seconds", series, lambda v: f"{v:.3g}", " s")


def _last(series: Series, text: Callable[[float], str]) -> str:
    return next(text(value) for value in reversed(series.values) if value is not None)
