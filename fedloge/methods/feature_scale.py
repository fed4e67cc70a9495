"""How long a network's features are before any training, and the row norm of a classifier that suits them.

What FedLoGe's gamma means depends on the features' length: scaling them by s and gamma by 1/s leaves
the training of the backbone as it was. So a fixed gamma suits one network only. The rule here is
measured, not derived (experiments/LOG.md): gamma times the initial length is 15. It holds for short
runs of the small networks; the paper's 500 rounds of a ResNet-34 with 100 classes want less, 0.1
where the rule says 0.6.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedloge.rng import torch_seeded

PRETRAINED = 24.0
"""gamma times the length of scaled features of pretrained weights; measured at length 8 under adapters."""
LENGTH = 15.0
"""gamma times the initial length of the features."""
MEASURED_ON = ("cnn", "resnet8")
"""Networks on which the rule was measured."""


@torch.no_grad()
def initial_length(backbone: nn.Module, noise: Tensor) -> float:
    """Mean ||h|| of noise in the place of prepared inputs, in training mode; no data is needed.

    In training mode, since an untrained batch norm's running statistics are not yet the features' own.

    Parameters
    ----------
    backbone : freshly initialised; its running statistics move, so do not use it further.
    noise : (examples, ...), standard normal.
    """
    with torch_seeded(0, "initial-length"):  # dropout and its like
        return float(backbone.train()(noise).norm(dim=1).mean())


def suited_gamma(backbone: Callable[[], nn.Module], noise: Tensor) -> float:
    """The row norm that suits a network's features: 15 over their initial length, to two digits.

    Two digits, so that the last bits, in which machines differ, do not count.
    """
    return float(f"{LENGTH / initial_length(backbone(), noise):.2g}")
