"""Heads: features to logits, in training as layers, in measurement as plain matrices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from fedloge.geometry.prototypes import Prototypes
from fedloge.rng import torch_seeded


@dataclass(frozen=True, eq=False)
class LinearHead:
    """logits = weight h + bias + mask.

    Parameters
    ----------
    weight : one row a class.
    bias : added to the logits; None for none.
    mask : 0 for a class that may be predicted, -inf for one that may not; None for all may.
    """

    weight: Float[Tensor, "classes features"]
    bias: Float[Tensor, " classes"] | None = None
    mask: Float[Tensor, " classes"] | None = None

    @classmethod
    def of(cls, layer: nn.Linear) -> LinearHead:
        """The head that a layer is now; it shares the layer's memory, but not its gradient."""
        return cls(layer.weight.detach(), None if layer.bias is None else layer.bias.detach())

    def logits(
        self, features: Float[Tensor, "samples features"]
    ) -> Float[Tensor, "samples classes"]:
        """One row a sample; -inf where the mask says so."""
        logits = F.linear(features, self.weight, self.bias)
        return logits if self.mask is None else logits + self.mask

    def predict(self, features: Float[Tensor, "samples features"]) -> Int[Tensor, " samples"]:
        """The class with the greatest logit."""
        return self.logits(features).argmax(dim=1)

    def offset(self) -> Float[Tensor, " classes"]:
        """What is added to weight h: bias and mask together, zero where there is neither."""
        parts = [part for part in (self.bias, self.mask) if part is not None]
        return sum(parts, start=self.weight.new_zeros(self.weight.shape[0]))


@dataclass(frozen=True)
class Predictor:
    """A linear head, and which of the method's functions ``(net, inputs) -> features`` it reads.

    ``features`` are those of the shared backbone, computed once for all clients.
    """

    head: LinearHead
    extractor: str = "features"

    @classmethod
    def of(cls, layer: nn.Linear, extractor: str = "features") -> Predictor:
        """The head that a layer is now."""
        return cls(LinearHead.of(layer), extractor)


def linear(
    in_features: int, out_features: int, bias: bool = True, *, seed: int, purpose: str
) -> nn.Linear:
    """A layer that starts as ``nn.Linear`` starts, drawn from (seed, purpose) alone."""
    with torch_seeded(seed, purpose):
        return nn.Linear(in_features, out_features, bias)


class FixedHead(nn.Linear):
    """A classifier that never moves and is never sent: logits = W h, without a bias."""

    def __init__(self, prototypes: Prototypes) -> None:
        super().__init__(prototypes.dim, prototypes.classes, bias=False, device="meta")
        self.weight = nn.Parameter(prototypes.matrix.clone(), requires_grad=False)
        self.prototypes = prototypes


class Scalar(nn.Module):
    """One learned number, as a part of its own."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
