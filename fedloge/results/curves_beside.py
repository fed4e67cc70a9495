"""Curves that others published, to be drawn beside those of runs.

A CSV file with the columns label, round, global and personal: one line for each evaluated round of a
method, with accuracies in [0, 1]; an empty cell where there is none.
``experiments/recipes/expected/*-curves.csv`` hold those of FedLoGe's authors.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes

from fedloge.errors import InputError

COLUMNS = ("label", "round", "global", "personal")
Curves = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Accuracy in [0, 1] by label, side (``global``, ``personal``) and round."""


def read_curves(path: Path) -> Curves:
    """Read a file of published curves.

    Raises
    ------
    InputError
        The file cannot be read, lacks a column, or has a line that is no round or no accuracy.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (lines.fieldnames or ())]
            if missing:
                raise InputError(
                    f"{path}: expected the columns {', '.join(COLUMNS)}, got "
                    f"{', '.join(lines.fieldnames or ()) or 'none'}; add {', '.join(missing)}"
                )
            rows = list(lines)
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise InputError(f"{path}: cannot be read ({exc}); give a CSV file") from None
    curves: dict[str, dict[str, dict[int, float]]] = {}
    for number, row in enumerate(rows, start=2):
        sides = curves.setdefault(row["label"], {})
        for side in COLUMNS[2:]:
            if row[side]:
                points = sides.setdefault(side, {})
                points[_round(path, number, row["round"])] = _share(path, number, row[side])
    return curves


def draw_beside(curves: Curves, panels: Mapping[str, Axes]) -> str:
    """Dash the published curve of every label that a panel has a line of, in its colour; a sentence on them.

    Parameters
    ----------
    panels : the axes by side; their lines carry the labels of their rows.

    Raises
    ------
    InputError
        No label of the file is drawn in any panel.
    """
    drawn = dict.fromkeys(curves, False)
    for side, panel in panels.items():
        colours = {str(line.get_label()): line.get_color() for line in panel.get_lines()}
        for label, sides in curves.items():
            if label in colours and sides.get(side):
                points = sorted(sides[side].items())
                panel.plot(
                    [round for round, _ in points],
                    [100 * share for _, share in points],
                    color=colours[label],
                    linestyle=(0, (4, 1.5)),
                    linewidth=0.9,
                )
                drawn[label] = True
    beside = [label for label, one in drawn.items() if one]
    if not beside:
        raise InputError(
            f"--beside: it has curves of {', '.join(curves) or 'nothing'}, none of which is a row of this "
            "figure; name the runs' rows as it does"
        )
    left = [label for label, one in drawn.items() if not one]
    others = f" Not drawn, as no run is beside them: {', '.join(left)}." if left else ""
    return f"Dashed lines are the published curves of {', '.join(beside)}.{others}"


def _round(path: Path, number: int, text: str | None) -> int:
    if text is None or not text.isdecimal():
        raise InputError(f"{path}: line {number}: expected a round, got {text!r}")
    return int(text)


def _share(path: Path, number: int, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise InputError(f"{path}: line {number}: expected an accuracy in [0, 1], got {text!r}")
    return share
