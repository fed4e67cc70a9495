"""How far class means are from the geometry that they should have.

The target is a matrix with one row per class: a simplex, a sparse simplex (SSE-C), basis vectors,
or what imbalance leaves of them (`law_target`). A rotation or a common scale of the features
changes nothing, so only the angles and the relative lengths of the rows count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedloge.geometry.feature_sums import FeatureSums, pair_distances
from fedloge.geometry.imbalanced import ImbalancedLaw


@dataclass(frozen=True)
class Distance:
    """From centred class means to a centred target, over the classes seen; NaN for fewer than two.

    Parameters
    ----------
    cos : mean over pairs of the absolute difference of the cosines, 0 when the angles are right.
    norms : standard deviation over classes of ||m_c|| / ||t_c||, over its mean; 0 when the lengths
        are right up to a common factor.
    """

    cos: float
    norms: float


def simplex_target(num_classes: int) -> Float[Tensor, "classes classes"]:
    """What balanced classes collapse to; any subset of its rows is a simplex again."""
    return torch.eye(num_classes, dtype=torch.float64)


def law_target(law: ImbalancedLaw) -> Float[Tensor, "classes classes"]:
    """The features of the imbalanced law: orthogonal, of its lengths; zero for a class that collapsed."""
    return torch.diag(law.h_norms)


def distance(sums: FeatureSums, target: Float[Tensor, "classes features"]) -> Distance:
    """How far the centred means of the classes seen are from a target with a row for every class.

    A class that has no direction, here or in the target, enters neither figure.
    """
    rows = target.detach().to(sums.sums)[sums.seen]
    if len(rows) < 2:
        return Distance(math.nan, math.nan)
    t, m = rows - rows.mean(dim=0), sums.centred
    length_t, length_m = t.norm(dim=1), m.norm(dim=1)
    kept = (length_t > 1e-12 * length_t.max()) & sums.has_direction
    if kept.sum() < 2:
        return Distance(math.nan, math.nan)
    length_t, length_m = length_t[kept], length_m[kept]
    unit_t, unit_m = t[kept] / length_t[:, None], m[kept] / length_m[:, None]
    difference = (pair_distances(unit_t) ** 2 - pair_distances(unit_m) ** 2) / 2
    ratio = length_m / length_t
    return Distance(
        cos=float(difference.abs().mean()),
        norms=float(ratio.std(correction=0) / ratio.mean()),
    )
