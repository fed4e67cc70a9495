"""Charts over rounds: accuracies, losses and times, of one run or of several in one chart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedloge.results.figure_rows import labels, predictors
from fedloge.results.recorded_run import GROUPS, RecordedRun
from fedloge.results.report.axis_ranges import thin
from fedloge.results.report.drawing import Chart, Drawing
from fedloge.results.report.styles import Key, Style

MAX_POINTS, MAX_HOVER = 300, 100

GROUP_STYLES: Mapping[str, Style] = {
    "many": Style("green", 0),
    "medium": Style("gold", 1),
    "few": Style("purple", 2),
}
_PREDICTOR_STYLES = {
    "realigned": Style("blue", 0),
    "raw": Style("orange", 1, hollow=True),
    "fixed": Style("grey", 2),
    "tuned": Style("green", 3),
}
_RUN_TONES = ("blue", "orange", "green", "purple", "gold", "sky", "red", "grey")


@dataclass(frozen=True)
class Series:
    """One curve: values by round, in the unit of the axis."""

    name: str
    style: Style
    values: Mapping[int, float]


def predictor_style(name: str, index: int) -> Style:
    """The style of a predictor, the same in every chart."""
    return _PREDICTOR_STYLES.get(name, run_style(index))


def run_style(index: int) -> Style:
    """The style of the run at `index` in a chart of several."""
    return Style(_RUN_TONES[index % len(_RUN_TONES)], index)


def curves(
    title: str,
    label: str,
    series: Sequence[Series],
    text: Callable[[float], str],
    *,
    percent: bool = False,
) -> Chart | None:
    """Values by round, one line per series, with the last value at its end."""
    drawn = [s for s in series if s.values]
    if not drawn:
        return None
    unit = " %" if percent else ""
    last = {s.name: text(list(s.values.values())[-1]) for s in drawn}
    drawing = Drawing(
        title,
        "By round. "
        + ", ".join(f"{name}: last {value}{unit}" for name, value in last.items())
        + ".",
        right=46,
    )
    drawing.label("round", label)
    rounds = sorted({r for s in drawn for r in s.values})
    drawing.x_numbers(0, max(1, rounds[-1]), whole=True)
    known = [value for s in drawn for value in s.values.values()]
    if percent:
        drawing.percent_range(known)
    else:
        drawing.y_range(min(0.0, *known), max(*known, 1e-9))
    for s in drawn:
        points = thin(list(s.values.items()), MAX_POINTS)
        xs, ys = [x for x, _ in points], [y for _, y in points]
        drawing.axes.plot(xs, ys, **s.style.line())
        if len(points) <= 25:
            drawing.axes.plot(xs, ys, **s.style.marks(5))
    drawing.ends([(list(s.values.values())[-1], last[s.name], s.style) for s in drawn])
    shown = thin(rounds, MAX_HOVER)
    said = [
        "\n".join(
            [f"round {r}", *(f"{s.name} {text(s.values[r])}{unit}" for s in drawn if r in s.values)]
        )
        for r in shown
    ]
    drawing.hover_columns(shown, said)
    return drawing.chart(Key(s.style, "line", s.name) for s in drawn)


def accuracy_series(run: RecordedRun, name: str, figure: str, style: Style) -> Series:
    """A recorded accuracy as a series in percent."""
    found = {line["round"]: 100 * line[figure] for line in run.evaluated if figure in line}
    return Series(name, style, found)


def accuracy_curves(title: str, series: Sequence[Series]) -> Chart | None:
    """Curves of accuracies in percent."""
    return curves(title, "accuracy, %", series, lambda v: f"{v:.1f}", percent=True)


def run_curves(run: RecordedRun) -> list[Chart | None]:
    """The curves of one run: each side by predictor and by shot group, and the training loss."""
    charts = []
    titles = {"global": "Global model", "personal": "Personal models, mean over clients"}
    for side, end in (("global", "all"), ("personal", "mean")):
        charts.append(_by_predictor(run, titles[side], side, end))
        # If the class counts are unknown, there are no shot groups.
        if run.train_counts is not None:
            by_group = [
                accuracy_series(run, group, run.beside_primary(side, group), GROUP_STYLES[group])
                for group in GROUPS
            ]
            short = titles[side].split(",")[0]
            charts.append(accuracy_curves(f"{short} by class size", by_group))
    charts.append(
        _by_predictor(
            run, "Personal models, worst tenth of the clients", "personal", "worst-decile"
        )
    )
    names = [
        k for k in (run.metric_lines[-1] if run.metric_lines else {}) if k.startswith("train/")
    ]
    losses = [
        Series(
            name.removeprefix("train/"),
            run_style(i),
            {line["round"]: line[name] for line in run.metric_lines if name in line},
        )
        for i, name in enumerate(name for name in names if name.startswith("train/loss"))
    ]
    charts.append(curves("Training loss", "loss", losses, lambda v: f"{v:.3g}"))
    return charts


def overlay_curves(runs: Sequence[RecordedRun]) -> list[Chart | None]:
    """The primary figures of several runs: one chart per figure, with one line per run."""
    wanted = {
        "Global model": ("global", "all"),
        "Global model, many-shot classes": ("global", "many"),
        "Global model, medium-shot classes": ("global", "medium"),
        "Global model, few-shot classes": ("global", "few"),
        "Personal models, mean over clients": ("personal", "mean"),
        "Personal models, worst tenth of the clients": ("personal", "worst-decile"),
    }
    charts = []
    for title, (side, end) in wanted.items():
        series = [
            accuracy_series(run, name, run.beside_primary(side, end), run_style(i))
            for i, (run, name) in enumerate(zip(runs, labels(runs), strict=True))
            if end not in GROUPS or run.train_counts is not None
        ]
        charts.append(accuracy_curves(title, series))
    return charts


def time_curve(run: RecordedRun) -> Chart | None:
    """Seconds of each round, and of its training and evaluation."""
    names = {
        "seconds": "whole round",
        "train-seconds": "training",
        "evaluate-seconds": "evaluation",
    }
    series = [
        Series(
            text,
            run_style(i),
            {line["round"]: line[name] for line in run.timing_lines if name in line},
        )
        for i, (name, text) in enumerate(names.items())
    ]
    return curves("Seconds per round", "seconds", series, lambda v: f"{v:.3g}")


def final_curve(run: RecordedRun) -> Chart | None:
    """The figures that the method is judged by, in one chart."""
    series = [
        accuracy_series(run, name, run.primary[side], style)
        for side, name, style in (
            ("global", "global model", Style("blue", 0)),
            ("personal", "personal models", Style("orange", 1, hollow=True)),
        )
        if side in run.primary
    ]
    return accuracy_curves("Accuracy by round", series)


def _by_predictor(run: RecordedRun, title: str, side: str, end: str) -> Chart | None:
    series = [
        accuracy_series(run, name, f"{side}/{name}/{end}", predictor_style(name, i))
        for i, name in enumerate(predictors(run, side))
    ]
    return accuracy_curves(title, series)
