"""Which pairs of a global and a personal model, both of one training, no other pair beats: a table and a picture.

`uv run python experiments/benchmarks/frontier.py runs/SWEEP [runs/SWEEP ...] --picture FILE.svg`

Every run has several of each, by what is done with its heads at the end. A pair is beaten if another is at least
as good in all of: global accuracy, its few-shot classes, the personal mean and its worst tenth; and better in
one. Means over seeds; one panel for each sweep.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib.figure
import typer
from matplotlib.axes import Axes

from fedloge.console import stdout
from fedloge.results.figure_rows import predictors
from fedloge.results.grouping import Row, gather, group_runs

MEASURES = ("global all", "few-shot", "personal mean", "worst tenth")


@dataclass(frozen=True)
class Pair:
    """Two models of one method, and their figures in percent, in the order of `MEASURES`."""

    method: str
    models: str
    figures: tuple[float, ...]

    def beats(self, other: Pair) -> bool:
        """Whether it is nowhere worse, and somewhere better."""
        gains = [a - b for a, b in zip(self.figures, other.figures, strict=True)]
        return min(gains) >= 0 and max(gains) > 0


def pairs_of(row: Row) -> list[Pair]:
    """Each global model of a method with each personal one; mean over seeds of the last evaluation."""
    lines = [run.evaluated[-1] for run in row.runs if run.evaluated]

    def means(side: str, names: Sequence[str]) -> dict[str, tuple[float, ...]]:
        found = {}
        for model in predictors(row.runs[0], side):
            keys = [f"{side}/{model}/{name}" for name in names]
            if all(key in line for key in keys for line in lines):
                found[model] = tuple(
                    100 * statistics.fmean(line[key] for line in lines) for key in keys
                )
        return found

    if not lines:
        return []
    shared = means("global", ("all", "few"))
    own = means("personal", ("mean", "worst-decile"))
    return [Pair(row.label, f"{g} and {p}", shared[g] + own[p]) for g in shared for p in own]


def unbeaten(pairs: list[Pair]) -> list[Pair]:
    """Those that no other beats, by falling global accuracy."""
    kept = [pair for pair in pairs if not any(other.beats(pair) for other in pairs)]
    return sorted(kept, key=lambda pair: pair.figures, reverse=True)


def table(kept: list[Pair]) -> str:
    """The frontier as Markdown."""
    lines = [f"| method | models | {' | '.join(MEASURES)} |", "|---|---|" + "---:|" * len(MEASURES)]
    for pair in kept:
        cells = " | ".join(f"{figure:.1f}" for figure in pair.figures)
        lines.append(f"| {pair.method} | {pair.models} | {cells} |")
    return "\n".join(lines)


def draw(panel: Axes, title: str, pairs: list[Pair], kept: list[Pair]) -> None:
    """Personal mean against few-shot classes, near the frontier; the colour is that of all classes."""
    few, own = ([pair.figures[k] for pair in kept] for k in (1, 2))
    panel.scatter(
        [p.figures[1] for p in pairs], [p.figures[2] for p in pairs], s=8, color="#bbbbbb"
    )
    points = panel.scatter(
        few,
        own,
        c=[pair.figures[0] for pair in kept],
        cmap="cividis",
        s=30,
        edgecolors="black",
        linewidths=0.5,
    )
    places: dict[tuple[float, float], list[str]] = {}
    for number, place in enumerate(zip(few, own, strict=True), 1):
        places.setdefault((round(place[0], 1), round(place[1], 1)), []).append(str(number))
    for place, numbers in places.items():
        panel.annotate(", ".join(numbers), place, xytext=(5, 4), textcoords="offset points")
    wide, high = max(few) - min(few), max(own) - min(own)
    panel.set_xlim(min(few) - wide, max(few) + 0.3 * wide)
    panel.set_ylim(min(own) - 2 * high, max(own) + 0.4 * high)
    panel.set_title(title, fontsize="medium")
    panel.set_xlabel("few-shot classes, global model, %")
    panel.set_ylabel("personal models, mean over clients, %")
    panel.grid(alpha=0.3)
    panel.figure.colorbar(points, ax=panel, label="all classes, global model, %")


def main(
    sweeps: Annotated[list[Path], typer.Argument(help="Folders of sweeps.")],
    leave_out: Annotated[
        list[str] | None, typer.Option(help="A row that is no federation, such as a bound.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Where to draw it.")] = None,
) -> None:
    """Print the frontier of each sweep, and draw all."""
    made = matplotlib.figure.Figure(figsize=(4.6 * len(sweeps), 3.6), layout="constrained")
    panels = made.subplots(1, len(sweeps), squeeze=False)[0]
    for panel, sweep in zip(panels, sweeps, strict=True):
        opened, by = gather([], sweep, [])
        (section,) = group_runs(opened, by, allow_unequal=True)
        rows = [row for row in section.rows if row.label not in (leave_out or [])]
        pairs = [pair for row in rows for pair in pairs_of(row)]
        kept = unbeaten(pairs)
        stdout().print(
            f"{sweep.name}: {len(kept)} of {len(pairs)} pairs, numbered from 1", markup=False
        )
        stdout().print(table(kept), soft_wrap=True, markup=False, highlight=False)
        draw(panel, sweep.name, pairs, kept)
    if picture is not None:
        made.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else {})


if __name__ == "__main__":
    typer.run(main)
