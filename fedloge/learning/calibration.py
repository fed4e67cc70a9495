"""Calibration: does a model that says 80 % get 80 % right? By sums that add over batches and clients.

Examples fall into bins of equal width by the model's confidence, the probability of its first guess.
The expected calibration error is the mean distance of confidence and accuracy over the bins, weighted
by their examples: Guo, Pleiss, Sun, Weinberger. On calibration of modern neural networks. ICML 2017,
section 2. With few examples in a bin it is too high, even for a calibrated model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from fedloge.errors import InputError

BINS = 15
"""As in the paper."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """Sums of one model's guesses, bin by bin; those of batches or clients are added.

    Bin m of M, counted from 0, takes confidences in (m / M, (m + 1) / M].

    Attributes
    ----------
    sums : rows are the number of examples, the sum of their confidences, and how many are right.
    """

    sums: Float64[Tensor, "3 bins"]

    @classmethod
    def empty(cls, bins: int = BINS) -> Reliability:
        """Of no examples."""
        return cls(torch.zeros(3, bins, dtype=torch.float64))

    @classmethod
    def of(
        cls,
        probabilities: Float[Tensor, "examples classes"],
        labels: Int[Tensor, " examples"],
        bins: int = BINS,
    ) -> Reliability:
        """Of a batch; on the CPU.

        Raises
        ------
        InputError
            A first guess has no probability in (0, 1], as where logits are not finite.
        """
        if not len(labels):
            return cls.empty(bins)
        confidence, guesses = probabilities.max(dim=1)
        low, high = (float(value) for value in confidence.aminmax())
        if not 0 < low <= high <= 1 + 1e-6:  # false for NaN
            raise InputError(
                f"calibration: the first guesses have probabilities from {low:g} to {high:g}, expected more "
                "than 0 and at most 1; give probabilities, such as softmax makes of finite logits"
            )
        place = torch.bucketize(confidence, _edges(bins).to(confidence))
        right = (guesses == labels).double()
        weights = (None, confidence.double(), right)
        # Not by index_add: on a GPU its sums depend on the order.
        sums = [torch.bincount(place.cpu(), w if w is None else w.cpu(), bins) for w in weights]
        return cls(torch.stack([each.double() for each in sums]))

    def __add__(self, other: Reliability) -> Reliability:
        return Reliability(self.sums + other.sums)

    @property
    def examples(self) -> int:
        """Number of examples."""
        return int(self.sums[0].sum())

    @property
    def confidence(self) -> Float64[Tensor, " bins"]:
        """Mean confidence in each bin; NaN for an empty one."""
        return self.sums[1] / self.sums[0]

    @property
    def accuracy(self) -> Float64[Tensor, " bins"]:
        """Share of a bin's examples that are right; NaN for an empty bin."""
        return self.sums[2] / self.sums[0]

    @property
    def ece(self) -> float:
        """Expected calibration error, in [0, 1]; NaN without examples."""
        if not self.examples:
            return math.nan
        return float((self.sums[1] - self.sums[2]).abs().sum() / self.sums[0].sum())

    @property
    def overconfidence(self) -> float:
        """Mean confidence minus accuracy, in [-1, 1]; NaN without examples."""
        if not self.examples:
            return math.nan
        return float((self.sums[1] - self.sums[2]).sum() / self.sums[0].sum())


@cache
def _edges(bins: int) -> Float64[Tensor, " edges"]:
    # Between the bins only. On an edge the bin below it is chosen.
    if bins < 1:
        raise InputError(f"calibration: expected 1 bin or more, got {bins}")
    return torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
