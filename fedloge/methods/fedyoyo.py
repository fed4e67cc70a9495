"""FedYoYo: you are your own best teacher, federated learning on heterogeneous long-tailed data.

Yan, Li, Wu, Pang, Lu, Yan, Wang. 2025, arXiv 2503.06916.

FedAvg with another local loss, on two views of every image. The prediction on the weak view
teaches that on the strong one, where it is right (augmented self-bootstrap distillation);
and all logits are adjusted by a class prior that blends the federation's class shares with
the client's own (distribution-aware logit adjustment).

The loss and its constants are those of the authors' code, with two differences. Its strong
view is AutoAugment's policy and Cutout on the image; here it is the weak view turned,
sheared, shifted, changed in contrast and brightness, and cut, a batch at once. And it
estimates the federation's shares from clients' features before a round; here clients send
their class counts, which the next round's clients use as a running mean. In the first
round a client knows its own shares only.
"""

from __future__ import annotations

from typing import ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

from fedloge.learning.loop import sgd
from fedloge.methods.fedavg import FedAvg, TuningOptions
from fedloge.methods.method import Aggregate, ClientData, Losses, Part, Update
from fedloge.methods.single_head import HeadNetwork, PostHocOptions
from fedloge.rng import rng


class FedYoYo(FedAvg):
    """FedAvg whose clients teach themselves from a weak to a strong view."""

    name = "fedyoyo"
    parts: ClassVar = {"backbone": Part.SHARED, "head": Part.SHARED, "federation": Part.SHARED}

    class Options(PostHocOptions, TuningOptions):
        """`weight`: of the distillation, reached after `warmup` rounds from near 0.

        `temperature`: of both predictions in it. `tau`: strength of the logit adjustment.
        `local_share`: how much of the prior is the client's own. `keep`: how much of its
        running class counts the server keeps in a round.
        """

        weight: float = Field(4.0, ge=0)
        warmup: int = Field(50, ge=1)
        temperature: float = Field(1.5, gt=0)
        tau: float = Field(1.5, ge=0)
        local_share: float = Field(0.1, ge=0, le=1)
        keep: float = Field(0.9, ge=0, lt=1)

    options: Options  # type: ignore[assignment]

    def build(self) -> HeadNetwork:
        """FedAvg's network, and the federation's class counts, not known yet."""
        net = super().build()
        net.add_module("federation", Federation(self.task.num_classes))
        return net

    def local_update(self, net: HeadNetwork, client: ClientData) -> Update:
        """SGD on both views; sends the class counts."""
        o = self.options
        generator = rng(self.config.seed, "fedyoyo/strong", client.round, client.client)
        counts = cast(Federation, net.federation).counts
        adjustment = logit_adjustment(counts, client.counts, o.local_share, o.tau)
        weight = o.weight * min(client.round / o.warmup, 1.0)

        def loss(net: HeadNetwork, inputs: Tensor, labels: Tensor, client: ClientData) -> Losses:
            views = torch.cat([inputs, strong_view(inputs, generator)])
            weak, strong = (net.head(net.backbone(views)) + adjustment).chunk(2)
            return {
                "ce": (cross_entropy(weak, labels) + cross_entropy(strong, labels)) / 2,
                "distillation": weight * distillation(weak, strong, labels, o.temperature),
            }

        metrics = sgd(net, self.trainable(net), loss, client, epochs=self.config.local_epochs)
        return Update(metrics, {"counts": client.counts.float()})

    def uplink(self, net: HeadNetwork) -> dict[str, Tensor]:
        """Training images of each class."""
        return {"counts": torch.zeros(self.task.num_classes)}

    def server_update(self, net: HeadNetwork, aggregate: Aggregate) -> Aggregate:
        """The running mean of the counts of each round's clients; the first round's as they are."""
        name, new = "federation.counts", aggregate.sums["counts"]
        old = aggregate.shared[name]
        mean = self.options.keep * old + (1 - self.options.keep) * new if old.any() else new
        return aggregate.with_shared({name: mean})


class Federation(nn.Module):
    """What the server says of the federation: training images of each class, 0 if not known."""

    counts: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(classes))


def logit_adjustment(
    federation: Float[Tensor, " classes"],
    client: Int[Tensor, " classes"],
    local_share: float,
    tau: float,
) -> Float[Tensor, " classes"]:
    """log(prior^tau + 1e-9), the prior (1 - local_share) federation + local_share client, as shares."""
    own = client / client.sum()
    if not federation.any():
        return (own**tau + 1e-9).log()
    prior = (1 - local_share) * federation / federation.sum() + local_share * own
    return (prior**tau + 1e-9).log()


def distillation(
    weak: Float[Tensor, "images classes"],
    strong: Float[Tensor, "images classes"],
    labels: Int[Tensor, " images"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Mean KL(weak || strong) of softened predictions over the images that the weak view gets right.

    The weak view is the teacher and gets no gradient; 0 where it gets none right.
    """
    right = weak.argmax(dim=1) == labels
    teacher = (weak.detach() / temperature).log_softmax(dim=1)
    student = (strong / temperature).log_softmax(dim=1)
    each = (teacher.exp() * (teacher - student)).sum(dim=1)
    return (each * right).sum() / right.sum().clamp(min=1)


def strong_view(
    images: Float[Tensor, "images channels height width"], generator: np.random.Generator
) -> Float[Tensor, "images channels height width"]:
    """Each normalised image turned, sheared, shifted, recoloured and cut, each by its own draws.

    Up to 30 degrees, 0.3 and 10 % of the side; contrast times 0.5 to 1.5, brightness up to
    half a standard deviation; a square of half the side around any pixel becomes the mean.
    """
    n, _, height, width = images.shape
    drawn = generator.uniform(-1, 1, size=(n, 8)).astype(np.float32)
    turn, shear, right, down, contrast, brightness, x, y = torch.from_numpy(drawn).T.to(
        images.device
    )
    angle, shear = turn * torch.pi / 6, 0.3 * shear
    cos, sin = angle.cos(), angle.sin()
    rows = [cos, shear * cos - sin, 0.2 * right, sin, shear * sin + cos, 0.2 * down]
    matrices = torch.stack(rows, dim=1).view(n, 2, 3)
    grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, align_corners=False)
    moved = moved * (1 + 0.5 * contrast).view(n, 1, 1, 1) + 0.5 * brightness.view(n, 1, 1, 1)
    across = torch.linspace(-1, 1, width, device=images.device).view(1, 1, 1, width)
    along = torch.linspace(-1, 1, height, device=images.device).view(1, 1, height, 1)
    near = ((across - x.view(n, 1, 1, 1)).abs() < 0.5) & ((along - y.view(n, 1, 1, 1)).abs() < 0.5)
    return moved.masked_fill(near, 0.0)
