"""FedProto: federated prototype learning across heterogeneous clients.

Tan, Long, Liu, Zhou, Lu, Jiang, Zhang. AAAI 2022, arXiv 2105.00243.

Clients send the mean features of their classes. The server's means of these, weighted by
counts, are global prototypes. The next round's loss pulls features to them (eq. 8). Here the
backbone is averaged too, so that there is a global model.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fedloge.learning.probes.class_moments import class_moments
from fedloge.methods.method import Aggregate, ClientData, Losses, Part, Update, plain_features
from fedloge.methods.single_head import HeadNetwork, SharedHead, SharedHeadOptions


class Prototypes(nn.Module):
    """The mean feature of each class over the clients; zero for a class that nobody has had yet."""

    def __init__(self, classes: int, features: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(classes, features))


class FedProto(SharedHead[HeadNetwork]):
    """Features pulled to prototypes that all clients share."""

    name = "fedproto"
    parts: ClassVar = {**SharedHead.parts, "prototypes": Part.SHARED}

    class Options(SharedHeadOptions):
        """`pull`: weight of ||h - mean of the class||^2."""

        pull: float = Field(1.0, ge=0)

    options: Options

    def build(self) -> HeadNetwork:
        net = self.fresh_model()
        net.add_module("prototypes", Prototypes(*net.head.weight.shape))
        return net

    def loss(self, net: HeadNetwork, inputs: Tensor, labels: Tensor, client: ClientData) -> Losses:
        h, means = net.backbone(inputs), net.prototypes.means
        known = means.any(dim=1)[labels]
        distances = (h - means[labels]).square().mean(dim=1) * known
        ce = self.local_loss(net.head(h), labels, client)
        return {"ce": ce, "pull": self.options.pull * distances.mean()}

    def local_update(self, net: HeadNetwork, client: ClientData) -> Update:
        metrics = self.train(net, client)
        moments = class_moments(
            *plain_features(self, net, client), self.task.num_classes, full=False
        )
        return Update(metrics, {name: moments[name] for name in ("counts", "sums")})

    def uplink(self, net: HeadNetwork) -> dict[str, Tensor]:
        classes, features = net.head.weight.shape
        return {"counts": torch.zeros(classes), "sums": torch.zeros(classes, features)}

    def server_update(self, net: HeadNetwork, aggregate: Aggregate) -> Aggregate:
        counts, old = aggregate.sums["counts"][:, None], aggregate.shared["prototypes.means"]
        means = torch.where(counts > 0, aggregate.sums["sums"] / counts.clamp(min=1), old)
        return aggregate.with_shared({"prototypes.means": means})
