"""Metrics: functions of predictions, labels and training counts.

Figures of classes follow from a `Tally`, mistakes from a confusion matrix, whose rows are true classes. The
matrices of several clients or batches are added. Accuracies are in [0, 1], and nan if nothing was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedloge.errors import DataError

GROUPS = ("many", "medium", "few")


@dataclass(frozen=True, eq=False)
class ShotGroups:
    """The group of every class, as an index into `GROUPS`."""

    group_of: Int[Tensor, " classes"]

    def mask(self, group: Literal["many", "medium", "few"]) -> Bool[Tensor, " classes"]:
        """True for the classes of one group."""
        return self.group_of == GROUPS.index(group)

    def sizes(self) -> dict[str, int]:
        """Number of classes in each group."""
        return dict(
            zip(GROUPS, self.group_of.bincount(minlength=len(GROUPS)).tolist(), strict=True)
        )


def shot_groups(
    train_counts: Int[Tensor, " classes"], rule: Literal["mass", "count"] = "mass"
) -> ShotGroups:
    """Which classes are many, medium and few, by the training counts of the whole federation.

    Parameters
    ----------
    train_counts : training examples of each class over all clients. Neither test counts nor
        one client's counts, by which the groups would change with the split.
    rule : ``mass`` (FedLoGe): classes by decreasing count, cut at 75 % and 95 % of all examples.
        A class on a cut goes to the more frequent side: it is many if the classes before it
        have less than 75 %, medium if they have less than 95 %, else few. Equal counts keep
        the order of the classes. ``count`` (Liu et al. 2019): more than 100 examples, 20 to
        100, fewer than 20.
    """
    if rule == "count":
        return ShotGroups((train_counts <= 100).long() + (train_counts < 20).long())
    ordered, order = train_counts.long().sort(descending=True, stable=True)
    before = ordered.cumsum(0) - ordered
    # In integers, because a class may be exactly on a cut and 0.95 * total is not exact in floats.
    percent, total = 100 * before, ordered.sum()
    group_of = torch.empty_like(order)
    group_of[order] = (percent >= 75 * total).long() + (percent >= 95 * total).long()
    return ShotGroups(group_of)


@dataclass(frozen=True, eq=False)
class Tally:
    """What the figures of single classes follow from: a confusion matrix's diagonal and margins.

    With a thousand classes the matrix itself has a million cells, for a client with ten images.

    Attributes
    ----------
    right : examples of each class that are predicted right.
    true : examples of each class.
    predicted : examples that are predicted as each class.
    """

    right: Int[Tensor, " classes"]
    true: Int[Tensor, " classes"]
    predicted: Int[Tensor, " classes"]

    @classmethod
    def of(
        cls,
        predictions: Int[Tensor, " examples"],
        labels: Int[Tensor, " examples"],
        num_classes: int,
    ) -> Tally:
        """Count; `DataError` if a label or a prediction is not in 0..num_classes-1."""
        _check_classes(predictions, labels, num_classes)
        each = (labels[predictions == labels], labels, predictions)
        return cls(*(values.bincount(minlength=num_classes) for values in each))


def confusion_matrix(
    predictions: Int[Tensor, " examples"], labels: Int[Tensor, " examples"], num_classes: int
) -> Int[Tensor, "classes classes"]:
    """How many examples of each true class (row) were predicted as each class (column).

    Raises
    ------
    DataError
        A label or a prediction is not in 0..num_classes-1.
    """
    _check_classes(predictions, labels, num_classes)
    cells = labels.long() * num_classes + predictions.long()
    return cells.bincount(minlength=num_classes**2).view(num_classes, num_classes)


def _check_classes(predictions: Tensor, labels: Tensor, num_classes: int) -> None:
    for what, values in (("label", labels), ("prediction", predictions)):
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < num_classes:
            raise DataError(
                f"{what}s run from {int(values.min())} to {int(values.max())}, but with "
                f"{num_classes} classes they must lie in 0..{num_classes - 1}; check num-classes"
            )


def accuracy(tally: Tally) -> float:
    """Share of all examples that are predicted right."""
    return _share(int(tally.right.sum()), int(tally.true.sum()))


def per_class_accuracy(tally: Tally) -> Float[Tensor, " classes"]:
    """Share of each class's examples that are predicted right (recall); nan for a class without any."""
    return tally.right.double() / tally.true


def macro_recall(tally: Tally) -> float:
    """Mean sensitivity over the classes that have examples (balanced accuracy); NaN without any."""
    return float(per_class_accuracy(tally).nanmean())


def macro_f1(tally: Tally) -> float:
    """Mean F1 over the classes that occur among the labels or the predictions.

    A class that occurs in neither is left out. One that was predicted but never true, or true
    but never predicted, counts as 0. scikit-learn and torchmetrics do the same.
    """
    occurrences = tally.predicted + tally.true
    f1 = 2 * tally.right.double() / occurrences
    return float(f1[occurrences > 0].mean())


def group_accuracy(tally: Tally, groups: ShotGroups) -> dict[str, float]:
    """Share of the examples of many, medium and few classes that are predicted right.

    A group without examples is left out.
    """
    group_of = groups.group_of.to(tally.true.device)
    empty = torch.zeros(len(GROUPS), dtype=torch.long, device=tally.true.device)
    right = empty.index_add(0, group_of, tally.right).tolist()
    total = empty.index_add(0, group_of, tally.true).tolist()
    return {name: r / n for name, r, n in zip(GROUPS, right, total, strict=True) if n}


def summary(tally: Tally, groups: ShotGroups) -> dict[str, float]:
    """Accuracy on ``all`` examples, and on those of ``many``, ``medium`` and ``few`` classes if any."""
    return {"all": accuracy(tally), **group_accuracy(tally, groups)}


def across_clients(values: Sequence[float]) -> dict[str, float]:
    """One metric over all clients: ``mean``, ``std`` (population) and ``worst-decile``.

    ``worst-decile`` is the mean over the lowest tenth of the clients, rounded up to at least one
    client. Every client weighs the same. Clients without test examples, whose value is nan, are
    left out. If none is left, all three are nan.
    """
    measured = sorted(value for value in values if not math.isnan(value))
    if not measured:
        return dict.fromkeys(("mean", "std", "worst-decile"), math.nan)
    x = torch.tensor(measured, dtype=torch.float64)
    return {
        "mean": float(x.mean()),
        "std": float(x.std(correction=0)),
        "worst-decile": float(x[: math.ceil(len(x) / 10)].mean()),
    }


def interval_over_clients(
    values: Sequence[float], generator: np.random.Generator, resamples: int = 2000
) -> tuple[float, float] | None:
    """The 95 % percentile bootstrap interval (Efron 1979) of the clients' mean; None for fewer than two clients.

    Clients are drawn with replacement, as many as there are, and every client weighs the same: it says how
    much the mean would vary with other clients like these, not with other test images or seeds.

    Parameters
    ----------
    values : one for each client; nan for a client without test examples, which is left out.
    generator : of the draws.
    """
    measured = np.array([value for value in values if not math.isnan(value)])
    if len(measured) < 2:
        return None
    means = np.empty(resamples)
    # In portions: with thousands of clients all draws at once would take hundreds of megabytes.
    portion = max(1, 1_000_000 // len(measured))
    for start in range(0, resamples, portion):
        rows = min(portion, resamples - start)
        drawn = generator.integers(len(measured), size=(rows, len(measured)))
        means[start : start + rows] = measured[drawn].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
