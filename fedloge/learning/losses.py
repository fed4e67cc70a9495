"""Local losses for long-tailed classes: functions of logits, labels and training counts.

Every loss is a mean over the batch, on the device of its arguments. `counts` are the training
examples of each class on the client that trains. If a loss takes the logarithm or a negative
power of a count, a class without examples is taken out of the softmax: it receives no gradient,
and it may be neither a label nor a part of a soft label.

A label is a class. Losses that are a cross-entropy of changed logits also take soft labels, the
shares of all classes, which sum to 1. focal, ldam and ratio do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Annotated, Any

import pydantic
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from fedloge.errors import ConfigError, unknown_name
from fedloge.options import NotNegative, Options, Positive, checked_options, keyword_options

LocalLoss = Callable[[Tensor, Tensor], Tensor]
Labels = Int[Tensor, " examples"] | Float[Tensor, "examples classes"]


def cross_entropy(logits: Float[Tensor, "examples classes"], labels: Labels) -> Float[Tensor, ""]:
    """-log softmax(logits)_y; for soft labels its mean over the classes, weighted by their shares."""
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels)
    # A class that is taken out has log-probability -inf, and 0 * -inf is nan.
    terms = torch.where(labels > 0, labels * logits.log_softmax(dim=1), 0.0)
    return -terms.sum(dim=1).mean()


def balanced_softmax(
    logits: Float[Tensor, "examples classes"],
    labels: Labels,
    counts: Int[Tensor, " classes"],
) -> Float[Tensor, ""]:
    """Cross-entropy of a softmax weighted by counts, n_c exp(z_c) / sum_j n_j exp(z_j).

    Ren et al. 2020, "Balanced Meta-Softmax for Long-Tailed Visual Recognition", eq. 3. It is
    `logit_adjusted` at tau = 1: log n_c and log(n_c / N) differ by a number that is the same for
    all classes. So both are computed alike, and give the same bits.
    """
    return logit_adjusted(logits, labels, counts, 1.0)


def logit_adjusted(
    logits: Float[Tensor, "examples classes"],
    labels: Labels,
    counts: Int[Tensor, " classes"],
    tau: NotNegative = 1.0,
) -> Float[Tensor, ""]:
    """Cross-entropy of logits + tau log(n_c / N).

    Menon et al. 2021, "Long-Tail Learning via Logit Adjustment", eq. 10. `tau` >= 0; 0 is plain
    cross-entropy, absent classes included.
    """
    return cross_entropy(logits + log_prior(counts, tau), labels)


def log_prior(counts: Int[Tensor, " classes"], tau: float = 1.0) -> Float[Tensor, " classes"]:
    """tau log(n_c / N), what `logit_adjusted` adds to the logits; -inf for an absent class, unless tau is 0."""
    return torch.xlogy(tau, counts / counts.sum())


def fedlc(
    logits: Float[Tensor, "examples classes"],
    labels: Labels,
    counts: Int[Tensor, " classes"],
    tau: NotNegative = 1.0,
) -> Float[Tensor, ""]:
    """Cross-entropy of logits - tau n_c^(-1/4), so that rare classes need a wider margin.

    Zhang et al. 2022, "Federated Learning with Label Distribution Skew via Logits Calibration",
    eq. 7. `tau` >= 0; 0 is plain cross-entropy, absent classes included.
    """
    if tau == 0:
        return cross_entropy(logits, labels)
    return cross_entropy(logits - _margins(counts, tau), labels)


def _margins(counts: Tensor, tau: float) -> Tensor:
    return tau * counts.float().pow(-0.25)


def ldam(
    logits: Float[Tensor, "examples classes"],
    labels: Labels,
    counts: Int[Tensor, " classes"],
    max_margin: NotNegative = 0.5,
    scale: Positive = 1.0,
    weights: Float[Tensor, " classes"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of scale * logits, where the true class's logit is reduced by a margin ~ n_y^(-1/4).

    Cao et al. 2019, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
    eq. 13.

    Parameters
    ----------
    max_margin : margin of the rarest class that is present, >= 0.
    scale : > 0. The authors' 30 is meant for logits that are cosines. With a plain linear head it
        would also multiply the gradient (by 55 at the start, measured on ResNet-8), and losses
        would be compared at different step sizes. So the default here is 1.
    weights : class weights of deferred re-weighting, from `drw_weights`. The batch mean is then
        a weighted mean. None: all classes have the same weight.
    """
    _one_class_each(labels, "ldam")
    margins = torch.where(counts > 0, counts.float().pow(-0.25), 0.0)
    margins = margins * (max_margin / margins.max())
    reduced = logits - F.one_hot(labels, logits.shape[1]) * margins
    return F.cross_entropy(scale * reduced, labels, weight=weights)


def drw_weights(counts: Int[Tensor, " classes"], beta: float = 0.9999) -> Float[Tensor, " classes"]:
    """Class weights (1 - beta) / (1 - beta^n_c), scaled to a mean of 1 over the classes present.

    Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples". LDAM uses them
    late in training. 0 <= `beta` < 1; 0 gives all classes the same. Absent classes get 0.

    Raises
    ------
    ConfigError
        `beta` is out of its range.
    """
    if not 0 <= beta < 1:
        raise ConfigError(f"drw-beta must be a number >= 0 and < 1, got {beta!r}")
    present = counts > 0
    effective = 1 - torch.pow(torch.tensor(beta, dtype=torch.float64), counts)
    weights = torch.where(present, 1 / effective, 0.0)
    return (weights * (present.sum() / weights.sum())).float()


def focal(
    logits: Float[Tensor, "examples classes"],
    labels: Labels,
    gamma: NotNegative = 2.0,
) -> Float[Tensor, ""]:
    """-(1 - p_y)^gamma log p_y, which gives little weight to examples that are predicted well.

    Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 4. `gamma` >= 0; 0 is plain
    cross-entropy.
    """
    _one_class_each(labels, "focal")
    log_p = -F.cross_entropy(logits, labels, reduction="none")
    # The slope of x^gamma at 0 is infinite for gamma < 1, and p = 1 is reached in float32.
    missing = -torch.expm1(log_p).clamp(max=-torch.finfo(log_p.dtype).tiny)
    return -(missing.pow(gamma) * log_p).mean()


def ratio_loss(
    logits: Float[Tensor, "examples classes"],
    labels: Labels,
    counts: Int[Tensor, " classes"],
    alpha: NotNegative = 1.0,
    beta: NotNegative = 0.1,
) -> Float[Tensor, ""]:
    """(alpha + beta R_y) times cross-entropy; R_c is the mean count of the other classes over n_c.

    Wang et al. 2021, "Addressing Class Imbalance in Federated Learning". Their server estimates
    R from gradients on auxiliary data, because it cannot see the counts. Here a client weighs
    its own loss and knows its counts: R_c = sum_{j != c} n_j / ((Q - 1) n_c) with Q the number of
    classes present. A client with one class has R = 0. `alpha`, `beta` >= 0, not both 0.
    """
    _one_class_each(labels, "ratio")
    others = (counts > 0).sum() - 1
    ratio = (counts.sum() - counts) / (others.clamp(min=1) * counts.clamp(min=1))
    return (
        (alpha + beta * ratio)[labels] * F.cross_entropy(logits, labels, reduction="none")
    ).mean()


def _one_class_each(labels: Tensor, loss: str) -> None:
    if labels.ndim != 1:
        raise ConfigError(
            f"loss {loss!r} takes one class per example, but the labels of this data set are shares of "
            "each class; use cross-entropy, balanced-softmax, logit-adjusted or fedlc"
        )


_LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross-entropy": cross_entropy,
    "balanced-softmax": balanced_softmax,
    "logit-adjusted": logit_adjusted,
    "fedlc": fedlc,
    "ldam": ldam,
    "focal": focal,
    "ratio": ratio_loss,
}


def logit_shift(
    name: str, counts: Int[Tensor, " classes"], options: Mapping[str, Any] | None = None
) -> Float[Tensor, " classes"] | None:
    """What a loss adds to the logits before cross-entropy, if it is a cross-entropy of shifted logits.

    None for a loss that is something else. Arguments as for `local_loss`.
    """
    given = dict(checked_options(_options(name), options or {}, f"loss-options of {name!r}"))
    if name == "cross-entropy":
        return torch.zeros(counts.shape, device=counts.device)
    if name == "balanced-softmax":
        return log_prior(counts)
    if name == "logit-adjusted":
        return log_prior(counts, given["tau"])
    if name == "fedlc":
        return -_margins(counts, given["tau"]) if given["tau"] else 0.0 * counts
    return None


WITHOUT_COUNTS = ("cross-entropy", "focal")
"""Losses that do not use the client's counts, so that a step is the same for every client."""

WITH_SOFT_LABELS = ("cross-entropy", "balanced-softmax", "logit-adjusted", "fedlc")
"""Losses that also take the shares of the classes."""

LOSSES = tuple(_LOSSES)
"""The names of all losses."""


def local_loss(
    name: str,
    counts: Int[Tensor, " classes"],
    options: Mapping[str, Any] | None = None,
    *,
    round: int = 1,
) -> LocalLoss:
    """A loss by name for one client in one round: a function of (logits, labels) that gives a scalar.

    Parameters
    ----------
    name : one of `LOSSES`.
    counts : training examples of each class, at least one of them above 0, on the device of the
        logits.
    options : the loss's own parameters, kebab-case. ``ldam`` also takes ``drw-from``, the round
        from which classes are re-weighted (Cao et al. 2019 defer that to the end of training;
        absent: never), and ``drw-beta``, in [0, 1), by default 0.9999.
    round : number of the round, from 1.

    Raises
    ------
    ConfigError
        The name or an option is unknown, or an option is out of its range.
    """
    if name not in _LOSSES:
        raise ConfigError(unknown_name("loss", name, _LOSSES))
    checked = checked_options(_options(name), options or {}, f"loss-options of {name!r}")
    bound = dict(checked)
    first, beta = bound.pop("drw_from", None), bound.pop("drw_beta", 0.0)
    if first is not None and round >= first:
        bound["weights"] = drw_weights(counts, beta)
    if name not in WITHOUT_COUNTS:
        bound["counts"] = counts
    return partial(_LOSSES[name], **bound)


@cache
def _options(name: str) -> type[Options]:
    arguments = ("logits", "labels", "counts", "weights")
    options = keyword_options(_LOSSES[name], positional=True, without=arguments)
    if name != "ldam":
        return options
    deferred: dict[str, Any] = {
        "drw_from": (Annotated[int, Field(ge=1)] | None, None),
        "drw_beta": (Annotated[float, Field(ge=0, lt=1)], 0.9999),
    }
    return pydantic.create_model("LdamOptions", __base__=options, **deferred)
