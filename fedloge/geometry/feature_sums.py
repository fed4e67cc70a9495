"""The sums over features from which neural collapse is measured; they add up over batches and clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from torch.nn.functional import pdist

from fedloge.errors import GeometryError

# Below this share of the largest mean, a difference of means is rounding and has no direction.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class FeatureSums:
    """All that NC1, NC2 and NC3 need of the features: ``a + b`` holds the examples of both.

    In float64. The scatter within a class is a difference of sums, so it is good to about 1e-16
    of the class's mean square.

    Parameters
    ----------
    counts : examples of each class.
    sums : sum of the features h of each class.
    squares : sum of ||h||^2 of each class.
    moments : sum of h h^T over all examples, or None: only `within_between` needs it, and it is
        d x d numbers.
    """

    counts: Int[Tensor, " classes"]
    sums: Float64[Tensor, "classes features"]
    squares: Float64[Tensor, " classes"]
    moments: Float64[Tensor, "features features"] | None

    @classmethod
    def of(
        cls,
        features: Float[Tensor, "examples features"],
        labels: Int[Tensor, " examples"],
        num_classes: int,
        *,
        moments: bool = True,
    ) -> FeatureSums:
        """The sums of one batch, which may be empty.

        Raises
        ------
        GeometryError
            A label is none of the classes.
        """
        if labels.numel() and not 0 <= labels.min() <= labels.max() < num_classes:
            raise GeometryError(
                f"collapse: expected labels from 0 to {num_classes - 1}, "
                f"got {int(labels.min())} to {int(labels.max())}"
            )
        h, y = features.detach().double(), labels.long()
        return cls(
            counts=torch.bincount(y, minlength=num_classes),
            sums=h.new_zeros(num_classes, h.shape[1]).index_add_(0, y, h),
            squares=h.new_zeros(num_classes).index_add_(0, y, (h * h).sum(dim=1)),
            moments=h.T @ h if moments else None,
        )

    def __add__(self, other: FeatureSums) -> FeatureSums:
        both = self.moments is not None and other.moments is not None
        return FeatureSums(
            self.counts + other.counts,
            self.sums + other.sums,
            self.squares + other.squares,
            self.moments + other.moments if both else None,  # type: ignore[operator]
        )

    def only(self, classes: Bool[Tensor, " classes"]) -> FeatureSums:
        """Of some classes alone, as if the others had no example; without second moments, which are of all."""
        return FeatureSums(
            torch.where(classes, self.counts, 0),
            torch.where(classes[:, None], self.sums, 0.0),
            torch.where(classes, self.squares, 0.0),
            None,
        )

    def cpu(self) -> FeatureSums:
        """The same on the CPU."""
        moved = None if self.moments is None else self.moments.cpu()
        return FeatureSums(self.counts.cpu(), self.sums.cpu(), self.squares.cpu(), moved)

    def to_tensors(self) -> dict[str, Tensor]:
        """By name, in float64, so that clients' sums can be added without their class."""
        named = {"counts": self.counts.double(), "sums": self.sums, "squares": self.squares}
        return named if self.moments is None else {**named, "moments": self.moments}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> FeatureSums:
        """From what `to_tensors` names, alone or added up."""
        counts = tensors["counts"].round().long()
        return cls(counts, tensors["sums"], tensors["squares"], tensors.get("moments"))

    @cached_property
    def seen(self) -> Bool[Tensor, " classes"]:
        """Classes with an example or more; all that follows is of these alone, in their order."""
        return self.counts > 0

    @cached_property
    def means(self) -> Float64[Tensor, "seen features"]:
        """mu_c."""
        return self.sums[self.seen] / self.counts[self.seen, None]

    @cached_property
    def centred(self) -> Float64[Tensor, "seen features"]:
        """m_c = mu_c minus the plain mean of all mu_c."""
        means = self.means
        return means - means.mean(dim=0)

    @cached_property
    def scatter(self) -> Float64[Tensor, " seen"]:
        """s_c^2, mean of ||h - mu_c||^2; 0 for a class of one example."""
        mean_square = self.squares[self.seen] / self.counts[self.seen]
        return (mean_square - (self.means**2).sum(dim=1)).clamp(min=0)

    @cached_property
    def distances(self) -> Float64[Tensor, " pairs"]:
        """||mu_c - mu_c'|| of every pair, row by row of the upper triangle."""
        return pair_distances(self.means)

    @cached_property
    def has_direction(self) -> Bool[Tensor, " seen"]:
        """Whether m_c is more than rounding."""
        scale = self.means.norm(dim=1).max() if len(self.means) else torch.tensor(0.0)
        return self.centred.norm(dim=1) > _ROUNDING * scale


def pair_distances(rows: Float64[Tensor, "rows features"]) -> Float64[Tensor, " pairs"]:
    """Distances of every two rows, as differences: no product of all rows, and nothing as large as all pairs x d."""
    return pdist(rows) if len(rows) > 1 else rows.new_zeros(0)
