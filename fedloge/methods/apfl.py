"""APFL: adaptive personalized federated learning.

Deng, Kamani, Mahdavi. 2020, arXiv 2003.13461.

A client predicts with a mixture of its own model and the global one,
alpha v + (1 - alpha) w. alpha is learned by gradient descent and kept in [0, 1]; w trains as in
FedAvg. As in the authors' released code, alpha takes one plain step per round, before the models
train. If it took a step with every one of theirs, with momentum, it would reach 0 or 1 within a
round. Its gradient here is over all examples of the client. The models' logits are mixed, as in
that code. For linear models this is the paper's mixture of weights. With batch norm it avoids a
mixed network for which nobody has running statistics.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from fedloge.learning.lr_schedule import lr_in
from fedloge.methods.method import ClientData, Losses, Part, Update
from fedloge.methods.own_model import OwnModel, TwinNetwork
from fedloge.methods.single_head import SharedHeadOptions
from fedloge.models.head import LinearHead, Predictor, Scalar


class APFLNetwork(TwinNetwork):
    """The shared model w, the client's own model v, and the share alpha of v in the mixture."""

    alpha: Scalar


class APFL(OwnModel[APFLNetwork]):
    """FedAvg, and a personal mixture of two models with a learned weight."""

    name = "apfl"
    parts: ClassVar = {**OwnModel.parts, "alpha": Part.PERSONAL}
    primary_personal = "raw"

    class Options(SharedHeadOptions):
        """`alpha`: initial share of the own model, 0 to 1. `adaptive`: whether it is learned."""

        alpha: float = Field(0.5, ge=0, le=1)
        adaptive: bool = True

    options: Options
    soft_labels = OwnModel.soft_labels

    def build(self) -> APFLNetwork:
        """Two models with the same initial weights, and alpha."""
        net = super().build()
        alpha = Scalar(self.options.alpha).requires_grad_(False)
        net.add_module("alpha", alpha)
        return net

    def loss(self, net: APFLNetwork, inputs: Tensor, labels: Tensor, client: ClientData) -> Losses:
        """The loss of w, and that of the mixture, which trains v only."""
        alpha = net.alpha.value.detach()
        w = net.head(net.backbone(inputs))
        v = net.own_head(net.own_backbone(inputs))
        return {
            "global": self.local_loss(w, labels, client),
            "mixture": self.local_loss(alpha * v + (1 - alpha) * w.detach(), labels, client),
        }

    def local_update(self, net: APFLNetwork, client: ClientData) -> Update:
        """One step of alpha under the models as the round begins, then training of both models."""
        if self.options.adaptive and client.rounds_trained:
            # In a client's first round v equals w, so alpha has no gradient.
            self._step_of_alpha(net, client)
        return Update({**self.train(net, client), "alpha": net.alpha.value.item()})

    @torch.no_grad()
    def _step_of_alpha(self, net: APFLNetwork, client: ClientData) -> None:
        net.eval()
        alpha, slope = net.alpha.value, 0.0
        for inputs, labels in client.plain_batches():
            w = net.head(net.backbone(inputs))
            v = net.own_head(net.own_backbone(inputs))
            slope += mixture_slope(v, w, labels, float(alpha)) * len(labels)
        alpha.sub_(lr_in(self.config, client.round) * slope / len(client.train)).clamp_(0, 1)

    def both_features(
        self, net: APFLNetwork, inputs: Tensor
    ) -> Float[Tensor, "batch features_of_both"]:
        """The features of the own and of the shared backbone, concatenated."""
        return torch.cat([net.own_backbone(inputs), net.backbone(inputs)], dim=1)

    def personal_predictors(self, net: APFLNetwork, client: ClientData) -> dict[str, Predictor]:
        """The mixture, as one linear head on both features; the global model if it has never trained."""
        v, w = LinearHead.of(net.own_head), LinearHead.of(net.head)
        if client.rounds_trained == 0:
            return {"raw": Predictor(w)}
        alpha = net.alpha.value.detach()
        mixture = LinearHead(
            torch.cat([alpha * v.weight, (1 - alpha) * w.weight], dim=1),
            alpha * v.offset() + (1 - alpha) * w.offset(),
        )
        return {"raw": Predictor(mixture, extractor="both_features")}


def mixture_slope(
    v: Float[Tensor, "batch classes"],
    w: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    alpha: float,
) -> float:
    """Derivative by alpha of the mean cross-entropy of alpha v + (1 - alpha) w: mean (p - y) (v - w)."""
    residuals = (alpha * v + (1 - alpha) * w).softmax(dim=1) - one_hot(labels, v.shape[1])
    return float((residuals * (v - w)).sum() / len(labels))
