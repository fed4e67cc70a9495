"""Heads in closed form on the features of any method's model, in one exchange: sums only."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from fedloge.errors import UpdateError
from fedloge.geometry.closed_form import (
    FeatureSums,
    balanced_weights,
    packed,
    ridge,
    unpacked,
    within,
)
from fedloge.learning.class_told import ClassTold
from fedloge.learning.client_data import ClientData
from fedloge.learning.probes.probe import Findings, Probe, TwoPassProbe
from fedloge.models.backbone import Backbone
from fedloge.models.head import LinearHead, Predictor
from fedloge.models.network import Network

_WEIGHTED = "weighted-"


class ClosedForm(Probe):
    """Global models ``fed3r``, ``fed3r-normalised`` and ``fedcof`` under the round's backbone.

    See `fedloge.geometry.closed_form`. A site's policy that keeps rare classes back refuses it: a class cannot
    be taken out of a Gram matrix. A client sends the Gram matrix of its training features,
    not augmented, their class sums and its class counts: d (d + 1) / 2 + C d + C numbers of 8 bytes.
    The class-balanced head needs the class counts beforehand: see `BalancedClosedForm`.
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


class BalancedClosedForm(ClosedForm, TwoPassProbe):
    """The same models, and ``fed3r-balanced``: ridge regression in which every class counts as much.

    The clients are asked twice. The second time they are told a weight for each class, from which the
    sizes of the classes over all clients can be read, and send the same sums with their examples
    weighted so.
    """

    name: ClassVar[str] = "closed-form-balanced"

    def second_template(self, net: Network) -> dict[str, Tensor]:
        """Zeros like those of `template`, for the weighted sums."""
        return _weighted(self.template(net))

    def given(self, net: Network, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weight of each class, 0 for one without examples."""
        return {"weights": balanced_weights(sums["counts"])}

    @torch.no_grad()
    def collect_again(
        self, net: Network, client: ClientData, given: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """This client's weighted sums."""
        classes = self.task.num_classes
        weights = given.get("weights", torch.empty(0))
        if given.keys() != {"weights"} or weights.shape != (classes,):
            raise UpdateError(
                f"probe {self.name!r}: expected of the server a weight for each of {classes} classes, got tensors "
                f"{', '.join(f'{name} {tuple(tensor.shape)}' for name, tensor in given.items()) or 'none'}"
            )
        sums = FeatureSums.of(*self.task.train_features(net, client), classes, weights)
        return _weighted(as_sums(sums))

    def finish(self, net: Network, sums: dict[str, Tensor]) -> Findings:
        """The three models and the balanced one, as far as clients have sent examples."""
        found = super().finish(net, sums)
        # Each head is of one pass: a client may have failed in one of them only.
        weighted = from_sums({name: sums[f"{_WEIGHTED}{name}"] for name in self.template(net)})
        if not float(weighted.counts.sum()):
            return found
        return Findings(predictors=found.predictors | balanced_model(weighted))


def _weighted(sums: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{_WEIGHTED}{name}": tensor for name, tensor in sums.items()}


def balanced_model(weighted: FeatureSums) -> dict[str, Predictor]:
    """The head of sums that are weighted by class."""
    return {"fed3r-balanced": head_of(weighted.counts, *ridge(weighted))}


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
