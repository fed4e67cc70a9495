"""Ditto: fair and robust federated learning through personalization.

Li, Hu, Beirami, Smith. ICML 2021, arXiv 2012.04221.

Beside FedAvg's model theta every client trains a whole model v of its own, held near
the theta it received by lambda/2 ||v - theta||^2 (eq. 2, algorithm 1). lambda = 0 is
local training.
"""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from fedloge.learning.loop import sgd
from fedloge.methods.fedprox import squared_distance
from fedloge.methods.method import LocalData, Losses, MethodOptions, Part, Predictor, Update
from fedloge.methods.single_head import HeadNetwork, SharedHead
from fedloge.models.head import LinearHead


class TwinNetwork(HeadNetwork):
    """The shared model, and one of the client's own that starts as its copy."""

    own_backbone: nn.Module
    own_head: nn.Linear


class Ditto(SharedHead[TwinNetwork]):
    """FedAvg, and a personal model that is pulled towards it."""

    name = "ditto"
    parts: ClassVar = {
        **SharedHead.parts,
        "own_backbone": Part.PERSONAL,
        "own_head": Part.PERSONAL,
    }
    primary_personal = "raw"

    class Options(MethodOptions):
        """`lambda`: the pull. In the paper a client picks 0.1, 1 or 2, or takes 1 if it has few images."""

        pull: float = Field(1.0, ge=0, alias="lambda")

    options: Options

    def build(self) -> TwinNetwork:
        """Two models that start alike."""
        shared, own = self.fresh_model(), self.fresh_model()
        return TwinNetwork(
            backbone=shared.backbone,
            head=shared.head,
            own_backbone=own.backbone,
            own_head=own.head,
        )

    def local_update(self, net: TwinNetwork, client: LocalData) -> Update:
        """v against the theta just received, which has not moved yet; then theta."""
        theta = [*net.backbone.parameters(), *net.head.parameters()]
        v = [*net.own_backbone.parameters(), *net.own_head.parameters()]
        pairs = [(mine, received.detach()) for mine, received in zip(v, theta, strict=True)]

        def own_loss(net: TwinNetwork, images: Tensor, labels: Tensor, client: LocalData) -> Losses:
            logits = net.own_head(net.own_backbone(images))
            return {
                "local": self.local_loss(logits, labels, client),
                "pull": self.options.pull / 2 * squared_distance(pairs),
            }

        epochs = self.config.local_epochs
        own = sgd(net, v, own_loss, client, epochs=epochs, purpose="train-own")
        shared = sgd(net, theta, self.loss, client, epochs=epochs)
        return Update({**shared, "loss-own": own["loss"]})

    def own_features(self, net: TwinNetwork, images: Tensor) -> Float[Tensor, "batch features"]:
        """Features of the client's own backbone."""
        return net.own_backbone(images)

    def personal_predictors(self, net: TwinNetwork, client: LocalData) -> dict[str, Predictor]:
        """v; for a client that has never trained, theta."""
        if client.rounds_trained == 0:
            return {"raw": Predictor(LinearHead.of(net.head))}
        return {"raw": Predictor(LinearHead.of(net.own_head), extractor="own_features")}
