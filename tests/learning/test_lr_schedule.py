"""Learning rates over rounds: against torch's schedulers, in runs, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from harness import called_again, differences, lines, resume_local, run_local, tiny
from torch.optim import lr_scheduler as torchs

from fedloge.config import Config
from fedloge.errors import ConfigError
from fedloge.federation import Federation
from fedloge.learning.fast.graphs import StepRecorder
from fedloge.learning.loop import sgd
from fedloge.learning.lr_schedule import lr_in, without_schedule

COSINE: dict[str, Any] = {"lr_schedule": "cosine", "lr_horizon": 8, "lr_floor": 0.1}
STEP: dict[str, Any] = {"lr_schedule": "step", "lr_step_rounds": 2, "lr_step_factor": 0.5}


def test_by_hand() -> None:
    cosine = [lr_in(Config(lr=1.0, lr_schedule="cosine", lr_horizon=4), r) for r in (1, 3, 5, 9)]
    assert cosine == pytest.approx([1.0, 0.5, 0.0, 0.0])
    warm = Config(lr=1.0, warm_up_rounds=2, **STEP)
    assert [lr_in(warm, r) for r in range(1, 8)] == [0.5, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25]


def test_outside_of_rounds_there_is_no_schedule() -> None:
    config = Config(lr=0.2, warm_up_rounds=3, **COSINE)
    assert {lr_in(without_schedule(config), round) for round in range(1, 12)} == {0.2}
    assert without_schedule(Config()) == Config()


@pytest.mark.parametrize("keys", [COSINE, STEP, {}], ids=["cosine", "step", "constant"])
@pytest.mark.parametrize("warm_up", [0, 3])
def test_torchs_schedulers_give_the_same_rates(keys: dict[str, Any], warm_up: int) -> None:
    config = Config(lr=0.2, warm_up_rounds=warm_up, **keys)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.2)
    then: torchs.LRScheduler = {
        "cosine": lambda: torchs.CosineAnnealingLR(optimiser, 8 - warm_up, eta_min=0.02),
        "step": lambda: torchs.StepLR(optimiser, 2, 0.5),
        "constant": lambda: torchs.ConstantLR(optimiser, 1.0),
    }[config.lr_schedule]()
    if warm_up:
        rise = torchs.LinearLR(optimiser, 1 / warm_up, 1.0, total_iters=warm_up - 1)
        then = torchs.SequentialLR(optimiser, [rise, then], [warm_up])
    for round in range(1, 9):
        assert lr_in(config, round) == pytest.approx(optimiser.param_groups[0]["lr"])
        optimiser.step()
        then.step()


def test_a_round_trains_at_its_rate(tmp_path: Path) -> None:
    # At a floor of 0 nothing moves after the horizon.
    folder = run_local(
        tiny(tmp_path, method="fedavg", lr_schedule="cosine", lr_horizon=1, norm="group", rounds=3)
    )
    losses = [row["global/raw/all"] for row in lines(folder, "metrics")]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize(
    "keys",
    [COSINE, {"optimiser": "adamw", "momentum": 0.5, "lr": 0.003, "weight_decay": 0.01}],
    ids=["cosine", "adamw"],
)
def test_a_resumed_run_is_the_run_that_never_stopped(tmp_path: Path, keys: dict[str, Any]) -> None:
    whole = run_local(tiny(tmp_path / "whole", method="fedavg", **keys))
    halves = run_local(tiny(tmp_path / "halves", method="fedavg", rounds=1, **keys))
    resume_local(halves, rounds=3)
    assert not differences(whole, halves)


def test_adamw_trains_and_tunes(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"optimiser": "adamw", "lr": 0.01, "rounds": 5, "method": "fedavg"}
    last = lines(run_local(tiny(tmp_path, **changes)), "metrics")[-1]
    assert last["global/raw/all"] > 0.4
    assert last["personal/tuned/mean"] > 0.5


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_recorded_steps_follow_the_schedule(tmp_path: Path, optimiser: str) -> None:
    config = tiny(tmp_path, method="fedavg", optimiser=optimiser, **COSINE)
    trained = []
    for recorder in (None, StepRecorder(called_again)):
        fed = Federation(config)
        fed.recorder = recorder
        for round in (1, 5):  # the recorder's steps are made in the first
            fed.load(*fed.initial.values())
            data = fed.client_data(0, round, {})
            parameters = fed.method.trainable(fed.net)
            sgd(fed.net, parameters, fed.method.loss, data, epochs=1, uniform=True)
        trained.append([p.detach().clone() for p in fed.net.parameters()])
    for plain, recorded in zip(*trained, strict=True):
        torch.testing.assert_close(plain, recorded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr_schedule": "cosine"}, "needs lr-horizon"),
        ({"lr_schedule": "step"}, "needs lr-step-rounds"),
        ({"lr_horizon": 5}, "lr-horizon is not read here, got 5; leave it out, or set lr-schedule"),
        ({"optimiser": "adamw", "momentum": 0.9}, "momentum is not read here.*give its default"),
        ({"adam_eps": 0.1}, "set optimiser=adamw"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov needs a momentum"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Config().replace(**changes)
