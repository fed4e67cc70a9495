"""What a federation is measured against: each client alone, and all examples at one place."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fedloge.errors import ConfigError, RunError
from fedloge.federation import Federation
from fedloge.learning.loop import sgd
from fedloge.learning.pooled_data import steps_of
from fedloge.methods import make_method
from fedloge.methods.method import Part, Task
from fedloge.rng import rng
from fedloge.server.pooled_training import PooledTraining


def rows(folder: Path, name: str = "metrics") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def test_local_only_trains_each_client_in_its_rounds_and_sends_nothing(
    run_once: Callable[..., Path], federation: Callable[..., Any]
) -> None:
    folder = run_once("local-only", rounds=3)
    trained = {
        row["client"]: row["trained-rounds"] for row in rows(folder, "clients") if row["round"] == 3
    }
    assert sum(trained.values()) == 9 and len(trained) == 4
    fed = federation("local-only")
    client = max(trained, key=lambda k: trained[k])
    net, drawn = fed.net, [r for r in (1, 2, 3) if client in drawn_in(fed, r)]
    assert len(drawn) == trained[client]
    for round in drawn:
        data = fed.client_data(client, round, {})
        sgd(net, list(net.parameters()), fed.method.loss, data, epochs=1)
    newest = max((folder / "heads" / f"client-{client:05d}").glob("*.safetensors"))
    kept = load_file(newest)
    assert kept.keys() == net.state_dict().keys()
    assert all(torch.equal(kept[name], t) for name, t in net.state_dict().items())
    for line in rows(folder, "timing"):
        assert line["bytes-up"] == line["bytes-down"] == line["evaluate-bytes-down"] == 0
    assert not any(key.startswith("global/") for key in rows(folder)[-1])


def drawn_in(fed: Federation, round: int) -> list[int]:
    c = fed.config
    draws = rng(c.seed, "sample-clients", round)
    return draws.choice(c.num_clients, size=c.clients_per_round, replace=False).tolist()


def test_a_federation_of_one_is_that_client_alone(
    run_once: Callable[..., Path], trained: Callable[[Path], dict[str, Tensor]]
) -> None:
    one = {"num_clients": 1, "clients_per_round": 1}
    alone, averaged = run_once("local-only", **one), run_once("fedavg", **one)
    own = rows(alone)[-1]["personal/raw/mean"]
    assert own == pytest.approx(rows(averaged)[-1]["personal/raw/mean"], abs=0.005)
    assert rows(alone)[-1]["train/loss"] == pytest.approx(
        rows(averaged)[-1]["train/loss"], rel=1e-3
    )


def test_all_three_take_as_many_steps(run_once: Callable[..., Path]) -> None:
    runs = [run_once(method, batch_size=7) for method in ("fedavg", "local-only", "centralised")]
    images = [[row["images"] for row in rows(run)] for run in runs]
    assert images[0] == images[1]
    # As many steps, but fewer of them on the smaller last batch of a pass.
    for own, pooled in zip(images[0], images[2], strict=True):
        assert own <= pooled <= own + 3 * 7


def test_steps_by_hand() -> None:
    # Two passes over 3, 4 and 5 examples in batches of 4: 2 x (1 + 1 + 2).
    assert steps_of([3, 4, 5], epochs=2, batch_size=4) == 8


def test_pooled_passes_hold_every_example_once_however_rounds_split_them(
    federation: Callable[..., Any],
) -> None:
    fed = federation("centralised", augment="none", batch_size=100)
    everything = fed.pooled_data(1, {}, 0, 0)
    total = len(everything.train)
    assert total == sum(len(own) for own in fed.partition.train)
    assert everything.counts.tolist() == fed.partition.train_counts.sum(axis=0).tolist()
    per_pass = -(-total // 100)
    whole = list(replace(everything, steps=2 * per_pass + 1).batches(1))
    assert [len(labels) for _, labels in whole[:per_pass]] == [100] * (total // 100) + (
        [total % 100] if total % 100 else []
    )
    for number in (0, 1):
        labels = torch.cat([y for _, y in whole[number * per_pass : (number + 1) * per_pass]])
        assert torch.equal(labels.bincount(), everything.train.classes.bincount())
    assert not torch.equal(whole[0][1], whole[per_pass][1])
    split = [
        batch
        for first, steps in ((0, 3), (3, per_pass), (3 + per_pass, per_pass - 2))
        for batch in replace(everything, first_step=first, steps=steps).batches(1)
    ]
    assert len(split) == len(whole)
    for (x, y), (other, labels) in zip(split, whole, strict=True):
        assert torch.equal(x, other) and torch.equal(y, labels)


def test_batches_are_augmented_alike_however_rounds_split_them(
    federation: Callable[..., Any],
) -> None:
    fed = federation("centralised", augment="crop", batch_size=64)
    data = fed.pooled_data(1, {}, 0, 40)
    whole = [x for x, _ in data.batches(1)]
    late = [x for x, _ in replace(data, first_step=35, steps=5).batches(1)]
    assert all(torch.equal(a, b) for a, b in zip(whole[35:], late, strict=True))


def test_examples_held_out_stay_out(federation: Callable[..., Any]) -> None:
    fed = federation("centralised", validation_share=0.25)
    held = sum(len(own) for own in fed.partition.validation)
    assert held > 0
    assert len(fed.pooled_data(1, {}, 0, 1).train) == len(fed.train) - held


def test_a_diverging_model_ends_the_run_with_one_line(federation: Callable[..., Any]) -> None:
    fed = federation("centralised", lr=1e6)
    training = PooledTraining(fed, lambda round: [0, 1])
    with pytest.raises(RunError, match=r"^round 1: (centralised training|tensor)") as caught:
        for _ in range(3):
            training.train(1, fed.initial[Part.SHARED])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ("local-only", {"aggregation": "median"}, "aggregation: method 'local-only'"),
        ("local-only", {"wire_dtype": "float16"}, "wire-dtype: method 'local-only'"),
        ("centralised", {"norm_sharing": "none"}, "norm-sharing: in method 'centralised'"),
        (
            "centralised",
            {
                "partitioner": "on-node",
                "partitioner_options": {"classes": ["a", "b"]},
                "dataset": "image-folder",
                "image_size": 8,
                "long_tail": "none",
            },
            "needs all examples at one place",
        ),
    ],
)
def test_what_has_no_effect_or_cannot_be_is_refused(
    task: Callable[..., Task], method: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        make_method(task(method=method, **changes))
