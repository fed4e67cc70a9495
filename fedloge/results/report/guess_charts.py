"""Charts of what a model guesses: its confusion matrix, and how far its confidence can be trusted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64
from matplotlib.patches import Rectangle

from fedloge.learning.calibration import Reliability
from fedloge.results.number_words import percent, plural, signed
from fedloge.results.report.drawing import Chart, Drawing, room_for
from fedloge.results.report.printable_text import shortened
from fedloge.results.report.styles import TONES, Key, Style

MAX_CONFUSED = 24
"""With more classes than this, the matrix shows those that are confused most."""


def confusion_chart(
    classes: Sequence[str], confusion: Int64[np.ndarray, "classes classes"]
) -> Chart:
    """Test images by true class (row) and guess (column), shaded by the share of the row."""
    shown = _most_confused(confusion)
    names, counts = [classes[c] for c in shown], confusion[np.ix_(shown, shown)]
    totals = np.maximum(confusion.sum(axis=1)[shown], 1)
    drawing = Drawing(
        "Guesses by true class",
        f"{plural(int(confusion.sum()), 'image')}, {int(confusion.trace()):,} of them right.",
        left=12 + 6.6 * max(len(shortened(name)) for name in names),
        below=room_for(names) + max(0.0, 9.0 * (len(names) - 18)),
    )
    drawing.label("guess", "true class")
    axes = drawing.axes
    axes.grid(visible=False)
    axes.spines[:].set_visible(True)
    axes.set_yticks(range(len(names)), [shortened(name) for name in names])
    drawing.x_names(names)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    for (row, column), count in np.ndenumerate(counts):
        if not count:
            continue
        share = float(count / totals[row])
        tone = TONES["blue" if row == column else "orange"][0]
        corner = (column - 0.5, row - 0.5)
        axes.add_patch(
            Rectangle(corner, 1, 1, facecolor=tone, alpha=0.12 + 0.88 * share, linewidth=0)
        )
        if len(names) <= 12:
            ink = "card" if share > 0.55 else "ink"
            axes.text(
                column, row, f"{count}", ha="center", va="center_baseline", color=TONES[ink][0]
            ).set_fontsize(9.5)
        said = (
            f"{names[row]} taken for {names[column]}" if row != column else f"{names[row]}, right"
        )
        drawing.hover_box(
            *corner, 1, 1, f"{said}\n{count:,} of {totals[row]:,} images, {percent(share)} %"
        )
    note = "Blue is right, orange is wrong; the fuller, the larger the share of the true class."
    if len(shown) < len(classes):
        note += f" The {len(shown)} of {len(classes):,} classes that are confused most."
    keys = [Key(Style("blue"), "bar", "right"), Key(Style("orange"), "bar", "wrong")]
    return drawing.chart(keys, note)


def reliability_chart(title: str, found: Reliability) -> Chart | None:
    """Accuracy by confidence, in bins; on the diagonal a model's confidence is what it is worth."""
    if not found.examples:
        return None
    bins = found.sums.shape[1]
    edges = np.linspace(0, 100, bins + 1)
    accuracy, confidence = 100 * found.accuracy.numpy(), 100 * found.confidence.numpy()
    filled = np.flatnonzero(found.sums[0].numpy())
    over = found.overconfidence
    said = (
        f"Expected calibration error {percent(found.ece)} %; on average the model is "
        f"{signed(100 * abs(over), 1)} points {'more' if over >= 0 else 'less'} confident than right."
    )
    drawing = Drawing(title, said)
    drawing.label("confidence, %", "accuracy, %")
    drawing.x_numbers(0, 100)
    drawing.y_range(0, 100)
    middles = (edges[:-1] + edges[1:]) / 2
    width = 100 / bins
    # Bins with few images, whose accuracy says little, are faint.
    fullness = np.sqrt(found.sums[0].numpy() / found.sums[0].numpy().max())
    for b in filled:
        blue = TONES["blue"][0]
        drawing.axes.bar(
            middles[b],
            accuracy[b],
            0.9 * width,
            color=blue,
            alpha=0.15 + 0.7 * fullness[b],
            linewidth=0,
        )
    drawing.axes.plot([0, 100], [0, 100], color=TONES["ink"][0], linewidth=1, linestyle=(0, (4, 3)))
    drawing.axes.plot(confidence[filled], accuracy[filled], **Style("orange", 0).marks(5.0))
    drawing.hover_columns(
        [float(middles[b]) for b in filled],
        [
            f"{edges[b]:.0f} to {edges[b + 1]:.0f} %\n{plural(int(found.sums[0, b]), 'image')}\n"
            f"confidence {confidence[b]:.1f} %\naccuracy {accuracy[b]:.1f} %"
            for b in filled
        ],
    )
    keys = [
        Key(Style("blue"), "bar", "accuracy, the fuller the more images"),
        Key(Style("orange", 0), "mark", "at the mean confidence"),
    ]
    return drawing.chart(keys, f"{said} {plural(found.examples, 'image')}.")


def _most_confused(confusion: Int64[np.ndarray, "classes classes"]) -> list[int]:
    """The classes to show, in label order: all, or those in the most confusions."""
    if len(confusion) <= MAX_CONFUSED:
        return list(range(len(confusion)))
    off = confusion - np.diag(confusion.diagonal())
    weight = off.sum(axis=0) + off.sum(axis=1)
    return sorted(np.argsort(-weight, kind="stable")[:MAX_CONFUSED].tolist())
