"""Neural collapse under imbalance, in closed form: which classes survive training, and at what norms.

Dang, Tran, Osher, Tran-The, Ho and Nguyen, "Neural Collapse in Deep Linear Networks: From
Balanced to Imbalanced Data" (ICML 2023, arXiv 2301.00437). Features h are free, the head is a
product of M linear layers without bias, the loss is the squared error:

    1/(2N) ||W_M ... W_1 H - Y||^2 + sum_j lambda_j/2 ||W_j||^2 + lambda_H/2 ||H||^2

with N examples, one-hot targets Y, and every layer at least as wide as there are classes. The
optimum has orthogonal rows w_k of W_M ... W_1, each along the one feature that all examples of
its class share; a class below a certain number of examples has row and features zero (minority
collapse).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from fedloge.errors import GeometryError

# Each halves the interval of the root; after 60 it is as narrow as float64 can tell.
_BISECTIONS = 80


@dataclass(frozen=True, eq=False)
class ImbalancedLaw:
    """The optimum that free features and a linear head reach under class imbalance.

    Parameters
    ----------
    counts : n_k, examples of each class.
    weight_decays : lambda_1 .. lambda_M, the penalty of each layer.
    feature_decay : lambda_H, the penalty of the features.
    w_norms : ||(W_M ... W_1)_k||, 0 for a class that collapsed.
    h_norms : norm of the feature of every example of the class, 0 for a class that collapsed.
    survives : whether the class keeps a row and a feature.
    threshold : examples that a class must exceed to survive.
    least_norm : the row norm just above the threshold, sqrt((M-1) N lambda_H). Collapse is a jump
        from it for M >= 2, and continuous, from 0, for M = 1.
    loss : the objective at the optimum.
    """

    counts: Int[Tensor, " classes"]
    weight_decays: tuple[float, ...]
    feature_decay: float
    w_norms: Float64[Tensor, " classes"]
    h_norms: Float64[Tensor, " classes"]
    survives: Bool[Tensor, " classes"]
    threshold: float
    least_norm: float
    loss: float

    @property
    def depth(self) -> int:
        """M, the number of linear layers."""
        return len(self.weight_decays)

    @property
    def collapsed(self) -> list[int]:
        """The classes that have examples and yet no row: what a warning would name."""
        return ((self.counts > 0) & ~self.survives).nonzero()[:, 0].tolist()


def imbalanced_law(
    counts: Int[Tensor, " classes"], weight_decays: Sequence[float], feature_decay: float
) -> ImbalancedLaw:
    """The norms of rows and features at the optimum, from the class counts and the penalties.

    Exactly at the threshold, and for M >= 2, the class has two optima; it is counted as collapsed.

    Parameters
    ----------
    counts : n_k >= 0, examples of each class, at least one in all.
    weight_decays : lambda_1 .. lambda_M, all > 0; their number is the depth M >= 1. They are
        penalties of the whole objective, as is `weight_decay` of torch's SGD.
    feature_decay : lambda_H > 0.

    Raises
    ------
    GeometryError
        An argument is out of range.
    """
    decays = tuple(float(decay) for decay in weight_decays)
    _check(counts, decays, feature_decay)
    n = counts.to(torch.float64)
    total, depth = float(n.sum()), len(decays)
    # In logarithms: the product of many small decays would vanish.
    mean_log = (math.log(total * feature_decay) + sum(map(math.log, decays))) / depth
    b = depth * total * math.exp(mean_log)
    # 0^0 = 1 makes the right side 1 for M = 1.
    threshold = b * depth / (depth - 1) ** ((depth - 1) / depth)
    survives = n > threshold
    x = torch.where(survives, _largest_root(b / n.clamp(min=threshold), depth), 0.0)
    scale = total * feature_decay
    sigma2 = scale * x**depth
    # What a class adds, in units of n_k/(2N); 1 if it is given up.
    loss = (n / (x**depth + 1) + b * x).sum() / (2 * total)
    return ImbalancedLaw(
        counts=counts,
        weight_decays=decays,
        feature_decay=float(feature_decay),
        w_norms=sigma2.sqrt(),
        h_norms=sigma2.sqrt() / (sigma2 + scale),
        survives=survives,
        threshold=threshold,
        least_norm=math.sqrt((depth - 1) * scale),
        loss=float(loss),
    )


def _largest_root(ratio: Float64[Tensor, " classes"], depth: int) -> Float64[Tensor, " classes"]:
    """The largest x with M x^(M-1)/(x^M + 1)^2 = ratio, for ratios up to the threshold's."""
    if depth == 1:
        return ratio.rsqrt() - 1
    # The left side falls from low on, and is below M x^-(M+1).
    low = torch.full_like(ratio, (depth - 1) ** (1 / depth))
    high = (depth / ratio) ** (1 / (depth + 1))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        above = depth * middle ** (depth - 1) / (middle**depth + 1) ** 2 > ratio
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (low + high) / 2


def _check(
    counts: Int[Tensor, " classes"], decays: tuple[float, ...], feature_decay: float
) -> None:
    if counts.numel() == 0 or counts.min() < 0 or counts.sum() == 0:
        raise GeometryError(
            "imbalanced law: expected counts of at least 0 with one example or more in all, "
            f"got {counts.tolist()}"
        )
    if not decays:
        raise GeometryError("imbalanced law: expected the decay of one layer or more, got none")
    for name, decay in [*(("weight", d) for d in decays), ("feature", feature_decay)]:
        if not (decay > 0 and math.isfinite(decay)):
            raise GeometryError(
                f"imbalanced law: expected a finite {name} decay > 0, got {decay}; "
                "without a penalty norms have no bound"
            )
