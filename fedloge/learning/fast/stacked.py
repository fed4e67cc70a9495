"""Several clients trained at once: their networks become one, each tensor with a leading client axis.

A step of a small network leaves most of a GPU idle. Stacked, the clients' convolutions are one
grouped convolution, their matrix products one batched product, and their SGD one fused step. Every
client sees the batches and takes the steps that it would take alone; only rounding differs.

No batch is padded. Full batches are stacked while at least two clients have one left in the epoch.
What remains, smaller last batches and further ones of the largest client, takes plain steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Generic, TypeVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.func import functional_call

from fedloge.errors import UpdateError
from fedloge.learning.client_data import ClientData
from fedloge.learning.fast.graphs import StepGraphs, cuda_graph
from fedloge.learning.loop import Losses, Step, TrainStep, mean_losses, precision, step_of
from fedloge.learning.lr_schedule import lr_changes, lr_in
from fedloge.learning.optimiser import optimiser_of
from fedloge.models.network import Network

N = TypeVar("N", bound=Network)


class StackedClients(Generic[N]):
    """Room for several clients' networks, which are trained together. Each has a place, from 0.

    Parameters
    ----------
    net : the network whose tensors each place holds; its own tensors are overwritten.
    parameters : those of its parameters that are trained.
    loss : the loss terms of a batch; it may read nothing of the client but its config.
    places : how many clients are trained at once, 2 or more.
    """

    def __init__(
        self,
        net: N,
        parameters: Sequence[nn.Parameter],
        loss: Callable[[N, Tensor, Tensor, ClientData], Losses],
        places: int,
    ) -> None:
        self.net, self.loss, self.places = net, loss, places
        self._parameters = list(parameters)
        self._own = {
            name: tensor.detach()
            for name, tensor in [*net.named_parameters(), *net.named_buffers()]
        }
        self._tensors = {name: torch.stack([tensor] * places) for name, tensor in self._own.items()}
        names = {id(parameter): name for name, parameter in net.named_parameters()}
        moving = [names[id(parameter)] for parameter in self._parameters]
        self._velocities = {name: torch.zeros_like(self._tensors[name]) for name in moving}
        self._steps: dict[int, tuple[StackedStep[N], TrainStep]] = {}

    def load(self, place: int, *groups: Mapping[str, Tensor]) -> None:
        """Copy a client's tensors into a place, by name."""
        for tensors in groups:
            for name, tensor in tensors.items():
                self._tensors[name][place].copy_(tensor)

    def tensors(self, place: int) -> dict[str, Tensor]:
        """The live tensors of a place, by name."""
        return {name: stack[place] for name, stack in self._tensors.items()}

    def train(
        self, clients: Sequence[ClientData], *, epochs: int
    ) -> list[dict[str, float] | UpdateError]:
        """Train the clients in the first places, as `fedloge.learning.loop.sgd` trains each of them.

        Parameters
        ----------
        clients : the clients by place, the largest first, so that those with a full batch left are
            always in the first places.

        Returns
        -------
        For each client what `sgd` returns, or the error that it would raise for this client.
        """
        sizes = [len(client.train) for client in clients]
        if sizes != sorted(sizes, reverse=True) or not 0 < len(clients) <= self.places:
            raise ValueError(
                f"expected 1 to {self.places} clients, the largest first, got {sizes} examples"
            )
        if not sizes[-1] or epochs < 1:
            raise ValueError(f"expected examples and epochs, got {sizes} examples, {epochs} epochs")
        size = clients[0].config.batch_size
        full = [examples // size for examples in sizes]
        second = full[1] if len(full) > 1 else 0
        batches = [client.batches(epochs) for client in clients]
        for velocity in self._velocities.values():
            velocity.zero_()
        self.net.train()
        total = _Total(len(clients))
        for _ in range(epochs):
            for tick in range(second):
                count = sum(batches_left > tick for batches_left in full)
                step, train = self._step(count, clients[0])
                batch = [next(own) for own in batches[:count]]
                found = train(
                    torch.stack([inputs for inputs, _ in batch]),
                    torch.stack([labels for _, labels in batch]),
                )
                total.add(slice(count), step.terms, found)
            for place, client in enumerate(clients):
                left = -(-sizes[place] // size) - min(full[place], second)
                if left:
                    with self._alone(place, client) as (plain, train):
                        for inputs, labels in islice(batches[place], left):
                            found = train(inputs, labels)
                            total.add(place, plain.terms, found)
        return total.means(clients, [epochs * -(-examples // size) for examples in sizes])

    def _step(self, count: int, client: ClientData) -> tuple[StackedStep[N], TrainStep]:
        if count not in self._steps:
            tensors = {name: stack[:count] for name, stack in self._tensors.items()}
            velocities = {name: stack[:count] for name, stack in self._velocities.items()}
            step = StackedStep(self.net, self.loss, client, tensors, velocities)
            train: TrainStep = step
            if client.recorder is not None:
                if lr_changes(client.config):
                    step.optimiser.keep_lr_in_memory()
                train = StepGraphs(step, [*tensors.values(), *velocities.values()], cuda_graph)
            self._steps[count] = step, train
        self._steps[count][0].optimiser.take_lr(lr_in(client.config, client.round))
        return self._steps[count]

    @contextlib.contextmanager
    def _alone(self, place: int, client: ClientData) -> Iterator[tuple[Step[N], TrainStep]]:
        """The plain step of the network, which inside the block has this place's tensors and velocities."""
        step, train = step_of(
            self.net, self._parameters, self.loss, client, purpose="train", uniform=True
        )
        velocities = dict(zip(self._velocities, step.optimiser.reset(), strict=False))
        pairs = [(self._own[name], stack[place]) for name, stack in self._tensors.items()]
        pairs += [(v, self._velocities[name][place]) for name, v in velocities.items()]
        for plain, stacked in pairs:
            plain.copy_(stacked)
        yield step, train
        for plain, stacked in pairs:
            stacked.copy_(plain)


class StackedStep(Generic[N]):
    """One step of SGD for several clients, each on a batch of its own.

    Parameters
    ----------
    tensors : the networks' tensors by name, with a leading client axis; changed in place.
    velocities : momentum of the tensors that are trained, by name.
    """

    def __init__(
        self,
        net: N,
        loss: Callable[[N, Tensor, Tensor, ClientData], Losses],
        client: ClientData,
        tensors: Mapping[str, Tensor],
        velocities: Mapping[str, Tensor],
    ) -> None:
        self.terms: tuple[str, ...] = ()
        # A parameter made of a view shares its memory, so training it changes the stack.
        moving = {name: nn.Parameter(tensors[name]) for name in velocities}
        lr = lr_in(client.config, client.round)
        self.optimiser = optimiser_of(
            client.config, moving.values(), lr=lr, velocities=velocities.values()
        )
        self._tensors = {f"net.{name}": t for name, t in {**tensors, **moving}.items()}
        self._loss = _Loss(net, loss, client)
        self._precision = precision(client)

    def __call__(
        self,
        inputs: Shaped[Tensor, "clients batch ..."],
        labels: Int[Tensor, "clients batch"],
    ) -> Float[Tensor, "clients terms"]:
        """Forward, backward, step; returns each client's loss terms, in the order of `terms`."""
        self.optimiser.zero_grad()
        with self._precision:
            terms = torch.vmap(self._losses)(self._tensors, inputs, labels)
        # No client's loss depends on another's tensors, so each gets the gradient of its own loss.
        terms.sum().backward()
        self.optimiser.step()
        return terms.detach()

    def _losses(self, tensors: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        losses: Losses = functional_call(self._loss, tensors, (inputs, labels))
        self.terms = tuple(losses)
        return torch.stack(list(losses.values()))


class _Loss(nn.Module):
    """A loss as a module around its network, so that the network's tensors can be replaced in a call."""

    def __init__(
        self, net: N, loss: Callable[[N, Tensor, Tensor, ClientData], Losses], client: ClientData
    ) -> None:
        super().__init__()
        self.net, self._of, self._client = net, loss, client

    def forward(self, inputs: Tensor, labels: Tensor) -> Losses:
        """The loss terms."""
        return self._of(self.net, inputs, labels, self._client)


class _Total:
    """Sums of loss terms, one row per client."""

    def __init__(self, clients: int) -> None:
        self._sums = torch.zeros(clients, 0)
        self._terms: tuple[str, ...] = ()

    def add(self, places: int | slice, terms: tuple[str, ...], found: Tensor) -> None:
        if not self._terms:
            self._terms = terms
            self._sums = found.new_zeros(len(self._sums), len(terms))
        self._sums[places] += found

    def means(
        self, clients: Sequence[ClientData], steps: Sequence[int]
    ) -> list[dict[str, float] | UpdateError]:
        rows = (self._sums / self._sums.new_tensor(steps)[:, None]).tolist()
        results: list[dict[str, float] | UpdateError] = []
        for client, row in zip(clients, rows, strict=True):
            try:
                results.append(mean_losses(client, self._terms, row))
            except UpdateError as exc:
                results.append(exc)
        return results
