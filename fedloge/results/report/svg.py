"""Charts as inline SVG: axes, lines, marks and bars, coloured by the page's style sheet.

A chart is drawn for a width of 400 CSS pixels, the width of a phone and of a third
of a desktop page, so that its text keeps a readable size on both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fedloge.results.report.html import Markup, escape, join, tag

WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 24, 38

Number = Callable[[float], str]

# One dash pattern and one mark a style, so that colour is never the only difference.
DASHES = (None, "6 3", "2 3", "8 3 2 3", "1 2", "10 4", "4 2", "6 2 1 2 1 2")
_MARKS: tuple[Callable[[float], str], ...] = (
    lambda r: f"m{-r:g} 0a{r:g} {r:g} 0 1 0 {2 * r:g} 0a{r:g} {r:g} 0 1 0 {-2 * r:g} 0",
    lambda r: f"m{-r:g} {-r:g}h{2 * r:g}v{2 * r:g}h{-2 * r:g}z",
    lambda r: f"m0 {-1.3 * r:g}l{1.2 * r:g} {2.1 * r:g}h{-2.4 * r:g}z",
    lambda r: (
        f"m0 {-1.4 * r:g}l{1.4 * r:g} {1.4 * r:g}l{-1.4 * r:g} {1.4 * r:g}"
        f"l{-1.4 * r:g} {-1.4 * r:g}z"
    ),
)


@dataclass(frozen=True)
class Style:
    """How one series looks: `tone` names a colour of the style sheet, `shape` dash and mark."""

    tone: str
    shape: int = 0
    hollow: bool = False

    @property
    def css(self) -> str:
        """The classes that colour it."""
        return f"tone-{self.tone}{' hollow' if self.hollow else ''}"


@dataclass(frozen=True)
class Axis:
    """One axis: from data to 0..1, and its ticks; a logarithmic one holds smaller values at low."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    text: Number
    log: bool = False

    def at(self, value: float) -> float:
        """Where `value` lies between low (0) and high (1)."""
        if self.log:
            return math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def linear(
    label: str,
    values: Iterable[float],
    *,
    text: Number | None = None,
    include: Iterable[float] = (),
    limits: tuple[float, float] = (-math.inf, math.inf),
    count: int = 5,
    pad: bool = True,
) -> Axis:
    """A linear axis over the values, ending on round ticks where `pad` is true."""
    known = [value for value in (*values, *include) if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    if high - low < 1e-12 * max(1.0, abs(high)):
        margin = abs(high) * 0.1 or 1.0
        low, high = max(low - margin, limits[0]), min(high + margin, limits[1])
    step = _step((high - low) / count)
    if pad:
        low = max(math.floor(low / step + 1e-9) * step, limits[0])
        high = min(math.ceil(high / step - 1e-9) * step, limits[1])
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    ticks = tuple(i * step for i in range(first, last + 1))
    return Axis(label, low, high, ticks, text or _decimals(step))


def logarithmic(label: str, values: Iterable[float], *, base: float = 1.0) -> Axis:
    """A logarithmic axis for counts; values below `base`, 0 among them, stand at its half."""
    known = [value for value in values if math.isfinite(value)] or [1.0]
    low, high = min(known), max(*known, 10 * base)
    low = base / 2 if low < base else low / 1.25
    high *= 1.25
    powers = range(math.floor(math.log10(base)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / max(low, base) < 100 else (1,)
    ticks = [s * 10**p for p in powers for s in steps if max(low, base) <= s * 10**p <= high]
    if low < base:
        ticks.insert(0, low)
    return Axis(label, low, high, tuple(ticks), lambda v: "0" if v < base else compact(v), log=True)


def compact(value: float) -> str:
    """A count in a few signs.

    >>> compact(900), compact(5000), compact(1_500_000)
    ('900', '5k', '1.5M')
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.4g}"


def signed(value: float, places: int) -> str:
    """A number with a typographic minus, and never a negative zero.

    >>> signed(-0.1111, 2), signed(-1e-9, 2)
    ('−0.11', '0.00')
    """
    return f"{round(value, places) + 0.0:,.{places}f}".replace("-", "−")


@dataclass
class Plot:
    """A chart that is drawn on piece by piece and then rendered.

    `title` and `description` are what a screen reader says of it.
    """

    title: str
    description: str
    x: Axis
    y: Axis
    _drawn: list[Markup] = field(default_factory=list)
    _hover: list[tuple[float, float | None, str]] = field(default_factory=list)

    def px(self, value: float) -> float:
        """Horizontal position of a value of x."""
        return LEFT + (WIDTH - LEFT - RIGHT) * self.x.at(value)

    def py(self, value: float) -> float:
        """Vertical position of a value of y; outside of the axis it stays at its end."""
        share = min(max(self.y.at(value), 0.0), 1.0)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    def line(
        self,
        xs: Sequence[float],
        ys: Sequence[float | None],
        style: Style,
        *,
        marks: bool = False,
    ) -> None:
        """A line through the points, broken where y is None, with marks where asked for."""
        path, pen = [], "M"
        for x, y in zip(xs, ys, strict=True):
            if y is None:
                pen = "M"
                continue
            path.append(f"{pen}{self.px(x):.1f} {self.py(y):.1f}")
            pen = "L"
        dash = DASHES[style.shape % len(DASHES)]
        self._add("path", d="".join(path), class_=f"line {style.css}", stroke_dasharray=dash)
        if marks:
            self.marks(xs, ys, style, size=2.4)

    def marks(
        self,
        xs: Sequence[float],
        ys: Sequence[float | None],
        style: Style,
        *,
        size: float = 3,
    ) -> None:
        """A mark at each point, its shape by the style; one path for all of them."""
        mark = _MARKS[style.shape % len(_MARKS)](size)
        points = [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None]
        path = "".join(f"M{self.px(x):.1f} {self.py(y):.1f}{mark}" for x, y in points)
        self._add("path", d=path, class_=f"mark {style.css}")

    def stems(self, xs: Sequence[float], ends: Sequence[tuple[float | None, float | None]]) -> None:
        """A thin vertical line at each x between two values of y."""
        path = "".join(
            f"M{self.px(x):.1f} {self.py(a):.1f}V{self.py(b):.1f}"
            for x, (a, b) in zip(xs, ends, strict=True)
            if a is not None and b is not None
        )
        self._add("path", d=path, class_="stem")

    def bars(
        self, edges: Sequence[tuple[float, float]], heights: Sequence[float], style: Style
    ) -> None:
        """Bars from the foot of the chart; `edges` are left and right in values of x."""
        foot = HEIGHT - BOTTOM
        path = []
        for (left, right), height in zip(edges, heights, strict=True):
            top = self.py(height)
            if foot - top < 0.05:
                continue
            a, b = self.px(left), self.px(right)
            gap = min(1.0, 0.15 * (b - a)) if b - a > 3 else 0.0
            path.append(f"M{a + gap:.1f} {foot}V{top:.1f}H{b - gap:.1f}V{foot}z")
        self._add("path", d="".join(path), class_=f"bar {style.css}")

    def rule(self, text: str, *, x: float | None = None, y: float | None = None) -> None:
        """A labelled line across the chart, at a value of x or of y."""
        if x is not None:
            at = self.px(x)
            self._add("path", d=f"M{at:.1f} {TOP}V{HEIGHT - BOTTOM}", class_="rule")
            left = at > (LEFT + WIDTH - RIGHT) / 2
            self._text(text, at + (-4 if left else 4), TOP + 10, "end" if left else "start", "said")
        elif y is not None:
            at = self.py(y)
            self._add("path", d=f"M{LEFT} {at:.1f}H{WIDTH - RIGHT}", class_="rule")
            self._text(text, WIDTH - RIGHT - 2, at - 4, "end", "said")

    def hover(self, x: float, y: float | None, text: str) -> None:
        """What to say when the pointer is near x, or near the point (x, y)."""
        self._hover.append(
            (round(self.px(x), 1), None if y is None else round(self.py(y), 1), text)
        )

    def render(self) -> Markup:
        """The chart as a `div` that holds one `svg`."""
        return tag(
            "div",
            _svg(self.title, self.description, join([*self._axes(), *self._drawn])),
            class_="plot",
            data_hover=json.dumps(self._hover, separators=(",", ":")) if self._hover else None,
        )

    def _axes(self) -> Iterable[Markup]:
        grid = "".join(f"M{LEFT} {self.py(t):.1f}H{WIDTH - RIGHT}" for t in self.y.ticks)
        yield tag("path", d=grid, class_="grid")
        foot = HEIGHT - BOTTOM
        notches = "".join(f"M{self.px(t):.1f} {foot}v4" for t in self.x.ticks)
        yield tag("path", d=f"M{LEFT} {foot}H{WIDTH - RIGHT}{notches}", class_="axis")
        for t in self.y.ticks:
            yield _text(self.y.text(t), LEFT - 6, self.py(t) + 3.8, "end")
        for t in self.x.ticks:
            text, at = self.x.text(t), self.px(t)
            # A long label at the right end would be cut off: about 3.5 pixels half a digit.
            edge = at + 3.5 * len(text) > WIDTH
            yield _text(text, WIDTH - 1 if edge else at, foot + 16, "end" if edge else "middle")
        yield _text(self.y.label, 4, 12, "start", "label")
        yield _text(self.x.label, WIDTH - RIGHT, HEIGHT - 5, "end", "label")

    def _add(self, name: str, **attributes: str | None) -> None:
        if attributes.get("d"):
            self._drawn.append(tag(name, **attributes))

    def _text(self, text: str, x: float, y: float, anchor: str, css: str) -> None:
        self._drawn.append(_text(text, x, y, anchor, css))


def swatch(style: Style, kind: Literal["line", "mark", "bar"]) -> Markup:
    """A small sample of a style for a legend."""
    drawn = []
    if kind == "line":
        dash = DASHES[style.shape % len(DASHES)]
        drawn.append(tag("path", d="M1 6H27", class_=f"line {style.css}", stroke_dasharray=dash))
    if kind == "bar":
        drawn.append(tag("path", d="M8 1h12v10h-12z", class_=f"bar {style.css}"))
    if kind == "mark":
        mark = _MARKS[style.shape % len(_MARKS)](3.2)
        drawn.append(tag("path", d=f"M14 6{mark}", class_=f"mark {style.css}"))
    return tag("svg", *drawn, viewBox="0 0 28 12", class_="swatch", aria_hidden="true")


def _svg(title: str, description: str, drawn: Markup) -> Markup:
    return tag(
        "svg",
        tag("title", title),
        tag("desc", description),
        drawn,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{title}. {description}",
    )


def _text(text: str, x: float, y: float, anchor: str, css: str | None = None) -> Markup:
    return tag("text", escape(text), x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=css)


def _step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))


def _decimals(step: float) -> Number:
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    if places > 5:
        return lambda v: f"{v:.3g}"
    return lambda v: compact(v) if abs(v) >= 10_000 else signed(v, places)
