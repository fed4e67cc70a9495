"""Charts by matplotlib, of one size and look, with texts for places that are pointed at.

A chart is drawn for a width of 400 CSS pixels, the width of a phone and of a third of a
desktop page, so that its text keeps a readable size on both.
"""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from fedloge.results.number_words import compact
from fedloge.results.report.axis_ranges import count_ticks, number_format, percent_limits, thin
from fedloge.results.report.printable_text import printable, shortened
from fedloge.results.report.styles import TONES, Key, Style
from fedloge.results.report.themed_svg import Place, numbered_charts, themed

WIDTH, HEIGHT = 400.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 12.0, 24.0, 38.0
MAX_NAMES = 24
"""With more classes or clients than this, an axis names only some of them."""

_STYLE: Any = {
    "font.size": 11.5,
    "axes.linewidth": 1,
    "axes.edgecolor": TONES["edge"][0],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelcolor": TONES["soft"][0],
    "grid.color": TONES["grid"][0],
    "grid.linewidth": 1,
    "text.color": TONES["soft"][0],
    # Names of classes and runs are plain text, even with dollar signs in them.
    "text.parse_math": False,
    "xtick.color": TONES["edge"][0],
    "ytick.color": TONES["edge"][0],
    "xtick.labelcolor": TONES["soft"][0],
    "ytick.labelcolor": TONES["soft"][0],
    "ytick.major.size": 0,
    "ytick.major.pad": 6,
    "xtick.major.size": 4,
    "lines.linewidth": 1.9,
    "lines.scale_dashes": False,
    "lines.solid_joinstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "fedloge",
}


@dataclass(frozen=True)
class Chart:
    """A chart as the page shows it.

    Attributes
    ----------
    svg : the drawing, escaped.
    keys : entries of the legend.
    note : a sentence below the chart; empty for none.
    """

    title: str
    svg: Markup
    keys: tuple[Key, ...] = ()
    note: str = ""


@dataclass
class Drawing:
    """A chart while it is being drawn: matplotlib's axes, and texts for places that are pointed at.

    Attributes
    ----------
    title, said : what a screen reader says of the chart.
    left, right : margins, in CSS pixels.
    below : further room below the x axis, by which the chart grows (see `room_for`).
    """

    title: str
    said: str
    left: float = LEFT
    right: float = RIGHT
    below: float = 0.0
    _hover: list[Place] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.height, self.bottom = HEIGHT + self.below, BOTTOM + self.below
        self.figure = Figure(figsize=(WIDTH / 72, self.height / 72))
        self.figure.patch.set_visible(False)
        self.axes = self.figure.add_axes(
            (
                self.left / WIDTH,
                self.bottom / self.height,
                (WIDTH - self.left - self.right) / WIDTH,
                (self.height - TOP - self.bottom) / self.height,
            )
        )
        self.axes.patch.set_visible(False)

    def label(self, x: str, y: str) -> None:
        """Name the axes: the name of y above its axis, that of x below the right end of its axis."""
        self.figure.text(4 / WIDTH, 1 - 12 / self.height, printable(y))
        self.figure.text(1 - self.right / WIDTH, 5 / self.height, printable(x), ha="right")

    def y_range(self, low: float, high: float) -> None:
        """Show `low` to `high` on y, ending on round ticks."""
        ticks = list(MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high))
        tiny = 1e-9 * max(1.0, abs(high))
        while len(ticks) > 2 and ticks[1] <= low + tiny:
            ticks = ticks[1:]
        while len(ticks) > 2 and ticks[-2] >= high - tiny:
            ticks = ticks[:-1]
        self.axes.set_ylim(ticks[0], ticks[-1])
        self.axes.yaxis.set_major_locator(FixedLocator(ticks))
        self.axes.yaxis.set_major_formatter(number_format(ticks))

    def percent_range(self, values: Iterable[float]) -> None:
        """Show accuracies in percent, at least 30 points of them, so that noise does not look large."""
        low, high = percent_limits(values)
        self.y_range(low, high)

    def x_numbers(self, low: float, high: float, *, whole: bool = False, count: int = 6) -> None:
        """Show `low` to `high` on x, with round ticks."""
        self.axes.set_xlim(low, high)
        locator = MaxNLocator(count, steps=[1, 2, 5, 10], integer=whole)
        ticks = [t for t in locator.tick_values(low, high) if low <= t <= high]
        self.axes.xaxis.set_major_locator(FixedLocator(ticks))
        self.axes.xaxis.set_major_formatter(number_format(ticks))

    def x_counts(self, values: Sequence[float]) -> None:
        """Show counts of images on a logarithmic x: 10, 20, 50, 100, ..."""
        low, high = max(1.0, min(values)) / 1.25, max(*values, 10.0) * 1.25
        self.axes.set_xscale("log")
        self.axes.set_xlim(low, high)
        ticks = count_ticks(low, high)
        known = sorted({float(value) for value in values})
        self.axes.xaxis.set_major_locator(FixedLocator(ticks if len(ticks) > 1 else known[:4]))
        self.axes.xaxis.set_minor_locator(NullLocator())
        self.axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: compact(v)))

    def x_names(self, names: Sequence[str]) -> None:
        """Put the names at 0, 1, ... on x; only some of them if there are many."""
        count = len(names)
        # With few names, leave room at the sides: bars over the whole width would look like walls.
        beside = max(0.0, (5 - count) / 2)
        self.axes.set_xlim(-0.6 - beside, count - 0.4 + beside)
        shown = range(count) if count <= MAX_NAMES else thin(range(count), 8)
        slanted = names_are_slanted(names)
        self.axes.set_xticks(
            list(shown),
            [shortened(names[i]) for i in shown],
            rotation=45 if slanted else 0,
            ha="right" if slanted else "center",
            rotation_mode="anchor" if slanted else "default",
        )
        self.axes.tick_params(axis="x", length=0 if count <= MAX_NAMES else 4)

    def ends(self, ends: Sequence[tuple[float, str, Style]]) -> None:
        """Write values at the right ends of curves, moved apart where they would overlap."""
        low, high = self.axes.get_ylim()
        span = self.height - TOP - self.bottom
        ordered = sorted(ends, key=lambda end: end[0])
        places: list[float] = []
        for y, _, _ in ordered:
            place = span * (y - low) / (high - low) - 4
            places.append(max(place, places[-1] + 11) if places else max(place, 0.0))
        over = places[-1] - (span - 4) if places else 0.0
        for i in range(len(places) - 1, -1, -1):  # those pushed out at the top move down again
            limit = places[i + 1] - 11 if i + 1 < len(places) else span - 4
            places[i] = min(places[i], limit) if over > 0 else places[i]
        for place, (_, text, style) in zip(places, ordered, strict=True):
            x, y = 1 - (self.right - 5) / WIDTH, (self.bottom + place) / self.height
            self.figure.text(x, y, text, color=TONES[style.tone][0])

    def rule(self, text: str, *, x: float | None = None, y: float | None = None) -> None:
        """A labelled line across the chart, at a value of x or of y."""
        line: Any = {"color": TONES["ink"][0], "linewidth": 1, "linestyle": (0, (4, 3))}
        ink, offset = TONES["ink"][0], "offset points"
        if x is not None:
            self.axes.axvline(x, **line)
            self.axes.annotate(
                text,
                (x, 1),
                (4, -10),
                xycoords=("data", "axes fraction"),
                textcoords=offset,
                color=ink,
            )
        if y is not None:
            self.axes.axhline(y, **line)
            self.axes.annotate(
                text,
                (1, y),
                (-2, 4),
                xycoords=("axes fraction", "data"),
                textcoords=offset,
                color=ink,
                ha="right",
            )

    def hover_columns(self, xs: Sequence[float], texts: Sequence[str]) -> None:
        """Show a text when the column around an x is pointed at; `xs` must rise."""
        places = [self._place(x, 0.0)[0] for x in xs]
        first, last = self.left, WIDTH - self.right
        middles = [(a + b) / 2 for a, b in itertools.pairwise(places)]
        for start, end, text in zip([first, *middles], [*middles, last], texts, strict=True):
            height = self.height - TOP - self.bottom
            self._hover.append(
                (text, {"x": start, "y": TOP, "width": end - start, "height": height})
            )

    def hover_spots(self, points: Iterable[tuple[float, float, str]]) -> None:
        """Show a text when a place near (x, y) is pointed at, for each (x, y, text)."""
        for x, y, text in points:
            cx, cy = self._place(x, y)
            self._hover.append((text, {"cx": cx, "cy": cy, "r": 7}))

    def hover_box(self, x: float, y: float, width: float, height: float, text: str) -> None:
        """Show a text when a box is pointed at, given by its corner and extent in data."""
        (left, top), (right, foot) = self._place(x, y + height), self._place(x + width, y)
        box = {"x": left, "y": top, "width": right - left, "height": foot - top}
        self._hover.append((text, box))

    def chart(self, keys: Iterable[Key] = (), note: str = "") -> Chart:
        """Render it."""
        for artist in self.axes.get_children():
            artist.set_clip_on(False)
        out = io.BytesIO()
        with warnings.catch_warnings():
            # The page's font draws the text, so a character missing in matplotlib's font does not matter.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            self.figure.savefig(out, format="svg", metadata={"Date": None})
        svg = themed(out.getvalue(), f"{self.title}. {self.said}", self._hover)
        return Chart(self.title, svg, tuple(keys), note)

    def _place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the data is in the SVG."""
        across, up = self.axes.transData.transform((x, y))
        scale = 72 / self.figure.dpi
        return across * scale, self.height - up * scale


@contextmanager
def drawing_style() -> Iterator[None]:
    """Use the page's drawing style, and number its charts, inside the block."""
    with matplotlib.rc_context(_STYLE), numbered_charts():
        yield


def names_are_slanted(names: Sequence[str]) -> bool:
    """Whether names along x are too long to be written horizontally beside each other."""
    count = min(len(names), 8 if len(names) > MAX_NAMES else len(names))
    longest = max((len(shortened(name)) for name in names), default=0)
    return longest * 6.4 > (WIDTH - LEFT - RIGHT) / max(1, count)


def room_for(names: Sequence[str]) -> float:
    """The room that a `Drawing` needs below its x axis for these names, besides `BOTTOM`."""
    if not names_are_slanted(names):
        return 0.0
    return 8 + 4.3 * max(len(shortened(name)) for name in names)
