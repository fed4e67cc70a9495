"""Heads that see only the direction of features: logits = scale cos(h, w_c) for rows of norm 1.

FedNH and FedETF learn the scale; equiangular basis vectors divide by a temperature instead.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear, normalize


def scaled_cosines(
    features: Float[Tensor, "batch features"],
    weight: Float[Tensor, "classes features"],
    scale: Float[Tensor, ""] | float,
) -> Float[Tensor, "batch classes"]:
    """scale <h/||h||, w_c>; the rows of `weight` are taken as they are."""
    return scale * linear(normalize(features), weight)


class CosineHead(nn.Module):
    """Logits of unit features against rows that training does not move.

    Parameters
    ----------
    weight : rows of norm 1, a buffer.
    scale : of the cosines, or its initial value if it is learned.
    """

    weight: Tensor

    def __init__(
        self, weight: Float[Tensor, "classes features"], scale: float, *, learn_scale: bool
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.scale = nn.Parameter(torch.tensor(scale), requires_grad=learn_scale)

    def forward(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch classes"]:
        """Scaled cosines with the rows."""
        return scaled_cosines(features, self.weight, self.scale)
