"""A step of a buffered asynchronous run, exact, so that the order of the answers cannot matter.

FedBuff (Nguyen et al. 2022, algorithm 1) adds to the model the mean of K updates, each the way that a client
went from the model it was sent, times s(t) = 1 / sqrt(1 + t) for an update that is t steps old. Here clients
weigh by their training examples as in a round, and the weights are whole numbers, so that all terms are
summed in 64-bit integers like those of a round (see `fedloge.messages.averaging`). If no answer is stale, the step
is the weighted mean of a round to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST_STALE = 2.0**13
"""Bound on the magnitude of values: a sum of three models must fit where a round sums one."""
_FINEST = 1024
_MOST_WEIGHT = 2**29
_SUM_BITS = 62
_LIMIT_BITS = 15


@dataclass(frozen=True)
class StaleUpdate:
    """A client's answer, and what it began from.

    Attributes
    ----------
    tensors, base : the shared tensors after its training, and as it was sent them; values below `LARGEST_STALE`.
    weight : its training examples, 1 or more.
    staleness : steps of the model since it was asked, 0 or more.
    """

    tensors: Mapping[str, Tensor]
    base: Mapping[str, Tensor]
    weight: int
    staleness: int


def staleness_weight(weight: int, staleness: int, unit: int = _FINEST) -> int:
    """``unit`` times weight / sqrt(1 + staleness), as a whole number.

    >>> staleness_weight(10, 0), staleness_weight(10, 3)
    (10240, 5120)
    """
    return round(unit * weight / math.sqrt(1 + staleness))


def buffered_step(model: Mapping[str, Tensor], updates: Sequence[StaleUpdate]) -> dict[str, Tensor]:
    """The model plus the weighted mean of the updates, those that are stale counting less.

    The mean is over the clients' full weights, as in the paper: a step of stale updates is a shorter step.

    Raises
    ------
    ValueError
        There is no update, or all weights together exceed 2^29.
    """
    total = sum(update.weight for update in updates)
    if not 1 <= total <= _MOST_WEIGHT:
        raise ValueError(f"the weights add up to {total}, expected 1 .. 2^29")
    unit = min(_FINEST, 2 ** int(math.log2(_MOST_WEIGHT // total)))
    whole = unit * total
    scale = 2.0 ** (_SUM_BITS - _LIMIT_BITS - math.ceil(math.log2(whole)))
    weights = [staleness_weight(update.weight, update.staleness, unit) for update in updates]
    stepped = {}
    for name, now in model.items():
        summed = _scaled(now, (whole - sum(weights)) * scale)
        for update, weight in zip(updates, weights, strict=True):
            summed += _scaled(update.tensors[name], weight * scale)
            if update.staleness:  # else it began from this model, and the two would cancel
                summed += _scaled(now, weight * scale) - _scaled(update.base[name], weight * scale)
        stepped[name] = (summed.to(torch.float64) / (scale * whole)).to(now.dtype)
    return stepped


def _scaled(tensor: Tensor, factor: float) -> Tensor:
    return tensor.to(torch.float64).mul(factor).round().to(torch.int64)
