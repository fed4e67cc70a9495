"""Charts of the federation: who holds which images, and how well each client is served."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from fedloge.results.report.figure import (
    GROUP_STYLES,
    GROUPS,
    MAX_HOVER,
    MAX_POINTS,
    Key,
    class_counts,
    figure,
    in_percent,
    ordered_predictors,
    percent_axis,
    predictor_style,
    thin,
)
from fedloge.results.report.html import Markup, tag
from fedloge.results.report.svg import Plot, Style, linear, logarithmic
from fedloge.results.run import Run
from fedloge.results.terminal_tables import percent, plural

MAX_CLIENTS = 60
MAX_CLASSES = 100
_LEVELS = 8


def heat_map(run: Run) -> Markup | None:
    """Training images of each class on each client, shaded by the logarithm of the count."""
    if run.split is None or not run.split.train.any():
        return None
    counts, rows, columns, note = _condensed(run)
    shade = np.ceil(_LEVELS * np.log1p(counts) / np.log1p(counts.max())).astype(int)
    paths = [
        tag(
            "path",
            d="".join(f"M{x} {y}h1v1h-1z" for y, x in np.argwhere(shade == level)),
            class_=f"cell level-{level}",
        )
        for level in range(1, _LEVELS + 1)
    ]
    title = "Training images by class and client"
    said = f"{len(rows)} classes by {len(columns)} clients, at most {counts.max():,.0f} in one cell"
    cells = tag(
        "svg",
        tag("title", title),
        tag("desc", said),
        *paths,
        viewBox=f"0 0 {len(columns)} {len(rows)}",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"{title}: {said}",
    )
    grid = {"rows": rows, "columns": columns, "counts": np.round(counts, 1).tolist()}
    few = len(rows) <= 20
    y_labels = rows if few else [f"largest: {rows[0]}", f"smallest: {rows[-1]}"]
    ramp = [tag("i", class_=f"level-{level}") for level in range(1, _LEVELS + 1)]
    body = tag(
        "div",
        tag("div", *(tag("span", label) for label in y_labels), class_="heat-y"),
        tag("div", cells, class_="plot cells", data_grid=json.dumps(grid, separators=(",", ":"))),
        tag(
            "div",
            tag("span", columns[0]),
            tag("span", columns[-1]),
            class_="heat-x",
        ),
        tag(
            "p",
            "1 image ",
            tag("span", *ramp, class_="ramp"),
            f" {counts.max():,.0f} images, logarithmic",
            class_="note",
        ),
        class_="heat" if few else "heat ends",
    )
    return figure(title, body, note=note)


def class_sizes(run: Run) -> Markup:
    """Training images of each class, largest first, coloured by shot group."""
    counts, groups = class_counts(run), np.array(run.info["groups"])
    order = np.argsort(-counts, kind="stable")
    ranks = thin(range(len(order)), MAX_POINTS)
    bars = list(zip(ranks, [*ranks[1:], len(order)], strict=True))
    title = "Class sizes, largest first"
    plot = Plot(
        title,
        f"{len(counts)} classes of {counts.max():,} to {counts.min():,} images.",
        linear("class by size", [0, len(order)], pad=False),
        logarithmic("training images", counts.tolist()),
    )
    keys: list[Key] = []
    for g, style in enumerate(GROUP_STYLES):
        here = [(rank, end) for rank, end in bars if groups[order[rank]] == g]
        plot.bars(here, [float(counts[order[rank]]) for rank, _ in here], style)
        keys.append(
            (style, "bar", f"{GROUPS[g]}: {plural(int((groups == g).sum()), 'class', 'classes')}")
        )
    for rank in thin(ranks, MAX_HOVER):
        c = int(order[rank])
        said = f"{counts[c]:,} images, {GROUPS[groups[c]]}"
        plot.hover(rank + 0.5, None, f"{run.class_names[c]}\n{said}")
    return figure(title, plot.render(), keys)


def client_sizes(run: Run) -> Markup | None:
    """Training images of each client, largest first."""
    if run.split is None:
        return None
    sizes = run.split.train.sum(axis=1)
    order = np.argsort(-sizes, kind="stable")
    ranks = thin(range(len(order)), MAX_POINTS)
    title = "Client sizes, largest first"
    plot = Plot(
        title,
        f"{len(sizes)} clients of {sizes.max():,} to {sizes.min():,} images.",
        linear("client by size", [0, len(order)], pad=False),
        linear("training images", sizes.tolist(), include=[0]),
    )
    plot.bars(
        list(zip(ranks, [*ranks[1:], len(order)], strict=True)),
        [float(sizes[order[rank]]) for rank in ranks],
        Style("grey"),
    )
    for rank in thin(ranks, MAX_HOVER):
        plot.hover(rank + 0.5, None, f"client {order[rank]}\n{sizes[order[rank]]:,} images")
    return figure(title, plot.render())


def client_dots(run: Run) -> Markup | None:
    """Each client's accuracy, sorted by the primary predictor, before and after."""
    names = ordered_predictors(run, "personal")[:2]
    if not names:
        return None
    key = f"personal/{names[0]}/accuracy"
    ranked = sorted((line for line in run.clients if key in line), key=lambda line: line[key])
    if not ranked:
        return None
    shown = thin(list(enumerate(ranked)), 200)
    ranks = [rank for rank, _ in shown]
    values = {
        name: [in_percent(line.get(f"personal/{name}/accuracy")) for _, line in shown]
        for name in names
    }
    title = "Accuracy of each client, sorted"
    plot = Plot(
        title,
        f"{len(ranked)} clients, {names[0]} from {percent(ranked[0][key])} to "
        f"{percent(ranked[-1][key])} %.",
        linear("clients, worst to best", [0, len(ranked) - 1], pad=False),
        percent_axis([v for each in values.values() for v in each]),
    )
    if len(names) > 1:
        plot.stems(ranks, list(zip(values[names[0]], values[names[1]], strict=True)))
    for i, name in reversed(list(enumerate(names))):
        plot.marks(ranks, values[name], predictor_style(name, i), size=2.6)
    for i in thin(list(range(len(shown))), MAX_HOVER):
        rank, line = shown[i]
        said = [f"{name} {value:.1f} %" for name in names if (value := values[name][i]) is not None]
        images = f"{line.get('num-train', 0):,} training images"
        plot.hover(rank, None, "\n".join([f"client {line.get('client')}", *said, images]))
    keys: list[Key] = [(predictor_style(name, i), "mark", name) for i, name in enumerate(names)]
    note = f"{len(shown)} of {len(ranked)} clients are drawn." if len(shown) < len(ranked) else None
    return figure(title, plot.render(), keys, note)


def client_histogram(run: Run) -> Markup | None:
    """How many clients have which accuracy."""
    names = ordered_predictors(run, "personal")[:2]
    each = {
        name: np.array(
            [line[k] for line in run.clients if (k := f"personal/{name}/accuracy") in line]
        )
        for name in names
    }
    if not names or not len(each[names[0]]):
        return None
    edges = np.linspace(0, 1, 21)
    counts = {name: np.histogram(values, edges)[0] for name, values in each.items()}
    first = min(int(np.flatnonzero(n)[0]) for n in counts.values() if n.any())
    title = "How many clients reach which accuracy"
    worst = each[names[0]]
    plot = Plot(
        title,
        f"Mean {percent(float(worst.mean()))} %, standard deviation "
        f"{percent(float(worst.std()))} points.",
        linear("accuracy, %", [100 * edges[first], 100.0], pad=False),
        linear("clients", [int(n.max()) for n in counts.values()], include=[0]),
    )
    keys: list[Key] = []
    for i, name in enumerate(names):
        style = predictor_style(name, i)
        if i == 0:
            lefts, rights = 100 * edges[:-1], 100 * edges[1:]
            bins = list(zip(lefts[first:].tolist(), rights[first:].tolist(), strict=True))
            plot.bars(bins, counts[name][first:].tolist(), style)
            keys.append((style, "bar", name))
        else:
            xs = [100 * float(x) for e in edges[first:-1] for x in (e, e + 0.05)]
            ys: list[float | None] = [float(n) for n in counts[name][first:] for _ in (0, 1)]
            plot.line(xs, ys, style)
            keys.append((style, "line", name))
    for j in range(first, 20):
        said = [f"{name}: {plural(int(n[j]), 'client')}" for name, n in counts.items()]
        span = f"{100 * edges[j]:.0f} to {100 * edges[j + 1]:.0f} %"
        plot.hover(100 * (edges[j] + 0.025), None, "\n".join([span, *said]))
    return figure(title, plot.render(), keys)


def client_size_scatter(run: Run) -> Markup | None:
    """Each client's accuracy against its training images; clients never drawn stand apart."""
    key = run.primary.get("personal", "").rpartition("/")[0] + "/accuracy"
    lines = thin([line for line in run.clients if key in line and "num-train" in line], MAX_POINTS)
    if not lines:
        return None
    title = "Accuracy against a client's training images"
    plot = Plot(
        title,
        f"{len(lines)} clients.",
        logarithmic("training images of the client", [line["num-train"] for line in lines]),
        percent_axis([100 * line[key] for line in lines]),
    )
    never = [line for line in lines if line.get("trained-rounds") == 0]
    drawn = [line for line in lines if line.get("trained-rounds") != 0]
    keys: list[Key] = []
    for part, style, text in (
        (drawn, Style("blue", 0), "trained"),
        (never, Style("orange", 3, hollow=True), "never drawn for training"),
    ):
        if part:
            plot.marks(
                [line["num-train"] for line in part], [100 * line[key] for line in part], style
            )
            keys.append((style, "mark", f"{text}: {len(part)}"))
    for line in thin(lines, MAX_HOVER):
        said = f"{line['num-train']:,} images, {percent(line[key])} %"
        rounds = f"trained in {line.get('trained-rounds', 0)} rounds"
        plot.hover(
            line["num-train"], 100 * line[key], f"client {line.get('client')}\n{said}\n{rounds}"
        )
    return figure(title, plot.render(), keys)


def _condensed(run: Run) -> tuple[NDArray[np.float64], list[str], list[str], str | None]:
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
    return counts, names, [f"client {k}" for k in columns], " ".join(said) or None
