"""Metrics: functions of predictions, labels and training counts.

Everything follows from a confusion matrix, whose rows are true classes. Matrices of
several clients or batches add up. Accuracies lie in [0, 1]; nan where nothing was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedloge.errors import DataError

GROUPS = ("many", "medium", "few")


@dataclass(frozen=True, eq=False)
class ShotGroups:
    """Which group every class belongs to: an index into `GROUPS`."""

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
    """Many, medium and few classes, from the training counts of the whole federation.

    Parameters
    ----------
    train_counts : training images of each class over all clients, never test images and
        never one client's, or the groups would move with the split.
    rule : ``mass`` (FedLoGe): classes by falling count, cut at 75 % and 95 % of all images. A
        class on a cut goes to the more frequent side: it is many when the classes before it
        hold less than 75 %, medium when they hold less than 95 %, else few. Equal counts keep
        the order of the classes. ``count`` (Liu et al. 2019): more than 100 images, 20 to 100,
        fewer than 20.
    """
    if rule == "count":
        return ShotGroups((train_counts <= 100).long() + (train_counts < 20).long())
    ordered, order = train_counts.long().sort(descending=True, stable=True)
    before = ordered.cumsum(0) - ordered
    # In whole numbers: 0.95 * total is no exact float, and a class may sit on the cut.
    percent, total = 100 * before, ordered.sum()
    group_of = torch.empty_like(order)
    group_of[order] = (percent >= 75 * total).long() + (percent >= 95 * total).long()
    return ShotGroups(group_of)


def confusion_matrix(
    predictions: Int[Tensor, " samples"], labels: Int[Tensor, " samples"], num_classes: int
) -> Int[Tensor, "classes classes"]:
    """How many samples of each true class (row) were predicted as each class (column).

    Raises
    ------
    DataError
        A label or a prediction is not in 0..num_classes-1.
    """
    for what, values in (("label", labels), ("prediction", predictions)):
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < num_classes:
            raise DataError(
                f"{what}s run from {int(values.min())} to {int(values.max())}, but with "
                f"{num_classes} classes they must lie in 0..{num_classes - 1}; check num-classes"
            )
    cells = labels.long() * num_classes + predictions.long()
    return cells.bincount(minlength=num_classes**2).view(num_classes, num_classes)


def accuracy(confusion: Int[Tensor, "classes classes"]) -> float:
    """Share of all samples predicted right."""
    return _share(int(confusion.diagonal().sum()), int(confusion.sum()))


def per_class_accuracy(confusion: Int[Tensor, "classes classes"]) -> Float[Tensor, " classes"]:
    """Share of each class's samples predicted right (recall); nan for a class without samples."""
    return confusion.diagonal().double() / confusion.sum(dim=1)


def macro_f1(confusion: Int[Tensor, "classes classes"]) -> float:
    """Mean F1 over the classes that occur among the labels or the predictions.

    A class that occurs in neither is left out; one that was predicted but never true, or true
    but never predicted, counts as 0. As scikit-learn and torchmetrics have it.
    """
    occurrences = confusion.sum(dim=0) + confusion.sum(dim=1)
    f1 = 2 * confusion.diagonal().double() / occurrences
    return float(f1[occurrences > 0].mean())


def group_accuracy(
    confusion: Int[Tensor, "classes classes"], groups: ShotGroups
) -> dict[str, float]:
    """Share of the samples of many, medium and few classes predicted right.

    A group without samples is left out.
    """
    group_of = groups.group_of.to(confusion.device)
    empty = torch.zeros(len(GROUPS), dtype=torch.long, device=confusion.device)
    right = empty.index_add(0, group_of, confusion.diagonal().long()).tolist()
    total = empty.index_add(0, group_of, confusion.sum(dim=1)).tolist()
    return {name: r / n for name, r, n in zip(GROUPS, right, total, strict=True) if n}


def summary(confusion: Int[Tensor, "classes classes"], groups: ShotGroups) -> dict[str, float]:
    """Accuracy on ``all`` samples and on the ``many``, ``medium`` and ``few`` that occur."""
    return {"all": accuracy(confusion), **group_accuracy(confusion, groups)}


def across_clients(values: Sequence[float]) -> dict[str, float]:
    """One metric over all clients: ``mean``, ``std`` (population) and ``worst-decile``.

    The worst decile is the mean of the lowest tenth of the clients, rounded up: at least one
    client. Every client weighs the same. Clients whose value is nan, having no test samples,
    are left out; with none left all three are nan.
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


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
