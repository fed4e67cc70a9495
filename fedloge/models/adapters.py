"""Small trained parts on a frozen backbone: a residual MLP on its features, and low-rank adapters in it.

Low-rank adapters are those of Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR
2022, arXiv 2106.09685: W + (alpha / r) B A, where B starts at zero. They are put on the weights, not
around the layers, so that attention layers that read their weights themselves are adapted too.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fedloge.models.backbone import Backbone

# Attention layers of torch read this weight themselves: queries, keys and values in one.
_ATTENTION = "in_proj_weight"


class ResidualAdapter(Backbone):
    """h + up(relu(down(h))) on the features h of a frozen backbone, which starts as h itself.

    Parameters
    ----------
    net : makes h; their scale belongs here, before what is trained.
    width : hidden units.
    """

    def __init__(self, net: Backbone, width: int) -> None:
        super().__init__()
        self.net, self.out_features = net, net.out_features
        out_features = net.out_features
        self.down = nn.Linear(out_features, width)
        self.up = nn.Linear(width, out_features)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Adapted features."""
        features = self.net(inputs)
        adapted: Tensor = features + self.up(torch.relu(self.down(features)))
        return adapted

    def fixed_tensors(self) -> set[str]:
        """What is fixed of the features' backbone."""
        return {f"net.{name}" for name in self.net.fixed_tensors()}


class LowRank(nn.Module):
    """What is added to a weight: (alpha / rank) up down, in the weight's shape; it starts at zero."""

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        self.down = nn.Parameter(torch.empty(rank, columns))
        self.up = nn.Parameter(torch.zeros(rows, rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)
        self._factor = alpha / rank

    def forward(self, weight: Float[Tensor, "rows ..."]) -> Float[Tensor, "rows ..."]:
        """The adapted weight."""
        return weight + self._factor * (self.up @ self.down).view_as(weight)


def add_low_rank(net: nn.Module, rank: int, alpha: float) -> int:
    """Adapt the weights of all linear layers, 1x1 convolutions and attention layers, in place.

    Returns how many weights are adapted; nothing else of the network is trained afterwards.
    """
    net.requires_grad_(False)
    found = [
        (module, name)
        for module in net.modules()
        for name, weight in module.named_parameters(recurse=False)
        if name == _ATTENTION or (name == "weight" and _is_a_product(module, weight))
    ]
    for module, name in found:
        adapter = LowRank(getattr(module, name), rank, alpha)
        parametrize.register_parametrization(module, name, adapter)
    return len(found)


def _is_a_product(module: nn.Module, weight: Tensor) -> bool:
    if isinstance(module, nn.Linear):
        return True
    return isinstance(module, nn.Conv2d) and module.groups == 1 and weight.shape[2:] == (1, 1)
