"""Charts of the clients: the accuracy of each one's own model."""

from __future__ import annotations

import numpy as np

from fedloge.results.figure_rows import predictors
from fedloge.results.number_words import percent, plural
from fedloge.results.recorded_run import RecordedRun
from fedloge.results.report.axis_ranges import thin
from fedloge.results.report.curve_charts import MAX_HOVER, MAX_POINTS, predictor_style
from fedloge.results.report.drawing import Chart, Drawing, room_for
from fedloge.results.report.printable_text import shortened
from fedloge.results.report.styles import TONES, Key, Style

MAX_DOTS = 200
_FEWEST_FOR_A_HISTOGRAM = 10


def ordered_predictors(run: RecordedRun, side: str) -> list[str]:
    """A side's predictors: the primary one first, then ``raw``, to compare it with."""
    primary = (run.info.get("primary") or {}).get(side)
    return sorted(predictors(run, side), key=lambda name: (name != primary, name != "raw"))


def client_dots(run: RecordedRun) -> Chart | None:
    """Each client's accuracy under the primary predictor and a second one, sorted by the primary."""
    names = ordered_predictors(run, "personal")[:2]
    key = f"personal/{names[0]}/accuracy" if names else ""
    ranked = sorted(
        (line for line in run.last_client_lines if key in line), key=lambda line: line[key]
    )
    if not ranked:
        return None
    shown = thin(ranked, MAX_DOTS)
    clients = [run.client_name(line["client"]) for line in shown]
    drawing = Drawing(
        "Accuracy of each client, sorted",
        f"{plural(len(ranked), 'client')}, {names[0]} from {percent(ranked[0][key])} to "
        f"{percent(ranked[-1][key])} %.",
        below=room_for(clients),
    )
    drawing.label("client, worst to best", "accuracy, %")
    points = {
        name: {
            place: 100 * line[figure]
            for place, line in enumerate(shown)
            if (figure := f"personal/{name}/accuracy") in line
        }
        for name in names
    }
    drawing.percent_range([value for of in points.values() for value in of.values()])
    if len(names) > 1:
        first, second = (points[name] for name in names)
        both = [place for place in first if place in second]
        drawing.axes.vlines(
            both, [first[p] for p in both], [second[p] for p in both], colors=TONES["edge"][0], lw=1
        )
    for i, name in reversed(list(enumerate(names))):
        places, values = list(points[name]), list(points[name].values())
        drawing.axes.plot(places, values, **predictor_style(name, i).marks(5.5))
    drawing.x_names(clients)
    told = thin(range(len(shown)), MAX_HOVER)
    said = []
    for place in told:
        line = shown[place]
        each = [f"{name} {of[place]:.1f} %" for name, of in points.items() if place in of]
        images = f"{line.get('num-train', 0):,} training images"
        said.append("\n".join([f"client {clients[place]}", *each, images]))
    drawing.hover_columns(told, said)
    note = f"{len(shown)} of {len(ranked)} clients are drawn." if len(shown) < len(ranked) else ""
    return drawing.chart(
        (Key(predictor_style(name, i), "mark", name) for i, name in enumerate(names)), note
    )


def client_histogram(run: RecordedRun) -> Chart | None:
    """How many clients have which accuracy; None for few clients, which `client_dots` shows one by one."""
    found = {}
    for name in ordered_predictors(run, "personal")[:2]:
        key = f"personal/{name}/accuracy"
        found[name] = np.array([line[key] for line in run.last_client_lines if key in line])
    if not found or len(next(iter(found.values()))) < _FEWEST_FOR_A_HISTOGRAM:
        return None
    edges = np.linspace(0, 1, 21)
    counts = {name: np.histogram(values, edges)[0] for name, values in found.items()}
    first = min(int(np.flatnonzero(n)[0]) for n in counts.values() if n.any())
    judged = next(iter(found.values()))
    drawing = Drawing(
        "How many clients reach which accuracy",
        f"Mean {percent(float(judged.mean()))} %, standard deviation "
        f"{percent(float(judged.std()))} points.",
    )
    drawing.label("accuracy, %", "clients")
    drawing.x_numbers(100 * float(edges[first]), 100)
    drawing.y_range(0, float(max(n.max() for n in counts.values())))
    keys = []
    for i, (name, n) in enumerate(counts.items()):
        style = predictor_style(name, i)
        shown_edges, values = 100 * edges[first:], n[first:].astype(float)
        if i == 0:
            blue = TONES[style.tone][0]
            drawing.axes.bar(
                shown_edges[:-1] + 2.5, values, 4.4, color=blue, alpha=0.75, linewidth=0
            )
        else:
            drawing.axes.stairs(values, shown_edges, baseline=None, linewidth=1.9, **style.line())
        keys.append(Key(style, "bar" if i == 0 else "line", name))
    said = [
        "\n".join(
            [
                f"{100 * edges[j]:.0f} to {100 * edges[j + 1]:.0f} %",
                *(f"{name}: {plural(int(n[j]), 'client')}" for name, n in counts.items()),
            ]
        )
        for j in range(first, 20)
    ]
    drawing.hover_columns([100 * float(edges[j]) + 2.5 for j in range(first, 20)], said)
    return drawing.chart(keys)


def client_size_scatter(run: RecordedRun) -> Chart | None:
    """Each client's accuracy against its training images; clients never trained have their own mark."""
    key = run.beside_primary("personal", "accuracy")
    lines = [line for line in run.last_client_lines if key in line and line.get("num-train")]
    if not key or not lines:
        return None
    lines = thin(lines, MAX_POINTS)
    drawing = Drawing(
        "Accuracy against a client’s training images", f"{plural(len(lines), 'client')}."
    )
    drawing.label("training images of the client", "accuracy, %")
    drawing.x_counts([float(line["num-train"]) for line in lines])
    drawing.percent_range([100 * line[key] for line in lines])
    keys = []
    for part, style, text in (
        ([line for line in lines if line.get("trained-rounds") != 0], Style("blue", 0), "trained"),
        (
            [line for line in lines if line.get("trained-rounds") == 0],
            Style("orange", 3, hollow=True),
            "never drawn for training",
        ),
    ):
        if part:
            sizes, values = [line["num-train"] for line in part], [100 * line[key] for line in part]
            drawing.axes.plot(sizes, values, **style.marks())
            keys.append(Key(style, "mark", f"{text}: {len(part)}"))
    if len(lines) <= 12:
        for line in lines:
            drawing.axes.annotate(
                shortened(run.client_name(line["client"])),
                (line["num-train"], 100 * line[key]),
                (6, -3),
                textcoords="offset points",
            )
    drawing.hover_spots(
        (
            line["num-train"],
            100 * line[key],
            f"client {run.client_name(line['client'])}\n{line['num-train']:,} images, {percent(line[key])} %\n"
            f"trained in {plural(line.get('trained-rounds', 0), 'round')}",
        )
        for line in lines
    )
    return drawing.chart(keys)
