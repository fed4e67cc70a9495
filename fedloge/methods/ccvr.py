"""CCVR: no fear of heterogeneity, classifier calibration with virtual representations.

Luo, Chen, Hu, Zhang, Liang, Feng. NeurIPS 2021, arXiv 2106.05001.

FedAvg trains the model. When it is evaluated, clients send the moments of their features
for each class. The server pools them into one Gaussian per class (eq. 4 and 5), draws the
same number of virtual features for every class, and trains the averaged head further on them.

The paper calibrates once, after training. Here every evaluated round shows what calibration
would give at that point; training goes on without it. The transformation of virtual features
in the paper's experiments (ReLU, Tukey's power) is left out. The paper's numbers of draws and
steps differ by data set; the defaults here are our choice.
"""

from __future__ import annotations

import copy
from typing import Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from fedloge.learning.class_told import ClassTold
from fedloge.learning.losses import WITHOUT_COUNTS
from fedloge.learning.probes import Findings, Probe, ProbeTask
from fedloge.learning.probes.class_moments import ClassMoments, gaussians
from fedloge.methods.fedavg import FedAvg, FedAvgOptions
from fedloge.methods.head_tuning import fit_head
from fedloge.methods.method import Network, Predictor
from fedloge.methods.single_head import HeadNetwork
from fedloge.rng import rng


class CCVR(FedAvg):
    """FedAvg, and a head calibrated on draws from pooled Gaussian features."""

    name = "ccvr"
    primary_global = "calibrated"
    class_told = ClassTold(counts=True, sums=True)

    class Options(FedAvgOptions):
        """How the head is calibrated.

        `virtual_features`: draws for each class, at least 1. `epochs`, `lr`, `batch_size`: of
        SGD on them. `covariance`: ``full`` as in the paper, or ``diagonal`` if C d (d + 1) / 2
        numbers are too many to send.
        """

        virtual_features: int = Field(500, ge=1)
        epochs: int = Field(10, ge=1)
        lr: float = Field(0.01, gt=0)
        batch_size: int = Field(32, ge=1)
        covariance: Literal["full", "diagonal"] = "full"

    options: Options

    @property
    def uniform_step(self) -> bool:
        """As for FedAvg, which is what clients train."""
        return self.options.loss in WITHOUT_COUNTS

    def probes(self) -> list[Probe]:
        """Class moments, from which the server makes the calibrated head."""
        task = ProbeTask(self.config, self.task.num_classes, self)
        dim = self.task.backbone().out_features
        return [Calibration(task, dim, self.options), *super().probes()]


class Calibration(ClassMoments):
    """The averaged head, trained further on virtual features."""

    name = "ccvr"

    def __init__(self, task: ProbeTask, dim: int, options: CCVR.Options) -> None:
        super().__init__(task, dim, full=options.covariance == "full")
        self.options = options

    def finish(self, net: Network, sums: dict[str, Tensor]) -> Findings:
        """The calibrated global model; none if no client had an example."""
        counts, mean, covariance = gaussians(sums["counts"], sums["sums"], sums["second-moments"])
        seen = (counts > 0).nonzero()[:, 0]
        if not len(seen):
            return Findings()
        # The same draws in every round, so that they do not make rounds differ.
        generator = rng(self.task.config.seed, "ccvr")
        shape = (len(counts), self.options.virtual_features, mean.shape[1])
        noise = torch.from_numpy(generator.standard_normal(shape, dtype="float32"))
        features = virtual_features(mean[seen], covariance[seen], noise[seen])
        head = copy.deepcopy(cast(HeadNetwork, net).head)
        device = head.weight.device
        fit_head(
            head,
            features.flatten(0, 1).to(device),
            seen.repeat_interleave(self.options.virtual_features).to(device),
            epochs=self.options.epochs,
            lr=self.options.lr,
            batch_size=self.options.batch_size,
            generator=generator,
        )
        return Findings(predictors={"calibrated": Predictor.of(head)})


def virtual_features(
    mean: Float[Tensor, "classes features"],
    covariance: Float[Tensor, "classes ..."],
    noise: Float[Tensor, "classes each features"],
) -> Float[Tensor, "classes each features"]:
    """Features with each class's mean and covariance (or variances), from standard normal `noise`."""
    if covariance.ndim == 2:
        spread = noise * covariance.sqrt().float()[:, None]
    else:
        # With fewer examples than features no Cholesky factor exists, but this square root does.
        values, vectors = torch.linalg.eigh(covariance)
        root = vectors * values.clamp(min=0).sqrt()[:, None]
        spread = noise @ root.float().transpose(1, 2)
    return mean.float()[:, None] + spread
