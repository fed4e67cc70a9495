"""FedLoGe: joint local and generic federated learning under long-tailed data.

Xiao, Chen, Liu, Wang, Feng, Wu, Yang, Lin. ICLR 2024, arXiv 2401.08977.

The shared backbone trains against a fixed sparse equiangular classifier (SSE-C,
section 3.2); a global and a local head learn on its detached features (3.3);
after training both are realigned by their norms (GLA-FR, 3.4).

``prototypes = none`` is the ablation without SSE-C: a linear layer in the place of W,
trained by the same loss and averaged. The backbone is then FedAvg's.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedloge.methods.base import (
    FixedHead,
    LocalData,
    Losses,
    Method,
    MethodOptions,
    Network,
    Part,
    Predictor,
    Task,
)
from fedloge.methods.posthoc import post_hoc
from fedloge.models.head import LinearHead, linear
from fedloge.realign import absent_mask, global_realign, local_realign, local_realign_sum


class FedLoGeNetwork(Network):
    """backbone theta, classifier W, global head psi, local head phi."""

    classifier: nn.Linear
    global_head: nn.Linear
    local_head: nn.Linear


class FedLoGe(Method[FedLoGeNetwork]):
    """A backbone against a fixed classifier, two heads on its detached features, realignment after."""

    name = "fedloge"
    parts: ClassVar = {
        "backbone": Part.SHARED,
        "classifier": Part.FIXED,
        "global_head": Part.SHARED,
        "local_head": Part.PERSONAL,
    }
    primary_global = "realigned"
    primary_personal = "realigned"
    reads: ClassVar = frozenset({"post-hoc"})

    def __init__(self, task: Task, options: MethodOptions) -> None:
        super().__init__(task, options)
        post_hoc(task.config.post_hoc, torch.zeros(task.num_classes, 1))
        self.w = "trained" if task.config.prototypes == "none" else "fixed"
        if self.w == "trained":
            self.parts = {**self.parts, "classifier": Part.SHARED}  # type: ignore[misc]

    def build(self) -> FedLoGeNetwork:
        """theta, psi and phi start as their layers start; W from the prototypes."""
        backbone = self.task.backbone()
        dim, classes, seed = backbone.out_features, self.task.num_classes, self.config.seed
        if self.w == "fixed":
            classifier: nn.Linear = FixedHead(self.task.prototypes(dim))
        else:
            classifier = linear(dim, classes, seed=seed, purpose="init/global-head")
        return FedLoGeNetwork(
            backbone=backbone,
            classifier=classifier,
            global_head=linear(dim, classes, seed=seed, purpose="init/global-head"),
            local_head=linear(dim, classes, seed=seed, purpose="init/local-head"),
        )

    def loss(
        self, net: FedLoGeNetwork, images: Tensor, labels: Tensor, client: LocalData
    ) -> Losses:
        """The three losses; each moves one part only, so one backward pass serves them all."""
        h = net.backbone(images)
        return {
            self.w: cross_entropy(net.classifier(h), labels),  # moves theta: W is fixed
            "global": cross_entropy(net.global_head(h.detach()), labels),  # moves psi
            "local": cross_entropy(net.local_head(h.detach()), labels),  # moves phi
        }

    @property
    def constant_loss(self) -> bool:
        """The three losses know the batch alone."""
        return True

    def global_predictors(self, net: FedLoGeNetwork) -> dict[str, Predictor]:
        """W, psi, and GA-FR's psi'_c = psi_c / ||psi_c||."""
        psi = net.global_head.weight.detach()
        return {
            self.w: Predictor(LinearHead.of(net.classifier)),
            "raw": Predictor(LinearHead.of(net.global_head)),
            **post_hoc(self.config.post_hoc, psi),
            "realigned": Predictor(LinearHead(global_realign(psi))),
        }

    def personal_predictors(self, net: FedLoGeNetwork, client: LocalData) -> dict[str, Predictor]:
        """phi_k, and LA-FR's phi'_{k,c} = psi_c ||phi_{k,c}||, absent classes masked.

        A client that has never trained has no phi: it predicts with the global head.
        """
        psi = net.global_head.weight.detach()
        mask = absent_mask(client.counts).to(psi)
        if client.rounds_trained == 0:
            return {
                "raw": Predictor(LinearHead.of(net.global_head)),
                "realigned": Predictor(LinearHead(global_realign(psi), mask=mask)),
            }
        phi = net.local_head.weight.detach()
        if self.config.personal_realignment == "sum":
            weight, bias = local_realign_sum(psi, phi), net.local_head.bias.detach()
        else:
            weight, bias = local_realign(psi, phi), None
        return {
            "raw": Predictor(LinearHead.of(net.local_head)),
            "realigned": Predictor(LinearHead(weight, bias, mask)),
        }

    def head_norms(self, net: FedLoGeNetwork) -> dict[str, Tensor]:
        """||psi_c||, which follows the class sizes before realignment."""
        return {"global-head": net.global_head.weight.detach().norm(dim=1)}
