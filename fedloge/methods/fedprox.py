"""FedProx: federated optimization in heterogeneous networks.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith. MLSys 2020, arXiv 1812.06127.

FedAvg whose clients stay near the model that they received: their loss has the
proximal term mu/2 ||theta - theta_global||^2 (eq. 2). mu = 0 is FedAvg.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss

from fedloge.learning.loop import sgd
from fedloge.methods.fedavg import FedAvg, FedAvgOptions
from fedloge.methods.method import ClientData, Losses, Update
from fedloge.methods.single_head import HeadNetwork


class FedProx(FedAvg):
    """FedAvg with a proximal term."""

    name = "fedprox"

    class Options(FedAvgOptions):
        """`mu`: weight of the proximal term, 0 or more; the paper picks 0.001, 0.01, 0.1 or 1 per data set."""

        mu: float = Field(0.01, ge=0)

    options: Options
    soft_labels = FedAvg.soft_labels

    def local_update(self, net: HeadNetwork, client: ClientData) -> Update:
        """SGD on the loss plus the proximal term over all parameters that are shared."""
        anchored = [
            (p, p.detach().clone()) for name, p in net.named_parameters() if name in client.received
        ]

        def loss(net: HeadNetwork, inputs: Tensor, labels: Tensor, client: ClientData) -> Losses:
            proximal = self.options.mu / 2 * squared_distance(anchored)
            return {**self.loss(net, inputs, labels, client), "proximal": proximal}

        epochs = self.config.local_epochs
        return Update(sgd(net, self.trainable(net), loss, client, epochs=epochs))


def squared_distance(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Sum over pairs of tensors of ||a - b||^2."""
    return torch.stack([mse_loss(a, b, reduction="sum") for a, b in pairs]).sum()
