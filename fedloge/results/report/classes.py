"""Charts of the classes: accuracy and head norms against class size, and the fixed classifier."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedloge.results.report.figure import (
    GROUP_STYLES,
    GROUPS,
    MAX_HOVER,
    MAX_POINTS,
    Key,
    class_counts,
    class_values,
    figure,
    ordered_predictors,
    percent_axis,
    predictor_style,
    thin,
)
from fedloge.results.report.html import Markup
from fedloge.results.report.svg import Plot, Style, linear, logarithmic, signed
from fedloge.results.run import Run

MAX_COSINE_ROWS = 2000


def class_accuracy(run: Run) -> Markup | None:
    """Accuracy of the global model on each class against the class's training images."""
    names = ordered_predictors(run, "global")[:2]
    found = {name: class_values(run, f"global/{name}/accuracy") for name in names}
    each = {name: values for name, values in found.items() if values is not None}
    if not each:
        return None
    counts = class_counts(run)
    order = thin([int(c) for c in np.argsort(-counts, kind="stable")], MAX_POINTS)
    values = {
        name: [None if math.isnan(v[c]) else 100 * float(v[c]) for c in order]
        for name, v in each.items()
    }
    title = "Accuracy of each class against its size"
    plot = Plot(
        title,
        f"Global model, {len(counts)} classes.",
        logarithmic("training images of the class", counts),
        percent_axis([v for vs in values.values() for v in vs], low=0.0),
    )
    xs = [float(counts[c]) for c in order]
    drawn = list(values)
    if len(drawn) > 1:
        plot.stems(xs, list(zip(values[drawn[0]], values[drawn[1]], strict=True)))
    for i, name in reversed(list(enumerate(drawn))):
        plot.marks(xs, values[name], predictor_style(name, i))
    for i in thin(list(range(len(order))), MAX_HOVER):
        said = [f"{n} {v:.1f} %" for n in drawn if (v := values[n][i]) is not None]
        if said:
            y = next(v for n in drawn if (v := values[n][i]) is not None)
            head = f"{run.class_names[order[i]]}\n{counts[order[i]]:,} images"
            plot.hover(xs[i], y, "\n".join([head, *said]))
    keys: list[Key] = [(predictor_style(n, i), "mark", n) for i, n in enumerate(drawn)]
    return figure(title, plot.render(), keys)


def head_norms(run: Run) -> list[Markup | None]:
    """Row norms of the recorded heads against class sizes, with the fixed classifier's norm."""
    return [_norms(run, name) for name in run.classes if name.startswith("norms/")]


def cosines(run: Run) -> Markup | None:
    """Pairwise cosines of the fixed classifier's rows, and where a simplex has them."""
    values = pairwise_cosines(run)
    if values is None:
        return None
    target = -1 / (len(run.class_names) - 1)
    reach = max(abs(values - target).max() * 1.15, 0.01)
    edges = np.linspace(target - reach, target + reach, 42)
    counts = np.histogram(values, edges)[0]
    title = "Pairwise cosines of the fixed classifier"
    said = (
        f"Mean {signed(float(values.mean()), 5)}, standard deviation {values.std():.1e}, "
        f"from {signed(float(values.min()), 5)} to {signed(float(values.max()), 5)}."
    )
    plot = Plot(
        title,
        said,
        linear("cosine", edges.tolist(), pad=False, count=4),
        linear("share of pairs, %", [100 * counts.max() / len(values)], include=[0]),
    )
    bins = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    plot.bars(bins, (100 * counts / len(values)).tolist(), Style("blue"))
    plot.rule(f"−1/(C−1) = {signed(target, 4)}", x=target)
    return figure(title, plot.render(), note=said)


def pairwise_cosines(run: Run) -> NDArray[np.float64] | None:
    """Cosines of all pairs of rows; of at most `MAX_COSINE_ROWS` rows, evenly spaced."""
    if run.prototypes is None or len(run.prototypes) < 2:
        return None
    rows = np.array(thin(list(run.prototypes), MAX_COSINE_ROWS), dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(lengths > 0, lengths, 1)
    values: NDArray[np.float64] = (rows @ rows.T)[np.triu_indices(len(rows), k=1)]
    return values


def _norms(run: Run, name: str) -> Markup | None:
    values = class_values(run, name)
    if values is None:
        return None
    counts, groups = class_counts(run), np.array(run.info["groups"])
    gamma = (
        float(np.linalg.norm(run.prototypes, axis=1).mean()) if run.prototypes is not None else None
    )
    known = values[np.isfinite(values)].tolist()
    title = f"Norms of the {name.removeprefix('norms/').replace('-', ' ')} by class size"
    plot = Plot(
        title,
        f"{len(counts)} classes, norms from {min(known):.3g} to {max(known):.3g}.",
        logarithmic("training images of the class", counts),
        linear("norm", known, include=[0] if gamma is None else [0, gamma]),
    )
    if gamma is not None:
        plot.rule(f"fixed classifier: {gamma:.3g} in every class", y=gamma)
    order = thin([int(c) for c in np.argsort(-counts, kind="stable")], MAX_POINTS)
    keys: list[Key] = []
    for g, style in enumerate(GROUP_STYLES):
        here = [c for c in order if groups[c] == g and np.isfinite(values[c])]
        plot.marks([float(counts[c]) for c in here], [float(values[c]) for c in here], style)
        keys.append((style, "mark", GROUPS[g]))
    for c in thin(order, MAX_HOVER):
        if np.isfinite(values[c]):
            said = f"{run.class_names[c]}\n{counts[c]:,} images\nnorm {values[c]:.3g}"
            plot.hover(float(counts[c]), float(values[c]), said)
    return figure(title, plot.render(), keys)
