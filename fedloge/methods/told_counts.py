"""Class counts that the server tells its clients among the shared tensors, whatever their size.

Shared tensors must stay below 2^15, as a model's do; a class may have more images. Then the
counts are told in units of a power of two of images. Clients read shares of counts only, and a
power of two changes no bit of these.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedloge.methods.method import Aggregate

_MOST = 2.0**14
"""Counts above this are told in larger units: half of what a shared tensor may hold."""


def told(aggregate: Aggregate, name: str) -> Float[Tensor, " classes"]:
    """The counts that the server told last, in images.

    Parameters
    ----------
    name : of the shared tensor that tells them.
    """
    counts = aggregate.shared[name]
    unit = aggregate.state.get(_unit(name))
    return counts if unit is None else counts * unit


def tell(aggregate: Aggregate, name: str, counts: Float[Tensor, " classes"]) -> Aggregate:
    """The aggregate with these counts of images as shared tensor `name`.

    The unit is part of the server's state once it has been more than one image.
    """
    unit = 2.0 ** max(0, math.ceil(math.log2(max(1.0, float(counts.max())) / _MOST)))
    state = aggregate.state
    if unit > 1 or _unit(name) in state:
        state = state | {_unit(name): torch.tensor(unit)}
    return replace(aggregate, state=state).with_shared({name: counts / unit})


def _unit(name: str) -> str:
    return f"{name}.unit"
