"""Steps on linear heads alone, gradients written out: all that is trained on a frozen backbone.

For so small a model autograd costs several times the arithmetic. The gradient of cross-entropy by
the logits is p - y, and a head is linear in the features, so there is little to differentiate. The
steps are those of autograd but for rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fedloge.learning.client_data import ClientData
from fedloge.learning.optimiser import Optimiser, Sgd
from fedloge.models.head import FixedHead

_WORTH_IT = 4
"""Rows are chosen where the classes in the softmax are at most one in so many: choosing costs, too."""


@dataclass(frozen=True, eq=False)
class LinearLoss:
    """Cross-entropy of the logits head(h) + beside(h) + shift, where h are features.

    Parameters
    ----------
    head : trained by this loss, if it is trained at all.
    shift : one number for each class, -inf for one that is taken out of the softmax.
    beside : another head, which gets no gradient by this loss.
    rate : factor of the gradient, but not of the value.
    """

    head: nn.Linear
    shift: Float[Tensor, " classes"] | None = None
    beside: nn.Linear | None = None
    rate: float = 1.0


class LinearStep:
    """One step on the sum of linear losses of a batch of features; what `Step` is for losses of any kind.

    Parameters
    ----------
    losses : by name; each head is trained by one of them at most.
    optimiser : of the heads' parameters.

    Attributes
    ----------
    terms : names of the losses.
    """

    def __init__(self, losses: Mapping[str, LinearLoss], optimiser: Optimiser) -> None:
        self.terms = tuple(losses)
        self._optimiser = optimiser
        # With a bare step the gradient need not be written down before it is taken, and rows without one stay.
        self._bare = optimiser if isinstance(optimiser, Sgd) and optimiser.is_bare else None
        bare = self._bare is not None
        self._losses = [(loss, _present(loss) if bare else None) for loss in losses.values()]

    @torch.no_grad()
    def __call__(self, features: Tensor, labels: Tensor) -> Float[Tensor, " terms"]:
        """The losses before the step, in the order of `terms`."""
        self._optimiser.zero_grad()
        # All are found before any head moves, because one may be beside another.
        found = [
            (_residual(loss, rows, features, labels), loss, rows) for loss, rows in self._losses
        ]
        for (_, residual), loss, rows in found:
            if loss.head.weight.requires_grad:
                self._move(loss.head, rows, residual, features, loss.rate / len(features))
        if self._bare is None:
            self._optimiser.step()
        return torch.stack([value for (value, _), _, _ in found])

    def _move(
        self, head: nn.Linear, rows: _Rows | None, residual: Tensor, features: Tensor, scale: float
    ) -> None:
        if self._bare is not None:
            step = -float(self._bare.lr) * scale
            if rows is not None:
                head.weight.index_add_(0, rows.classes, residual.T @ features, alpha=step)
            else:
                head.weight.addmm_(residual.T, features, alpha=step)
            if head.bias is not None:
                total = residual.sum(dim=0)
                everywhere = total if rows is None else rows.spread(total)
                head.bias.add_(everywhere, alpha=step)
            return
        residual.mul_(scale)
        head.weight.grad = residual.T @ features
        if head.bias is not None:
            head.bias.grad = residual.sum(dim=0)


def written_out(
    losses: Mapping[str, LinearLoss] | None,
    parameters: Sequence[nn.Parameter],
    client: ClientData,
) -> bool:
    """Whether steps on these losses, which are all that `parameters` are trained by, can be written out."""
    c = client.config
    # A mixed batch is not made of features, autocast rounds, and recorded steps are on a GPU.
    if not losses or client.mixer or client.recorder or c.precision == "bf16":
        return False
    if any(type(loss.head) not in (nn.Linear, FixedHead) for loss in losses.values()):
        return False
    heads = [p for loss in losses.values() for p in loss.head.parameters() if p.requires_grad]
    trained = [p for p in parameters if p.requires_grad]
    return len(heads) == len(trained) and set(map(id, heads)) == set(map(id, trained))


@dataclass(frozen=True, eq=False)
class _Rows:
    """The classes in a softmax, where they are few of all, and each class's place among them."""

    classes: Tensor
    places: Tensor

    def of(self, per_class: Tensor) -> Tensor:
        """The rows of these classes."""
        return per_class.index_select(0, self.classes)

    def spread(self, values: Tensor) -> Tensor:
        """These classes' values among zeros for the others."""
        return values.new_zeros(len(self.places)).index_copy_(0, self.classes, values)


def _present(loss: LinearLoss) -> _Rows | None:
    if loss.shift is None:
        return None
    classes = loss.shift.isfinite().nonzero()[:, 0]
    if _WORTH_IT * len(classes) > len(loss.shift):
        return None
    places = torch.zeros(len(loss.shift), dtype=torch.int64, device=classes.device)
    places[classes] = torch.arange(len(classes), device=classes.device)
    return _Rows(classes, places)


def _logits(
    head: nn.Linear, shift: Tensor | None, rows: _Rows | None, features: Tensor
) -> Float[Tensor, "batch classes"]:
    weight: Tensor = head.weight
    bias: Tensor | None = head.bias
    if rows is not None:
        weight, bias = rows.of(weight), None if bias is None else rows.of(bias)
        shift = None if shift is None else rows.of(shift)
    offset = bias if shift is None else shift if bias is None else bias + shift
    return F.linear(features, weight, offset)


def _residual(
    loss: LinearLoss, rows: _Rows | None, features: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss, and the gradient by the logits of the sum over the batch, p - y."""
    logits = _logits(loss.head, loss.shift, rows, features)
    if loss.beside is not None:
        logits += _logits(loss.beside, None, rows, features)
    log_p = logits.log_softmax(dim=1)
    if rows is not None:
        # A class that is taken out is nobody's.
        labels = rows.places[labels] if labels.ndim == 1 else labels.index_select(1, rows.classes)
    if labels.ndim == 1:
        value = F.nll_loss(log_p, labels)
        minus = log_p.new_full((1, 1), -1.0).expand(len(labels), 1)
        return value, log_p.exp_().scatter_add_(1, labels[:, None], minus)
    # A class that is taken out has log-probability -inf, and 0 * -inf is nan.
    value = -torch.where(labels > 0, labels * log_p, 0.0).sum(dim=1).mean()
    return value, log_p.exp_().mul_(labels.sum(dim=1, keepdim=True)).sub_(labels)
