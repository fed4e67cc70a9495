"""What privacy at the client costs in accuracy: epsilon against accuracy, on digits and on photos.

`uv run python experiments/benchmarks/privacy_price.py OUT --photos photos.tar --weights FILE`

Every run has one noise multiplier; the others' settings are the same, and nothing is tuned. A row that is in
OUT already is not run again.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

import fedloge
from fedloge.console import print_json

NOISES = (0.0, 0.5, 0.7, 1.0, 1.5, 2.5, 4.0, 8.0)
"""0: without privacy."""
_LOCAL = {"local_epochs": 1, "momentum": 0.0, "method": "fedavg", "personal_heads": "own-prior"}
_DIGITS = {
    "model": "cnn",
    "norm": "group",
    "imbalance_factor": 1.0,
    "num_clients": 5,
    "clients_per_round": 5,
    "partitioner_options": {"alpha": 1.0},
    "rounds": 20,
    "evaluate_every": 20,
}
_PHOTOS = {"rounds": 40, "evaluate_every": 40}
RECIPES = {"digits": "digits", "photos": "photos-pretrained"}
SETTINGS = {"digits": _LOCAL | _DIGITS, "photos": _LOCAL | _PHOTOS}
PRIVATE = {
    "digits": {"batch_size": 64, "lr": 1.0, "local_dp_clip": 0.5},
    "photos": {"batch_size": 256, "lr": 4.0, "local_dp_clip": 0.5},
}
PLAIN = {"batch_size": 32, "lr": 0.1}
"""Without privacy: where nothing is clipped, steps of this length are usual."""


def measured(case: str, noise: float, seed: int, changes: dict[str, Any]) -> dict[str, Any]:
    """One run: epsilon, and accuracies of the shared head as it is and with a client's class shares."""
    private = PRIVATE[case] | {"local_dp_noise": noise} if noise else PLAIN
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = SETTINGS[case] | private | changes | {"seed": seed}
        run = fedloge.run(RECIPES[case], runs_dir=folder, **settings)
        row = json.loads((run.path / "metrics.jsonl").read_text().splitlines()[-1])
    return {
        "case": case,
        "noise": noise,
        "seed": seed,
        "epsilon": row.get("privacy/local-epsilon"),
        "global": row["global/raw/all"],
        "personal": row["personal/own-prior/mean"],
    }


def draw(rows: list[dict[str, Any]], figure: Path) -> None:
    """Accuracy against epsilon, one panel per case; dashed: without privacy."""
    import matplotlib.figure

    made = matplotlib.figure.Figure(figsize=(9, 3.4), layout="constrained")
    cases = [case for case in RECIPES if any(row["case"] == case for row in rows)]
    panels = made.subplots(1, len(cases), squeeze=False)[0]
    for panel, case in zip(panels, cases, strict=True):
        for key, colour, words in (("global", "C0", "global"), ("personal", "C1", "personal")):
            points = [row for row in rows if row["case"] == case and row["noise"]]
            noises = sorted({row["noise"] for row in points}, reverse=True)
            by_noise = [[row for row in points if row["noise"] == noise] for noise in noises]
            x = [_mean(row["epsilon"] for row in group) for group in by_noise]
            y = [100 * _mean(row[key] for row in group) for group in by_noise]
            panel.plot(x, y, "o-", color=colour, label=words)
            plain = [row[key] for row in rows if row["case"] == case and not row["noise"]]
            if plain:
                panel.axhline(100 * _mean(plain), color=colour, ls="--", lw=1)
        panel.set_xscale("log")
        panel.set_xlabel("epsilon at delta 1e-5, of the client that spent most")
        panel.set_title(case)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy, %")
    panels[-1].legend(fontsize="small", loc="lower right")
    made.savefig(figure, metadata={"Date": None} if figure.suffix == ".svg" else {})


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def main(
    out: Annotated[Path, typer.Argument(help="Rows, as lines of JSON; the figure is beside it.")],
    photos: Annotated[str, typer.Option(help="Folder or archive of the photos.")] = "",
    weights: Annotated[str, typer.Option(help="File of the pretrained weights.")] = "hub",
    seeds: Annotated[int, typer.Option(min=1)] = 1,
    most: Annotated[int, typer.Option(min=0, help="Runs in this call; 0: all.")] = 0,
) -> None:
    """Measure what is not in OUT yet, and draw all that is."""
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(row["case"], row["noise"], row["seed"]) for row in rows}
    changes: dict[str, dict[str, Any]] = {"digits": {}}
    if photos:
        changes["photos"] = {"data_path": photos, "weights": weights}
    asked = [(c, n, seed) for seed in range(seeds) for c in changes for n in NOISES]
    left = [one for one in asked if one not in done]
    for case, noise, seed in left[:most] if most else left:
        rows.append(measured(case, noise, seed, changes[case]))
        with out.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print_json(rows[-1])
    draw(rows, out.with_suffix(".svg"))


if __name__ == "__main__":
    sys.argv[0] = "privacy_price"
    typer.run(main)
