"""A partition as a picture: clients by classes, both sorted by size, with their sizes beside them.

Up to `MOST_CELLS` clients and classes have a cell each. More are put together, neighbours in size, and
the colour is their mean, so that thousands of clients stay readable.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, Int64
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from fedloge.errors import InputError
from fedloge.results.number_words import compact, plural

MOST_CELLS = 240
SUFFIXES = (".pdf", ".png", ".svg")
_MOST_NAMES, _LONGEST_NAME = 40, 16
_MUCH = 20
_BLUE, _GREY = "#0072B2", "#7F7F7F"
_STYLE: Any = {
    "font.size": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "fedloge",
}


def draw_partition(
    counts: Int64[np.ndarray, "clients classes"],
    clients: Sequence[str],
    classes: Sequence[str],
    title: str,
    out: Path,
) -> None:
    """Draw a partition into a file.

    Parameters
    ----------
    counts : images of each class on each client.
    clients, classes : their names.
    title : one line above the picture.
    out : a .pdf, .png or .svg file.

    Raises
    ------
    InputError
        The suffix is another, or the file cannot be written.
    """
    if out.suffix not in SUFFIXES:
        raise InputError(
            f"picture: {out} has the suffix {out.suffix!r}, expected one of {', '.join(SUFFIXES)}"
        )
    by_size = np.argsort(-counts.sum(axis=1), kind="stable")
    by_class = np.argsort(-counts.sum(axis=0), kind="stable")
    ordered = counts[by_size][:, by_class]
    with matplotlib.rc_context(_STYLE):
        figure = _figure(
            ordered, [clients[k] for k in by_size], [classes[c] for c in by_class], title
        )
        try:
            figure.savefig(out, dpi=160, metadata=_stamp(out))
        except OSError as exc:
            raise InputError(f"picture: {out} cannot be written ({exc.strerror})") from None


def binned(
    table: Float[np.ndarray, "rows columns"] | Int64[np.ndarray, "rows columns"], most: int
) -> Float[np.ndarray, "bins columns"]:
    """A table with at most so many rows: neighbours are put together, as means.

    >>> binned(np.array([[1.0], [3.0], [5.0], [7.0]]), 2).tolist()
    [[2.0], [6.0]]
    """
    rows = len(table)
    if rows <= most:
        return table.astype(np.float64)
    starts = np.linspace(0, rows, most + 1).astype(np.int64)
    sums: Float[np.ndarray, "bins columns"] = np.add.reduceat(
        table.astype(np.float64), starts[:-1], axis=0
    )
    return sums / np.diff(starts)[:, None]


def _figure(
    counts: Int64[np.ndarray, "clients classes"],
    clients: Sequence[str],
    classes: Sequence[str],
    title: str,
) -> Figure:
    figure = Figure(figsize=(9.0, 6.0), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(5, 1), height_ratios=(1, 4))
    main = figure.add_subplot(grid[1, 0])
    above = figure.add_subplot(grid[0, 0], sharex=main)
    beside = figure.add_subplot(grid[1, 1], sharey=main)
    cells = binned(binned(counts, MOST_CELLS).T, MOST_CELLS)
    shown = np.ma.masked_equal(cells, 0)
    lowest = float(shown.min()) if shown.count() else 1.0
    # One scale for all: a cell of one image is pale, an empty one is white.
    norm = LogNorm(lowest, max(float(cells.max()), lowest * 1.01))
    extent = (-0.5, len(clients) - 0.5, len(classes) - 0.5, -0.5)
    image = main.imshow(
        shown, norm=norm, cmap=_colours(), aspect="auto", extent=extent, interpolation="nearest"
    )
    _names(main, clients, classes)
    _sizes(above, beside, counts)
    bar = figure.colorbar(image, cax=_corner(figure, grid[0, 1]), orientation="horizontal")
    bar.set_label(_what(counts, cells))
    low, high = float(norm.vmin or 1), float(norm.vmax or 1)
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.set_ticks([low, (low * high) ** 0.5, high])
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _rounded(value)))
    figure.suptitle(title, fontsize=9)
    return figure


def _corner(figure: Figure, place: matplotlib.gridspec.SubplotSpec) -> Axes:
    """Room for the colours' scale: the lower part of the corner."""
    return figure.add_subplot(place.subgridspec(2, 1, height_ratios=(3, 1))[1])


def _colours() -> matplotlib.colors.Colormap:
    # Not from white: the palest shade must still be seen on it.
    return matplotlib.colors.LinearSegmentedColormap.from_list(
        "images", ["#c9dff0", "#6aaed6", "#2171b5", "#08306b"]
    )


def _names(axes: Axes, clients: Sequence[str], classes: Sequence[str]) -> None:
    axes.set_xlabel(f"{plural(len(clients), 'client')}, largest first")
    axes.set_ylabel(f"{plural(len(classes), 'class', 'classes')}, largest first")
    if len(clients) <= _MOST_NAMES:
        names = [_short(name) for name in clients]
        # About so many characters fit side by side.
        turned = len(names) * (max(map(len, names)) + 1) > 120
        axes.set_xticks(range(len(names)), names, rotation=90 if turned else 0)
    if len(classes) <= _MOST_NAMES:
        axes.set_yticks(range(len(classes)), [_short(name) for name in classes])


def _sizes(above: Axes, beside: Axes, counts: Int64[np.ndarray, "clients classes"]) -> None:
    """The clients' sizes above, the classes' beside; on logarithmic axes where they differ much."""
    of_clients, of_classes = counts.sum(axis=1), counts.sum(axis=0)
    for axes, axis, sizes, colour, across in (
        (above, above.yaxis, of_clients, _GREY, False),
        (beside, beside.xaxis, of_classes, _BLUE, True),
    ):
        wide = sizes.max() > _MUCH * max(1, sizes.min())
        low = 0.5 if wide else 0.0
        axes.stairs(
            np.maximum(sizes, low),
            np.arange(len(sizes) + 1) - 0.5,
            baseline=low,
            fill=True,
            color=colour,
            orientation="horizontal" if across else "vertical",
        )
        if wide:
            (axes.set_xscale if across else axes.set_yscale)("log")
        axis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
        axis.set_minor_locator(NullLocator())
    above.set_ylabel("images")
    above.tick_params(labelbottom=False)
    beside.set_xlabel("images of a class")
    beside.tick_params(labelleft=False)


def _rounded(value: float) -> str:
    return compact(float(f"{value:.2g}"))


def _what(
    counts: Int64[np.ndarray, "clients classes"], cells: Float[np.ndarray, "classes clients"]
) -> str:
    if cells.shape[::-1] == counts.shape:
        return "images in a cell"
    together = [-(-n // m) for n, m in zip(counts.shape, cells.shape[::-1], strict=True)]
    clients, classes = plural(together[0], "client"), plural(together[1], "class", "classes")
    return f"images, mean of up to\n{clients} x {classes}"


def _short(name: str) -> str:
    # matplotlib reads what stands between two dollar signs as mathematics.
    text = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    return text.replace("$", r"\$")


def _stamp(out: Path) -> dict[str, None]:
    """No date in the file, so that the same partition gives the same bytes."""
    return {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(out.suffix, {})
