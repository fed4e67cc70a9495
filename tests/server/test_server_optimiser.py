"""Server optimisers against their formulas by hand, against Flower's strategies, and in a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvgM, FedYogi
from harness import differences, lines, newest_checkpoint, resume_local, run_local, tiny
from torch import Tensor

from fedloge.config import Config
from fedloge.engines.own_grid import take_identity
from fedloge.errors import ConfigError, RunError
from fedloge.server.server_optimiser import ServerOptimiser


def optimiser(kind: str, **keys: Any) -> ServerOptimiser:
    return ServerOptimiser(Config(server_optimiser=kind, **keys), ["w"])


def stepped(made: ServerOptimiser, changes: list[float]) -> list[float]:
    w, found = torch.tensor([1.0]), []
    for round, change in enumerate(changes, 1):
        w = made.step(round, {"w": w}, {"w": w + change})["w"]
        found.append(w.item())
    return found


def test_fedavgm_by_hand() -> None:
    # v: .5, then .9 x .5 + .1 = .55.
    assert stepped(optimiser("fedavgm"), [0.5, 0.1]) == pytest.approx([1.5, 2.05])


def test_fedadam_by_hand() -> None:
    made = optimiser("fedadam", server_lr=1.0, server_tau=0.1)
    # m = .1 x .5; v = .99 x .01 + .01 x .25; their quotient with tau.
    first = 0.05 / ((0.99 * 0.01 + 0.01 * 0.25) ** 0.5 + 0.1)
    assert stepped(made, [0.5]) == pytest.approx([1 + first])


def test_fedyogi_by_hand() -> None:
    made = optimiser("fedyogi", server_lr=1.0, server_tau=0.1)
    # v = .01 + .01 x .25, because v - D^2 < 0; then v - .01 x .0001, because v > D^2.
    v = 0.01 + 0.01 * 0.25
    first = 1 + 0.05 / (v**0.5 + 0.1)
    second = first + (0.9 * 0.05 + 0.1 * 0.01) / ((v - 0.01 * 0.0001) ** 0.5 + 0.1)
    assert stepped(made, [0.5, 0.01]) == pytest.approx([first, second])


class OfFlower:
    """One of Flower's strategies, given one reply a round."""

    def __init__(self, strategy: Any) -> None:
        self.strategy = strategy
        take_identity()

    def step(self, round: int, before: Tensor, averaged: Tensor) -> Tensor:
        arrays = ArrayRecord({"w": _array(before)})
        # The grid is only asked for nodes, of which a strategy without clients needs none.
        self.strategy.current_arrays = (
            arrays if isinstance(self.strategy, FedAvgM) else {"w": before.numpy()}
        )
        content = RecordDict(
            {
                "arrays": ArrayRecord({"w": _array(averaged)}),
                "metrics": MetricRecord({"num-examples": 1}),
                "config": ConfigRecord(),
            }
        )
        asked = Message(content, 2, "train")
        record, _ = self.strategy.aggregate_train(round, [Message(content, reply_to=asked)])
        return torch.from_numpy(np.array(record["w"].numpy(), dtype=np.float32))


def _array(tensor: Tensor) -> Any:
    return ArrayRecord({"w": tensor})["w"]


@pytest.mark.parametrize("kind", ["fedavgm", "fedadam", "fedyogi"])
def test_flowers_strategies_take_the_same_steps(kind: str) -> None:
    beta, beta2, tau = 0.9, 0.99, 1e-3
    theirs = {
        "fedavgm": lambda: FedAvgM(server_momentum=beta),
        "fedadam": lambda: FedAdam(eta=0.1, beta_1=beta, beta_2=beta2, tau=tau),
        "fedyogi": lambda: FedYogi(eta=0.01, beta_1=beta, beta_2=beta2, tau=tau),
    }[kind]()
    if kind != "fedavgm":
        theirs.v_t = {"w": np.full(50, tau**2, dtype=np.float32)}  # where the paper starts
    flower, mine = OfFlower(theirs), optimiser(kind)
    g = torch.Generator().manual_seed(0)
    w = other = torch.randn(50, generator=g)
    usual = mine.lr
    for round in range(1, 6):
        change = 0.1 * torch.randn(50, generator=g)
        if kind == "fedadam":  # Flower corrects for bias, with one round more than there was
            mine.lr = usual * (1 - beta2 ** (round + 1)) ** 0.5 / (1 - beta ** (round + 1))
        w = mine.step(round, {"w": w}, {"w": w + change})["w"]
        other = flower.step(round, other, other + change)
        torch.testing.assert_close(w, other, rtol=1e-4, atol=1e-5)


def test_momentum_zero_is_the_average_and_buffers_are_left_out(tmp_path: Path) -> None:
    plain = run_local(tiny(tmp_path, name="plain", method="fedavg"))
    none = run_local(
        tiny(tmp_path, name="m0", method="fedavg", server_optimiser="fedavgm", server_momentum=0.0)
    )
    nine = run_local(tiny(tmp_path, name="m9", method="fedavg", server_optimiser="fedavgm"))
    wanted, found, kept = (newest_checkpoint(run) for run in (plain, none, nine))
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
    state = {name.rpartition("/")[2] for name in kept if "server-optimiser" in name}
    assert state and not any("running" in name for name in state)
    assert {f"shared.{name}" for name in state} | {
        name for name in wanted if "running" in name
    } == wanted.keys()
    assert lines(nine, "metrics")[-1]["train/loss"] != lines(plain, "metrics")[-1]["train/loss"]


@pytest.mark.parametrize(
    ("kind", "method"), [("fedadam", "creff"), ("fedyogi", "fedloge"), ("fedavgm", "fednh")]
)
def test_a_resumed_run_is_the_run_that_never_stopped(
    tmp_path: Path, kind: str, method: str
) -> None:
    options = {"match-steps": 2, "retrain-epochs": 1, "features-per-class": 2}
    changes: dict[str, Any] = {"method": method, "server_optimiser": kind}
    if method == "creff":
        changes["method_options"] = options
    whole = run_local(tiny(tmp_path / "whole", **changes))
    halves = run_local(tiny(tmp_path / "halves", rounds=1, **changes))
    resume_local(halves, rounds=3)
    assert not differences(whole, halves)


def test_a_step_that_leads_nowhere_ends_with_one_line() -> None:
    made = optimiser("fedavgm", server_lr=1e9)
    with pytest.raises(RunError, match=r"^round 1: after the step of fedavgm .*lower server-lr"):
        made.step(1, {"w": torch.zeros(1)}, {"w": torch.ones(1)})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"server_lr": 0.5}, "server-lr is not read here"),
        ({"server_optimiser": "fedavgm", "server_tau": 0.5}, "set server-optimiser to fedadam"),
    ],
)
def test_a_key_without_effect_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Config().replace(**changes)
