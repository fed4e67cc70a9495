"""Charts of the classes: accuracy and head norms by class size, and the fixed classifier."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedloge.results.number_words import plural, signed
from fedloge.results.recorded_run import GROUPS, RecordedRun
from fedloge.results.report.axis_ranges import thin
from fedloge.results.report.client_charts import ordered_predictors
from fedloge.results.report.curve_charts import GROUP_STYLES, MAX_POINTS, predictor_style
from fedloge.results.report.drawing import MAX_NAMES, Chart, Drawing, room_for
from fedloge.results.report.law_notes import law_note, law_of, norms_of
from fedloge.results.report.styles import TONES, Key, Style

MAX_COSINE_ROWS = 2000
_LAW = Style("grey", 1)


class _Places:
    """Where each class is on x: at a place with its name, or at its size if there are many classes."""

    def __init__(self, run: RecordedRun) -> None:
        counts = run.train_counts
        order = range(len(run.class_names))
        if counts is not None:
            order = [int(c) for c in np.argsort(-counts, kind="stable")]  # type: ignore[assignment]
        self.by_size = counts is not None and len(order) > MAX_NAMES
        self.order: list[int] = thin(order, MAX_POINTS)
        self.names = [run.class_names[c] for c in self.order]
        self.sizes = {} if counts is None else {c: int(counts[c]) for c in self.order}
        self.x = {
            c: float(max(1, self.sizes[c])) if self.by_size else float(place)
            for place, c in enumerate(self.order)
        }

    def room(self) -> float:
        return 0.0 if self.by_size else room_for(self.names)

    def set_axis(self, drawing: Drawing, label: str) -> None:
        if self.by_size:
            drawing.label("training images of the class", label)
            drawing.x_counts([float(size) for size in self.sizes.values()])
        else:
            drawing.label("class, largest first" if self.sizes else "class", label)
            drawing.x_names(self.names)

    def hover(self, drawing: Drawing, said: dict[int, tuple[float, str]]) -> None:
        """Show, when a class is pointed at, its name, its size and a text.

        `said` holds for each class the y at which it is drawn, and the text.
        """
        told = {}
        for c, name in zip(self.order, self.names, strict=True):
            if c in said:
                size = [f"{plural(self.sizes[c], 'image')}"] if self.sizes else []
                told[c] = "\n".join([name, *size, said[c][1]])
        if self.by_size:
            drawing.hover_spots((self.x[c], said[c][0], text) for c, text in told.items())
        elif told:
            drawing.hover_columns([self.x[c] for c in told], list(told.values()))


def class_values(run: RecordedRun, name: str) -> NDArray[np.float64] | None:
    """A figure of each class in the last evaluated round, NaN for a class without one."""
    listed = run.last_class_line.get(name)
    if not isinstance(listed, list) or len(listed) != len(run.class_names):
        return None
    values = np.array([math.nan if v is None else v for v in listed], dtype=np.float64)
    return values if np.isfinite(values).any() else None


def class_accuracy(run: RecordedRun) -> Chart | None:
    """Accuracy of the global model on each class, the largest class first."""
    each = {}
    for name in ordered_predictors(run, "global")[:2]:
        values = class_values(run, f"global/{name}/accuracy")
        if values is not None:
            each[name] = {c: 100 * float(v) for c, v in enumerate(values) if math.isfinite(v)}
    if not each:
        return None
    places = _Places(run)
    title = "Accuracy of each class"
    drawing = Drawing(
        title,
        f"Global model, {plural(len(run.class_names), 'class', 'classes')}.",
        below=places.room(),
    )
    places.set_axis(drawing, "accuracy, %")
    drawing.y_range(0, max(30.0, *(v for of in each.values() for v in of.values())))
    names = list(each)
    if len(names) > 1:
        first, second = (each[name] for name in names)
        both = [c for c in places.order if c in first and c in second]
        drawing.axes.vlines(
            [places.x[c] for c in both],
            [first[c] for c in both],
            [second[c] for c in both],
            colors=TONES["edge"][0],
            lw=1,
        )
    for i, name in reversed(list(enumerate(names))):
        here = [c for c in places.order if c in each[name]]
        drawing.axes.plot(
            [places.x[c] for c in here],
            [each[name][c] for c in here],
            **predictor_style(name, i).marks(),
        )
    said = {}
    for c in places.order:
        told = [(of[c], f"{name} {of[c]:.1f} %") for name, of in each.items() if c in of]
        if told:
            said[c] = (told[0][0], "\n".join(text for _, text in told))
    places.hover(drawing, said)
    return drawing.chart(
        Key(predictor_style(name, i), "mark", name) for i, name in enumerate(names)
    )


def head_norms(run: RecordedRun) -> list[Chart | None]:
    """Norms of recorded heads and features by class, beside the imbalanced law and the fixed classifier."""
    return [_norms(run, name) for name in run.last_class_line if norms_of(name)]


def cosines(run: RecordedRun) -> Chart | None:
    """Pairwise cosines of the fixed classifier's rows, and the cosine of a simplex ETF."""
    values = pairwise_cosines(run)
    if values is None:
        return None
    target = -1 / (len(run.class_names) - 1)
    reach = max(abs(values - target).max() * 1.15, 0.01)
    edges = np.linspace(target - reach, target + reach, 42)
    shares = 100 * np.histogram(values, edges)[0] / len(values)
    said = (
        f"Mean {signed(float(values.mean()), 5)}, standard deviation {values.std():.1e}, "
        f"from {signed(float(values.min()), 5)} to {signed(float(values.max()), 5)}."
    )
    drawing = Drawing("Pairwise cosines of the fixed classifier", said, right=22)
    drawing.label("cosine", "share of pairs, %")
    drawing.x_numbers(float(edges[0]), float(edges[-1]), count=4)
    drawing.y_range(0, float(shares.max()))
    drawing.axes.stairs(shares, edges, fill=True, color=TONES["blue"][0], alpha=0.85, linewidth=0)
    drawing.rule(f"−1/(C−1) = {signed(target, 4)}", x=target)
    return drawing.chart(note=said)


def pairwise_cosines(run: RecordedRun) -> NDArray[np.float64] | None:
    """Cosines of all pairs of rows; of at most `MAX_COSINE_ROWS` rows, evenly spaced."""
    if run.prototypes is None or len(run.prototypes) < 2:
        return None
    rows = np.array(thin(list(run.prototypes), MAX_COSINE_ROWS), dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(lengths > 0, lengths, 1)
    values: NDArray[np.float64] = (rows @ rows.T)[np.triu_indices(len(rows), k=1)]
    return values


def _norms(run: RecordedRun, name: str) -> Chart | None:
    values = class_values(run, name)
    if values is None:
        return None
    groups = run.info["groups"]
    gamma = (
        float(np.linalg.norm(run.prototypes, axis=1).mean())
        if run.prototypes is not None and name.startswith("norms/")
        else None
    )
    law = law_of(run, name)
    known = {c: float(v) for c, v in enumerate(values) if math.isfinite(v)}
    places = _Places(run)
    drawing = Drawing(
        f"Norms of the {norms_of(name)}",
        f"{plural(len(run.class_names), 'class', 'classes')}, norms from {min(known.values()):.3g} "
        f"to {max(known.values()):.3g}.",
        below=places.room(),
    )
    places.set_axis(drawing, "norm")
    drawing.y_range(0, max(*known.values(), gamma or 0.0, *(law.norms if law else ())))
    keys = []
    if law:
        drawn = [c for c in places.order if places.sizes.get(c)]
        xs, ys = [places.x[c] for c in drawn], [float(law.norms[c]) for c in drawn]
        drawing.axes.plot(xs, ys, **_LAW.line())
        keys.append(Key(_LAW, "line", "imbalanced law"))
    styles = GROUP_STYLES if places.sizes else {"": Style("blue")}
    for number, (group, style) in enumerate(styles.items()):
        here = [c for c in places.order if c in known and (not group or groups[c] == number)]
        if here:
            xs, ys = [places.x[c] for c in here], [known[c] for c in here]
            drawing.axes.plot(xs, ys, **style.marks())
            keys += [Key(style, "mark", GROUPS[number])] if group else []
    if gamma is not None:
        drawing.rule(f"fixed classifier: {gamma:.3g} in every class", y=gamma)
    places.hover(drawing, {c: (v, f"norm {v:.3g}") for c, v in known.items()})
    return drawing.chart(keys, law_note(law) if law else "")
