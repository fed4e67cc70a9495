"""The hot loop: one plain loop of SGD over a client's batches."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd as sgd_step

from fedloge.errors import UpdateError
from fedloge.learning.fast.graphs import StepGraphs, TrainStep, cuda_graph

if TYPE_CHECKING:
    from fedloge.config import Config
    from fedloge.methods.method import LocalData, Losses, Network


N = TypeVar("N", bound="Network")
log = logging.getLogger("fedloge.run")


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
        velocities: Iterable[Tensor] = (),
    ) -> None:
        """`velocities`: where momentum is kept, a tensor a parameter; none: in memory of its own."""
        self.parameters = list(parameters)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self._velocity: dict[nn.Parameter, Tensor] = dict(
            zip(self.parameters, velocities, strict=False)
        )

    @classmethod
    def of(
        cls, config: Config, parameters: Iterable[nn.Parameter], velocities: Iterable[Tensor] = ()
    ) -> Sgd:
        """With the learning rate, momentum and weight decay that a config gives."""
        return cls(
            parameters,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            velocities=velocities if config.momentum else (),
        )

    def rest(self) -> list[Tensor]:
        """Begin afresh in the same memory: every velocity is zero. Returns the velocities.

        The first step from there is a fresh optimiser's, momentum * 0 + gradient.
        """
        if self.momentum:
            for parameter in self.parameters:
                self._velocity.setdefault(parameter, torch.zeros_like(parameter)).zero_()
        return list(self._velocity.values())

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


class Step(Generic[N]):
    """One step of SGD on the sum of the loss terms of a batch."""

    def __init__(
        self,
        net: N,
        optimiser: Sgd,
        loss: Callable[[N, Tensor, Tensor, LocalData], Losses],
        client: LocalData,
    ) -> None:
        self.net, self.optimiser, self.loss, self.client = net, optimiser, loss, client
        self.terms: tuple[str, ...] = ()
        self._precision = precision(client)

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Forward, backward, step; the loss terms, stacked in the order of `terms`."""
        self.optimiser.zero_grad()
        with self._precision:
            losses = self.loss(self.net, images, labels, self.client)
        self.terms, values = tuple(losses), list(losses.values())
        total = values[0] if len(values) == 1 else torch.stack(values).sum()
        total.backward()
        self.optimiser.step()
        return torch.stack([v.detach() for v in values])


def precision(client: LocalData) -> contextlib.AbstractContextManager:
    """Under which a client's forward passes run."""
    if client.config.precision != "bf16":
        return contextlib.nullcontext()
    device = client.train.labels.device.type
    # What autocast keeps of the weights would outlive a recorded step.
    return torch.autocast(device, torch.bfloat16, cache_enabled=device != "cuda")


def replays(client: LocalData) -> bool:
    """Whether steps on this client's images are to be recorded and replayed."""
    return client.config.cuda_graphs and client.train.labels.device.type == "cuda"


def sgd(
    net: N,
    parameters: Sequence[nn.Parameter],
    loss: Callable[[N, Tensor, Tensor, LocalData], Losses],
    client: LocalData,
    *,
    epochs: int,
    purpose: str = "train",
    frozen: nn.Module | None = None,
    constant: bool = False,
) -> dict[str, float]:
    """Minimise the sum of the loss terms over shuffled, augmented batches, in place.

    `frozen` stays in evaluation mode, so that its running statistics rest as well.
    `constant` says that the loss reads nothing of the client but the batch, so that a step
    may be recorded and replayed for all (config `cuda-graphs`).
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
    step, train = step_of(net, parameters, loss, client, purpose=purpose, constant=constant)
    net.train()
    if frozen is not None:
        frozen.eval()
    steps, sums = 0, torch.zeros(())
    for images, labels in client.batches(epochs, purpose):
        terms = train(images, labels)
        steps += 1
        sums = terms.clone() if steps == 1 else sums.add_(terms)
    return mean_losses(client, step.terms, (sums / steps).tolist())


def mean_losses(
    client: LocalData, terms: Sequence[str], means: Sequence[float]
) -> dict[str, float]:
    """What `sgd` returns of the means of the loss terms; `UpdateError` if training diverged."""
    mean_loss = sum(means)
    if not math.isfinite(mean_loss):
        raise UpdateError(
            f"client {client.client}, round {client.round}: the loss is {mean_loss}; training diverged "
            f"(lr {client.config.lr}, momentum {client.config.momentum}); lower lr"
        )
    result = {"loss": mean_loss}
    if len(means) > 1:
        result |= {f"loss-{name}": value for name, value in zip(terms, means, strict=True)}
    return result


def step_of(
    net: N,
    parameters: Sequence[nn.Parameter],
    loss: Callable[[N, Tensor, Tensor, LocalData], Losses],
    client: LocalData,
    *,
    purpose: str,
    constant: bool,
) -> tuple[Step[N], TrainStep]:
    """A step with its optimiser fresh, and what to call for it: the step, or its recorded replay."""
    step = Step(net, Sgd.of(client.config, parameters), loss, client)
    return _recorded(step, purpose, constant) if replays(client) else (step, step)


def _recorded(step: Step[N], purpose: str, constant: bool) -> tuple[Step[N], TrainStep]:
    """The network's own recorded step of this purpose, optimiser at rest; the plain one where it cannot be."""
    # Beside the network, since it is these parameters' memory that a recorded step works on.
    kept: dict[str, tuple[Step[N], TrainStep]]
    kept = step.net.__dict__.setdefault("_recorded_steps", {})
    if not constant:
        warn_once(
            step.net, "cuda-graphs: this method's step differs from client to client; not used"
        )
        return step, step
    if purpose not in kept:
        velocities = step.optimiser.rest()
        state = [*step.net.parameters(), *step.net.buffers(), *velocities]
        kept[purpose] = step, StepGraphs(step, state, cuda_graph)
    kept[purpose][0].optimiser.rest()
    return kept[purpose]


def warn_once(net: nn.Module, text: str) -> None:
    """Log a warning, once a network."""
    said: set[str] = net.__dict__.setdefault("_said", set())
    if text not in said:
        said.add(text)
        log.warning(text)
