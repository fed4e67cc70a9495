"""Clients trained at once take the steps that each would take alone."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from harness import called_again, tiny
from torch import Tensor

from fedloge.errors import UpdateError
from fedloge.federation import Federation
from fedloge.learning import loop as training
from fedloge.learning.client_data import ClientData
from fedloge.learning.fast import stacked as module
from fedloge.learning.fast.graphs import StepRecorder
from fedloge.learning.fast.stacked import StackedClients
from fedloge.learning.loop import Losses
from fedloge.models import Network

SIZES = (45, 37, 24, 21, 8, 5)
"""Images of six clients: with batches of 8, ragged ends of 5, 5, 0, 5, 0 and 5, and one with no full batch."""


class Wide(Federation):
    """A federation that computes in float64, so that what differs is no rounding."""

    def data_of(self, images: int, client: int, round: int = 1) -> ClientData:
        """A client of so many images."""
        whole = self.client_data(client, round, {})
        indices = torch.arange(images) * (client + 1) % len(self.train)
        return ClientData(**{**whole.__dict__, "train": self.train.take(indices)})

    def loss(self, net: Network, images: Tensor, labels: Tensor, client: ClientData) -> Losses:
        """The method's, on images of the network's width."""
        return self.method.loss(net, images.to(next(net.parameters()).dtype), labels, client)

    def alone(self, client: ClientData, epochs: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        """What training this client by itself gives."""
        net = self.load(*self.initial.values())
        losses = training.sgd(net, self.method.trainable(net), self.loss, client, epochs=epochs)
        return losses, {name: tensor.clone() for name, tensor in net.state_dict().items()}

    def places(self, count: int) -> StackedClients:
        """Places with the first state."""
        net = self.load(*self.initial.values())
        return StackedClients(net, self.method.trainable(net), self.loss, count)


def wide(tmp_path: Path, *, double: bool = True, **changes: object) -> Wide:
    federation = Wide(tiny(tmp_path, num_clients=8, batch_size=8, **changes))
    if double:
        federation.net.double()
    return federation


def clients(federation: Wide, sizes: tuple[int, ...] = SIZES, round: int = 1) -> list[ClientData]:
    return [federation.data_of(size, client, round) for client, size in enumerate(sizes)]


def assert_close(
    one: dict[str, Tensor], other: dict[str, Tensor], rtol: float = 1e-9, atol: float = 1e-11
) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(
            tensor, other[name], rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("method", ["fedloge", "fedavg", "fedbn"])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_stacked_training_is_training_one_by_one(
    method: str, momentum: float, tmp_path: Path
) -> None:
    federation = wide(tmp_path, method=method, momentum=momentum, weight_decay=0.001)
    places = federation.places(len(SIZES))
    data = clients(federation)
    stacked = places.train(data, epochs=2)
    for place, client in enumerate(data):
        losses, tensors = federation.alone(client, 2)
        assert stacked[place] == pytest.approx(losses, rel=1e-9)
        assert_close(places.tensors(place), tensors)


def test_a_network_of_residual_blocks_too(tmp_path: Path) -> None:
    federation = wide(tmp_path, model="resnet8")
    places, data = federation.places(3), clients(federation, (17, 16, 9))
    places.train(data, epochs=1)
    for place, client in enumerate(data):
        _, tensors = federation.alone(client, 1)
        assert_close(places.tensors(place), tensors)


def test_in_single_precision_they_differ_by_rounding(tmp_path: Path) -> None:
    federation = wide(tmp_path, double=False)
    places, data = federation.places(len(SIZES)), clients(federation)
    places.train(data, epochs=1)
    for place, client in enumerate(data):
        _, tensors = federation.alone(client, 1)
        assert_close(places.tensors(place), tensors, rtol=1e-3, atol=1e-4)


def test_every_client_has_its_own_batches_and_nobody_is_padded(tmp_path: Path) -> None:
    federation = wide(tmp_path)
    seen: list[tuple[int, ...]] = []
    places = federation.places(len(SIZES))
    watched = places.loss

    def loss(net: Network, images: Tensor, labels: Tensor, client: ClientData) -> Losses:
        seen.append(tuple(images.shape))
        return watched(net, images, labels, client)

    places.loss = loss
    places.train(clients(federation), epochs=1)
    sizes = [shape[0] for shape in seen]
    # Together: 4 steps of those that have so many full batches (5, 4, 3, 2, 1, 0). Alone: the first
    # client's fifth full batch, and the ragged ends.
    assert sizes == [8] * 4 + [8, 5, 5, 5, 5]


def test_places_are_used_again_with_the_optimiser_at_rest(tmp_path: Path) -> None:
    federation = wide(tmp_path)
    places = federation.places(3)
    for round, sizes in ((1, (24, 20, 9)), (2, (30, 12))):
        data = clients(federation, sizes, round)
        for place in range(len(data)):
            places.load(place, *federation.initial.values())
        places.train(data, epochs=1)
        for place, client in enumerate(data):
            _, tensors = federation.alone(client, 1)
            assert_close(places.tensors(place), tensors)


def test_one_that_diverges_takes_nobody_along(tmp_path: Path) -> None:
    federation = wide(tmp_path)
    places, data = federation.places(3), clients(federation, (24, 20, 16))
    head = places.tensors(1)["global_head.weight"]
    places.load(1, {"global_head.weight": torch.full_like(head, float("nan"))})
    good, bad, fine = places.train(data, epochs=1)
    assert isinstance(bad, UpdateError) and "client 1, round 1: the loss is nan" in str(bad)
    for place, result in ((0, good), (2, fine)):
        losses, tensors = federation.alone(data[place], 1)
        assert result == pytest.approx(losses, rel=1e-9)
        assert_close(places.tensors(place), tensors)


@pytest.mark.parametrize("sizes", [(8, 16), (), (9, 9, 9, 9), (8, 0)])
def test_clients_that_do_not_fit_are_refused(sizes: tuple[int, ...], tmp_path: Path) -> None:
    federation = wide(tmp_path)
    with pytest.raises(ValueError, match="expected"):
        federation.places(3).train(clients(federation, sizes), epochs=1)


def test_replayed_steps_train_as_stacked_ones_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a call in the place of a CUDA graph, which a processor has not."""
    federation = wide(tmp_path, fast=True)
    data = clients(federation)
    plain = federation.places(len(SIZES))
    expected = [plain.train(data, epochs=2), [plain.tensors(p) for p in range(len(SIZES))]]
    monkeypatch.setattr(module, "cuda_graph", called_again)
    federation.recorder = StepRecorder(called_again)
    data = clients(federation)
    replayed = federation.places(len(SIZES))
    with caplog.at_level(logging.WARNING, logger="fedloge"):
        assert replayed.train(data, epochs=2) == expected[0]
    assert not caplog.records
    for place, tensors in enumerate(expected[1]):
        assert all(
            torch.equal(tensor, tensors[name]) for name, tensor in replayed.tensors(place).items()
        )
