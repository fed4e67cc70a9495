from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedloge.learning.loop import sgd
from fedloge.methods.method import Part


def own(fed: Any) -> dict[str, Tensor]:
    return {name.removeprefix("own_"): t.clone() for name, t in fed.tensors(Part.PERSONAL).items()}


def test_without_a_pull_the_own_model_trains_as_if_alone(federation: Callable[..., Any]) -> None:
    fed, alone = federation("ditto", "lambda = 0"), federation("fedavg")
    net = alone.net
    for round in (1, 2):
        fed.method.local_update(fed.net, fed.client_data(1, round, {}))
        data = alone.client_data(1, round, {})
        sgd(
            net,
            list(net.parameters()),
            alone.method.loss,
            data,
            epochs=1,
            purpose="train-own",
        )
        # What the server averages must not matter to it.
        fed.load({name: t * 0.5 for name, t in fed.tensors(Part.SHARED).items()})
    assert own(fed).keys() == net.state_dict().keys()
    assert all(torch.equal(t, net.state_dict()[name]) for name, t in own(fed).items())


def test_the_pull_holds_the_own_model_near_the_received_one(
    federation: Callable[..., Any],
) -> None:
    distances = []
    for strength in (0, 1, 20):
        fed = federation("ditto", f"lambda = {strength}", momentum=0.0)
        received = {name: t.clone() for name, t in fed.tensors(Part.SHARED).items()}
        fed.method.local_update(fed.net, fed.client_data(1, 1, received))
        weights = [n for n, _ in fed.net.named_parameters() if n in received]
        mine = own(fed)
        distances.append(sum(float((mine[n] - received[n]).norm() ** 2) for n in weights))
    assert distances[0] > distances[1] > 3 * distances[2] > 0


def test_the_shared_model_is_fedavgs(
    run_once: Callable[..., Path], trained: Callable[[Path], dict[str, Tensor]]
) -> None:
    mine, theirs = trained(run_once("ditto")), trained(run_once("fedavg"))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_client_that_never_trained_predicts_with_the_shared_model(
    federation: Callable[..., Any],
) -> None:
    fed = federation("ditto")
    before = fed.method.personal_predictors(fed.net, fed.client_data(0, 1, {}))["raw"]
    after = fed.method.personal_predictors(fed.net, fed.client_data(0, 1, {}, 1))["raw"]
    assert (before.extractor, after.extractor) == ("features", "own_features")


def test_options_out_of_range_are_refused(refuses: Callable[[str, str], None]) -> None:
    refuses("ditto", "lambda = -1")
    refuses("ditto", "pull = 1")
