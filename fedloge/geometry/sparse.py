"""SSE-C: the static sparse equiangular tight frame that FedLoGe trains its backbone against.

Xiao et al., "FedLoGe: Joint Local and Generic Federated Learning under Long-tailed
Data" (ICLR 2024, arXiv 2401.08977), section on SSE-C: a simplex ETF in which a share
beta of the entries is set to zero, and the others are moved until norms and angles are right again.
The paper minimises norm and angle losses with Adam; here the same conditions are
solved as least squares, to more digits and with the same bits on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64
from numpy import ndarray
from torch import Tensor

from fedloge.errors import GeometryError
from fedloge.geometry.exact import gram, inner, product, row_norms, tree_sum
from fedloge.geometry.simplex import check_arguments, scaled, simplex_rows
from fedloge.rng import rng

Rows = Float64[ndarray, "classes features"]
Support = Bool[ndarray, "classes features"]

# Largest error of any cosine, and of any squared norm before the final scaling.
TOLERANCE = 2e-6

_MAX_STEPS = 3000
_MAX_STEP = 1e4  # keeps every trial finite
_PATIENCE = 100  # steps in which the loss must halve
_MEMORY = 10  # a step may be worse than the last, but not than the last ten


def sparse_etf(
    num_classes: int, dim: int, *, sparsity: float = 0.6, gamma: float = 0.1, seed: int
) -> Float[Tensor, "classes features"]:
    """A sparse equiangular frame with the same number of zeros in every class.

    Parameters
    ----------
    num_classes : C >= 2.
    dim : d >= C - 1.
    sparsity : share beta of zeros in every row, 0 <= beta < 1; round(beta d) entries are zero.
    gamma : norm of every row, > 0.
    seed : decides the start and the places of the zeros, >= 0.

    Returns
    -------
    float32 rows w_c with ||w_c|| = gamma and cos(w_c, w_j) = -1/(C-1) +- 2e-6 for all c != j.

    Raises
    ------
    GeometryError
        No such frame exists or was found: it is too sparse for so many classes. The message
        says how close the best attempt came and what to change.
    """
    check_arguments(num_classes, dim, gamma, seed)
    nonzeros = dim - zeros_per_class(dim, sparsity)
    if nonzeros == dim:
        return scaled(simplex_rows(num_classes, dim, seed), gamma)
    _check_count(num_classes, dim, sparsity, nonzeros)

    start = simplex_rows(num_classes, dim, seed)
    best = _Solution(start, np.inf)
    for attempt, features in enumerate(_feature_counts(num_classes, dim, nonzeros)):
        support = draw_support(
            num_classes, dim, nonzeros, features, rng(seed, "sparse-etf", attempt)
        )
        if not _all_pairs_meet(support):
            continue
        best = min(best, _solve(start, support), key=lambda solution: solution.error)
        if best.error < TOLERANCE:
            return scaled(best.rows, gamma)
    reached = (
        f"came within {best.error:.1e} of"
        if np.isfinite(best.error)
        else "found no support that admits"
    )
    raise GeometryError(
        f"sparse-etf: {num_classes} classes with {nonzeros} nonzeros in {dim} dimensions (sparsity {sparsity:g}): "
        f"{reached} the cosine {-1 / (num_classes - 1):.4g}, expected within {TOLERANCE:.0e}; "
        "lower sparsity, raise dim or take fewer classes"
    )


def zeros_per_class(dim: int, sparsity: float) -> int:
    """round(beta d); raises `GeometryError` unless 0 <= beta < 1."""
    if not 0 <= sparsity < 1:
        raise GeometryError(
            f"sparse-etf: sparsity is a share of zeros, expected 0 <= sparsity < 1, got {sparsity}"
        )
    return round(sparsity * dim)


def _check_count(num_classes: int, dim: int, sparsity: float, nonzeros: int) -> None:
    # The rows of a simplex sum to zero, which fixes one entry of every feature in use. A feature
    # that no class uses fixes none, so the least number of features that can hold the rows counts.
    conditions = num_classes * (num_classes - 1) // 2
    free = num_classes * nonzeros - max(nonzeros, num_classes - 1)
    if nonzeros < 1 or free < conditions:
        raise GeometryError(
            f"sparse-etf: sparsity {sparsity:g} leaves each class {nonzeros} of {dim} entries, so {max(free, 0)} free "
            f"numbers for the {conditions} angles and norms of {num_classes} classes; "
            "lower sparsity, raise dim or take fewer classes"
        )


def _feature_counts(num_classes: int, dim: int, nonzeros: int) -> list[int]:
    # Classes that share no feature are orthogonal. If few nonzeros are spread over all features,
    # two classes rarely share one, so later attempts spread them over fewer features.
    least = max(nonzeros, num_classes - 1)
    return sorted(
        {max(least, int(dim * share)) for share in (1, 0.75, 0.5, 0.375, 0.25, 0)}, reverse=True
    )


def draw_support(
    num_classes: int, dim: int, nonzeros: int, features: int, generator: np.random.Generator
) -> Support:
    """Where entries may be nonzero: `nonzeros` in every row, in `features` drawn columns, none alone in one."""
    # Raw draws and sorts of integers: numpy keeps these the same across versions and machines,
    # but not its own shuffles.
    draw = generator.bit_generator.random_raw
    used = np.argsort(draw(dim), kind="stable")[:features]
    order = np.argsort(
        draw(num_classes * features).reshape(num_classes, features), axis=1, kind="stable"
    )
    support = np.zeros((num_classes, dim), dtype=bool)
    np.put_along_axis(support, used[order[:, :nonzeros]], True, axis=1)

    # Rows that sum to zero cannot have a feature of one class only: that class takes, in its
    # place, a feature that others use.
    classes_at = support.sum(axis=0)
    for j in used:
        if classes_at[j] != 1:
            continue
        c = int(np.flatnonzero(support[:, j])[0])
        places = used[(classes_at[used] > 0) & ~support[c, used]]
        to = places[int(draw() % len(places))]
        support[c, j], support[c, to] = False, True
        classes_at[j] -= 1
        classes_at[to] += 1
    return support


def _all_pairs_meet(support: Support) -> bool:
    held = support.astype(np.float64)
    return bool((held @ held.T).min() > 0)


@dataclass(frozen=True)
class _Solution:
    rows: Rows
    error: float


def _solve(start: Rows, support: Support) -> _Solution:
    """Minimise ||V V^T - G||_F^2 over the entries in the support.

    G is the simplex's Gram matrix, 1 on the diagonal and -1/(C-1) off it. It has
    G 1 = 0, so V's rows sum to zero at a solution. V is held there throughout, because
    otherwise the loss is flat to second order in that direction, and 100 classes in 512
    features take 1000 steps instead of 22.
    """
    num_classes = len(start)
    goal = np.full((num_classes, num_classes), -1 / (num_classes - 1))
    np.fill_diagonal(goal, 1.0)
    held = support.astype(np.float64)
    share = held / np.maximum(support.sum(axis=0), 1)

    def project(x: Rows) -> Rows:
        x = x * held
        return x - share * tree_sum(x)

    v = project(start)
    v *= np.sqrt(num_classes / inner(v, v))
    error = gram(v) - goal
    slope = project(product(error, v))
    losses = [inner(error, error)]
    step = 0.5
    while len(losses) < _MAX_STEPS and np.abs(error).max() >= TOLERANCE / 2:
        if len(losses) > _PATIENCE and losses[-1] > 0.5 * losses[-1 - _PATIENCE]:
            break
        tried = v - step * slope
        tried_error = gram(tried) - goal
        loss = inner(tried_error, tried_error)
        if loss > max(losses[-_MEMORY:]):
            step *= 0.25
            continue
        tried_slope = project(product(tried_error, tried))
        # Barzilai and Borwein (1988): the step that the last change of the slope suggests.
        moved, bent = tried - v, tried_slope - slope
        curvature = inner(moved, bent)
        if curvature > 0:
            step = min(inner(moved, moved) / curvature, _MAX_STEP)
        v, error, slope = tried, tried_error, tried_slope
        losses.append(loss)
    # The final scaling divides by the norms, which changes a cosine by at most its error again.
    v = v / row_norms(v)[:, None]
    off = ~np.eye(num_classes, dtype=bool)
    return _Solution(v, float(np.abs(gram(v) - goal)[off].max()))
