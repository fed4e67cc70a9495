"""Equiangular basis vectors: more classes than a simplex has room for, all pairs nearly orthogonal.

Shen, Sun and Wei, "Equiangular Basis Vectors" (CVPR 2023, arXiv 2303.11637): N unit vectors in
d dimensions with |cos| <= a for all pairs. Where geometry has an exact answer it is taken (a
simplex, an orthonormal basis, an orthoplex). Else a random start descends, with momentum and the
analytic gradient, on

    1/4 sum over ordered pairs of relu(|cos| - a)^2

row block by row block. A penalty alone ends a little above a, where pulls balance. So, where a is
asked for, every pair has a multiplier that grows while the pair is above a (the method of
multipliers of Hestenes and of Powell, 1969): 1,000 vectors in 100 dimensions then keep .133,
against .1355 at the penalty's own end. The same bits on every machine: all products are of integers small enough
that float32 adds them without rounding, see `fedloge.geometry.exact`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from torch import Tensor

from fedloge.errors import GeometryError
from fedloge.geometry.certificate import BLOCK_ENTRIES, certificate, welch_bound
from fedloge.geometry.exact import gram, product, tree_sum
from fedloge.geometry.kept_search import Kept, Multipliers, Rows, Search
from fedloge.geometry.simplex import scaled, simplex_rows
from fedloge.geometry.sparse import draw_support, zeros_per_class
from fedloge.rng import rng

# float32 adds integers without rounding up to here.
_EXACT = 2**24
# For the gradient vectors may be coarse: their rounding averages out, that of the weights does not.
_COARSE = 2**10
# Descend to a little less than is asked, as the integers of a step are good to some 1e-4.
_MARGIN = 0.99
_MOMENTUM = 0.9
_KEPT_EVERY = 50
# Steps of the penalty alone, and from one change of the multipliers to the next.
_FIRST_MULTIPLIERS, _BETWEEN_MULTIPLIERS = 50, 10
_ORTHOGONAL = 1e-6
"""What float32 leaves of a cosine of 0, or of a simplex's."""


@dataclass(frozen=True)
class _Pull:
    """Largest cosine of the step, and the gradient of every vector."""

    largest: float
    gradient: Rows


def basis_vectors(
    num_vectors: int,
    dim: int,
    *,
    max_cos: float | None = None,
    signed: bool = False,
    gamma: float = 1.0,
    seed: int,
    max_steps: int = 1000,
    sparsity: float = 0.0,
    kept_in: Path | None = None,
) -> Float[Tensor, "vectors features"]:
    """Vectors whose largest pairwise cosine is as small as asked.

    Parameters
    ----------
    num_vectors : N >= 2, also above d + 1.
    dim : d >= 2.
    max_cos : what no pair may exceed, < 1. None: as small as is found in `max_steps` steps;
        `certificate` tells what was reached.
    signed : limit the cosine and not its absolute value. Up to N = 2d an orthoplex then has 0.
    gamma : norm of every vector, > 0.
    seed : decides the start, >= 0.
    max_steps : steps at most, >= 1; the search ends as soon as what is asked is reached. A step
        takes 4 N^2 d multiplications and additions.
    sparsity : share of entries that are 0 in every vector, 0 <= sparsity < 1, the same number in each
        and at drawn places. Fewer free numbers leave larger cosines.
    kept_in : a file from which a search goes on, to the bits of one that was not interrupted.

    Raises
    ------
    GeometryError
        An argument is out of range, no such vectors exist or were found, or `kept_in` is no good.
    """
    _check(num_vectors, dim, max_cos, signed, gamma, seed, max_steps)
    zeros = zeros_per_class(dim, sparsity)
    exact = None if zeros else exact_rows(num_vectors, dim, signed, seed)
    if exact is not None:
        return scaled(exact, gamma)
    # Without a goal, about what descents reach; pairs that stay above it are still pulled down.
    goal = 1.35 * welch_bound(num_vectors, dim) if max_cos is None else max_cos
    search = [num_vectors, dim, goal, signed, seed, max_cos is not None, zeros]
    rows = _descend(
        _start(num_vectors, dim, seed).astype(np.float32),
        _support(num_vectors, dim, zeros, seed),
        goal,
        signed,
        max_steps,
        asked=max_cos is not None,
        kept=None if kept_in is None else Kept(kept_in, json.dumps(search)),
    )
    found = scaled(rows.astype(np.float64), gamma)
    reached = _largest(found, signed)
    if max_cos is not None and reached > max_cos:
        raise GeometryError(
            f"basis vectors: {num_vectors} vectors in {dim} dimensions came to a largest "
            f"{_name(signed)} of {reached:.4f} in {max_steps} steps, expected at most {max_cos:g}; "
            "raise max_cos, dim or max_steps, or take another seed"
        )
    return found


def _support(num_vectors: int, dim: int, zeros: int, seed: int) -> Rows | None:
    """1 where an entry may be other than 0; None: everywhere."""
    if not zeros:
        return None
    draws = rng(seed, "sparse-basis-vectors")
    return draw_support(num_vectors, dim, dim - zeros, dim, draws).astype(np.float32)


def orthoplex(
    num_vectors: int, dim: int, *, gamma: float = 1.0, seed: int
) -> Float[Tensor, "vectors features"]:
    """Axes and their opposites in a random orientation: all cosines 0 or -1, for N <= 2d.

    The first d rows are the axes, the next their opposites.

    Raises
    ------
    GeometryError
        An argument is out of range, or there are more vectors than 2d.
    """
    _check(num_vectors, dim, None, True, gamma, seed, 1)
    if num_vectors > 2 * dim:
        raise GeometryError(
            f"orthoplex: expected up to {2 * dim} vectors in {dim} dimensions, got {num_vectors}"
        )
    axes = _orthonormal(dim, dim, seed)
    return scaled(np.concatenate([axes, -axes])[:num_vectors], gamma)


def exact_rows(
    num_vectors: int, dim: int, signed: bool, seed: int
) -> Float64[ndarray, "vectors features"] | None:
    """The best there can be, where it is known: for |cos| up to d + 1 vectors, for cos up to 2d."""
    if not signed and num_vectors <= dim:
        return _orthonormal(num_vectors, dim, seed)
    if num_vectors <= dim + 1:
        return simplex_rows(num_vectors, dim, seed)
    if signed and num_vectors <= 2 * dim:
        axes = _orthonormal(dim, dim, seed)
        return np.concatenate([axes, -axes[: num_vectors - dim]])
    return None


def _orthonormal(num_vectors: int, dim: int, seed: int) -> Float64[ndarray, "vectors features"]:
    """Orthonormal rows in a random orientation, by the iteration that `simplex_rows` explains."""
    x = _start(num_vectors, dim, seed) / (math.sqrt(num_vectors) + math.sqrt(dim) + 6)
    for _ in range(100):
        overlap = gram(x)
        x = 1.5 * x - 0.5 * product(overlap, x)
        if np.abs(overlap - np.eye(num_vectors)).max() < 1e-4:
            return x
    raise GeometryError(
        f"basis vectors: the {num_vectors} points that seed {seed} draws span less than "
        f"{num_vectors} dimensions; take another seed"
    )


def _start(num_vectors: int, dim: int, seed: int) -> Float64[ndarray, "vectors features"]:
    # Some draws pass through the C library's log and exp. On this grid all libraries agree.
    draws = rng(seed, "basis-vectors").standard_normal((num_vectors, dim))
    return np.rint(draws * 2.0**16) / 2.0**16


def _descend(
    start: Rows,
    support: Rows | None,
    goal: float,
    signed: bool,
    max_steps: int,
    *,
    asked: bool,
    kept: Kept | None,
) -> Rows:
    """The best vectors met by the penalty; if a goal was asked, the first that keep it, or the best.

    `support` is 1 where an entry is free and 0 where it stays 0; None: all are free.
    """
    v = _normalised(start if support is None else start * support)
    state = Search(1, v, np.zeros_like(v), v, math.inf, None)
    if asked:
        state.multipliers = np.zeros((len(v), len(v)), np.float32)
    if kept is not None:
        state = kept.read(state)
    # The curvature grows with the number of vectors per dimension.
    rate = np.float32(min(0.5, 5 * start.shape[1] / len(start)))
    level = np.float32(_MARGIN * goal)
    while state.step <= max_steps:
        v = state.vectors
        grow = state.step >= _FIRST_MULTIPLIERS and state.step % _BETWEEN_MULTIPLIERS == 0
        pull = _pull(v, level, signed, state.multipliers, grow=grow)
        if pull.largest < state.smallest:
            state.best, state.smallest = v, pull.largest
            # Exactly, and rarely: it takes as long as three steps.
            if asked and pull.largest <= goal and _largest(torch.from_numpy(v), signed) <= goal:
                break
        gradient = pull.gradient if support is None else pull.gradient * support
        along = tree_sum((gradient * v).T)[:, None]
        state.moved = np.float32(_MOMENTUM) * state.moved + (gradient - along * v)
        state.vectors = _normalised(v - rate * state.moved)
        state.step += 1
        if kept is not None and state.step % _KEPT_EVERY == 0:
            kept.write(state)
    if kept is not None:
        kept.write(state)
    return state.best


def _pull(
    v: Rows, level: np.float32, signed: bool, multipliers: Multipliers | None, *, grow: bool
) -> _Pull:
    """One pass over all pairs; with `grow`, the multipliers become the pulls of this step.

    A vector's integers have a norm of at most 2^12, so that any part of a product of two stays
    below 2^24.
    """
    fine = np.float32(2**12 - math.sqrt(v.shape[1]) / 2 - 1)
    integers = np.rint(v * fine)
    coarse = np.rint(v * np.float32(_COARSE))
    widest = math.sqrt(float(tree_sum(coarse.astype(np.float64) ** 2).max()))
    gradient = np.empty_like(v)
    largest = -1.0
    size = max(1, BLOCK_ENTRIES // len(v))
    for start in range(0, len(v), size):
        cos = (integers[start : start + size] @ integers.T) / (fine * fine)
        own = np.arange(len(cos))
        cos[own, start + own] = 0
        largest = max(largest, float((cos if signed else np.abs(cos)).max()))
        if multipliers is not None:
            cos += multipliers[start : start + size]
        excess = cos - np.clip(cos, -np.inf if signed else -level, level)
        if multipliers is not None and grow:
            multipliers[start : start + size] = excess
        longest = math.sqrt(float(tree_sum((excess * excess).T).max()))
        # By Cauchy and Schwarz no part of the product exceeds 2^24; rounding adds at most the root.
        room = (_EXACT / widest - math.sqrt(len(v)) / 2 - 1) / max(longest, 1e-12)
        steps = np.float32(2.0 ** min(math.floor(math.log2(room)), 24))
        weights = np.rint(excess * steps)
        gradient[start : start + size] = (weights @ coarse) / (steps * np.float32(_COARSE))
    return _Pull(largest, gradient)


def _normalised(v: Rows) -> Rows:
    return v / np.sqrt(tree_sum((v * v).T))[:, None]


def _largest(vectors: Float[Tensor, "vectors features"], signed: bool) -> float:
    measured = certificate(vectors)
    return measured.cos_max if signed else measured.abs_cos_max


def _name(signed: bool) -> str:
    return "cosine" if signed else "absolute cosine"


def _least(num_vectors: int, dim: int, signed: bool) -> float:
    """What no vectors can be below."""
    if not signed:
        return welch_bound(num_vectors, dim)
    return -1 / (num_vectors - 1) if num_vectors <= dim + 1 else 0.0


def _check(
    num_vectors: int,
    dim: int,
    max_cos: float | None,
    signed: bool,
    gamma: float,
    seed: int,
    max_steps: int,
) -> None:
    for name, value, least in (
        ("num_vectors", num_vectors, 2),
        ("dim", dim, 2),
        ("seed", seed, 0),
        ("max_steps", max_steps, 1),
    ):
        if value < least:
            raise GeometryError(f"basis vectors: expected {name} of {least} or more, got {value}")
    if not (gamma > 0 and math.isfinite(gamma)):
        raise GeometryError(
            f"basis vectors: gamma is the norm of every vector, expected above 0, got {gamma}"
        )
    if max_cos is None:
        return
    least_cos = _least(num_vectors, dim, signed)
    if not least_cos - _ORTHOGONAL <= max_cos < 1:
        raise GeometryError(
            f"basis vectors: the largest {_name(signed)} of {num_vectors} vectors in {dim} dimensions "
            f"is at least {least_cos:.4f}; expected max_cos from there to below 1, got {max_cos:g}"
        )
