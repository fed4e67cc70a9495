"""Heads turn features into logits: layers in training, plain matrices in evaluation."""

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
    weight : one row per class.
    bias : added to the logits; None: no bias.
    mask : 0 for a class that may be predicted, -inf for one that may not; None: all may.
    """

    weight: Float[Tensor, "classes features"]
    bias: Float[Tensor, " classes"] | None = None
    mask: Float[Tensor, " classes"] | None = None

    @classmethod
    def of(cls, layer: nn.Linear) -> LinearHead:
        """The head of a layer; it shares the layer's memory, but takes no part in its gradient."""
        return cls(layer.weight.detach(), None if layer.bias is None else layer.bias.detach())

    def logits(
        self, features: Float[Tensor, "examples features"]
    ) -> Float[Tensor, "examples classes"]:
        """One row of logits per example; -inf for masked classes."""
        logits = F.linear(features, self.weight, self.bias)
        return logits if self.mask is None else logits + self.mask

    def predict(self, features: Float[Tensor, "examples features"]) -> Int[Tensor, " examples"]:
        """The class with the greatest logit."""
        return self.logits(features).argmax(dim=1)

    def offset(self) -> Float[Tensor, " classes"]:
        """What is added to weight h: the sum of bias and mask, 0 without them."""
        parts = [part for part in (self.bias, self.mask) if part is not None]
        return sum(parts, start=self.weight.new_zeros(self.weight.shape[0]))


@dataclass(frozen=True)
class Predictor:
    """A linear head, and the features that it reads.

    Parameters
    ----------
    head : from features to logits.
    extractor : name of the method's function ``(net, inputs) -> features``. The default,
        ``features``, is the shared backbone's, computed only once for all clients.
    """

    head: LinearHead
    extractor: str = "features"

    @classmethod
    def of(cls, layer: nn.Linear, extractor: str = "features") -> Predictor:
        """The predictor of a layer; see `LinearHead.of`."""
        return cls(LinearHead.of(layer), extractor)


def linear(
    in_features: int, out_features: int, bias: bool = True, *, seed: int, purpose: str
) -> nn.Linear:
    """A linear layer, initialised as ``nn.Linear`` is, by draws that depend on (seed, purpose) alone."""
    with torch_seeded(seed, purpose):
        return nn.Linear(in_features, out_features, bias)


class FixedHead(nn.Linear):
    """A classifier that is never trained and never sent: logits = W h, without a bias."""

    def __init__(self, prototypes: Prototypes) -> None:
        super().__init__(prototypes.dim, prototypes.classes, bias=False, device="meta")
        self.weight = nn.Parameter(prototypes.matrix.clone(), requires_grad=False)
        self.prototypes = prototypes


class Scalar(nn.Module):
    """One learned number, as a part of the network of its own."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
