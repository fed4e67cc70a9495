"""FedRep: exploiting shared representations for personalized federated learning.

Collins, Hassani, Mokhtari, Shakkottai. ICML 2021, arXiv 2102.07078.

The parts are FedPer's, but they are trained one after the other: first the client's head
on the backbone as received, then the backbone under that head (algorithm 1).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from fedloge.learning.loop import sgd
from fedloge.methods.fedper import FedPer
from fedloge.methods.method import ClientData, Losses, Update
from fedloge.methods.single_head import HeadNetwork, LossOptions, SingleHead


class FedRep(FedPer):
    """FedPer that trains first the head and then the backbone."""

    name = "fedrep"

    class Options(LossOptions):
        """`head_epochs`: passes that train the head (the paper: 10); the backbone gets ``local-epochs``."""

        head_epochs: int = Field(10, ge=1)

    options: Options
    soft_labels = FedPer.soft_labels
    example_by_example = SingleHead.example_by_example

    def local_update(self, net: HeadNetwork, client: ClientData) -> Update:
        """Train the head, then the backbone; the other one does not change meanwhile."""
        head = sgd(
            net,
            list(net.head.parameters()),
            self.head_loss,
            client,
            epochs=self.options.head_epochs,
            purpose="train-head",
            frozen=net.backbone,
        )
        body = sgd(
            net,
            list(net.backbone.parameters()),
            self.loss,
            client,
            epochs=self.config.local_epochs,
        )
        return Update({**body, "loss-head": head["loss"]})

    def head_loss(
        self, net: HeadNetwork, inputs: Tensor, labels: Tensor, client: ClientData
    ) -> Losses:
        """The local loss, without a gradient for the backbone."""
        with torch.no_grad():
            h = net.backbone(inputs)
        return {"local": self.local_loss(net.head(h), labels, client)}
