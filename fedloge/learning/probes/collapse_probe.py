"""Neural collapse of a federation: the measures of `fedloge.geometry.collapse`, from sums of clients.

In the first pass a client adds up its features by class. The server adds over clients, which gives
NC1 and NC2 as if all features lay in one place. In the second pass every client gets the class means
of all, and counts how often heads and nearest means agree (NC4), and how its own head lies to them
(NC3 over the classes that it has, and over those that it lacks). A local head never leaves its client.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedloge.errors import UpdateError
from fedloge.geometry.collapse import (
    alignment,
    cdnv,
    cosines_to_rows,
    nearest_class,
    spread,
    within_between,
)
from fedloge.geometry.collapse_targets import distance, simplex_target
from fedloge.geometry.feature_sums import FeatureSums
from fedloge.geometry.law_fit import fit_law
from fedloge.learning.class_told import ClassTold
from fedloge.learning.client_data import ClientData, Labelled
from fedloge.learning.metrics import GROUPS
from fedloge.learning.probes.probe import Findings, TwoPassProbe
from fedloge.models.head import FixedHead, Predictor
from fedloge.models.network import Network
from fedloge.rng import rng

_RAW = "raw"
# A mean over clients travels as a sum and the number of clients that it is over.
_SUM_AND_CLIENTS = 2


class CollapseProbe(TwoPassProbe):
    """NC1 to NC4 on the clients' training examples, not augmented; agreement on their test examples.

    Global models are all of the method's that read the shared features. Personal models are the
    method's primary one, and ``raw`` if it has one; one with a backbone of its own (Ditto, APFL, FedNH)
    is measured against the class means of the client's own examples under it.

    With ``collapse-share`` under 1 the figures are those of a sample of each client's examples, drawn anew
    in every round.
    """

    name: ClassVar[str] = "collapse"
    class_told: ClassVar[ClassTold] = ClassTold(counts=True, sums=True, leaves_out=True)

    def template(self, net: Network) -> dict[str, Tensor]:
        """Count, sum and squares of each class, second moments of all; two sums of the clients' own NC1."""
        classes, dim = self.task.num_classes, self._width(net)
        zero = partial(torch.zeros, dtype=torch.float64)
        return {
            "counts": zero(classes),
            "sums": zero(classes, dim),
            "squares": zero(classes),
            "moments": zero(dim, dim),
            "own-cdnv": zero(_SUM_AND_CLIENTS),
        }

    def second_template(self, net: Network) -> dict[str, Tensor]:
        """For each class the examples judged and, for each model, those on which it agrees; sums of NC3, losses."""
        per_class = torch.zeros(self.task.num_classes, dtype=torch.float64)
        pair = torch.zeros(_SUM_AND_CLIENTS, dtype=torch.float64)
        named = {"judged": per_class}
        for name in self._global(net):
            named[f"agreed/{name}"] = per_class.clone()
            named[f"loss/{name}"] = pair.clone()
        for name in self._personal_names():
            named[f"personal-agreed/{name}"] = per_class.clone()
            named[f"personal-judged/{name}"] = per_class.clone()
            named |= {f"{side}/{name}": pair.clone() for side in ("has", "lacks")}
            named[f"law-r2/{name}"] = pair.clone()
        return named

    @torch.no_grad()
    def collect(self, net: Network, client: ClientData) -> dict[str, Tensor]:
        """This client's sums."""
        net.eval()
        examples = _told(client, self.class_told.of, *self._examples(net, client))
        sums = FeatureSums.of(*examples, self.task.num_classes)
        named = {name: tensor.cpu() for name, tensor in sums.to_tensors().items()}
        # Of a few examples the scatter is too small, and one client has few.
        whole = self.task.config.collapse_share == 1
        return {**named, "own-cdnv": _mean_of_one(cdnv(sums) if whole else math.nan)}

    def given(self, net: Network, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """The class means over all clients, and which classes have one; no counts."""
        seen = sums["counts"] > 0
        return {
            "seen": seen.double(),
            "means": sums["sums"] / sums["counts"].clamp(min=1)[:, None],
        }

    @torch.no_grad()
    def collect_again(
        self, net: Network, client: ClientData, given: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """This client's part of NC4, and of NC3 of its own head."""
        net.eval()
        everybody = self._checked(net, given)
        named = self.second_template(net)
        if client.measured is None:
            return named
        features, classes = _told(client, "test", *client.measured.test())
        if len(features):
            named["judged"] += _by_class(classes, self.task.num_classes)
            nearest = nearest_class(features.cpu(), everybody)
            for name, predictor in self._global(net).items():
                logits = predictor.head.logits(features).cpu()
                agreed = classes.cpu()[logits.argmax(dim=1) == nearest]
                named[f"agreed/{name}"] += _by_class(agreed, self.task.num_classes)
                named[f"loss/{name}"] += _losses(logits, classes.cpu())
        for name, predictor in client.measured.personal().items():
            if f"has/{name}" in named:
                found = self._of_personal(net, client, predictor, everybody)
                named |= {f"{key}/{name}": tensor for key, tensor in found.items()}
        return named

    def _of_personal(
        self, net: Network, client: ClientData, predictor: Predictor, everybody: FeatureSums
    ) -> dict[str, Tensor]:
        """NC3 and NC4 of a client's own model; with a backbone of its own, against its own class means."""
        assert client.measured is not None
        counts, num_classes = client.counts.cpu(), self.task.num_classes
        if "train" in client.measured.untold:
            counts = torch.where(client.measured.untold["train"], 0, counts)
        own = counts > 0
        weight = predictor.head.weight.detach().cpu()
        means = everybody
        if predictor.extractor != "features":
            told = _told(client, self.class_told.of, *self._examples(net, client, predictor))
            means = FeatureSums.of(*told, num_classes, moments=False).cpu()
        cos, of = cosines_to_rows(means, weight)
        found = {"law-r2": _mean_of_one(_explained(counts, weight))}
        for side, chosen in (("has", own), ("lacks", ~own)):
            kept = cos[chosen[of]]
            found[side] = _mean_of_one(float(kept.mean()) if len(kept) else math.nan)
        features, classes = _told(client, "test", *client.measured.test_for(predictor))
        if len(features):
            # Its head may only name classes that it has, so only their means compete.
            nearest = nearest_class(features.cpu(), means.only(own))
            agreed = predictor.head.logits(features).cpu().argmax(dim=1) == nearest
            found["personal-agreed"] = _by_class(classes.cpu()[agreed], num_classes)
            found["personal-judged"] = _by_class(classes, num_classes)
        return found

    def finish(self, net: Network, sums: dict[str, Tensor]) -> Findings:
        """Figures ``SCOPE/MEASURE``, and of models ``SCOPE/MODEL/MEASURE``; SCOPE is all, many, medium or few.

        What cannot be computed is left out: NC1 of one class, a group that no client has.
        """
        features = FeatureSums.from_tensors(sums)
        figures = {"all/within-between": within_between(features)}
        figures["own/cdnv"] = _over_clients(sums["own-cdnv"])
        for name in self._global(net):
            total, examples = sums[f"loss/{name}"]
            # A model that calls an example impossible has no mean loss.
            if examples == sums["judged"].sum():
                figures[f"all/{name}/loss"] = _share(total, examples)
        for scope, chosen in self._scopes(features.counts).items():
            figures |= self._of_scope(net, scope, chosen, features, sums)
        for name in self._personal_names():
            for side in ("has", "lacks"):
                figures[f"personal/{name}/alignment-{side}"] = _over_clients(sums[f"{side}/{name}"])
            figures[f"personal/{name}/law-r2"] = _over_clients(sums[f"law-r2/{name}"])
        known = {key: value for key, value in figures.items() if math.isfinite(value)}
        return Findings(known, {"feature-norms": _centred_norms(features)})

    def _of_scope(
        self,
        net: Network,
        scope: str,
        chosen: Bool[Tensor, " classes"],
        features: FeatureSums,
        sums: dict[str, Tensor],
    ) -> dict[str, float]:
        here = features.only(chosen)
        nc2, target = spread(here), distance(here, self._target(net))
        figures = {
            "examples": float(here.counts.sum()),
            "cdnv": cdnv(here),
            "cdnv-fourth": cdnv(here, power=4),
            "norm-cov": nc2.norm_cov,
            "log-norm-variance": nc2.log_norm_variance,
            "cos-mean": nc2.cos_mean,
            "cos-std": nc2.cos_std,
            "log-kernel-mean": nc2.log_kernel_mean,
            "log-kernel-variance": nc2.log_kernel_variance,
            "target-cos": target.cos,
            "target-norms": target.norms,
        }
        judged = sums["judged"][chosen].sum()
        for name, predictor in self._global(net).items():
            nc3 = alignment(here, predictor.head.weight.cpu())
            figures[f"{name}/alignment"] = nc3.mean
            figures[f"{name}/alignment-variance"] = nc3.variance
            figures[f"{name}/agreement"] = _share(sums[f"agreed/{name}"][chosen].sum(), judged)
        for name in self._personal_names():
            of = sums[f"personal-judged/{name}"][chosen].sum()
            agreed = sums[f"personal-agreed/{name}"][chosen].sum()
            figures[f"personal-{name}/agreement"] = _share(agreed, of)
        return {f"{scope}/{key}": value for key, value in figures.items()}

    def _examples(
        self, net: Network, client: ClientData, predictor: Predictor | None = None
    ) -> Labelled:
        """Features and classes of what is measured, as one of the client's models sees them; None: shared ones."""
        config, everything = self.task.config, len(client.train)
        if config.collapse_share < 1:
            size = math.ceil(config.collapse_share * everything)
            generator = rng(config.seed, "collapse", client.round, client.client)
            drawn = np.sort(generator.choice(everything, size, replace=False))
            drawn_at = torch.from_numpy(drawn).to(client.train.device)
            client = replace(client, train=client.train.take(drawn_at), measured=None)
        if predictor is None:
            features, labels = self.task.train_features(net, client)
        else:
            extract = partial(self.task.features_for, predictor, net)
            features, labels = client.plain_features(extract)
        return features, labels if labels.ndim == 1 else labels.argmax(dim=1)

    def _global(self, net: Network) -> dict[str, Predictor]:
        models = self.task.method.global_predictors(net)
        return {name: of for name, of in models.items() if of.extractor == "features"}

    def _personal_names(self) -> list[str]:
        primary = self.task.method.primary_personal
        return [] if primary is None else sorted({primary, _RAW})

    def _scopes(self, counts: Int[Tensor, " classes"]) -> dict[str, Bool[Tensor, " classes"]]:
        groups = self.task.groups
        everything = {"all": torch.ones_like(counts, dtype=torch.bool)}
        if groups is None:
            return everything
        group_of = groups().group_of.cpu()
        return everything | {name: group_of == number for number, name in enumerate(GROUPS)}

    def _target(self, net: Network) -> Tensor:
        fixed = [head for head in net.children() if isinstance(head, FixedHead)]
        return fixed[0].weight.cpu() if fixed else simplex_target(self.task.num_classes)

    def _checked(self, net: Network, given: dict[str, Tensor]) -> FeatureSums:
        classes, dim = self.task.num_classes, self._width(net)
        shapes = {"seen": (classes,), "means": (classes, dim)}
        if {name: tuple(tensor.shape) for name, tensor in given.items()} != shapes:
            raise UpdateError(
                f"probe {self.name!r}: the server gave tensors of other names or shapes than {shapes}"
            )
        # As if every class had one example, which lies at its mean.
        seen, means = given["seen"] > 0, given["means"].double()
        return FeatureSums(seen.long(), means, (means**2).sum(dim=1), None)

    def _width(self, net: Network) -> int:
        """d, of the features that the method shares."""
        for predictor in self._global(net).values():
            return predictor.head.weight.shape[1]
        return int(net.backbone.out_features)  # type: ignore[arg-type]


class CollapseOnTest(CollapseProbe):
    """The same on the clients' test examples, whose features an evaluation has already: it costs little.

    Held-out features are farther from collapse than those that were trained on.
    """

    name: ClassVar[str] = "collapse-on-test"
    class_told: ClassVar[ClassTold] = ClassTold(counts=True, sums=True, leaves_out=True, of="test")

    def _examples(
        self, net: Network, client: ClientData, predictor: Predictor | None = None
    ) -> Labelled:
        if client.measured is None:
            return torch.zeros(0, self._width(net)), torch.zeros(0, dtype=torch.int64)
        if predictor is not None:
            return client.measured.test_for(predictor)
        features, classes = client.measured.test()
        return features.reshape(len(classes), self._width(net)), classes


def _told(client: ClientData, of: str, features: Tensor, classes: Tensor) -> Labelled:
    """The examples of classes that the site may tell of."""
    untold = client.measured.untold.get(of) if client.measured else None
    if untold is None or not len(classes):
        return features, classes
    kept = ~untold.to(classes.device)[classes]
    return features[kept], classes[kept]


def _losses(logits: Tensor, classes: Tensor) -> Float64[Tensor, " two"]:
    """Sum of the cross-entropies that are finite, and how many they are."""
    losses = cross_entropy(logits.double(), classes, reduction="none")
    known = losses.isfinite()
    return torch.stack([losses[known].sum(), known.sum().double()])


def _explained(counts: Tensor, weight: Tensor) -> float:
    """Share of the variance of a local head's norms that its client's class sizes explain."""
    if int((counts > 0).sum()) < 3:
        return math.nan
    return fit_law(counts.numpy(), weight.norm(dim=1).double().numpy()).r_squared


def _centred_norms(features: FeatureSums) -> list[float]:
    """||m_c||, NaN for a class without examples."""
    norms = torch.full(features.counts.shape, math.nan, dtype=torch.float64)
    norms[features.seen] = features.centred.norm(dim=1)
    return norms.tolist()


def _by_class(classes: Tensor, num_classes: int) -> Float64[Tensor, " classes"]:
    return torch.bincount(classes.cpu(), minlength=num_classes).double()


def _mean_of_one(value: float) -> Float64[Tensor, " two"]:
    """One client's part of a mean over clients; nothing where it could not be computed."""
    known = math.isfinite(value)
    return torch.tensor([value if known else 0.0, float(known)], dtype=torch.float64)


def _over_clients(pair: Float64[Tensor, " two"]) -> float:
    return _share(pair[0], pair[1])


def _share(part: Tensor, of: Tensor) -> float:
    return float(part / of) if of > 0 else math.nan
