"""The hot loop: one plain loop over a client's batches."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from fedloge.errors import UpdateError
from fedloge.learning.client_data import ClientData
from fedloge.learning.linear_heads import LinearLoss, LinearStep, written_out
from fedloge.learning.lr_schedule import lr_in
from fedloge.learning.optimiser import Optimiser, optimiser_of
from fedloge.learning.private_steps import private_sgd
from fedloge.models.network import Network

N = TypeVar("N", bound=Network)
Losses = dict[str, Tensor]
TrainStep = Callable[[Tensor, Tensor], Tensor]


class Step(Generic[N]):
    """One step of the optimiser on the sum of the loss terms of a batch.

    Attributes
    ----------
    terms : names of the loss terms, known after the first step.
    """

    def __init__(
        self,
        net: N,
        optimiser: Optimiser,
        loss: Callable[[N, Tensor, Tensor, ClientData], Losses],
        client: ClientData,
    ) -> None:
        self.net, self.optimiser, self.loss, self.client = net, optimiser, loss, client
        self.terms: tuple[str, ...] = ()
        self._precision = precision(client)

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Forward, backward, step; returns the loss terms, stacked in the order of `terms`."""
        self.optimiser.zero_grad()
        with self._precision:
            losses = self.loss(self.net, inputs, labels, self.client)
        self.terms, values = tuple(losses), list(losses.values())
        total = values[0] if len(values) == 1 else torch.stack(values).sum()
        total.backward()
        self.optimiser.step()
        return torch.stack([v.detach() for v in values])


def sgd(
    net: N,
    parameters: Sequence[nn.Parameter],
    loss: Callable[[N, Tensor, Tensor, ClientData], Losses],
    client: ClientData,
    *,
    epochs: int,
    purpose: str = "train",
    frozen: nn.Module | None = None,
    uniform: bool = False,
    linear: Mapping[str, LinearLoss] | None = None,
) -> dict[str, float]:
    """Minimise the sum of the loss terms over shuffled, augmented batches, in place.

    Where the client is private (`ClientData.privacy`), by noisy steps on Poisson batches (`private_sgd`).

    The optimiser is fresh, so momentum does not outlive a round. The learning rate is that of the
    round (`fedloge.learning.lr_schedule`). Nothing in the loop waits for the device.

    Parameters
    ----------
    net : trained in place, in training mode.
    parameters : those to be trained; one that gets no gradient stays as it is.
    loss : from the network and a batch to named loss terms (scalars).
    client : gives the batches and, by its config, learning rate, momentum and weight decay.
    epochs : passes over the client's examples, at least 1.
    purpose : names the draws of shuffling and augmentation.
    frozen : a part in evaluation mode, so that its running statistics do not change either.
    uniform : `loss` depends on the network and the batch alone, so that a step may be recorded
        and replayed for every client (config ``fast``).
    linear : the same loss as losses of linear heads on the features of ``net.backbone``. If these
        heads are all that is trained, their gradients are written out.

    Returns
    -------
    The mean of each loss term over all steps, as ``loss-<term>`` if there are several, and
    ``loss``, their sum.

    Raises
    ------
    UpdateError
        The client has no examples, or its loss is not finite, which means that it diverged.
    """
    _begin(net, frozen, client, epochs)
    if client.privacy is not None:
        return _private(net, parameters, loss, client, epochs=epochs, purpose=purpose)
    step: Step[N] | LinearStep
    step, train = step_of(net, parameters, loss, client, purpose=purpose, uniform=uniform)
    features = None
    if linear is not None and written_out(linear, parameters, client):
        step = train = LinearStep(linear, step.optimiser)
        features = torch.no_grad()(net.backbone)
    mixed = client.mixer.step if client.mixer else None
    steps, sums = 0, torch.zeros(())
    for inputs, labels in client.batches(epochs, purpose, through=features):
        terms = mixed(train, net, inputs, labels) if mixed else train(inputs, labels)
        steps += 1
        sums = terms.clone() if steps == 1 else sums.add_(terms)
    return mean_losses(client, step.terms, (sums / steps).tolist())


def _private(
    net: N,
    parameters: Sequence[nn.Parameter],
    loss: Callable[[N, Tensor, Tensor, ClientData], Losses],
    client: ClientData,
    *,
    epochs: int,
    purpose: str,
) -> dict[str, float]:
    assert client.privacy is not None
    terms, means = private_sgd(
        net,
        loss,
        client,
        client.privacy,
        optimiser_of(client.config, parameters, lr=lr_in(client.config, client.round)),
        epochs=epochs,
        purpose=purpose,
        autocast=precision(client),
    )
    return named_losses(terms, means)


def _begin(net: N, frozen: nn.Module | None, client: ClientData, epochs: int) -> None:
    if not len(client.train) or epochs < 1:
        raise UpdateError(
            f"{client.who}: nothing to train on, {len(client.train)} examples for {epochs} epochs"
        )
    net.train()
    if frozen is not None:
        frozen.eval()


def step_of(
    net: N,
    parameters: Sequence[nn.Parameter],
    loss: Callable[[N, Tensor, Tensor, ClientData], Losses],
    client: ClientData,
    *,
    purpose: str,
    uniform: bool,
) -> tuple[Step[N], TrainStep]:
    """A step with a fresh optimiser, and the function to call for it: the step or its recorded replay."""
    lr = lr_in(client.config, client.round)
    step = Step(net, optimiser_of(client.config, parameters, lr=lr), loss, client)
    if client.recorder is None:
        return step, step
    return client.recorder.recorded(step, purpose, uniform=uniform)


def mean_losses(
    client: ClientData, terms: Sequence[str], means: Sequence[float]
) -> dict[str, float]:
    """What `sgd` returns, from the means of the loss terms; raises `UpdateError` if training diverged."""
    mean_loss = sum(means)
    if not math.isfinite(mean_loss):
        raise UpdateError(
            f"{client.who}, round {client.round}: the loss is {mean_loss}; training diverged "
            f"({_settings(client)}); lower lr"
        )
    return named_losses(terms, means)


def named_losses(terms: Sequence[str], means: Sequence[float]) -> dict[str, float]:
    """The means of the loss terms as figures: ``loss``, and ``loss-<term>`` if there are several."""
    result = {"loss": sum(means)}
    if len(means) > 1:
        result |= {f"loss-{name}": value for name, value in zip(terms, means, strict=True)}
    return result


def _settings(client: ClientData) -> str:
    lr, c = f"lr {lr_in(client.config, client.round):g}", client.config
    return f"{lr}, momentum {c.momentum:g}" if c.optimiser == "sgd" else f"{lr}, {c.optimiser}"


def precision(client: ClientData) -> contextlib.AbstractContextManager:
    """The context of a client's forward passes: bfloat16 autocast if the config says so, else none."""
    if client.config.precision != "bf16":
        return contextlib.nullcontext()
    device = client.train.device.type
    # A recorded step would read the weights that autocast has cached, not the trained ones.
    return torch.autocast(device, torch.bfloat16, cache_enabled=device != "cuda")
