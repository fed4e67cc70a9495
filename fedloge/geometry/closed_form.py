"""Linear classifiers in closed form, from sums of features alone.

All that is needed of the examples is the Gram matrix G = sum h h^T, the class sums
s_c = sum over class c of h, and the class counts N_c. These add over clients in any order, so a head
of all clients' examples is exact whatever the split.

- `ridge`: Fed3R (Fani et al., "Accelerating Heterogeneous Federated Learning with Closed-form
  Classifiers", ICML 2024): (G' + lambda I)^-1 B over features (h, 1), lambda = 0.01, so that the
  bias is shrunk too. ``normalised`` divides each class's row and bias by the row's norm.
- ridge on a `weighted` Gram matrix, each class counting as much: class-balanced Fed3R.
- `within`: FedCOF's head (Magistri et al., NeurIPS 2025), which leaves out the scatter between classes:
  (S + gamma (N - C) I + N mu mu^T)^-1 B with the scatter within classes S. FedCOF estimates S from
  clients' class means. Here it is exact: S = G - sum_c s_c s_c^T / N_c.

Everything is in float64: G is often close to singular, and float32 would round away a lambda of 0.01.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

LAMBDA = 0.01
"""Fed3R's ridge."""


@dataclass(frozen=True)
class FeatureSums:
    """What is known of some examples' features, all in float64.

    Attributes
    ----------
    gram : sum over the examples of w h h^T, with their class's weight w.
    sums : for each class the sum of w h.
    counts : for each class the sum of w, which without weights is its number of examples.
    """

    gram: Float[Tensor, "features features"]
    sums: Float[Tensor, "classes features"]
    counts: Float[Tensor, " classes"]

    @classmethod
    def of(
        cls,
        features: Float[Tensor, "examples features"],
        labels: Int[Tensor, " examples"],
        classes: int,
        weights: Float[Tensor, " classes"] | None = None,
    ) -> FeatureSums:
        """The sums of these examples, each weighted by its class's weight; None: all 1."""
        h = features.double()
        w = torch.ones(classes, dtype=torch.float64, device=h.device)
        if weights is not None:
            w = weights.to(w)
        weighted = h * w[labels][:, None]
        sums = h.new_zeros(classes, h.shape[1]).index_add_(0, labels, weighted)
        return cls(weighted.T @ h, sums, torch.bincount(labels, minlength=classes).to(h) * w)

    def plus(self, other: FeatureSums, times: float = 1.0) -> FeatureSums:
        """These sums and `times` the others'."""
        return FeatureSums(
            self.gram + times * other.gram,
            self.sums + times * other.sums,
            self.counts + times * other.counts,
        )


def balanced_weights(counts: Float[Tensor, " classes"]) -> Float[Tensor, " classes"]:
    """Weights with which every class that occurs counts as much, and all as much as before; else 0."""
    occurs = counts > 0
    alike = counts.sum() / occurs.sum().clamp(min=1)
    return torch.where(occurs, alike / counts.clamp(min=torch.finfo(counts.dtype).tiny), 0.0)


def ridge(
    known: FeatureSums, *, shrinkage: float = LAMBDA, normalised: bool = False
) -> tuple[Float[Tensor, "classes features"], Float[Tensor, " classes"]]:
    """Weight and bias of ridge regression on one-hot classes; 0 for a class that does not occur.

    Parameters
    ----------
    shrinkage : lambda > 0.
    normalised : each class's row and bias divided by the row's norm.
    """
    d = known.gram.shape[0]
    total = known.sums.sum(dim=0)
    gram = known.gram.new_zeros(d + 1, d + 1)
    gram[:d, :d], gram[:d, d], gram[d, :d], gram[d, d] = (
        known.gram,
        total,
        total,
        known.counts.sum(),
    )
    gram.diagonal().add_(shrinkage)
    targets = torch.cat([known.sums, known.counts[:, None]], dim=1)
    solved = torch.linalg.solve(gram, targets.T).T
    weight, bias = solved[:, :d], solved[:, d]
    if normalised:
        norms = weight.norm(dim=1).clamp(min=torch.finfo(weight.dtype).tiny)
        weight, bias = weight / norms[:, None], bias / norms
    return weight, bias


def within(known: FeatureSums, *, gamma: float = 1.0) -> Float[Tensor, "classes features"]:
    """FedCOF's weight with the exact scatter within classes; rows of norm 1, 0 for an absent class.

    `gamma` > 0 is added to the variance of every feature in every class.
    """
    counts, total = known.counts, known.counts.sum()
    occurs = counts > 0
    means = known.sums / torch.where(occurs, counts, 1.0)[:, None]
    mean = known.sums.sum(dim=0) / total
    scatter = known.gram - known.sums.T @ means
    freedom = (total - occurs.sum()).clamp(min=1)
    moment = scatter + total * torch.outer(mean, mean)
    moment.diagonal().add_(gamma * freedom)
    weight = torch.linalg.solve(moment, known.sums.T).T
    return weight / weight.norm(dim=1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)


def packed(
    symmetric: Float[Tensor, "features features"],
) -> Float[Tensor, " triangle"]:
    """The upper triangle of a symmetric matrix by rows: d (d + 1) / 2 numbers."""
    # By rows: indices of half a matrix take longer than copying it.
    return torch.cat([row[i:] for i, row in enumerate(symmetric)])


def unpacked(triangle: Float[Tensor, " triangle"], d: int) -> Float[Tensor, "features features"]:
    """The symmetric matrix of d rows whose upper triangle this is."""
    rows, columns = torch.triu_indices(d, d, device=triangle.device)
    full = triangle.new_zeros(d, d)
    full[rows, columns] = triangle
    full[columns, rows] = triangle
    return full
