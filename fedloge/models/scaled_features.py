"""Features brought to one length, so that a learning rate means the same for every pretrained backbone.

Raw lengths differ by backbone and data (26 and 43 where we measured one network on two data sets).
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fedloge.models.backbone import Backbone

Scale = Literal["standard", "l2", "none"]
LENGTH = 8.0
"""The length of scaled features: of every one (``l2``), or their quadratic mean (``standard``)."""
SAMPLE = 2048
"""How many training examples, evenly spaced, the statistics of ``standard`` are taken of, at most."""


class StandardFeatures(Backbone):
    """(h - mean) / std, brought to the length 8, where mean and std are those of the untrained backbone's features.

    Parameters
    ----------
    sample : features of training examples under `net`; (0, d) where the statistics are loaded later.
    """

    shift: Tensor
    factor: Tensor

    def __init__(self, net: Backbone, sample: Float[Tensor, "sample features"]) -> None:
        super().__init__()
        self.net, self.out_features = net, net.out_features
        self.feature_length = LENGTH
        shift, factor = torch.zeros(self.out_features), torch.ones(self.out_features)
        if len(sample):
            std, mean = torch.std_mean(sample.double(), dim=0, correction=0)
            # A feature that hardly varies is not made as long as the others: it says little.
            least = std.clamp(min=float(std.mean()) / 100 + 1e-12)
            shift = mean.float()
            factor = (LENGTH / (std / least).norm().clamp(min=1e-12) / least).float()
        self.register_buffer("shift", shift)
        self.register_buffer("factor", factor)

    def forward(self, inputs: Tensor) -> Tensor:
        """Scaled features."""
        features: Tensor = (self.net(inputs) - self.shift).mul_(self.factor)
        return features

    def fixed_tensors(self) -> set[str]:
        """The statistics, and what is fixed of the backbone."""
        return {"shift", "factor"} | {f"net.{name}" for name in self.net.fixed_tensors()}


class UnitFeatures(Backbone):
    """8 h / ||h||, which needs no statistics; a zero feature stays zero."""

    def __init__(self, net: Backbone) -> None:
        super().__init__()
        self.net, self.out_features = net, net.out_features
        self.feature_length = LENGTH

    def forward(self, inputs: Tensor) -> Tensor:
        """Scaled features."""
        return LENGTH * functional.normalize(self.net(inputs), dim=1)

    def fixed_tensors(self) -> set[str]:
        """What is fixed of the backbone."""
        return {f"net.{name}" for name in self.net.fixed_tensors()}
