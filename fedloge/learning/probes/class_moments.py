"""For each class the count, the sum and the second moments of its features, over all clients."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedloge.errors import ConfigError
from fedloge.learning.client_data import ClientData
from fedloge.learning.probes.probe import Findings, Probe, ProbeTask
from fedloge.models.network import Network

MOST_MOMENTS = 2**24
"""Second moments a client may send in one message: 64 MiB of float32."""


class ClassMoments(Probe):
    """Moments of the features of training examples, not augmented, under the round's model.

    Parameters
    ----------
    dim : d, width of the features.
    full : whether the second moments of a class are a packed triangle of d (d + 1) / 2 numbers,
        or only its diagonal of d.

    Raises
    ------
    ConfigError
        The moments are too many to send.
    """

    name: ClassVar[str] = "class-moments"

    def __init__(self, task: ProbeTask, dim: int, *, full: bool) -> None:
        super().__init__(task)
        self.dim, self.full = dim, full
        self._second = dim * (dim + 1) // 2 if full else dim
        if task.num_classes * self._second > MOST_MOMENTS:
            raise ConfigError(
                f"{self.name}: covariances of {task.num_classes} classes in {dim} features are "
                f"{task.num_classes * self._second:,} numbers per client, more than {MOST_MOMENTS:,}; "
                "set method-options.covariance = diagonal"
            )

    def template(self, net: Network) -> dict[str, Tensor]:
        """For each class count, sum and second moments."""
        c = self.task.num_classes
        return {
            "counts": torch.zeros(c),
            "sums": torch.zeros(c, self.dim),
            "second-moments": torch.zeros(c, self._second),
        }

    @torch.no_grad()
    def collect(self, net: Network, client: ClientData) -> dict[str, Tensor]:
        """This client's moments."""
        features, labels = self.task.train_features(net, client)
        return class_moments(features, labels, self.task.num_classes, full=self.full)

    @abstractmethod
    def finish(self, net: Network, sums: dict[str, Tensor]) -> Findings:
        """What is made of the sums over all clients (see `gaussians`)."""


def class_moments(
    features: Float[Tensor, "examples features"],
    labels: Int[Tensor, " examples"],
    classes: int,
    *,
    full: bool,
) -> dict[str, Tensor]:
    """For each class the count, the sum of h, and that of h h^T (upper triangle by rows) or of h^2.

    Unlike means and covariances these can be added over clients.
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

    A class with one example has covariance 0; an absent class also has mean 0.
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
