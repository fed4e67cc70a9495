"""FedROD: on bridging generic and personalized federated learning for image classification.

Chen, Chao. ICLR 2022, arXiv 2107.00778.

Two losses and two predictors (eq. 9, the linear version). Backbone and generic head train
on balanced softmax with the client's class counts. A private head on detached features adds
its logits to the generic ones and minimises the client's own risk.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedloge.learning.losses import balanced_softmax, log_prior
from fedloge.methods.method import ClientData, LinearLoss, Losses, Part, Predictor
from fedloge.methods.single_head import HeadNetwork, PostHocOptions, SharedHead
from fedloge.models.head import LinearHead, linear


class FedRODNetwork(HeadNetwork):
    """Backbone, generic head, and the client's private head."""

    private_head: nn.Linear


class FedROD(SharedHead[FedRODNetwork]):
    """A generic model trained on balanced softmax, and a private head that corrects it."""

    name = "fedrod"
    parts: ClassVar = {**SharedHead.parts, "private_head": Part.PERSONAL}
    primary_personal = "raw"
    Options = PostHocOptions

    def build(self) -> FedRODNetwork:
        """The generic model and the private head, initialised as usual."""
        generic, classes = self.fresh_model(), self.task.num_classes
        private = linear(
            generic.head.in_features, classes, seed=self.config.seed, purpose="init/local-head"
        )
        return FedRODNetwork(backbone=generic.backbone, head=generic.head, private_head=private)

    def loss(
        self, net: FedRODNetwork, inputs: Tensor, labels: Tensor, client: ClientData
    ) -> Losses:
        """The generic and the private loss; the private one trains the private head alone."""
        h = net.backbone(inputs)
        generic = net.head(h)
        both = generic.detach() + net.private_head(h.detach())
        return {
            "generic": balanced_softmax(generic, labels, client.counts),
            "private": cross_entropy(both, labels),
        }

    def linear_losses(self, net: FedRODNetwork, client: ClientData) -> dict[str, LinearLoss]:
        """Both losses."""
        return {
            "generic": LinearLoss(net.head, log_prior(client.counts)),
            "private": LinearLoss(net.private_head, beside=net.head),
        }

    @property
    def soft_labels(self) -> bool:
        """True: cross-entropies take shares of classes."""
        return True

    def personal_predictors(self, net: FedRODNetwork, client: ClientData) -> dict[str, Predictor]:
        """The sum of both heads' logits; the generic ones for a client that has never trained."""
        generic, private = LinearHead.of(net.head), LinearHead.of(net.private_head)
        if client.rounds_trained == 0:
            return {"raw": Predictor(generic)}
        both = LinearHead(generic.weight + private.weight, generic.offset() + private.offset())
        return {"raw": Predictor(both)}
