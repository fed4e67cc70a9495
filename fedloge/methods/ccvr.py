"""CCVR: no fear of heterogeneity, classifier calibration with virtual representations.

Luo, Chen, Hu, Zhang, Liang, Feng. NeurIPS 2021, arXiv 2106.05001.

FedAvg trains the model. To measure it, clients send the moments of their features, class
by class; the server pools them into one Gaussian a class (eq. 4 and 5), draws virtual
features from these, as many for every class, and trains the averaged head further on them.

The paper calibrates once, after training; here each measured round shows what calibrating
then would give, and training does not see it. Left out: the transformation (ReLU, Tukey's
power) that the paper puts on virtual features in its experiments. The paper's numbers of
draws and steps differ by data set; the defaults here are our choice.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from fedloge.errors import ConfigError
from fedloge.methods.fedavg import FedAvg
from fedloge.methods.head_tuning import fit_head, plain_features
from fedloge.methods.method import LocalData, Predictor
from fedloge.methods.single_head import HeadNetwork
from fedloge.models.head import LinearHead
from fedloge.rng import rng

MOST_MOMENTS = 2**24
"""Second moments a client may send in one message: 64 MiB of float32."""


class CCVR(FedAvg):
    """FedAvg, and a head calibrated on draws from pooled Gaussian features."""

    name = "ccvr"
    primary_global = "calibrated"

    class Options(FedAvg.Options):
        """How the head is calibrated.

        `virtual_features`: draws for each class. `epochs`, `lr`, `batch_size`: SGD on them.
        `covariance`: ``full`` as in the paper, or ``diagonal`` where C d (d + 1) / 2 numbers
        are too many to send.
        """

        virtual_features: int = Field(500, ge=1)
        epochs: int = Field(10, ge=1)
        lr: float = Field(0.01, gt=0)
        batch_size: int = Field(32, ge=1)
        covariance: Literal["full", "diagonal"] = "full"

    options: Options

    def evaluation_uplink(self, net: HeadNetwork) -> dict[str, Tensor]:
        """Per class: count, sum, and second moments (a packed triangle, or the diagonal).

        Raises
        ------
        ConfigError
            Full covariances are too large to send.
        """
        c, d = net.head.weight.shape
        second = d if self.options.covariance == "diagonal" else d * (d + 1) // 2
        if c * second > MOST_MOMENTS:
            raise ConfigError(
                f"ccvr: covariances of {c} classes in {d} features are {c * second:,} numbers a "
                f"client, more than {MOST_MOMENTS:,}; set method-options covariance = diagonal"
            )
        return {
            "counts": torch.zeros(c),
            "sums": torch.zeros(c, d),
            "second-moments": torch.zeros(c, second),
        }

    def evaluation_sums(self, net: HeadNetwork, client: LocalData) -> dict[str, Tensor]:
        """This client's moments under the model of the round."""
        features, labels = plain_features(self, net, client)
        full = self.options.covariance == "full"
        return class_moments(features, labels, self.task.num_classes, full=full)

    def calibrated_predictors(
        self, net: HeadNetwork, sums: dict[str, Tensor]
    ) -> dict[str, Predictor]:
        """The averaged head, trained further on virtual features."""
        counts, mean, covariance = gaussians(sums["counts"], sums["sums"], sums["second-moments"])
        seen = (counts > 0).nonzero()[:, 0]
        if not len(seen):
            return {}
        # The same draws in every round: rounds are then compared without their noise.
        generator = rng(self.config.seed, "ccvr")
        shape = (len(counts), self.options.virtual_features, mean.shape[1])
        noise = torch.from_numpy(generator.standard_normal(shape, dtype="float32"))
        features = virtual_features(mean[seen], covariance[seen], noise[seen])
        device = net.head.weight.device
        head = copy.deepcopy(net.head)
        fit_head(
            head,
            features.flatten(0, 1).to(device),
            seen.repeat_interleave(self.options.virtual_features).to(device),
            epochs=self.options.epochs,
            lr=self.options.lr,
            batch_size=self.options.batch_size,
            generator=generator,
        )
        return {"calibrated": Predictor(LinearHead.of(head))}


def class_moments(
    features: Float[Tensor, "images features"],
    labels: Int[Tensor, " images"],
    classes: int,
    *,
    full: bool,
) -> dict[str, Tensor]:
    """Count, sum of h, and sum of h h^T (upper triangle, row by row) or of h^2, for each class.

    Unlike means and covariances these add up over clients.
    """
    d = features.shape[1]
    upper = torch.triu_indices(d, d, device=features.device)
    counts = torch.bincount(labels, minlength=classes)
    sums = features.new_zeros(classes, d)
    second = features.new_zeros(classes, upper.shape[1] if full else d)
    for c in labels.unique().tolist():
        own = features[labels == c].double()
        sums[c] = own.sum(dim=0)
        second[c] = (own.T @ own)[upper[0], upper[1]] if full else own.square().sum(dim=0)
    return {"counts": counts.to(features), "sums": sums, "second-moments": second}


def gaussians(
    counts: Float[Tensor, " classes"],
    sums: Float[Tensor, "classes features"],
    second: Float[Tensor, "classes moments"],
) -> tuple[
    Float[Tensor, " classes"], Float[Tensor, "classes features"], Float[Tensor, "classes ..."]
]:
    """Counts, means and unbiased covariances (or, from diagonal moments, variances) in float64.

    A class of one image has covariance 0, an absent class mean 0 as well.
    """
    counts, sums, second = counts.double(), sums.double(), second.double()
    d = sums.shape[1]
    mean = sums / counts.clamp(min=1)[:, None]
    if second.shape[1] == d:
        scatter = second - counts[:, None] * mean.square()
        return counts, mean, scatter.clamp(min=0) / (counts - 1).clamp(min=1)[:, None]
    upper = torch.triu_indices(d, d, device=second.device)
    full = second.new_zeros(len(counts), d, d)
    full[:, upper[0], upper[1]] = second
    full[:, upper[1], upper[0]] = second
    scatter = full - counts[:, None, None] * mean[:, :, None] * mean[:, None, :]
    return counts, mean, scatter / (counts - 1).clamp(min=1)[:, None, None]


def virtual_features(
    mean: Float[Tensor, "classes features"],
    covariance: Float[Tensor, "classes ..."],
    noise: Float[Tensor, "classes each features"],
) -> Float[Tensor, "classes each features"]:
    """Standard normal draws given a class's mean and covariance (or variances)."""
    if covariance.ndim == 2:
        spread = noise * covariance.sqrt().float()[:, None]
    else:
        # Fewer images than features: no Cholesky factor exists, but this square root does.
        values, vectors = torch.linalg.eigh(covariance)
        root = vectors * values.clamp(min=0).sqrt()[:, None]
        spread = noise @ root.float().transpose(1, 2)
    return mean.float()[:, None] + spread
