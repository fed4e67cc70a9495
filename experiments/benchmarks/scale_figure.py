"""The figure of docs/performance.md: `uv run python experiments/benchmarks/scale_figure.py HISTORY FIGURE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TITLES = {
    "clients": "clients in the federation, 10 asked",
    "clients a round": "clients asked, of 1,000",
    "model": "million shared parameters, 8 clients asked",
}
# For each series, by its name in the history, the column that grows, and its unit.
SIZES = {"clients": ("clients", 1), "clients a round": ("asked", 1), "model": ("parameters", 1e6)}


def draw(rows: list[dict[str, Any]], figure: Path) -> None:
    """Seconds per round against size, one panel per series; both axes are logarithmic."""
    import matplotlib.figure

    made = matplotlib.figure.Figure(figsize=(11, 3.4), layout="constrained")
    panels = made.subplots(1, len(TITLES), sharey=True)
    for panel, (series, title) in zip(panels, TITLES.items(), strict=True):
        chosen = [row for row in rows if row["series"] == series]
        column, unit = SIZES[series]
        x = [row[column] / unit for row in chosen]
        panel.loglog(x, [row["train"] for row in chosen], "o-", label="training of a round")
        panel.loglog(x, [row["bare"] for row in chosen], "s--", label="its steps in a bare loop")
        if all(row.get("evaluate") for row in chosen):
            panel.loglog(x, [row["evaluate"] for row in chosen], "^-", label="evaluation of all")
        panel.set_xlabel(title)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("seconds")
    panels[0].legend(fontsize="small")
    figure.parent.mkdir(parents=True, exist_ok=True)
    made.savefig(figure, metadata={"Date": None} if figure.suffix == ".svg" else {})


def main() -> None:
    """Draw the newest result of the history that has a scale."""
    history, figure = (Path(arg) for arg in sys.argv[1:])
    results = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    draw([r for r in results if "scale" in r][-1]["scale"], figure)


if __name__ == "__main__":
    main()
