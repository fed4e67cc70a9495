"""What one model says of some examples, and every figure that follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedloge.errors import InputError
from fedloge.learning.calibration import Reliability
from fedloge.learning.metrics import Tally, confusion_matrix, macro_f1, macro_recall
from fedloge.learning.ranking import macro_auroc


@dataclass(frozen=True, eq=False)
class Guesses:
    """Logits of examples with known classes.

    Attributes
    ----------
    logits : -inf for a class that the model never predicts.
    labels : the true classes.
    """

    logits: Float[Tensor, "examples classes"]
    labels: Int[Tensor, " examples"]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def first(self) -> Int[Tensor, " examples"]:
        """The class with the greatest logit."""
        return self.logits.argmax(dim=1)

    @cached_property
    def probabilities(self) -> Float[Tensor, "examples classes"]:
        """Softmax of the logits."""
        return self.logits.softmax(dim=1)

    @cached_property
    def confusion(self) -> Int[Tensor, "classes classes"]:
        """How many examples of each true class (row) were predicted as each class (column); on the CPU."""
        return confusion_matrix(self.first, self.labels, self.logits.shape[1]).cpu()

    @cached_property
    def tally(self) -> Tally:
        """The examples of each class, those predicted right and those predicted as it; on the CPU."""
        return Tally.of(self.first.cpu(), self.labels.cpu(), self.logits.shape[1])

    @cached_property
    def reliability(self) -> Reliability | None:
        """Confidence and accuracy by bins; None where logits are not finite, so that nothing is known."""
        try:
            return Reliability.of(self.probabilities, self.labels)
        except InputError:
            return None

    def quality(self) -> dict[str, float]:
        """``recall``, ``macro-f1``, ``auroc`` and ``ece``, in [0, 1]; those that are not defined are left out.

        ``recall`` is the mean sensitivity over the classes that the examples have, ``auroc`` the mean
        area under the ROC curve of one class against the rest, over the classes that some examples
        have and some have not. Where logits are not finite, the last two are not defined.
        """
        figures = {"recall": macro_recall(self.tally), "macro-f1": macro_f1(self.tally)}
        if self.reliability is not None:
            figures["auroc"] = macro_auroc(self.probabilities, self.labels)
            figures["ece"] = self.reliability.ece
        return {name: value for name, value in figures.items() if not math.isnan(value)}


def joined(parts: list[Guesses]) -> Guesses:
    """The guesses of several batches as one; there must be one at least."""
    return Guesses(torch.cat([p.logits for p in parts]), torch.cat([p.labels for p in parts]))
