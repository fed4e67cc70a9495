"""Heads in closed form on the features of any method's model, in one exchange: sums only."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from fedloge.geometry.closed_form import FeatureSums, packed, ridge, unpacked, within
from fedloge.learning.class_told import ClassTold
from fedloge.learning.client_data import ClientData
from fedloge.learning.probes.probe import Findings, Probe
from fedloge.models.backbone import Backbone
from fedloge.models.head import LinearHead, Predictor
from fedloge.models.network import Network


class ClosedForm(Probe):
    """Global models ``fed3r``, ``fed3r-normalised`` and ``fedcof`` under the round's backbone.

    See `fedloge.geometry.closed_form`. A site's policy that keeps rare classes back refuses it: a class cannot
    be taken out of a Gram matrix. A client sends the Gram matrix of its training features,
    not augmented, their class sums and its class counts: d (d + 1) / 2 + C d + C numbers of 8 bytes.
    The class-balanced head needs the class counts beforehand, which method ``fed3r`` exchanges.
    """

    name: ClassVar[str] = "closed-form"
    class_told: ClassVar[ClassTold] = ClassTold(counts=True, sums=True)

    def template(self, net: Network) -> dict[str, Tensor]:
        """Zeros for the triangle of the Gram matrix, the class sums and the counts."""
        return empty_sums(self.task.num_classes, self._width(net))

    @torch.no_grad()
    def collect(self, net: Network, client: ClientData) -> dict[str, Tensor]:
        """This client's sums."""
        features, labels = self.task.train_features(net, client)
        return as_sums(FeatureSums.of(features, labels, self.task.num_classes))

    def finish(self, net: Network, sums: dict[str, Tensor]) -> Findings:
        """The three models; none if no client has an example."""
        known = from_sums(sums)
        if not float(known.counts.sum()):
            return Findings()
        return Findings(predictors=closed_form_models(known))

    def _width(self, net: Network) -> int:
        for predictor in self.task.method.global_predictors(net).values():
            if predictor.extractor == "features":
                return predictor.head.weight.shape[1]
        return int(cast(Backbone, net.backbone).out_features)


def closed_form_models(known: FeatureSums) -> dict[str, Predictor]:
    """The heads that need no weights of classes; a class without examples is never predicted."""
    return {
        "fed3r": head_of(known.counts, *ridge(known)),
        "fed3r-normalised": head_of(known.counts, *ridge(known, normalised=True)),
        "fedcof": head_of(known.counts, within(known)),
    }


def head_of(
    counts: Float[Tensor, " classes"],
    weight: Float[Tensor, "classes features"],
    bias: Float[Tensor, " classes"] | None = None,
) -> Predictor:
    """The predictor of a head in float64, with the classes of count 0 masked."""
    own_bias = None if bias is None else bias.float()
    return Predictor(LinearHead(weight.float(), own_bias, unseen(counts)))


def unseen(counts: Float[Tensor, " classes"]) -> Float[Tensor, " classes"]:
    """The mask of a `LinearHead`: -inf for classes of count 0."""
    return torch.zeros_like(counts).masked_fill(counts <= 0, -torch.inf).float()


def empty_sums(classes: int, d: int) -> dict[str, Tensor]:
    """Zeros in the form of `as_sums`."""
    zeros = {"gram": (d * (d + 1) // 2,), "sums": (classes, d), "counts": (classes,)}
    return {name: torch.zeros(shape, dtype=torch.float64) for name, shape in zeros.items()}


def as_sums(known: FeatureSums) -> dict[str, Tensor]:
    """As tensors that can be added over clients, on the CPU."""
    own = {"gram": packed(known.gram), "sums": known.sums, "counts": known.counts}
    return {name: tensor.cpu() for name, tensor in own.items()}


def from_sums(sums: dict[str, Tensor]) -> FeatureSums:
    """What `as_sums` gave, added over clients."""
    return FeatureSums(unpacked(sums["gram"], sums["sums"].shape[1]), sums["sums"], sums["counts"])
