"""FedYoYo: you are your own best teacher, federated learning on heterogeneous long-tailed data.

Yan, Li, Wu, Pang, Lu, Yan, Wang. 2025, arXiv 2503.06916.

FedAvg with another local loss, on two views of every image. If the prediction on the weak view
is right it teaches that on the strong view (augmented self-bootstrap distillation). All logits
are adjusted by a class prior, a mixture of the federation's class shares and the client's own
(distribution-aware logit adjustment).

The loss and its constants are those of the authors' code, with two differences. Their strong
view is AutoAugment's policy and Cutout on the image. Here it is the weak view turned, sheared,
shifted, changed in contrast and brightness, and cut, for a whole batch at once. They estimate the
federation's shares from clients' features before a round. Here clients send their class counts,
and clients of the next round use the running mean of these. In the first round a client knows
only its own shares.

In their code the mixture is mixed with the client's shares again at every batch, so that within
some tens of batches it is the client's own (`reblend`); the paper mixes once. tau = 1.5 costs the
many classes more than it gives the few in short runs; 1 is the value of logit adjustment.
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

from fedloge.learning.class_told import ClassTold
from fedloge.learning.loop import sgd
from fedloge.methods.fedavg import FedAvg, TuningOptions
from fedloge.methods.method import Aggregate, ClientData, Losses, Part, Update
from fedloge.methods.single_head import HeadNetwork, PostHocOptions
from fedloge.methods.told_counts import tell, told
from fedloge.rng import rng


class FedYoYo(FedAvg):
    """FedAvg whose clients teach themselves, from a weak view to a strong one."""

    name = "fedyoyo"
    class_told = ClassTold(counts=True, sums=False)
    parts: ClassVar = {"backbone": Part.SHARED, "head": Part.SHARED, "federation": Part.SHARED}

    class Options(PostHocOptions, TuningOptions):
        """`weight`: of the distillation; it grows linearly to this value over `warmup` rounds.

        `temperature`: of both predictions in the distillation. `tau`: strength of the logit
        adjustment. `local_share`: share of the client's own classes in the prior. `keep`: share of
        the old value in the server's running mean of class counts. `reblend`: whether the prior of
        one batch is mixed with the client's shares again for the next, as in the authors' code.
        """

        weight: float = Field(4.0, ge=0)
        warmup: int = Field(50, ge=1)
        temperature: float = Field(1.5, gt=0)
        tau: float = Field(1.5, ge=0)
        local_share: float = Field(0.1, ge=0, le=1)
        keep: float = Field(0.9, ge=0, lt=1)
        reblend: bool = False

    options: Options  # type: ignore[assignment]

    def build(self) -> HeadNetwork:
        """FedAvg's network, and the federation's class counts, which are not known yet."""
        net = super().build()
        net.add_module("federation", Federation(self.task.num_classes))
        return net

    def local_update(self, net: HeadNetwork, client: ClientData) -> Update:
        """SGD on both views; the class counts are sent."""
        o = self.options
        generator = rng(self.config.seed, "fedyoyo/strong", client.round, client.client)
        counts = cast(Federation, net.federation).counts
        prior = blended(counts, client.counts, o.local_share)
        weight = o.weight * min(client.round / o.warmup, 1.0)

        def loss(net: HeadNetwork, inputs: Tensor, labels: Tensor, client: ClientData) -> Losses:
            nonlocal prior
            adjustment = logit_adjustment(prior, o.tau)
            if o.reblend:
                prior = blended(prior, client.counts, o.local_share)
            views = torch.cat([inputs, strong_view(inputs, generator)])
            weak, strong = (net.head(net.backbone(views)) + adjustment).chunk(2)
            return {
                "ce": (cross_entropy(weak, labels) + cross_entropy(strong, labels)) / 2,
                "distillation": weight * distillation(weak, strong, labels, o.temperature),
            }

        metrics = sgd(net, self.trainable(net), loss, client, epochs=self.config.local_epochs)
        return Update(metrics, {"counts": client.counts.float()})

    def uplink(self, net: HeadNetwork) -> dict[str, Tensor]:
        """Training examples of each class."""
        return {"counts": torch.zeros(self.task.num_classes)}

    def server_update(self, net: HeadNetwork, aggregate: Aggregate) -> Aggregate:
        """The running mean over rounds of the clients' counts; it starts with those of the first round."""
        name, new = "federation.counts", aggregate.sums["counts"]
        old = told(aggregate, name)
        mean = self.options.keep * old + (1 - self.options.keep) * new if old.any() else new
        return tell(aggregate, name, mean)


class Federation(nn.Module):
    """What the server tells of the federation: examples of each class (`told_counts`), 0 if unknown."""

    counts: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(classes))


def blended(
    federation: Float[Tensor, " classes"], client: Int[Tensor, " classes"], local_share: float
) -> Float[Tensor, " classes"]:
    """The prior (1 - local_share) federation + local_share client, in shares that sum to 1.

    The client's own shares alone, as long as nothing is known of the federation.
    """
    own = client / client.sum()
    if not federation.any():
        return own
    return (1 - local_share) * federation / federation.sum() + local_share * own


def logit_adjustment(prior: Float[Tensor, " classes"], tau: float) -> Float[Tensor, " classes"]:
    """log(prior^tau + 1e-9), finite for classes that are not there."""
    return (prior**tau + 1e-9).log()


def distillation(
    weak: Float[Tensor, "images classes"],
    strong: Float[Tensor, "images classes"],
    labels: Int[Tensor, " images"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Mean KL(weak || strong) of softened predictions, over images that the weak view gets right.

    The weak view is the teacher and gets no gradient. 0 if it gets no image right.
    """
    right = weak.argmax(dim=1) == labels
    teacher = (weak.detach() / temperature).log_softmax(dim=1)
    student = (strong / temperature).log_softmax(dim=1)
    each = (teacher.exp() * (teacher - student)).sum(dim=1)
    return (each * right).sum() / right.sum().clamp(min=1)


def strong_view(
    images: Float[Tensor, "images channels height width"], generator: np.random.Generator
) -> Float[Tensor, "images channels height width"]:
    """Normalised images turned, sheared, shifted, recoloured and cut, each by its own draws.

    They are turned by up to 30 degrees, sheared by up to 0.3 and shifted by up to 10 % of the
    side. Contrast is multiplied by 0.5 to 1.5, and brightness changes by up to half a standard
    deviation. A square of half the side around any pixel is set to the mean.
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
