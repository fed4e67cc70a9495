"""DP-SGD at a client: each example's gradient is clipped, their sum gets Gaussian noise.

Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang, "Deep Learning with Differential Privacy"
(CCS 2016), algorithm 1, with Poisson-sampled batches as its accounting assumes them. Gradients of
single examples are computed side by side (`torch.func.vmap`). All parameters that a loop trains are
clipped together, a local head with them: its gradient, too, reaches what is sent.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from fedloge.errors import ConfigError, UpdateError
from fedloge.learning.client_data import ClientData
from fedloge.learning.local_privacy import LocalPrivacy
from fedloge.learning.optimiser import Optimiser
from fedloge.learning.privacy_accountant import Spending

_MOST_NUMBERS = 2**26
"""So many numbers of single gradients are held at a time."""

Loss = Callable[[Any, Tensor, Tensor, ClientData], dict[str, Tensor]]


class ExampleGradients:
    """The gradients of single examples, clipped and summed.

    Parameters
    ----------
    parameters : those that are trained; all of them are clipped together.
    loss : from the network and a batch to named terms, each a mean over the batch's examples.
    """

    def __init__(
        self,
        net: nn.Module,
        parameters: Sequence[nn.Parameter],
        loss: Loss,
        client: ClientData,
        autocast: contextlib.AbstractContextManager[Any],
    ) -> None:
        names = {id(p): name for name, p in net.named_parameters()}
        self._loss = _LossOfOne(net, loss, client)
        self._autocast = autocast
        self.parameters = {f"net.{names[id(p)]}": p for p in parameters}
        self._each = vmap(
            grad(self._of_one, has_aux=True), in_dims=(None, 0, 0), randomness="different"
        )

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the loss terms, known once the loss has been called."""
        return self._loss.terms

    def leave_out_the_unused(self, inputs: Tensor, labels: Tensor) -> None:
        """Train only what this example's loss depends on: noise would move the rest for nothing."""
        with self._autocast, torch.enable_grad():
            total, _ = self._loss(inputs, labels)
        given = torch.autograd.grad(total, [*self.parameters.values()], allow_unused=True)
        self.parameters = {
            name: p
            for (name, p), gradient in zip(self.parameters.items(), given, strict=True)
            if gradient is not None
        }

    def clipped_sum(
        self,
        inputs: Float[Tensor, "examples ..."],
        labels: Int[Tensor, "examples ..."],
        clip: float,
    ) -> tuple[dict[str, Tensor], Float[Tensor, "examples terms"]]:
        """The sum over examples of g min(1, clip / ||g||), by parameter, and the loss terms of each.

        An example whose gradient is not finite adds nothing.
        """
        numbers = sum(p.numel() for p in self.parameters.values())
        most = max(1, _MOST_NUMBERS // max(1, numbers))
        total = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        losses = []
        for x, y in zip(inputs.split(most), labels.split(most), strict=True):
            if not len(x):
                continue
            values = {name: p.detach() for name, p in self.parameters.items()}
            with self._autocast:
                gradients, terms = self._each(values, x, y)
            losses.append(terms.detach())
            for name, part in _clipped(gradients, clip).items():
                total[name] += part
        return total, torch.cat(losses) if losses else torch.zeros(0, 0)

    def _of_one(
        self, values: dict[str, Tensor], inputs: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        given: tuple[Tensor, Tensor] = functional_call(self._loss, values, (inputs, labels))
        return given


class _LossOfOne(nn.Module):
    """The loss of one example, as a module, so that its parameters can be replaced for a call."""

    def __init__(self, net: nn.Module, loss: Loss, client: ClientData) -> None:
        super().__init__()
        self.net, self._loss, self._client = net, loss, client
        self.terms: tuple[str, ...] = ()

    def forward(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the terms, and the terms."""
        losses = self._loss(self.net, inputs[None], labels[None], self._client)
        self.terms, values = tuple(losses), torch.stack([*losses.values()])
        return values.sum(), values


def _clipped(gradients: dict[str, Tensor], clip: float) -> dict[str, Tensor]:
    flat = [g.flatten(1) for g in gradients.values()]
    norms = torch.stack([g.norm(dim=1) for g in flat]).norm(dim=0)
    finite = norms.isfinite()
    if not bool(finite.all()):
        flat = [torch.where(finite[:, None], g, 0.0) for g in flat]
    factors = torch.where(finite, (clip / norms).clamp(max=1.0), 0.0)
    return {
        name: (factors @ g).view(whole.shape[1:])
        for (name, whole), g in zip(gradients.items(), flat, strict=True)
    }


def private_sgd(
    net: nn.Module,
    loss: Loss,
    client: ClientData,
    privacy: LocalPrivacy,
    optimiser: Optimiser,
    *,
    epochs: int,
    purpose: str,
    autocast: contextlib.AbstractContextManager[Any],
) -> tuple[tuple[str, ...], list[float]]:
    """Train the optimiser's parameters in place by noisy steps, as many as the plain loop takes.

    A step's batch holds each example with probability batch-size / examples; the sum of its clipped
    gradients with the noise is divided by batch-size (by all examples, if they are fewer).

    Returns the names of the loss terms and their means over the examples drawn, which are not private.

    Raises
    ------
    ConfigError
        A norm layer mixes the examples of a batch.
    UpdateError
        The parameters are not finite after training.
    """
    refuse_mixing(net)
    examples, size = len(client.train), client.config.batch_size
    share, steps = min(1.0, size / examples), epochs * -(-examples // size)
    draws = privacy.draws(f"{purpose}/{len(privacy.spent)}")
    privacy.spend(Spending(share, privacy.noise, steps))
    gradients = ExampleGradients(net, optimiser.parameters, loss, client, autocast)
    blank = client.preparation.prepare(torch.zeros_like(client.train.inputs[:1]))
    gradients.leave_out_the_unused(blank[0], torch.zeros_like(client.train.labels[0]))
    optimiser.zero_grad()
    seen, sums = 0, torch.zeros(len(gradients.terms), dtype=torch.float64)
    for _ in range(steps):
        chosen = draws.batch(examples, share).to(client.train.device)
        total = {name: torch.zeros_like(p) for name, p in gradients.parameters.items()}
        if len(chosen):
            raw = client.preparation.augment(client.train.inputs[chosen], draws.augmentation)
            inputs, labels = client.preparation.prepare(raw), client.train.labels[chosen]
            total, losses = gradients.clipped_sum(inputs, labels, privacy.clip)
            seen, sums = seen + len(chosen), sums + losses.double().sum(dim=0).cpu()
        for name, parameter in gradients.parameters.items():
            noise = draws.noise_like(parameter).mul_(privacy.clip * privacy.noise)
            parameter.grad = ((total[name] + noise) / (share * examples)).to(parameter.dtype)
        optimiser.step()
    if not all(bool(p.isfinite().all()) for p in gradients.parameters.values()):
        raise UpdateError(
            f"{client.who}, round {client.round}: training with noise diverged; lower lr or local-dp-noise"
        )
    return gradients.terms, [math.nan] * len(sums) if not seen else (sums / seen).tolist()


def refuse_mixing(net: nn.Module) -> None:
    """`ConfigError` if a norm layer would make the gradient of one example depend on the others."""
    if any(isinstance(m, _BatchNorm) and m.training for m in net.modules()):
        raise ConfigError(
            "local-dp-clip: batch norm mixes the examples of a batch, so that none has a gradient of its own; "
            "set norm=group, or another model"
        )
