"""Simplex equiangular tight frame (ETF): C vectors, every pair at the same, widest angle.

Papyan, Han and Donoho, "Prevalence of neural collapse during the terminal phase of
deep learning training" (PNAS 2020), definition 1: M = sqrt(C/(C-1)) P (I - 11^T/C)
with P^T P = I. The same bits on every machine.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from torch import Tensor

from fedloge.errors import GeometryError
from fedloge.geometry.exact import gram, product, row_norms, tree_sum
from fedloge.rng import rng


def simplex_etf(
    num_classes: int, dim: int, *, gamma: float = 1.0, seed: int
) -> Float[Tensor, "classes features"]:
    """A simplex ETF in a random orientation.

    Parameters
    ----------
    num_classes : C >= 2.
    dim : d >= C - 1.
    gamma : norm of every row, > 0.
    seed : decides the orientation, >= 0.

    Returns
    -------
    float32 rows w_c with ||w_c|| = gamma and cos(w_c, w_j) = -1/(C-1) for all c != j.

    Raises
    ------
    GeometryError
        No simplex of C points fits into d dimensions, or an argument is out of range.
    """
    check_arguments(num_classes, dim, gamma, seed)
    return scaled(simplex_rows(num_classes, dim, seed), gamma)


def check_arguments(num_classes: int, dim: int, gamma: float, seed: int) -> None:
    """Raise `GeometryError` unless a simplex of these classes exists and the rest is in range."""
    if num_classes < 2:
        raise GeometryError(f"fixed classifier: expected at least 2 classes, got {num_classes}")
    if num_classes > dim + 1:
        raise GeometryError(
            f"fixed classifier: no simplex of {num_classes} classes exists in {dim} feature dimensions, "
            f"as C points need at least C - 1; raise dim to {num_classes - 1} or more, "
            f"or take at most {dim + 1} classes; kinds basis and sparse-basis have any number"
        )
    if not (gamma > 0 and math.isfinite(gamma)):
        raise GeometryError(
            f"fixed classifier: gamma is the norm of every row, expected above 0, got {gamma}"
        )
    if seed < 0:
        raise GeometryError(f"fixed classifier: expected a seed of 0 or more, got {seed}")


def simplex_rows(num_classes: int, dim: int, seed: int) -> Float64[ndarray, "classes features"]:
    """The frame of `simplex_etf` in float64, with rows of norm 1 within about 1e-8."""
    # Draws from the tails use the C library's log and exp, whose last bits differ between
    # libraries. Rounded to this grid they are all the same.
    x = np.rint(rng(seed, "simplex-etf").standard_normal((num_classes, dim)) * 2.0**16) / 2.0**16
    # The largest singular value exceeds this sum once in e**18 draws.
    x = _centred(x) / (math.sqrt(num_classes) + math.sqrt(dim) + 6)
    target = np.eye(num_classes) - 1 / num_classes
    # Newton-Schulz brings every singular value to 1, except the one along the vector of ones,
    # which centring holds at 0. The result is P (I - 11^T/C) for a uniformly random P. Unlike QR
    # followed by centring it also covers C = d + 1, where no P with orthonormal columns exists.
    # A step multiplies a small singular value by 1.5, so 100 steps suffice for any full rank.
    for _ in range(100):
        overlap = gram(x)
        x = _centred(1.5 * x - 0.5 * product(overlap, x))
        # An error e before this step leaves 3/4 e**2 after it, which is below the grid.
        if np.abs(overlap - target).max() < 1e-4:
            return x * math.sqrt(num_classes / (num_classes - 1))
    raise GeometryError(
        f"fixed classifier: the {num_classes} points that seed {seed} draws span less than a simplex; "
        "take another seed"
    )


def scaled(
    rows: Float64[ndarray, "classes features"], gamma: float
) -> Float[Tensor, "classes features"]:
    """The rows at norm gamma, in float32."""
    return torch.from_numpy((rows * (gamma / row_norms(rows))[:, None]).astype(np.float32))


def _centred(x: Float64[ndarray, "classes features"]) -> Float64[ndarray, "classes features"]:
    return x - tree_sum(x) / len(x)
