from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedloge.geometry.closed_form import FeatureSums, balanced_weights, ridge, within
from fedloge.messages import encode, num_bytes
from fedloge.methods.method import Part, plain_features

ALL = {"clients_per_round": 4}


def everything(fed: Any) -> tuple[Tensor, Tensor]:
    """Features and labels of all clients' examples."""
    net = fed.load(fed.initial[Part.SHARED])
    parts = [plain_features(fed.method, net, fed.client_data(k, 1, {})) for k in range(4)]
    return torch.cat([h for h, _ in parts]), torch.cat([y for _, y in parts])


def test_one_round_of_all_clients_is_the_solve_on_all_examples(
    run_once: Callable[..., Path],
    federation: Callable[..., Any],
    trained: Callable[[Path], dict[str, Tensor]],
) -> None:
    once = trained(run_once("fed3r", rounds=1, **ALL))
    twice = trained(run_once("fed3r", rounds=2, **ALL))
    fed = federation("fed3r", **ALL)
    h, labels = everything(fed)
    classes = fed.data.num_classes
    known = FeatureSums.of(h, labels, classes)
    weighted = FeatureSums.of(h, labels, classes, balanced_weights(known.counts))
    wanted = {
        "raw": ridge(known),
        "normalised": ridge(known, normalised=True),
        "fedcof": (within(known), torch.zeros(classes, dtype=torch.float64)),
    }
    for found, balanced in ((once, wanted["normalised"]), (twice, ridge(weighted))):
        for name, (weight, bias) in (wanted | {"balanced": balanced}).items():
            torch.testing.assert_close(
                found[f"{name}.weight"].double(), weight, rtol=1e-5, atol=1e-6
            )
            torch.testing.assert_close(found[f"{name}.bias"].double(), bias, rtol=1e-5, atol=1e-6)


def test_clients_may_come_in_any_rounds(
    run_once: Callable[..., Path], trained: Callable[[Path], dict[str, Tensor]]
) -> None:
    at_once = trained(run_once("fed3r", rounds=2, **ALL))
    for seed in (1, 2):
        # The same data and the same clients, drawn two by two in another order.
        folder = run_once("fed3r", rounds=14, clients_per_round=2, name=f"some-{seed}")
        some = trained(folder)
        if seed == 1:
            assert bool(some["ledger.counted"].all()) and bool(some["ledger.weighted"].all())
        for name in ("raw.weight", "balanced.weight", "fedcof.weight"):
            torch.testing.assert_close(some[name], at_once[name], rtol=1e-4, atol=1e-5)


def test_a_client_sends_what_the_server_lacks(federation: Callable[..., Any]) -> None:
    fed = federation("fed3r")
    net, data = fed.load(fed.initial[Part.SHARED]), fed.client_data(2, 1, {})
    first = fed.method.local_update(net, data).sums
    assert first["counted"].tolist() == [0, 0, 1, 0] and not first["weighted"].any()
    assert first["counts"].tolist() == data.counts.tolist()
    net.ledger.counted[2] = 1
    net.ledger.counts.copy_(data.counts)
    second = fed.method.local_update(net, data).sums
    assert second["weighted"].tolist() == [0, 0, 1, 0] and not second["gram"].any()
    net.ledger.weighted[2] = 1
    assert not any(tensor.any() for tensor in fed.method.local_update(net, data).sums.values())


def test_personal_heads_weigh_the_clients_own_examples(
    run_once: Callable[..., Path],
    federation: Callable[..., Any],
    trained: Callable[[Path], dict[str, Tensor]],
) -> None:
    options = "head = raw, own-weight = 3"
    folder = run_once("fed3r", options, rounds=1, **ALL)
    fed = federation("fed3r", options, **ALL)
    shared = {k: t for k, t in trained(folder).items() if not k.startswith("server.")}
    assert not any("weighted-gram" in name for name in trained(folder))
    net, data = fed.load(shared).eval(), fed.client_data(1, 1, shared)
    found = fed.method.personal_predictors(net, data)["ridge"].head
    h, labels = everything(fed)
    classes = fed.data.num_classes
    net = fed.load(shared).eval()
    own = FeatureSums.of(*plain_features(fed.method, net, data), classes)
    weight, bias = ridge(FeatureSums.of(h, labels, classes).plus(own, 3.0))
    torch.testing.assert_close(found.weight.double(), weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.bias.double(), bias, rtol=1e-4, atol=1e-5)
    assert (found.mask == -torch.inf).tolist() == (data.counts == 0).tolist()
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["personal/ridge/mean"] > 0.5


def test_balance_helps_rare_classes(run_once: Callable[..., Path]) -> None:
    folder = run_once("fed3r", rounds=2, imbalance_factor=0.02, **ALL)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["global/balanced/few"] > last["global/raw/few"]


def test_the_probe_gives_any_method_the_same_heads(run_once: Callable[..., Path]) -> None:
    folder = run_once("fedavg", rounds=1, probes="closed-form", **ALL)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    for name in ("fed3r", "fed3r-normalised", "fedcof"):
        assert last[f"global/{name}/all"] > 0.3


def test_the_probe_measures_what_the_method_solves(run_once: Callable[..., Path]) -> None:
    folder = run_once("fed3r", rounds=1, probes="closed-form", **ALL)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    for probe, head in (("fed3r", "raw"), ("fed3r-normalised", "normalised"), ("fedcof", "fedcof")):
        assert last[f"global/{probe}/all"] == pytest.approx(last[f"global/{head}/all"], abs=0.005)


def test_nothing_but_sums_goes_up(
    run_once: Callable[..., Path], federation: Callable[..., Any]
) -> None:
    folder = run_once("fed3r", rounds=1, **ALL)
    (timing,) = [json.loads(line) for line in (folder / "timing.jsonl").read_text().splitlines()]
    fed = federation("fed3r", **ALL)
    sums = num_bytes(encode(fed.method.uplink(fed.net)))
    assert timing["bytes-up"] == 4 * sums
    assert timing["bytes-down"] == 4 * num_bytes(encode(fed.initial[Part.SHARED]))
