"""Fed-GraB: federated long-tailed learning with a self-adjusting gradient balancer.

Xiao, Chen, Liu, Wang, Feng, Hao, Zhou, Wu, Yang, Liu. NeurIPS 2023, arXiv 2310.07587.

Each class is a binary problem (sigmoid). A client keeps, for each class, the absolute
gradients its logit has had from images of the class and from all others. A PID controller
turns their difference into a weight on the class's positive gradients, which feeds back
into the difference (the balancer, SGB). Which classes are balanced the server says: those
in the tail of a prior that it reads off the row norms of the averaged head (the analyzer,
DPA), so that no client tells its class counts.

Constants and details are those of the authors' code: the weight is
f(u) = 10 / (1 + 9 exp(-0.05 u)), negative gradients keep weight 1, and the prior is the
mean over rounds of the standardised norms, shifted to least 0 and scaled to sum 1, its
tail what lies beyond 95 % of the mass. There the balanced classes of an experiment are
set by hand (all, for CIFAR-10); here they are the analyzer's, as in the paper.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from fedloge.learning.metrics import shot_groups
from fedloge.methods.fedavg import FedAvg, TuningOptions
from fedloge.methods.method import Aggregate, ClientData, Losses, Part
from fedloge.methods.single_head import HeadNetwork, PostHocOptions


class FedGraB(FedAvg):
    """FedAvg on binary losses whose rare positives are weighted by a closed loop."""

    name = "fedgrab"
    parts: ClassVar = {
        "backbone": Part.SHARED,
        "head": Part.SHARED,
        "tail": Part.SHARED,
        "balancer": Part.PERSONAL,
    }

    class Options(PostHocOptions, TuningOptions):
        """The controller: `kp`, `ki`, `kd` are its proportional, integral and derivative gains.

        `ceiling`, `steepness`: f(u) = ceiling / (1 + (ceiling - 1) exp(-steepness u)).
        `balance`: the analyzer's ``tail`` or ``all`` classes. `balance_negatives`: weigh
        negative gradients by f(-u) as well.
        """

        kp: float = Field(10.0, ge=0)
        ki: float = Field(0.01, ge=0)
        kd: float = Field(0.1, ge=0)
        ceiling: float = Field(10.0, ge=1)
        steepness: float = Field(0.05, ge=0)
        balance: Literal["tail", "all"] = "tail"
        balance_negatives: bool = False

    options: Options  # type: ignore[assignment]

    def build(self) -> HeadNetwork:
        """FedAvg's network, the classes to balance (at first none), and a balancer at rest."""
        net, classes = super().build(), self.task.num_classes
        net.add_module("tail", Tail(classes, 1.0 if self.options.balance == "all" else 0.0))
        net.add_module("balancer", Balancer(classes, self.options))
        return net

    def loss(self, net: HeadNetwork, inputs: Tensor, labels: Tensor, client: ClientData) -> Losses:
        """Binary cross-entropies summed over classes, positive and negative terms weighted."""
        logits = net.head(net.backbone(inputs))
        balancer, tail = cast(Balancer, net.balancer), cast(Tail, net.tail)
        targets = one_hot(labels, logits.shape[1]).to(logits)
        weights = balancer.weights(targets, tail.mask)
        balancer.record(weights * (logits.detach().sigmoid() - targets), targets)
        terms = binary_cross_entropy_with_logits(logits, targets, weights, reduction="none")
        return {"bce": terms.sum() / len(labels)}

    def server_state(self, net: HeadNetwork) -> dict[str, Tensor]:
        """Sum of the priors of all rounds so far."""
        return {"prior": torch.zeros(self.task.num_classes)}

    def server_update(self, net: HeadNetwork, aggregate: Aggregate) -> Aggregate:
        """Analyze the averaged head, and say which classes are to be balanced."""
        prior = aggregate.state["prior"] + norm_prior(aggregate.shared["head.weight"])
        updated = dataclasses.replace(aggregate, state={"prior": prior})
        if self.options.balance == "all":
            return updated
        mask = tail_classes(prior / aggregate.round)
        return dataclasses.replace(updated, shared=aggregate.shared | {"tail.mask": mask})


class Tail(nn.Module):
    """Which classes are balanced: 1, or 0 for those left alone."""

    mask: Tensor

    def __init__(self, classes: int, value: float) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((classes,), value))


class Balancer(nn.Module):
    """One client's controllers, one for each class, as vectors over the classes.

    `positive` and `negative` are the gradients so far, `integral` the sum of the errors
    negative - positive at each step, `error` the last one.
    """

    positive: Tensor
    negative: Tensor
    integral: Tensor
    error: Tensor

    def __init__(self, classes: int, options: FedGraB.Options) -> None:
        super().__init__()
        self.options = options
        for name in ("positive", "negative", "integral", "error"):
            self.register_buffer(name, torch.zeros(classes))

    def weights(
        self, targets: Float[Tensor, "batch classes"], mask: Float[Tensor, " classes"]
    ) -> Float[Tensor, "batch classes"]:
        """One step of the controllers in `mask`; the weights of this batch's gradients."""
        o, error = self.options, (self.negative - self.positive) * mask
        self.integral += error
        u = o.kp * error + o.ki * self.integral * mask + o.kd * (error - self.error) * mask
        self.error.copy_(error)
        positive = weight_of(u, o.ceiling, o.steepness)
        negative = weight_of(-u if o.balance_negatives else 0 * u, o.ceiling, o.steepness)
        return targets * positive + (1 - targets) * negative

    def record(
        self, gradients: Float[Tensor, "batch classes"], targets: Float[Tensor, "batch classes"]
    ) -> None:
        """Add the absolute gradients of the batch's mean loss to the accounts."""
        sizes = gradients.abs() / len(gradients)
        self.positive += (sizes * targets).sum(dim=0)
        self.negative += (sizes * (1 - targets)).sum(dim=0)


def weight_of(u: Tensor, ceiling: float, steepness: float) -> Tensor:
    """f(u): 0 far below zero, 1 at zero, `ceiling` far above."""
    return ceiling / (1 + (ceiling - 1) * torch.exp(-steepness * u))


def norm_prior(weight: Float[Tensor, "classes features"]) -> Float[Tensor, " classes"]:
    """Shares of the classes from the row norms of a head: their z-scores less the least one."""
    norms = weight.norm(dim=1)
    scores = norms - norms.min()  # standardising divides all alike, and the sum undoes it
    total = scores.sum()
    return scores / total if total > 0 else torch.full_like(norms, 1 / len(norms))


def tail_classes(prior: Float[Tensor, " classes"]) -> Float[Tensor, " classes"]:
    """1 for the classes beyond 95 % of the prior's mass, taken from the largest on; else 0."""
    few = shot_groups((prior * 1e6).round().long(), "mass").mask("few")
    return few.float()
