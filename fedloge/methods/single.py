"""A backbone and one linear head trained together on cross-entropy: what many methods start from."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedloge.methods.base import LocalData, Losses, Method, Network
from fedloge.models.head import linear


class HeadNetwork(Network):
    """A backbone and one linear head."""

    head: nn.Linear


class SingleHead(Method[HeadNetwork]):
    """Base of the methods whose network is a backbone and a head."""

    def build(self) -> HeadNetwork:
        """A backbone and a linear head, as their layers start."""
        backbone, seed = self.task.backbone(), self.config.seed
        head = linear(
            backbone.out_features, self.task.num_classes, seed=seed, purpose="init/global-head"
        )
        return HeadNetwork(backbone=backbone, head=head)

    def loss(self, net: HeadNetwork, images: Tensor, labels: Tensor, client: LocalData) -> Losses:
        """Cross-entropy."""
        return {"ce": cross_entropy(net.head(net.backbone(images)), labels)}
