"""Fed-GraB: federated long-tailed learning with a self-adjusting gradient balancer.

Xiao, Chen, Liu, Wang, Feng, Hao, Zhou, Wu, Yang, Liu. NeurIPS 2023, arXiv 2310.07587.

Each class is a binary problem (sigmoid). For each class a client adds up the absolute
gradients of its logit, from examples of the class and from all others. A PID controller
turns the difference of the two sums into a weight on the class's positive gradients,
which in turn changes the difference (the balancer, SGB). The server decides which classes
are balanced: those in the tail of a prior that it estimates from the row norms of the
averaged head (the analyzer, DPA). So no client tells its class counts.

Constants and details are those of the authors' code. The weight is
f(u) = 10 / (1 + 9 exp(-0.05 u)), and negative gradients keep weight 1. The prior is the
mean over rounds of the standardised norms, shifted to minimum 0 and scaled to sum 1. Its
tail are the classes beyond 95 % of its mass. In the authors' code the balanced classes of
an experiment are set by hand (all, for CIFAR-10). Here the analyzer chooses them, as in
the paper.

On binary losses the row of a class that a client lacks grows too, since all its images are
negatives of it. The norms of rare classes are then among the largest in the first rounds, and
the mean keeps that order (on the long-tailed digits it marked the third most frequent class as
the tail). So a client withholds the gradients of a class until it has trained on an image of
it, as an older script of the authors does (`withhold`).
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
    """FedAvg on binary losses, in which a controller weights the rare positives."""

    name = "fedgrab"
    parts: ClassVar = {
        "backbone": Part.SHARED,
        "head": Part.SHARED,
        "tail": Part.SHARED,
        "balancer": Part.PERSONAL,
    }

    class Options(PostHocOptions, TuningOptions):
        """The controller: `kp`, `ki`, `kd` are its proportional, integral and derivative gains.

        `ceiling`, `steepness`: of f(u) = ceiling / (1 + (ceiling - 1) exp(-steepness u)).
        `balance`: the ``tail`` that the analyzer finds, or ``all`` classes. `balance_negatives`:
        whether negative gradients are weighted too, by f(-u). `withhold`: whether a class gets no
        gradients at a client that has not trained on an image of it yet.
        """

        kp: float = Field(10.0, ge=0)
        ki: float = Field(0.01, ge=0)
        kd: float = Field(0.1, ge=0)
        ceiling: float = Field(10.0, ge=1)
        steepness: float = Field(0.05, ge=0)
        balance: Literal["tail", "all"] = "tail"
        balance_negatives: bool = False
        withhold: bool = True

    options: Options  # type: ignore[assignment]

    def build(self) -> HeadNetwork:
        """FedAvg's network, the classes to balance (at first none, or all), and a balancer at zero."""
        net, classes = super().build(), self.task.num_classes
        net.add_module("tail", Tail(classes, 1.0 if self.options.balance == "all" else 0.0))
        net.add_module("balancer", Balancer(classes, self.options))
        return net

    def loss(self, net: HeadNetwork, inputs: Tensor, labels: Tensor, client: ClientData) -> Losses:
        """Binary cross-entropy, summed over classes with the balancer's weights."""
        logits = net.head(net.backbone(inputs))
        balancer, tail = cast(Balancer, net.balancer), cast(Tail, net.tail)
        targets = one_hot(labels, logits.shape[1]).to(logits)
        weights = balancer.weights(targets, tail.mask)
        if self.options.withhold:
            weights = weights * balancer.seen(targets)
        balancer.record(weights * (logits.detach().sigmoid() - targets), targets)
        terms = binary_cross_entropy_with_logits(logits, targets, weights, reduction="none")
        return {"bce": terms.sum() / len(labels)}

    def server_state(self, net: HeadNetwork) -> dict[str, Tensor]:
        """The sum of the priors of all rounds so far."""
        return {"prior": torch.zeros(self.task.num_classes)}

    def server_update(self, net: HeadNetwork, aggregate: Aggregate) -> Aggregate:
        """Estimate the prior from the averaged head, and choose the classes to balance."""
        prior = aggregate.state["prior"] + norm_prior(aggregate.shared["head.weight"])
        updated = dataclasses.replace(aggregate, state={"prior": prior})
        if self.options.balance == "all":
            return updated
        mask = tail_classes(prior / aggregate.round)
        return dataclasses.replace(updated, shared=aggregate.shared | {"tail.mask": mask})

    def class_figures(self, net: HeadNetwork) -> dict[str, Tensor]:
        """Which classes are balanced in the next round."""
        return {"balanced": cast(Tail, net.tail).mask}


class Tail(nn.Module):
    """Which classes are balanced: 1 for those, 0 for the others."""

    mask: Tensor

    def __init__(self, classes: int, value: float) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((classes,), value))


class Balancer(nn.Module):
    """One client's controllers, one for each class, as vectors over the classes.

    `positive` and `negative` are the sums of absolute gradients so far. The error of a step is
    negative - positive; `error` is the last one, `integral` the sum of all.
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
        """One step of the controllers in `mask`; returns the weights of this batch's gradients."""
        o, error = self.options, (self.negative - self.positive) * mask
        self.integral += error
        u = o.kp * error + o.ki * self.integral * mask + o.kd * (error - self.error) * mask
        self.error.copy_(error)
        positive = weight_of(u, o.ceiling, o.steepness)
        negative = weight_of(-u if o.balance_negatives else 0 * u, o.ceiling, o.steepness)
        return targets * positive + (1 - targets) * negative

    def seen(self, targets: Float[Tensor, "batch classes"]) -> Float[Tensor, " classes"]:
        """1 for the classes of which this client has trained on an image, in this batch or before."""
        return ((self.positive > 0) | (targets > 0).any(dim=0)).to(targets)

    def record(
        self, gradients: Float[Tensor, "batch classes"], targets: Float[Tensor, "batch classes"]
    ) -> None:
        """Add the absolute gradients of the batch's mean loss to the sums."""
        sizes = gradients.abs() / len(gradients)
        self.positive += (sizes * targets).sum(dim=0)
        self.negative += (sizes * (1 - targets)).sum(dim=0)


def weight_of(u: Tensor, ceiling: float, steepness: float) -> Tensor:
    """f(u): near 0 for very negative u, 1 at u = 0, near `ceiling` for large u."""
    return ceiling / (1 + (ceiling - 1) * torch.exp(-steepness * u))


def norm_prior(weight: Float[Tensor, "classes features"]) -> Float[Tensor, " classes"]:
    """Shares of the classes by a head's row norms: z-scores minus the smallest, scaled to sum 1."""
    norms = weight.norm(dim=1)
    scores = norms - norms.min()  # the z-scores' deviation cancels in the division below
    total = scores.sum()
    return scores / total if total > 0 else torch.full_like(norms, 1 / len(norms))


def tail_classes(prior: Float[Tensor, " classes"]) -> Float[Tensor, " classes"]:
    """1 for the classes beyond 95 % of the prior's mass, counted from the largest class on; else 0."""
    few = shot_groups((prior * 1e6).round().long(), "mass").mask("few")
    return few.float()
