"""Where mixup puts features, against a classifier that does not move.

Fisher et al., "Pushing Boundaries: Mixup's Influence on Neural Collapse" (ICLR 2024, arXiv
2402.06171). Features of mixed examples do not lie on the segment between the two class means: with
cross-entropy they leave it in the direction of w_i + w_j.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedloge.errors import GeometryError

_NEWTON_STEPS = 200


@dataclass(frozen=True)
class ChannelSums:
    """Coordinates along w_i + w_j of features of half and half mixes; ``a + b`` holds the pairs of both.

    Parameters
    ----------
    mixed : sum over pairs, of the mixed example's coordinate.
    convex : sum over pairs, of the mean of the two examples' coordinates.
    pairs : how many; pairs of one class, or with rows that cancel, are not among them.
    """

    mixed: float = 0.0
    convex: float = 0.0
    pairs: int = 0

    @classmethod
    def of(
        cls,
        mixed: Float[Tensor, "pairs features"],
        first: Float[Tensor, "pairs features"],
        second: Float[Tensor, "pairs features"],
        labels: tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]],
        weight: Float[Tensor, "classes features"],
    ) -> ChannelSums:
        """From the features of (x_i + x_j)/2, of x_i and of x_j, and the head's rows."""
        w = weight.detach().double()
        axis = w[labels[0]] + w[labels[1]]
        length = axis.norm(dim=1)
        kept = (labels[0] != labels[1]) & (length > 1e-9 * w.norm(dim=1).max())
        unit = axis[kept] / length[kept, None]
        along = [(x.detach().double()[kept] * unit).sum() for x in (mixed, first, second)]
        return cls(float(along[0]), float(along[1] + along[2]) / 2, int(kept.sum()))

    def __add__(self, other: ChannelSums) -> ChannelSums:
        return ChannelSums(
            self.mixed + other.mixed, self.convex + other.convex, self.pairs + other.pairs
        )

    @property
    def ratio(self) -> float:
        """The channel ratio: 1 where mixes lie on the segment, above 1 where they are pushed out.

        NaN if the unmixed features have no coordinate along w_i + w_j.
        """
        return self.mixed / self.convex if self.pairs and self.convex != 0 else math.nan


@dataclass(frozen=True)
class FreeFeature:
    """The feature h = a w_i + b w_j that minimises CE against a simplex + penalty/2 ||h||^2.

    Parameters
    ----------
    a, b : coordinates.
    p_i, p_j, q : softmax of the logits: of the two classes, and of each other class.
    """

    a: float
    b: float
    p_i: float
    p_j: float
    q: float


def free_feature(num_classes: int, share: float, penalty: float) -> FreeFeature:
    """The optimum for a mix of class i (by `share`) and class j, against a unit simplex.

    The optimum has a = (t - p_i + q)/l and b = (1 - t - p_j + q)/l with t the share and l the
    penalty. Solved in float64 by Newton's method on the two coordinates.

    Raises
    ------
    GeometryError
        Fewer than three classes, a share outside [0, 1], or a penalty that is not above 0.
    """
    if num_classes < 3 or not 0 <= share <= 1 or not (penalty > 0 and math.isfinite(penalty)):
        raise GeometryError(
            "free feature: expected 3 classes or more, a share from 0 to 1 and a penalty above 0, got "
            f"{num_classes}, {share}, {penalty}"
        )
    others, cos = num_classes - 2, -1 / (num_classes - 1)
    target = torch.tensor([share, 1 - share], dtype=torch.float64)
    gram = torch.tensor([[1.0, cos], [cos, 1.0]], dtype=torch.float64)
    x = torch.zeros(2, dtype=torch.float64)

    def objective(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, rest = gram @ x, cos * x.sum()
        logits = torch.cat([z, rest.expand(others)])
        p = logits.softmax(dim=0)
        value = torch.logsumexp(logits, 0) - target @ z + penalty / 2 * (x @ gram @ x)
        return value, p[:2], p[2]

    for _ in range(_NEWTON_STEPS):
        value, p, q = objective(x)
        # All rows of a simplex sum to zero, so the other classes pull along -(w_i + w_j).
        downhill = gram @ (target - p + q - penalty * x)
        if float(downhill.abs().max()) < 1e-14:
            break
        step = torch.linalg.solve(_curvature(gram, p, q, others, cos, penalty), downhill)
        scale = 1.0
        while scale > 1e-12 and float(objective(x + scale * step)[0]) > float(value):
            scale /= 2
        x = x + scale * step
    _, p, q = objective(x)
    return FreeFeature(float(x[0]), float(x[1]), float(p[0]), float(p[1]), float(q))


def _curvature(
    gram: Tensor, p: Tensor, q: Tensor, others: int, cos: float, penalty: float
) -> Tensor:
    """Second derivative of the objective in (a, b)."""
    # Rows: what each logit is made of; the other classes are alike.
    rows = torch.cat([gram, torch.full((1, 2), cos, dtype=torch.float64)])
    weight = torch.cat([p, (others * q).reshape(1)])
    mean = weight @ rows
    return rows.T @ (weight[:, None] * rows) - torch.outer(mean, mean) + penalty * gram


def amplification(num_classes: int, penalty: float, share: float = 0.5) -> float:
    """||h|| of a mix over that of the convex mix of the two classes' own features; towards 2 as l -> 0."""
    mixed = free_feature(num_classes, share, penalty)
    pure = free_feature(num_classes, 1.0, penalty).a
    cos = -1 / (num_classes - 1)

    def length(a: float, b: float) -> float:
        return math.sqrt(a * a + b * b + 2 * cos * a * b)

    return length(mixed.a, mixed.b) / length(share * pure, (1 - share) * pure)
