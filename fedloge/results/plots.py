"""Figures for papers, drawn with matplotlib.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart. Line styles and
markers tell the rows apart in print without colour. Text stays text in PDF and SVG.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from fedloge.errors import InputError
from fedloge.results.curves_beside import Curves, draw_beside
from fedloge.results.grouping import Row
from fedloge.results.recorded_run import RecordedRun
from fedloge.results.run_figures import client_accuracies

SIDES = ("global", "personal")
SUFFIXES = (".pdf", ".png", ".svg")
_TITLES = {"global": "Global model", "personal": "Personal models"}
_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#7F7F7F",
)
_MARKERS = "osD^vP*X"
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)))
_STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "fedloge",
    "savefig.dpi": 300,
}
# In inches: the width of one column and of a page of two, as in most proceedings, and the height.
_COLUMN, _PAGE, _HEIGHT = 3.4, 6.9, 2.5
_LEGEND_LINE = 0.16
_MANY_CLASSES, _BINS = 30, 10


def draw(
    kind: str,
    rows: Sequence[Row],
    sides: Sequence[str],
    out: Path,
    beside: Curves | None = None,
) -> str:
    """Draw a figure into the file `out`; returns a sentence on how to read it.

    Parameters
    ----------
    kind : one of `KINDS`.
    rows : what is drawn, in this order.
    sides : ``global``, ``personal`` or both, one panel for each; of `OVER_ROUNDS` also names of recorded figures.
    beside : published curves, dashed beside those of the rows of the same label.

    Raises
    ------
    InputError
        The runs have no such figures, there are too many or too few rows, or `out` cannot
        be written.
    """
    with matplotlib.rc_context(_STYLE):
        figure, said = KINDS[kind](rows, sides)
        if beside is not None:
            titled = {panel.get_title(): panel for panel in figure.axes}
            panels = {side: titled[title] for side, title in _TITLES.items() if title in titled}
            said = f"{said} {draw_beside(beside, panels)}"
        # Without a date, so that the same figures give the same file.
        stamp = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(out.suffix, {})
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(out, metadata=stamp, bbox_inches="tight", pad_inches=0.03)
        except OSError as exc:
            raise InputError(
                f"{out}: cannot be written ({exc.strerror}); give another --out"
            ) from None
    return said


def _curves(rows: Sequence[Row], sides: Sequence[str]) -> tuple[Figure, str]:
    """Accuracy by round."""

    def points(run: RecordedRun, side: str) -> dict[float, float]:
        return dict(_evaluations(run, side))

    figure, axes = _over_rounds(rows, sides, points)
    for panel in axes:
        panel.set_xlabel("round")
        panel.set_xlim(left=0)
    return figure, _band_sentence(rows)


def _bytes(rows: Sequence[Row], sides: Sequence[str]) -> tuple[Figure, str]:
    """Accuracy by the bytes that training has sent so far."""

    points = _spent("bytes-down", "bytes-up")
    figure, axes = _over_rounds(rows, sides, points)
    largest = max(x for row in rows for side in sides for x in points(row.runs[0], side))
    unit, scale = next(
        (u, s) for u, s in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if largest >= s
    )
    for panel in axes:
        panel.set_xlabel(f"sent by server and clients, {unit}")
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / scale:g}"))
        panel.set_xlim(left=0)
    return figure, _band_sentence(rows)


def _seconds(rows: Sequence[Row], sides: Sequence[str]) -> tuple[Figure, str]:
    """Accuracy by the seconds of training so far."""
    figure, axes = _over_rounds(rows, sides, _spent("train-seconds"))
    for panel in axes:
        panel.set_xlabel("seconds of training, without evaluation")
        panel.set_xscale("log")
    return figure, _band_sentence(rows)


def _per_class(rows: Sequence[Row], sides: Sequence[str]) -> tuple[Figure, str]:
    """Accuracy of the global model on each class, by the class's training images."""
    if "global" not in sides or not any("global" in row.runs[0].primary for row in rows):
        raise InputError("a plot per class shows the global model, and these runs have none")
    figure, (panel,) = _panels(1)
    # A row's style is by its place among all rows, also those not drawn, so it is the same in every figure.
    for index, row in enumerate(rows):
        if "global" not in row.runs[0].primary:
            continue
        sizes, values = _class_accuracies(row)
        style = _line_style(index)
        if len(sizes) <= _MANY_CLASSES:
            panel.plot(sizes, values, label=row.label, **style)
            continue
        panel.plot(sizes, values, ".", ms=3.5, alpha=0.4, mew=0, color=style["color"])
        panel.plot(*_binned(sizes, values), label=row.label, **style)
    panel.set_xscale("log")
    _count_axis(panel.xaxis)
    panel.set_xlabel("training images of the class")
    panel.set_ylabel("accuracy, %")
    _legend(figure, [panel], rows)
    binned = len(rows[0].runs[0].class_names) > _MANY_CLASSES
    said = f"Lines join means of {_BINS} groups of classes by size." if binned else ""
    return figure, f"Global model, accuracy on the test images of each class. {said}".strip()


def _clients(rows: Sequence[Row], sides: Sequence[str]) -> tuple[Figure, str]:
    """The accuracy of each client's personal model under one row against that under another."""
    if len(rows) != 2:
        raise InputError(
            f"a plot of clients sets one row against another, got {len(rows)} "
            f"({', '.join(row.label for row in rows)}); choose two with --row"
        )
    first, second = rows
    mine, theirs = _accuracies_and_images(first), _accuracies_and_images(second)
    common = [key for key in mine if key in theirs]
    if not common:
        raise InputError(
            f"{first.label} and {second.label} have no client of one seed in common that was "
            "evaluated under both"
        )
    x, y = (np.array([100 * of[key][0] for key in common]) for of in (mine, theirs))
    images = np.array([mine[key][1] for key in common])
    figure, (panel,) = _panels(1, width=3.3, height=2.8)
    low = max(0.0, 10 * math.floor(min(x.min(), y.min()) / 10))
    panel.plot([low, 100], [low, 100], color="#7F7F7F", lw=0.8, zorder=1)
    points = panel.scatter(
        x, y, c=images, s=16, cmap="cividis", norm=_log_norm(images), lw=0.3, ec="white", zorder=2
    )
    panel.set(xlim=(low - 1, 101), ylim=(low - 1, 101), aspect="equal")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    panel.set_xlabel(f"{first.label}, accuracy %")
    panel.set_ylabel(f"{second.label}, accuracy %")
    bar = figure.colorbar(points, ax=panel, shrink=0.85, pad=0.03)
    bar.set_label("training images of the client")
    _count_axis(bar.ax.yaxis)
    bar.outline.set_visible(False)
    above, below = int((y > x).sum()), int((y < x).sum())
    panel.set_title(
        f"{second.label} ahead {above}, {first.label} ahead {below}, equal {len(x) - above - below}"
    )
    return figure, "One point per client and seed; above the line, the second row is better for it."


KINDS: Mapping[str, Callable[[Sequence[Row], Sequence[str]], tuple[Figure, str]]] = {
    "curves": _curves,
    "per-class": _per_class,
    "clients": _clients,
    "bytes": _bytes,
    "seconds": _seconds,
}


OVER_ROUNDS = ("curves", "bytes", "seconds")
"""The kinds that show how a figure goes on."""


@dataclass(frozen=True)
class _Band:
    """Mean over seeds and sample deviation, of accuracies in percent, at each value of x."""

    x: list[float]
    mean: list[float]
    std: list[float]


def _over_rounds(
    rows: Sequence[Row],
    sides: Sequence[str],
    points: Callable[[RecordedRun, str], dict[float, float]],
) -> tuple[Figure, list[Axes]]:
    having = [side for side in sides if any(points(run, side) for row in rows for run in row.runs)]
    if not having:
        raise InputError("these runs have no such figures to draw yet; let them be evaluated first")
    figure, axes = _panels(len(having))
    for panel, side in zip(axes, having, strict=True):
        for index, row in enumerate(rows):
            band = _band([points(run, side) for run in row.runs], 100 if side in SIDES else 1)
            if not band.x:
                continue
            style = _line_style(index)
            panel.plot(band.x, band.mean, label=row.label, markevery=_every(band.x, index), **style)
            if len(row.runs) > 1:
                low = [m - s for m, s in zip(band.mean, band.std, strict=True)]
                high = [m + s for m, s in zip(band.mean, band.std, strict=True)]
                panel.fill_between(band.x, low, high, color=style["color"], alpha=0.18, lw=0)
        # The name of a figure on two lines, for panels of a quarter page.
        panel.set_title(_TITLES.get(side, side.replace("/", "/\n", 2).replace("/\n", "/", 1)))
    if having[0] in SIDES:
        axes[0].set_ylabel("accuracy, %")
    _legend(figure, axes, rows)
    return figure, axes


def _band(seeds: Sequence[dict[float, float]], scale: float) -> _Band:
    """The band over the evaluations that all seeds have, matched in order, values times `scale`.

    Bytes sent differ a little from seed to seed, so x is averaged as well.
    """
    count = min(len(points) for points in seeds)
    columns = [list(points.items())[:count] for points in seeds]
    x, mean, std = [], [], []
    for column in zip(*columns, strict=True):
        values = [scale * value for _, value in column]
        x.append(statistics.fmean(place for place, _ in column))
        mean.append(statistics.fmean(values))
        std.append(statistics.stdev(values) if len(values) > 1 else 0.0)
    return _Band(x, mean, std)


def _spent(*figures: str) -> Callable[[RecordedRun, str], dict[float, float]]:
    """For a run and a side: what these figures of its rounds add up to -> the accuracy then."""

    def points(run: RecordedRun, side: str) -> dict[float, float]:
        spent, total = {}, 0.0
        for line in run.timing_lines:
            total += sum(line.get(figure, 0) for figure in figures)
            spent[line["round"]] = total
        return {spent[round]: value for round, value in _evaluations(run, side) if round in spent}

    return points


def _evaluations(run: RecordedRun, side: str) -> list[tuple[int, float]]:
    name = run.primary.get(side, "") if side in SIDES else side
    return [(line["round"], line[name]) for line in run.evaluated if name in line]


def _class_accuracies(row: Row) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Training images of each class, rising, and its accuracy in percent, mean over seeds."""
    of_seeds = []
    for run in row.runs:
        values = run.last_class_line.get(run.beside_primary("global", "accuracy"))
        if values is None:
            raise InputError(f"{run.path} has no accuracy by class; let it be evaluated first")
        of_seeds.append([math.nan if value is None else 100 * value for value in values])
    sizes = np.array(row.runs[0].info["train-counts"], dtype=np.float64)
    values = np.array(of_seeds).mean(axis=0)
    order = np.argsort(sizes, kind="stable")
    order = order[(sizes[order] > 0) & np.isfinite(values[order])]
    return sizes[order], values[order]


def _binned(
    sizes: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[list[float], list[float]]:
    groups = np.array_split(np.arange(len(sizes)), _BINS)
    return (
        [float(np.exp(np.log(sizes[g]).mean())) for g in groups],
        [float(values[g].mean()) for g in groups],
    )


def _accuracies_and_images(row: Row) -> dict[tuple[int, int], tuple[float, int]]:
    """Accuracy and training images of each (seed, client), after the last evaluation."""
    found = {}
    for run in row.runs:
        images = {line["client"]: line["num-train"] for line in run.last_client_lines}
        for client, accuracy in client_accuracies(run).items():
            found[run.config.seed, client] = (accuracy, images[client])
    return found


def _panels(
    count: int, width: float | None = None, height: float = _HEIGHT
) -> tuple[Figure, list[Axes]]:
    size = (width or (_COLUMN if count == 1 else _PAGE), height)
    # Not by pyplot, which keeps a process-wide list of figures and may open windows.
    figure = Figure(figsize=size, layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, count)))


def _line_style(index: int) -> dict[str, Any]:
    turn, colour = divmod(index, len(_COLOURS))
    return {
        "color": _COLOURS[colour],
        "linestyle": _DASHES[turn % len(_DASHES)],
        "marker": _MARKERS[colour],
        "markeredgewidth": 0,
    }


def _every(x: Sequence[float], index: int) -> tuple[int, int]:
    """About eight markers per line, at other places for each line."""
    step = max(1, len(x) // 8)
    return index % step, step


def _legend(figure: Figure, axes: Sequence[Axes], rows: Sequence[Row]) -> None:
    handles: dict[str, Any] = {}
    for panel in axes:
        drawn, labels = panel.get_legend_handles_labels()
        handles |= dict(zip(labels, drawn, strict=True))
    if len(handles) < 2:
        return
    names = [row.label for row in rows if row.label in handles]
    width, height = figure.get_size_inches()
    columns = min(len(names), 5 if width > _COLUMN else 2)
    # The figure grows with the lines of the legend, so that the panels keep their height.
    figure.set_size_inches(width, height + _LEGEND_LINE * (math.ceil(len(names) / columns) - 1))
    figure.legend(
        [handles[name] for name in names],
        names,
        loc="outside lower center",
        ncols=columns,
    )


def _count_axis(axis: Axis) -> None:
    """Numbers of images on a logarithmic axis: 10, 20, 50, 100, ..."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axis.set_minor_locator(NullLocator())


def _log_norm(images: NDArray[np.integer]) -> Any:
    low, high = max(1, int(images.min())), max(2, int(images.max()))
    return LogNorm(low, max(high, low + 1))


def _band_sentence(rows: Sequence[Row]) -> str:
    counts = {len(row.runs) for row in rows}
    if counts == {1}:
        return "One seed each."
    return "Lines are means over seeds, bands their sample standard deviation."
