"""Charts of the split: how many images of each class each client holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from numpy.typing import NDArray

from fedloge.results.number_words import plural
from fedloge.results.recorded_run import GROUPS, RecordedRun
from fedloge.results.report.axis_ranges import thin
from fedloge.results.report.curve_charts import GROUP_STYLES
from fedloge.results.report.drawing import MAX_NAMES, WIDTH, Chart, Drawing, room_for
from fedloge.results.report.printable_text import shortened
from fedloge.results.report.styles import TONES, Key, Style

MAX_CLIENTS, MAX_CLASSES = 60, 100
MAX_BARS = 300
_LEVELS = 8
_MOST_BARS = 30
# With more cells than this they have no texts of their own, which would make the page too large.
_MAX_HOVER_CELLS = 1200


def heat_map(run: RecordedRun) -> Chart | None:
    """Training images of each class on each client, shaded by the logarithm of the count."""
    if run.split is None or not run.split.train.any():
        return None
    counts, rows, columns, note = _condensed(run)
    highest = counts.max()
    shade = np.ceil(_LEVELS * np.log1p(counts) / np.log1p(highest)).astype(int)
    few = len(rows) <= MAX_NAMES
    longest = max(len(shortened(name)) for name in rows) if few else 0
    drawing = Drawing(
        "Training images by class and client",
        f"{plural(len(rows), 'row')} of classes by {plural(len(columns), 'client')}, at most "
        f"{highest:,.0f} in one cell.",
        left=12 + 6.6 * longest if few else 58,
        below=room_for(columns),
    )
    drawing.label("client", "class")
    axes = drawing.axes
    axes.grid(visible=False)
    axes.spines[:].set_visible(True)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    shown = range(len(rows)) if few else [0, len(rows) - 1]
    axes.set_yticks(list(shown), [shortened(rows[i]) if few else _end(i) for i in shown])
    for level in range(1, _LEVELS + 1):
        cells = [_cell(x, y) for y, x in np.argwhere(shade == level)]
        if cells:
            path = Path.make_compound_path(*cells)
            blue, opacity = TONES["blue"][0], _opacity(level)
            axes.add_patch(PathPatch(path, facecolor=blue, alpha=opacity, linewidth=0))
    drawing.x_names(columns)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    if counts.size <= _MAX_HOVER_CELLS:
        for (y, x), count in np.ndenumerate(counts):
            said = f"{rows[y]}, client {columns[x]}\n{count:,.0f} images"
            drawing.hover_box(x - 0.5, y + 0.5, 1, -1, said)
    _write_counts(drawing, counts, shade)
    scale = f"The fuller the colour, the more images, by the logarithm: 1 to {highest:,.0f}."
    return drawing.chart(note=f"{scale} {note}".strip())


def class_sizes(run: RecordedRun) -> Chart | None:
    """Training images of each class, largest first, coloured by shot group."""
    counts, groups = run.train_counts, np.array(run.info["groups"])
    if counts is None:
        return None
    order = np.argsort(-counts, kind="stable")
    ranks = thin(range(len(order)), MAX_BARS)
    names = [run.class_names[order[rank]] for rank in ranks]
    drawing = Drawing(
        "Class sizes, largest first",
        f"{plural(len(counts), 'class', 'classes')} of {counts.max():,} to {counts.min():,} images.",
        below=room_for(names),
    )
    drawing.label("class", "training images")
    drawing.y_range(0, 1.06 * float(counts.max()))
    keys = []
    heights = counts[order[ranks]]
    for number, group in enumerate(GROUPS):
        here = [i for i, rank in enumerate(ranks) if groups[order[rank]] == number]
        if here:
            style = GROUP_STYLES[group]
            _bars(drawing, here, [float(heights[i]) for i in here], style)
            held = int((groups == number).sum())
            keys.append(Key(style, "bar", f"{group}: {plural(held, 'class', 'classes')}"))
    _values_above(drawing, [float(h) for h in heights])
    drawing.x_names(names)
    said = [
        f"{name}\n{counts[order[rank]]:,} images, {GROUPS[groups[order[rank]]]}"
        for name, rank in zip(names, ranks, strict=True)
    ]
    drawing.hover_columns(range(len(ranks)), said)
    return drawing.chart(keys)


def client_sizes(run: RecordedRun) -> Chart | None:
    """Training images of each client, largest first; if nothing was split, as the clients told them."""
    if run.split is not None and run.split.train.any():
        sizes = {k: int(n) for k, n in enumerate(run.split.train.sum(axis=1))}
    else:
        lines = [line for line in run.last_client_lines if "num-train" in line]
        sizes = {line["client"]: int(line["num-train"]) for line in lines}
    if not any(sizes.values()):
        return None
    ordered = thin(sorted(sizes, key=lambda client: -sizes[client]), MAX_BARS)
    heights = [float(sizes[client]) for client in ordered]
    names = [run.client_name(client) for client in ordered]
    drawing = Drawing(
        "Client sizes, largest first",
        f"{plural(len(sizes), 'client')} of {max(sizes.values()):,} to {min(sizes.values()):,} images.",
        below=room_for(names),
    )
    drawing.label("client", "training images")
    drawing.y_range(0, 1.06 * max(heights))
    _bars(drawing, range(len(ordered)), heights, Style("grey"))
    _values_above(drawing, heights)
    drawing.x_names(names)
    said = [
        f"client {name}\n{sizes[client]:,} images"
        for name, client in zip(names, ordered, strict=True)
    ]
    drawing.hover_columns(range(len(ordered)), said)
    return drawing.chart()


def _bars(drawing: Drawing, places: Sequence[int], heights: list[float], style: Style) -> None:
    colour = TONES[style.tone][0]
    if len(heights) > _MOST_BARS and places[-1] - places[0] == len(places) - 1:
        # One shape: so many bars would touch, and show seams.
        edges = np.arange(places[0], places[-1] + 2) - 0.5
        drawing.axes.stairs(heights, edges, fill=True, color=colour, linewidth=0)
    else:
        drawing.axes.bar(places, heights, 0.86, color=colour, alpha=0.85, linewidth=0)


def _values_above(drawing: Drawing, heights: list[float]) -> None:
    """Write each bar's value above it, if there is room."""
    if len(heights) <= 20:
        for place, height in enumerate(heights):
            drawing.axes.annotate(
                f"{height:,.0f}", (place, height), (0, 3), textcoords="offset points", ha="center"
            ).set_fontsize(9.5)


def _write_counts(drawing: Drawing, counts: NDArray[np.float64], shade: NDArray[np.int64]) -> None:
    """Write each cell's count into it, if there is room."""
    width = (WIDTH - drawing.left - drawing.right) / counts.shape[1]
    if max(counts.shape) > MAX_NAMES or 5.6 * len(f"{counts.max():.0f}") > width:
        return
    for (y, x), count in np.ndenumerate(counts):
        if count:
            tone = "card" if _opacity(int(shade[y, x])) > 0.62 else "ink"
            text = drawing.axes.text(
                x, y, f"{count:.0f}", ha="center", va="center_baseline", color=TONES[tone][0]
            )
            text.set_fontsize(9.5)


def _cell(x: int, y: int) -> Path:
    corners = [(x - 0.5, y - 0.5), (x + 0.5, y - 0.5), (x + 0.5, y + 0.5), (x - 0.5, y + 0.5)]
    return Path([*corners, corners[0]], closed=True)


def _opacity(level: int) -> float:
    return 0.1 + 0.9 * (level - 1) / (_LEVELS - 1)


def _end(row: int) -> str:
    return "largest" if row == 0 else "smallest"


def _condensed(run: RecordedRun) -> tuple[NDArray[np.float64], list[str], list[str], str]:
    """Counts (classes, clients) with at most `MAX_CLASSES` rows and `MAX_CLIENTS` columns."""
    if run.split is None:
        raise ValueError("a run without a split has no heat map")
    counts = run.split.train.T.astype(np.float64)
    said = []
    columns = list(range(counts.shape[1]))
    if len(columns) > MAX_CLIENTS:
        by_size = np.argsort(-counts.sum(axis=0), kind="stable")
        columns = thin([int(k) for k in by_size], MAX_CLIENTS)
        said.append(
            f"{len(columns)} of {counts.shape[1]} clients, evenly spaced by size, largest first."
        )
    order = np.argsort(-counts.sum(axis=1), kind="stable")
    counts = counts[order][:, columns]
    names = [run.class_names[c] for c in order]
    if len(names) > MAX_CLASSES:
        parts = np.array_split(np.arange(len(names)), MAX_CLASSES)
        counts = np.stack([counts[part].mean(axis=0) for part in parts])
        said.append(f"{len(names)} classes in {MAX_CLASSES} rows of classes of like size; means.")
        names = [f"{names[part[0]]} … {names[part[-1]]}" for part in parts]
    return counts, names, [run.client_name(k) for k in columns], " ".join(said)
