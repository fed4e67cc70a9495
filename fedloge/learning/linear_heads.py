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
        self._losses = list(losses.values())
        self._optimiser = optimiser
        # With a bare step the gradient need not be written down before it is taken.
        self._bare = optimiser if isinstance(optimiser, Sgd) and optimiser.is_bare else None

    @torch.no_grad()
    def __call__(self, features: Tensor, labels: Tensor) -> Float[Tensor, " terms"]:
        """The losses before the step, in the order of `terms`."""
        self._optimiser.zero_grad()
        # All are found before any head moves, because one may be beside another.
        found = [(_residual(loss, features, labels), loss) for loss in self._losses]
        for (_, residual), loss in found:
            if loss.head.weight.requires_grad:
                self._move(loss.head, residual, features, loss.rate / len(features))
        if self._bare is None:
            self._optimiser.step()
        return torch.stack([value for (value, _), _ in found])

    def _move(self, head: nn.Linear, residual: Tensor, features: Tensor, scale: float) -> None:
        if self._bare is not None:
            step = -float(self._bare.lr) * scale
            head.weight.addmm_(residual.T, features, alpha=step)
            if head.bias is not None:
                head.bias.add_(residual.sum(dim=0), alpha=step)
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


def _residual(loss: LinearLoss, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and the gradient by the logits of the sum over the batch, p - y."""
    head, shift = loss.head, loss.shift
    offset = head.bias if shift is None else shift if head.bias is None else head.bias + shift
    logits = F.linear(features, head.weight, offset)
    if loss.beside is not None:
        logits += F.linear(features, loss.beside.weight, loss.beside.bias)
    log_p = logits.log_softmax(dim=1)
    if labels.ndim == 1:
        value = F.nll_loss(log_p, labels)
        minus = log_p.new_full((1, 1), -1.0).expand(len(labels), 1)
        return value, log_p.exp_().scatter_add_(1, labels[:, None], minus)
    # A class that is taken out has log-probability -inf, and 0 * -inf is nan.
    value = -torch.where(labels > 0, labels * log_p, 0.0).sum(dim=1).mean()
    return value, log_p.exp_().mul_(labels.sum(dim=1, keepdim=True)).sub_(labels)
