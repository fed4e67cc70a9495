"""What replaying a step must not change; a processor has no graphs, so a call stands in for the replay."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness import called_again, same_tensors, tiny
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedloge.federation import Federation
from fedloge.learning.fast.graphs import StepGraphs, StepRecorder
from fedloge.learning.loop import sgd
from fedloge.learning.optimiser import Sgd
from fedloge.methods.method import Part


class Trained:
    """A small network with batch norm, its SGD, and a step of both."""

    def __init__(self, momentum: float = 0.5) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        self.sgd = Sgd(self.net.parameters(), lr=0.1, momentum=momentum)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        self.sgd.zero_grad()
        loss = cross_entropy(self.net(images), labels)
        loss.backward()
        self.sgd.step()
        return loss.detach()[None]

    def state(self) -> list[Tensor]:
        return [*self.net.parameters(), *self.net.buffers(), *self.sgd.reset()]


def assert_same_network(one: Trained, other: Trained) -> None:
    tensors = one.net.state_dict().values(), other.net.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(*tensors, strict=True))


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(n, 4, generator=generator),
            torch.randint(0, 3, (n,), generator=generator),
        )
        for n in sizes
    ]


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_replayed_steps_train_as_plain_ones_do_ragged_batches_too(momentum: float) -> None:
    plain, replayed = Trained(momentum), Trained(momentum)
    graphs = StepGraphs(replayed.step, replayed.state(), called_again)
    for _ in range(2):  # two clients: the optimiser rests in between
        plain.sgd = Sgd(plain.net.parameters(), lr=0.1, momentum=momentum)
        replayed.sgd.reset()
        for images, labels in batches(8, 8, 8, 3, 8, 3):
            assert torch.equal(plain.step(images, labels), graphs(images, labels))
    assert not graphs.refused
    assert_same_network(plain, replayed)


def test_a_shape_is_recorded_once() -> None:
    trained = Trained()
    recorded = []

    def record(step: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        recorded.append(1)
        return called_again(step)

    graphs = StepGraphs(trained.step, trained.state(), record)
    for images, labels in batches(8, 8, 3, 8, 3):
        graphs(images, labels)
    assert len(recorded) == 2


@pytest.mark.parametrize(
    "replay", ["nothing", "the first batch for ever", "a step twice"], ids=lambda name: name
)
def test_a_replay_that_does_something_else_is_found_out_and_left(
    replay: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain, replayed = Trained(), Trained()

    def wrong(step: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        terms = step()
        if replay == "nothing":
            return lambda: None, terms
        if replay == "a step twice":
            return lambda: (step(), step()), terms
        stale = batches(8)[0]
        return lambda: replayed.step(stale[0] + 1, stale[1]), terms

    graphs = StepGraphs(replayed.step, replayed.state(), wrong)
    with caplog.at_level(logging.WARNING, logger="fedloge"):
        for images, labels in batches(8, 8, 3):
            assert torch.equal(plain.step(images, labels), graphs(images, labels))
    assert "differs from a plain one" in graphs.refused
    assert caplog.text.count("training goes on without") == 1
    assert_same_network(plain, replayed)


def test_where_nothing_can_be_recorded_training_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    plain, replayed = Trained(), Trained()

    def refuses(step: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        step()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    graphs = StepGraphs(replayed.step, replayed.state(), refuses)
    with caplog.at_level(logging.WARNING, logger="fedloge"):
        for images, labels in batches(8, 3):
            assert torch.equal(plain.step(images, labels), graphs(images, labels))
    assert graphs.refused == "operation not permitted when stream is capturing"
    assert torch.equal(plain.net[0].weight, replayed.net[0].weight)


def test_a_rested_optimiser_steps_as_a_fresh_one() -> None:
    (images, labels), *_ = batches(8)
    fresh, rested = Trained(), Trained()
    rested.sgd.reset()
    fresh.step(images, labels)
    rested.step(images, labels)
    velocities = rested.sgd.reset()
    assert len(velocities) == 6 and not any(v.any() for v in velocities)
    assert torch.equal(fresh.net[0].weight, rested.net[0].weight)


def test_methods_say_whether_their_step_is_the_same_for_every_client(tmp_path: Path) -> None:
    same = {"fedloge", "fedavg", "fedper", "fedbn"}
    for name in (*same, "fedprox", "fedrod"):
        federation = Federation(tiny(tmp_path, method=name))
        assert federation.method.uniform_step is (name in same), name
    balanced = tiny(tmp_path, method="fedavg", method_options={"loss": "balanced-softmax"})
    assert not Federation(balanced).method.uniform_step


def trained_with(recorder: StepRecorder | None, folder: Path, method: str) -> dict[str, Tensor]:
    """The shared tensors after two clients, one after the other, in one network."""
    federation = Federation(tiny(folder, method=method, batch_size=8))
    federation.recorder = recorder
    method_, net = federation.method, federation.load(*federation.initial.values())
    for client in (0, 1):
        data = federation.client_data(client, 1, {})
        uniform = method_.uniform_step
        sgd(net, method_.trainable(net), method_.loss, data, epochs=1, uniform=uniform)
    return {name: tensor.clone() for name, tensor in federation.tensors(Part.SHARED).items()}


def test_a_recorded_run_trains_as_a_plain_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorded: list[int] = []

    def record(step: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        recorded.append(1)
        return called_again(step)

    plain = trained_with(None, tmp_path, "fedavg")
    replayed = trained_with(StepRecorder(record), tmp_path, "fedavg")
    assert recorded and not caplog.records
    assert same_tensors(plain, replayed)


def test_a_step_that_differs_from_client_to_client_is_not_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def never(step: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        raise AssertionError("recorded")

    plain = trained_with(None, tmp_path, "fedrod")
    assert same_tensors(plain, trained_with(StepRecorder(never), tmp_path, "fedrod"))
    assert caplog.text.count("step differs from client to client; not recorded") == 1
