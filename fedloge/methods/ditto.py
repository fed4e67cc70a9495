"""Ditto: fair and robust federated learning through personalization.

Li, Hu, Beirami, Smith. ICML 2021, arXiv 2012.04221.

Beside FedAvg's model theta every client trains a whole model v of its own. The term
lambda/2 ||v - theta||^2 pulls v to the theta that it received (eq. 2, algorithm 1).
lambda = 0 is local training.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from fedloge.learning.loop import sgd
from fedloge.methods.fedprox import squared_distance
from fedloge.methods.method import ClientData, Losses, Predictor, Update
from fedloge.methods.own_model import OwnModel, TwinNetwork
from fedloge.methods.single_head import SharedHeadOptions


class Ditto(OwnModel[TwinNetwork]):
    """FedAvg, and a personal model that is pulled towards it."""

    name = "ditto"
    primary_personal = "raw"

    class Options(SharedHeadOptions):
        """`lambda`: the pull, 0 or more. In the paper a client picks 0.1, 1 or 2, or, with few examples, 1."""

        pull: float = Field(1.0, ge=0, alias="lambda")

    options: Options
    soft_labels = OwnModel.soft_labels

    def local_update(self, net: TwinNetwork, client: ClientData) -> Update:
        """Train v, pulled to theta as received; then train theta."""
        theta = [*net.backbone.parameters(), *net.head.parameters()]
        v = [*net.own_backbone.parameters(), *net.own_head.parameters()]
        pairs = [(mine, received.detach()) for mine, received in zip(v, theta, strict=True)]

        def own_loss(net: TwinNetwork, x: Tensor, labels: Tensor, client: ClientData) -> Losses:
            return {
                "local": self.local_loss(net.own_head(net.own_backbone(x)), labels, client),
                "pull": self.options.pull / 2 * squared_distance(pairs),
            }

        epochs = self.config.local_epochs
        own = sgd(net, v, own_loss, client, epochs=epochs, purpose="train-own")
        shared = sgd(net, theta, self.loss, client, epochs=epochs)
        return Update({**shared, "loss-own": own["loss"]})

    def personal_predictors(self, net: TwinNetwork, client: ClientData) -> dict[str, Predictor]:
        """v, or theta for a client that has never trained."""
        if client.rounds_trained == 0:
            return {"raw": Predictor.of(net.head)}
        return {"raw": Predictor.of(net.own_head, "own_features")}
