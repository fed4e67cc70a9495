"""A picture of a fixed classifier's certificate: its cosines, and which classes are close."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fedloge.errors import GeometryError
from fedloge.geometry.prototypes import Prototypes

MOST_ROWS = 2000
MOST_DRAWN = 200


def draw_certificate(made: Prototypes, path: Path) -> None:
    """Draw the cosines of all pairs beside the Welch bound, and the cosines of the first classes.

    Of more than 2,000 classes, 2,000 evenly spaced ones are drawn; the title's figures are of all.

    Raises
    ------
    GeometryError
        The file cannot be written, or its ending is none that pictures have.
    """
    measured = made.certificate()
    rows = made.matrix.double().numpy()
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST_ROWS)).astype(int)]
    unit = some / np.linalg.norm(some, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[np.triu_indices(len(unit), k=1)]
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    reach = max(np.abs(cosines).max() * 1.1, 1e-3)
    left.hist(cosines, bins=np.linspace(-reach, reach, 81).tolist(), color="#2a6fb0")
    for place in (-measured.welch, measured.welch) if measured.welch else ():
        left.axvline(place, color="#c0504d", linestyle="--", linewidth=1)
    simplex = -1 / (made.classes - 1)
    if made.classes <= made.dim + 1:
        left.axvline(simplex, color="#c0504d", linestyle="--", linewidth=1)
    bound = (
        f"dashed: Welch bound {measured.welch:.4f}"
        if measured.welch
        else f"dashed: simplex {simplex:.4f}"
        if made.classes <= made.dim + 1
        else "as many axes as needed"
    )
    left.set_xlabel(f"cosine of a pair of classes ({bound})")
    left.set_ylabel("pairs")
    left.set_yticks([])
    left.spines[["top", "right", "left"]].set_visible(False)
    drawn = unit[:MOST_DRAWN]
    gram = drawn @ drawn.T
    np.fill_diagonal(gram, np.nan)
    image = right.imshow(gram, cmap="RdBu_r", vmin=-reach, vmax=reach, interpolation="nearest")
    right.set_xlabel("class" if len(unit) <= MOST_DRAWN else f"class, the first {MOST_DRAWN}")
    figure.colorbar(image, ax=right, shrink=0.85)
    figure.suptitle(
        f"{made.kind}: {made.classes} classes in {made.dim} dimensions; largest |cos| "
        f"{measured.abs_cos_max:.4f}, deviation {measured.cos_std:.2e}, zeros per class "
        f"{measured.zeros_min}\u2013{measured.zeros_max}",
        fontsize=10,
    )
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as exc:
        raise GeometryError(f"{path}: the picture cannot be written ({exc})") from None
