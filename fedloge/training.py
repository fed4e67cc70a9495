"""The hot loop: one plain loop of SGD over a client's batches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd as sgd_step

from fedloge.errors import UpdateError

if TYPE_CHECKING:
    from fedloge.methods.base import LocalData, Losses, Network

    N = TypeVar("N", bound=Network)


class Sgd:
    """SGD with momentum as `torch.optim.SGD` computes it, one fused step for all parameters.

    The class of torch brings hooks to every step, and torch's compiler to the import: it
    costs a client of few images more than its training. A parameter that has no gradient
    rests.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        self.parameters = list(parameters)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self._velocity: dict[nn.Parameter, Tensor] = {}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """v <- momentum v + (gradient + weight_decay p), beginning at v = gradient; p <- p - lr v."""
        # One fused step for those that moved before, one for those that move for the first time.
        for known in (True, False):
            moved = [
                (p, p.grad, self._velocity.get(p))
                for p in self.parameters
                if p.grad is not None and (p in self._velocity) is known
            ]
            if not moved:
                continue
            parameters, gradients, velocities = map(list, zip(*moved, strict=True))
            sgd_step(
                parameters,
                gradients,
                velocities,
                fused=True,
                weight_decay=self.weight_decay,
                momentum=self.momentum,
                lr=self.lr,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
            if self.momentum and not known:
                self._velocity |= zip(parameters, velocities, strict=True)


def sgd(
    net: N,
    parameters: Sequence[nn.Parameter],
    loss: Callable[[N, Tensor, Tensor, LocalData], Losses],
    client: LocalData,
    *,
    epochs: int,
    purpose: str = "train",
    frozen: nn.Module | None = None,
) -> dict[str, float]:
    """Minimise the sum of the loss terms over shuffled, augmented batches, in place.

    `frozen` stays in evaluation mode, so that its running statistics rest as well.
    The optimiser is fresh (momentum does not outlive a round) and there is no
    schedule, as in FedLoGe's experiments. Nothing in the loop waits for the device.

    Returns
    -------
    The mean of each loss term over all steps, as ``loss-<term>``, and ``loss``, their sum.

    Raises
    ------
    UpdateError
        The client has no images, or its loss is not finite: it has diverged.
    """
    if not len(client.train) or epochs < 1:
        raise UpdateError(
            f"client {client.client}: nothing to train on, {len(client.train)} images for {epochs} epochs"
        )
    config = client.config
    optimiser = Sgd(
        parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    narrow = config.precision == "bf16"
    device = client.train.labels.device.type
    precision = torch.autocast(device, torch.bfloat16) if narrow else contextlib.nullcontext()
    net.train()
    if frozen is not None:
        frozen.eval()
    steps, sums = 0, torch.zeros(())
    for images, labels in client.batches(epochs, purpose):
        optimiser.zero_grad()
        with precision:
            terms = loss(net, images, labels, client)
        values = list(terms.values())
        total = values[0] if len(values) == 1 else torch.stack(values).sum()
        total.backward()
        optimiser.step()
        steps += 1
        detached = torch.stack([v.detach() for v in values])
        sums = detached if steps == 1 else sums.add_(detached)
    means = (sums / steps).tolist()
    mean_loss = sum(means)
    if mean_loss != mean_loss or mean_loss in (float("inf"), float("-inf")):
        raise UpdateError(
            f"client {client.client}, round {client.round}: the loss is {mean_loss}; "
            f"training diverged (lr {config.lr}, momentum {config.momentum}); lower lr"
        )
    result = {"loss": mean_loss}
    if len(means) > 1:
        result |= {f"loss-{name}": value for name, value in zip(terms, means, strict=True)}
    return result
