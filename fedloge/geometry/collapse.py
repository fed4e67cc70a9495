"""Neural collapse, measured by sums that add up over batches and clients.

Papyan, Han and Donoho, "Prevalence of neural collapse during the terminal phase of deep
learning training" (PNAS 2020), and Wu and Papyan, "Linguistic Collapse" (NeurIPS 2024, arXiv
2405.17767). NC1: features gather at their class means. NC2: the means, seen from their centre,
are equally long and equally far apart. NC3: the head's rows point along them. NC4: the head
decides as the nearest mean does.

The centre is the plain mean of the class means. A class without examples is left out of
everything: as a zero vector it would bend the centre. What a measure cannot be computed from
(fewer than two classes seen, a mean on the centre) is left out too, and NaN if nothing is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor, nn

from fedloge.errors import GeometryError
from fedloge.geometry.feature_sums import FeatureSums, pair_distances

# Squared distances are good to this share of the squared lengths that they are differences of.
_CLOSE = 1e-10


def cdnv(sums: FeatureSums, *, power: int = 2) -> float:
    """NC1: mean over pairs of (s_c^2 + s_c'^2) / (2 ||mu_c - mu_c'||^power), 0 when collapsed.

    Parameters
    ----------
    power : 2, the class-distance normalised variance of Galanti, György and Hutter (ICLR 2022);
        4, what Linguistic Collapse computes, which is not free of the features' unit.
    """
    s2 = sums.scatter
    # Row by row, as distances are.
    both = torch.cat([one + s2[i + 1 :] for i, one in enumerate(s2)]) if len(s2) else s2
    return _mean(both / (2 * sums.distances**power))


def within_between(sums: FeatureSums) -> float:
    """NC1 of Papyan et al.: tr(S_W S_B^+) / C over the C classes seen, 0 when collapsed.

    S_W is the mean of (h - mu_y)(h - mu_y)^T over examples, S_B that of m_c m_c^T over classes.

    Raises
    ------
    GeometryError
        The sums were made without second moments.
    """
    if sums.moments is None:
        raise GeometryError("collapse: within_between needs second moments; make sums with them")
    classes = len(sums.means)
    if classes < 2:
        return math.nan
    of_means = sums.sums[sums.seen].T @ sums.means
    within = (sums.moments - of_means) / sums.counts.sum()
    # S_B^+ by the singular values of the means themselves: their squares would lose half the digits.
    _, values, axes = torch.linalg.svd(sums.centred / math.sqrt(classes), full_matrices=False)
    kept = values > 1e-9 * values.max()
    along = ((axes[kept] @ within) * axes[kept]).sum(dim=1).clamp(min=0)
    return float((along / values[kept] ** 2).sum() / classes) if kept.any() else math.nan


@dataclass(frozen=True)
class Spread:
    """NC2, how far the centred means m_c are from a simplex.

    Parameters
    ----------
    norm_cov : standard deviation of ||m_c|| over its mean; simplex: 0.
    log_norm_variance : variance of log ||m_c||; simplex: 0.
    cos_mean, cos_std : over all pairs; simplex: -1/(C-1) and 0.
    cos_distance : mean of |cos + 1/(C-1)|; simplex: 0.
    log_kernel_mean, log_kernel_variance : of log(1/||z_c - z_c'||) over pairs, z_c = m_c/||m_c||;
        simplex: log((C-1)/(2C))/2 and 0.
    """

    norm_cov: float
    log_norm_variance: float
    cos_mean: float
    cos_std: float
    cos_distance: float
    log_kernel_mean: float
    log_kernel_variance: float


def spread(sums: FeatureSums) -> Spread:
    """NC2 of the classes seen."""
    norms = sums.centred.norm(dim=1)
    kept = sums.has_direction
    apart = pair_distances(sums.centred[kept] / norms[kept, None])
    cos = 1 - apart**2 / 2
    kernel = -apart.log()
    simplex = -1 / max(len(norms) - 1, 1)
    some = bool(kept.any())
    return Spread(
        norm_cov=float(norms.std(correction=0) / norms.mean()) if some else math.nan,
        log_norm_variance=_variance(norms[kept].log()),
        cos_mean=_mean(cos),
        cos_std=math.sqrt(_variance(cos)),
        cos_distance=_mean((cos - simplex).abs()),
        log_kernel_mean=_mean(kernel),
        log_kernel_variance=_variance(kernel),
    )


@dataclass(frozen=True)
class Alignment:
    """NC3: mean and variance over classes of cos(w_c, m_c), 1 and 0 when collapsed."""

    mean: float
    variance: float


def alignment(sums: FeatureSums, weight: Float[Tensor, "classes features"]) -> Alignment:
    """NC3 of a head with these rows. A class whose row is zero has no direction and is left out."""
    cos, _ = cosines_to_rows(sums, weight)
    return Alignment(_mean(cos), _variance(cos))


def cosines_to_rows(
    sums: FeatureSums, weight: Float[Tensor, "classes features"]
) -> tuple[Float64[Tensor, " kept"], Int[Tensor, " kept"]]:
    """cos(w_c, m_c), and of which classes: those seen whose row and centred mean have a direction."""
    rows, centred = weight.detach().to(sums.sums)[sums.seen], sums.centred
    kept = sums.has_direction & (rows.norm(dim=1) > 0)
    w, m = rows[kept], centred[kept]
    cos = (w * m).sum(dim=1) / (w.norm(dim=1) * m.norm(dim=1))
    return cos, sums.seen.nonzero()[:, 0][kept]


@dataclass(frozen=True)
class AgreementSums:
    """NC4 in sums: ``a + b`` holds the examples of both.

    Parameters
    ----------
    examples : how many were judged.
    agreed : on how many of them the head and the nearest class mean decide alike.
    """

    examples: int = 0
    agreed: int = 0

    @classmethod
    def of(
        cls,
        features: Float[Tensor, "examples features"],
        logits: Float[Tensor, "examples classes"],
        sums: FeatureSums,
    ) -> AgreementSums:
        """One batch against the means of a first pass; only a class seen there can be nearest."""
        return cls(len(features), int(cls.alike(features, logits, sums).sum()))

    @staticmethod
    def alike(
        features: Float[Tensor, "examples features"],
        logits: Float[Tensor, "examples classes"],
        sums: FeatureSums,
    ) -> Bool[Tensor, " examples"]:
        """On which examples the head and the nearest mean of a class seen decide alike."""
        return logits.argmax(dim=1) == nearest_class(features, sums)

    def __add__(self, other: AgreementSums) -> AgreementSums:
        return AgreementSums(self.examples + other.examples, self.agreed + other.agreed)

    @property
    def share(self) -> float:
        """NC4, 1 when collapsed; NaN without examples."""
        return self.agreed / self.examples if self.examples else math.nan


def nearest_class(
    features: Float[Tensor, "examples features"], sums: FeatureSums
) -> Int[Tensor, " examples"]:
    """The class whose mean is nearest to each example, of the classes seen; -1 if none is.

    Of equally near means the first.
    """
    h, means = features.detach().to(sums.means), sums.means
    if not len(means):
        return torch.full((len(h),), -1, device=h.device)
    squares = (means**2).sum(dim=1)
    # By the identity of squared norms, many times faster than by differences; where it cannot tell two
    # means apart, by differences.
    less = squares - 2 * (h @ means.T)
    two = less.topk(min(2, len(means)), dim=1, largest=False)
    nearest = two.indices[:, 0]
    if len(means) > 1:
        size = (h**2).sum(dim=1) + squares.max()
        close = two.values[:, 1] - two.values[:, 0] <= _CLOSE * size
        if close.any():
            exact = torch.cdist(h[close], means, compute_mode="donot_use_mm_for_euclid_dist")
            nearest[close] = exact.argmin(dim=1)
    return sums.seen.nonzero()[:, 0][nearest]


@dataclass(frozen=True)
class Collapse:
    """All measures of one network on one set of examples.

    Parameters
    ----------
    classes_seen : classes with an example or more.
    cdnv, cdnv_fourth, within_between : NC1, see `cdnv` and `within_between`.
    spread : NC2.
    alignment : NC3.
    agreement : NC4, see `AgreementSums`.
    """

    classes_seen: int
    cdnv: float
    cdnv_fourth: float
    within_between: float
    spread: Spread
    alignment: Alignment
    agreement: float


@torch.no_grad()
def collapse(
    net: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    head: nn.Linear,
    *,
    held_out: Iterable[tuple[Tensor, Tensor]] | None = None,
) -> Collapse:
    """Measure any torch network, in evaluation mode; its mode is restored after.

    Parameters
    ----------
    net : from inputs to features, or the whole classifier of which `head` is a part; then the
        features are what enters the head.
    loader : batches of (inputs, labels). It is gone through twice, so it must start anew.
    head : its rows belong to the classes.
    held_out : the examples of NC4; none: those of `loader`.

    Raises
    ------
    GeometryError
        There are no examples, labels are none of the head's classes, or features do not fit the head.
    """
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        sums = None
        for features, labels in _features(net, loader, head):
            batch = FeatureSums.of(features, labels, head.out_features)
            sums = batch if sums is None else sums + batch
        if sums is None:
            raise GeometryError("collapse: expected a batch or more, got none from the loader")
        agreement = AgreementSums()
        for features, _ in _features(net, loader if held_out is None else held_out, head):
            agreement += AgreementSums.of(features, head(features), sums)
    finally:
        for module, mode in modes.items():
            module.training = mode
    if agreement.examples == 0:
        raise GeometryError(
            "collapse: the second pass got no batch; give a loader that starts anew, not an iterator"
        )
    return Collapse(
        classes_seen=int(sums.seen.sum()),
        cdnv=cdnv(sums),
        cdnv_fourth=cdnv(sums, power=4),
        within_between=within_between(sums),
        spread=spread(sums),
        alignment=alignment(sums, head.weight),
        agreement=agreement.share,
    )


def _features(
    net: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], head: nn.Linear
) -> Iterable[tuple[Tensor, Tensor]]:
    inside = any(module is head for module in net.modules())
    entered: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    device = head.weight.device
    try:
        for inputs, labels in loader:
            entered.clear()
            out = net(inputs.to(device))
            features = entered[0] if inside and entered else out
            entered.clear()
            if features.ndim != 2 or features.shape[1] != head.in_features:
                raise GeometryError(
                    f"collapse: expected features of shape (examples, {head.in_features}), as the head "
                    f"takes them, got {tuple(features.shape)}"
                )
            yield features, labels.to(device)
    finally:
        hook.remove()


def _mean(x: Float64[Tensor, " values"]) -> float:
    return float(x.mean()) if len(x) else math.nan


def _variance(x: Float64[Tensor, " values"]) -> float:
    return float(x.var(correction=0)) if len(x) else math.nan
