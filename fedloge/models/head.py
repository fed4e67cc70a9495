"""Linear heads: features to logits, one at a time or all clients' at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from fedloge.rng import torch_seeded

# Bounds what `stack_predictions` holds at once, for the weights and for the logits each.
_CHUNK_BYTES = 256 * 2**20


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


def stack_predictions(
    heads: Sequence[LinearHead], features: Float[Tensor, "samples features"]
) -> Int[Tensor, "heads samples"]:
    """Predictions of many heads of one shape, as one matrix product.

    Every client's personal head sees the same features, so all of them together are one tall
    head. Heads and samples go in chunks of some 256 MiB of weights and as much of logits.
    Equal to ``head.predict(features)`` head by head, but for logits within rounding of each
    other: a matrix product of another shape may add in another order.
    """
    if not heads:
        return torch.empty(0, len(features), dtype=torch.long, device=features.device)
    classes, width = heads[0].weight.shape
    itemsize = features.element_size()
    heads_at_once = max(1, _CHUNK_BYTES // (classes * width * itemsize))
    predictions = []
    for start in range(0, len(heads), heads_at_once):
        block = heads[start : start + heads_at_once]
        weight = torch.cat([head.weight for head in block])
        offset = torch.cat([head.offset() for head in block])
        samples_at_once = max(1, _CHUNK_BYTES // (len(weight) * itemsize))
        predictions.append(
            torch.cat(
                [
                    F.linear(chunk, weight, offset).view(-1, len(block), classes).argmax(dim=2)
                    for chunk in features.split(samples_at_once)
                ]
            ).T
        )
    return torch.cat(predictions)


def linear(
    in_features: int, out_features: int, bias: bool = True, *, seed: int, purpose: str
) -> nn.Linear:
    """A layer that starts as ``nn.Linear`` starts, drawn from (seed, purpose) alone."""
    with torch_seeded(seed, purpose):
        return nn.Linear(in_features, out_features, bias)
