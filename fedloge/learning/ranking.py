"""How well a model's probabilities rank: the area under the ROC curve, one class against the rest.

Unlike accuracy it does not depend on a threshold, nor on how often a class occurs.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

_BLOCK = 1 << 22
"""Scores that are sorted at a time."""
_FEW = 200
"""Up to so many examples, comparing all pairs is faster than sorting."""


def auroc(
    scores: Float[Tensor, "examples classes"], labels: Int[Tensor, " examples"]
) -> Float64[Tensor, " classes"]:
    """For each class the share of pairs, one example of the class and one of another, that it ranks right.

    Ties count half (Mann and Whitney, 1947; Hanley and McNeil, 1982). NaN for a class that none, or
    every one, of the examples has. On the CPU.

    Parameters
    ----------
    scores : for each class, how much a model believes in it; no NaN.
    """
    scores, labels = scores.cpu(), labels.cpu()
    examples, classes = scores.shape
    counts = torch.bincount(labels, minlength=classes)
    inside = counts.double()
    sums = _few(scores, labels, classes) if examples <= _FEW else _many(scores, labels, counts)
    return (sums - inside * (inside + 1) / 2) / (inside * (examples - inside))


def _few(scores: Tensor, labels: Tensor, classes: int) -> Tensor:
    """For each class the sum of the ranks of its examples, by comparing all pairs: few, but large, steps."""
    others = scores[:, labels]
    own = others.diagonal()
    twice = (others < own).sum(dim=0) + (others <= own).sum(dim=0) + 1
    return torch.bincount(labels, twice.double() / 2, classes)


def _many(scores: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """The same by sorting."""
    examples, classes = scores.shape
    order = labels.argsort(stable=True)
    first = counts.cumsum(0) - counts
    at = labels[order], torch.arange(examples) - first[labels[order]]
    # Each class's own scores in a row, filled up at its end.
    own = scores.new_zeros(classes, int(counts.max()) if classes else 0)
    own[at] = scores[order, at[0]]
    ranks = torch.zeros(classes, dtype=torch.float64)
    step = max(1, _BLOCK // max(1, examples))
    for start in range(0, classes, step):
        part = slice(start, start + step)
        # NumPy sorts several times as fast as torch, which also keeps the order.
        every = torch.from_numpy(np.sort(scores[:, part].T.contiguous().numpy(), axis=1))
        below = torch.searchsorted(every, own[part])
        to = torch.searchsorted(every, own[part], right=True)
        filled = torch.arange(own.shape[1]) < counts[part, None]
        # The mean rank of equal scores, counted from 1.
        ranks[part] = ((below + to + 1) * filled).sum(dim=1).double() / 2
    return ranks


def macro_auroc(
    scores: Float[Tensor, "examples classes"], labels: Int[Tensor, " examples"]
) -> float:
    """The mean of `auroc` over the classes that have one, in [0, 1]; NaN where none has."""
    return float(auroc(scores, labels).nanmean())
