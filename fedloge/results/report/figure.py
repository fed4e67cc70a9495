"""What all charts of a report share: heading and legend, styles, and how much is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedloge.results.report.html import Markup, tag
from fedloge.results.report.svg import Axis, Style, linear, swatch
from fedloge.results.run import Run
from fedloge.results.terminal_tables import predictors

GROUPS = ("many", "medium", "few")
GROUP_STYLES = (Style("many", 0), Style("medium", 1), Style("few", 2))
_PREDICTOR_STYLES = {
    "realigned": Style("blue", 0),
    "raw": Style("orange", 1, hollow=True),
    "fixed": Style("grey", 2),
    "tuned": Style("green", 3),
}

# What keeps a page readable and below about a megabyte, whatever the size of the run.
MAX_POINTS = 300
MAX_HOVER = 100

T = TypeVar("T")
Key = tuple[Style, Literal["line", "mark", "bar"], str]


def predictor_style(name: str, index: int) -> Style:
    """The style of a predictor, the same in every chart."""
    return _PREDICTOR_STYLES.get(name, Style(f"run{index % 8}", index))


def run_style(index: int) -> Style:
    """The style of the run at `index` where several are overlaid."""
    return Style(f"run{index % 8}", index)


def figure(title: str, body: Markup, keys: Sequence[Key] = (), note: str | None = None) -> Markup:
    """A chart with its heading, its legend and a sentence on how to read it."""
    legend = (
        tag(
            "ul",
            *(tag("li", swatch(style, kind), tag("span", text)) for style, kind, text in keys),
            class_="legend",
        )
        if keys
        else None
    )
    caption = tag("p", note, class_="note") if note else None
    return tag("figure", tag("figcaption", title), legend, body, caption)


def thin(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i)] for i in np.linspace(0, len(items) - 1, most)]


def in_percent(value: float | None) -> float | None:
    """A share as percent; None stays None."""
    return None if value is None else 100 * value


def percent_axis(values: Sequence[float | None], low: float | None = None) -> Axis:
    """An axis over accuracies in percent, from `low` where it is given."""
    known = [value for value in values if value is not None]
    return linear("accuracy, %", known, include=[] if low is None else [low], limits=(0.0, 100.0))


def class_counts(run: Run) -> NDArray[np.int64]:
    """Training images of each class in the whole federation."""
    return np.array(run.info["train-counts"], dtype=np.int64)


def class_values(run: Run, name: str) -> NDArray[np.float64] | None:
    """A figure of each class in the last evaluated round, NaN where a class has none."""
    listed = run.classes.get(name)
    if not isinstance(listed, list) or len(listed) != len(run.class_names):
        return None
    values = np.array([math.nan if v is None else v for v in listed], dtype=np.float64)
    return values if np.isfinite(values).any() else None


def ordered_predictors(run: Run, side: str) -> list[str]:
    """The primary predictor first, then the one it is to be seen against."""
    names = predictors(run, side)
    primary = (run.info.get("primary") or {}).get(side)
    return sorted(names, key=lambda name: (name != primary, name != "raw"))
