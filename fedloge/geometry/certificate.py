"""What a fixed classifier is, measured: the same figures for every kind."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedloge.digest import digest
from fedloge.errors import GeometryError

BLOCK_ENTRIES = 2**23
"""Cosines held at a time: 8,142 classes at once would take hundreds of megabytes, several times over."""


@dataclass(frozen=True)
class Certificate:
    """Measured on a matrix, whatever it was meant to be.

    Parameters
    ----------
    classes, dim : C rows of d features.
    cos_max, abs_cos_max : largest cosine, and largest absolute one, over all pairs of rows.
    cos_mean, cos_std : over all pairs.
    welch : what abs_cos_max is at least for any C rows in d dimensions, see `welch_bound`.
    above_welch : abs_cos_max - welch.
    norm_min, norm_max : over rows.
    zeros_min, zeros_max : entries that are exactly 0, over rows.
    digest : hash of the matrix, bit by bit.
    """

    classes: int
    dim: int
    cos_max: float
    abs_cos_max: float
    cos_mean: float
    cos_std: float
    welch: float
    above_welch: float
    norm_min: float
    norm_max: float
    zeros_min: int
    zeros_max: int
    digest: str


def welch_bound(num_classes: int, dim: int) -> float:
    """sqrt((C-d)/(d(C-1))), below which no C unit vectors keep all |cos|; 0 for C <= d.

    Welch, "Lower bounds on the maximum cross correlation of signals" (1974).
    """
    return math.sqrt(max(num_classes - dim, 0) / (dim * max(num_classes - 1, 1)))


def matrix_digest(matrix: Float[Tensor, "classes features"]) -> str:
    """Hash of shape and float32 bits: equal wherever the same matrix was built."""
    shape = "x".join(map(str, matrix.shape))
    return digest(shape.encode(), matrix.detach().cpu().numpy().astype("<f4").tobytes())


def certificate(matrix: Float[Tensor, "classes features"]) -> Certificate:
    """Measure a classifier of two rows or more, in float64 and by blocks of rows.

    Raises
    ------
    GeometryError
        There is one row only, or a row has no direction.
    """
    rows = matrix.detach().cpu().double()
    classes, dim = rows.shape
    norms = rows.norm(dim=1)
    if classes < 2 or not (norms > 0).all() or not norms.isfinite().all():
        raise GeometryError(
            "certificate: expected two rows or more, each finite and not zero, "
            f"got {classes} with norms from {norms.min():g} to {norms.max():g}"
        )
    unit = rows / norms[:, None]
    pairs = classes * (classes - 1)
    # The rows' sum gives the mean without a sum over pairs.
    mean = (float((unit.sum(dim=0) ** 2).sum()) - classes) / pairs
    largest, smallest, squared = -1.0, 1.0, 0.0
    for start, part in _blocks(unit):
        cos = part @ unit.T
        own = torch.arange(len(part))
        squared += float(((cos - mean) ** 2).sum() - ((cos[own, start + own] - mean) ** 2).sum())
        cos[own, start + own] = -torch.inf
        largest = max(largest, float(cos.max()))
        cos[own, start + own] = torch.inf
        smallest = min(smallest, float(cos.min()))
    zeros = (matrix == 0).sum(dim=1)
    welch = welch_bound(classes, dim)
    extreme = max(largest, -smallest)
    return Certificate(
        classes=classes,
        dim=dim,
        cos_max=largest,
        abs_cos_max=extreme,
        cos_mean=mean,
        cos_std=math.sqrt(max(squared, 0.0) / pairs),
        welch=welch,
        above_welch=extreme - welch,
        norm_min=float(norms.min()),
        norm_max=float(norms.max()),
        zeros_min=int(zeros.min()),
        zeros_max=int(zeros.max()),
        digest=matrix_digest(matrix),
    )


def _blocks(
    unit: Float[Tensor, "classes features"],
) -> list[tuple[int, Float[Tensor, "block features"]]]:
    size = max(1, BLOCK_ENTRIES // len(unit))
    return [(start, unit[start : start + size]) for start in range(0, len(unit), size)]
