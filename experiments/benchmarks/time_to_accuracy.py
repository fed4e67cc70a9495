"""When runs under a simulated clock reach an accuracy, as a table and a picture.

`uv run python experiments/benchmarks/time_to_accuracy.py runs/sync-* runs/first-* --target 0.4 --picture FILE.svg`

Runs whose names differ in the number at their end are of one kind. Each must have `clock/seconds` in its
record (`speed-spread`).
"""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib.figure
import typer

from fedloge.console import stdout
from fedloge.results.read_files import NUMBER_OR_LIST, read_lines

CLOCK = "clock/seconds"


@dataclass(frozen=True)
class Curve:
    """A run's figure over simulated seconds, as it was measured."""

    kind: str
    seconds: tuple[float, ...]
    values: tuple[float, ...]

    def reaches(self, target: float) -> float | None:
        """The first measured moment at which the figure is at least this; None: it never is."""
        pairs = zip(self.seconds, self.values, strict=True)
        return next((at for at, value in pairs if value >= target), None)


def curve_of(run: Path, figure: str) -> Curve:
    """A run's curve; `typer.BadParameter` if it has no simulated clock or never measured the figure."""
    lines = read_lines(run / "metrics.jsonl", torn=[], kinds=NUMBER_OR_LIST)
    rows = [row for row in lines if figure in row]
    if not rows or CLOCK not in rows[0]:
        raise typer.BadParameter(f"{run} has no {figure} with {CLOCK} beside it; set speed-spread")
    kind = re.sub(r"-?\d+$", "", run.name)
    return Curve(kind, tuple(r[CLOCK] for r in rows), tuple(r[figure] for r in rows))


def table(curves: list[Curve], targets: list[float]) -> str:
    """Simulated seconds to each target, the median over the runs of a kind; – where one never gets there."""
    kinds = list(dict.fromkeys(curve.kind for curve in curves))
    lines = ["| | " + " | ".join(f"{target:.0%}" for target in targets) + " | at the end |"]
    lines.append("|---|" + "---:|" * (len(targets) + 1))
    for kind in kinds:
        own = [curve for curve in curves if curve.kind == kind]
        cells = []
        for target in targets:
            times = [at for curve in own if (at := curve.reaches(target)) is not None]
            cells.append(f"{statistics.median(times):.0f} s" if len(times) == len(own) else "–")
        last = statistics.mean(curve.values[-1] for curve in own)
        end = statistics.mean(curve.seconds[-1] for curve in own)
        lines.append(f"| {kind} | {' | '.join(cells)} | {last:.1%} after {end:.0f} s |")
    return "\n".join(lines)


def draw(curves: list[Curve], picture: Path) -> None:
    """The curves over simulated seconds; a colour and a mark for each kind."""
    made = matplotlib.figure.Figure(figsize=(6.4, 3.8), layout="constrained")
    panel = made.subplots()
    for number, kind in enumerate(dict.fromkeys(curve.kind for curve in curves)):
        for order, curve in enumerate(c for c in curves if c.kind == kind):
            look = f"C{number}{'os^Dv'[number % 5]}-"
            label = None if order else kind
            values = [100 * value for value in curve.values]
            panel.plot(curve.seconds, values, look, label=label, markersize=3.5, linewidth=1.2)
    panel.set_xlabel("simulated seconds")
    panel.set_ylabel("accuracy on the balanced test set, %")
    panel.grid(alpha=0.3)
    panel.legend()
    picture.parent.mkdir(parents=True, exist_ok=True)
    made.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else {})


def main(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.")],
    figure: Annotated[
        str, typer.Option(help="A figure of metrics.jsonl.")
    ] = "global/realigned/all",
    target: Annotated[
        list[float] | None, typer.Option(help="From 0 to 1; may be repeated.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Where to draw the curves.")] = None,
) -> None:
    """Print when runs reach an accuracy, and draw it."""
    curves = [curve_of(run, figure) for run in runs]
    stdout().print(table(curves, target or [0.5]), highlight=False, soft_wrap=True, markup=False)
    if picture is not None:
        draw(curves, picture)


if __name__ == "__main__":
    typer.run(main)
