"""Local losses for long-tailed classes: functions of logits, labels and training counts.

Every loss is a mean over the batch and lives on the device of its arguments. `counts` are the
training examples of each class on the client that trains. Where a loss takes the logarithm or
a negative power of a count, a class with none is taken out of the softmax: it receives no
gradient, and it may not be a label, nor have a share in a soft one.

Labels are classes, or shares of each class that sum to 1, where a loss takes such: those that
are a cross-entropy of changed logits do; focal, ldam and ratio look at one class per example.
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
Labels = Int[Tensor, " samples"] | Float[Tensor, "samples classes"]


def cross_entropy(logits: Float[Tensor, "samples classes"], labels: Labels) -> Float[Tensor, ""]:
    """-log softmax(logits)_y; of soft labels, the mean over the shares of each class."""
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels)
    # A class that is taken out has log-probability -inf, and 0 * -inf would be no number.
    terms = torch.where(labels > 0, labels * logits.log_softmax(dim=1), 0.0)
    return -terms.sum(dim=1).mean()


def balanced_softmax(
    logits: Float[Tensor, "samples classes"],
    labels: Labels,
    counts: Int[Tensor, " classes"],
) -> Float[Tensor, ""]:
    """Cross-entropy of a softmax weighted by counts, n_c exp(z_c) / sum_j n_j exp(z_j).

    Ren et al. 2020, "Balanced Meta-Softmax for Long-Tailed Visual Recognition", eq. 3.
    """
    return cross_entropy(logits + counts.log(), labels)


def logit_adjusted(
    logits: Float[Tensor, "samples classes"],
    labels: Labels,
    counts: Int[Tensor, " classes"],
    tau: NotNegative = 1.0,
) -> Float[Tensor, ""]:
    """Cross-entropy of logits + tau log(n_c / N).

    Menon et al. 2021, "Long-Tail Learning via Logit Adjustment", eq. 10. `tau` >= 0; 0 is plain
    cross-entropy, absent classes included.
    """
    prior = counts / counts.sum()
    return cross_entropy(logits + torch.xlogy(tau, prior), labels)


def fedlc(
    logits: Float[Tensor, "samples classes"],
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
    return cross_entropy(logits - tau * counts.float().pow(-0.25), labels)


def ldam(
    logits: Float[Tensor, "samples classes"],
    labels: Labels,
    counts: Int[Tensor, " classes"],
    max_margin: NotNegative = 0.5,
    scale: Positive = 1.0,
    weights: Float[Tensor, " classes"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of scale * logits after the true class's logit lost a margin ~ n_y^(-1/4).

    Cao et al. 2019, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
    eq. 13.

    Parameters
    ----------
    max_margin : margin of the rarest class that is present, >= 0.
    scale : > 0. The authors' 30 goes with cosines for logits. With a plain linear head it would
        multiply the gradient (by 55 at the start, measured on ResNet-8), so that a comparison
        would be of step sizes: the default here is 1.
    weights : class weights of deferred re-weighting, from `drw_weights`; the batch mean is then
        a weighted mean. None: all alike.
    """
    _one_class_each(labels, "ldam")
    margins = torch.where(counts > 0, counts.float().pow(-0.25), 0.0)
    margins = margins * (max_margin / margins.max())
    reduced = logits - F.one_hot(labels, logits.shape[1]) * margins
    return F.cross_entropy(scale * reduced, labels, weight=weights)


def drw_weights(counts: Int[Tensor, " classes"], beta: float = 0.9999) -> Float[Tensor, " classes"]:
    """Class weights (1 - beta) / (1 - beta^n_c), scaled to a mean of 1 over the classes present.

    Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples", which LDAM
    switches on late in training. 0 <= `beta` < 1; 0 gives all alike. Absent classes get 0.
    """
    if not 0 <= beta < 1:
        raise ConfigError(f"drw-beta must be a number >= 0 and < 1, got {beta!r}")
    present = counts > 0
    effective = 1 - torch.pow(torch.tensor(beta, dtype=torch.float64), counts)
    weights = torch.where(present, 1 / effective, 0.0)
    return (weights * (present.sum() / weights.sum())).float()


def focal(
    logits: Float[Tensor, "samples classes"],
    labels: Labels,
    gamma: NotNegative = 2.0,
) -> Float[Tensor, ""]:
    """-(1 - p_y)^gamma log p_y, which turns away from what is learned already.

    Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 4. `gamma` >= 0; 0 is plain
    cross-entropy.
    """
    _one_class_each(labels, "focal")
    log_p = -F.cross_entropy(logits, labels, reduction="none")
    # The slope of x^gamma at 0 is infinite for gamma < 1, and p = 1 is reached in float32.
    missing = -torch.expm1(log_p).clamp(max=-torch.finfo(log_p.dtype).tiny)
    return -(missing.pow(gamma) * log_p).mean()


def ratio_loss(
    logits: Float[Tensor, "samples classes"],
    labels: Labels,
    counts: Int[Tensor, " classes"],
    alpha: NotNegative = 1.0,
    beta: NotNegative = 0.1,
) -> Float[Tensor, ""]:
    """(alpha + beta R_y) times cross-entropy, R_c the mean count of the other classes over n_c.

    Wang et al. 2021, "Addressing Class Imbalance in Federated Learning", whose server estimates
    R from gradients on auxiliary data because it cannot see the counts. Here a client weighs
    its own loss and knows them, so R_c = sum_{j != c} n_j / ((Q - 1) n_c), with Q the number
    of classes present; a client with one class has R = 0. `alpha`, `beta` >= 0, not both 0.
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


WITHOUT_COUNTS = ("cross-entropy", "focal")
"""Losses that read nothing of the client, so that a step is the same for all."""

LOSSES = tuple(_LOSSES)
"""Their names."""


def local_loss(
    name: str,
    counts: Int[Tensor, " classes"],
    options: Mapping[str, Any] | None = None,
    *,
    round: int = 1,
) -> LocalLoss:
    """A loss by name, bound to one client's counts in one round: (logits, labels) to a scalar.

    Parameters
    ----------
    name : one of `LOSSES`.
    counts : training examples of each class, at least one of them above 0, on the device of the
        logits to come.
    options : the loss's own parameters, kebab-case. Besides, ``ldam`` takes ``drw-from``, the
        round from which classes are re-weighted (Cao et al. 2019 defer that to the end of
        training; absent: never), and ``drw-beta`` (0.9999).
    round : the round that is trained.

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
