"""The loop's arithmetic is held by `test_methods`; here, what it must not do."""

from __future__ import annotations

from pathlib import Path

import harness
import torch

from fedloge.federation import Federation
from fedloge.learning.loop import sgd
from fedloge.methods.method import Part


def test_only_the_parameters_given_move(tmp_path: Path) -> None:
    fed = Federation(harness.tiny(tmp_path, method="fedavg"))
    net, data = fed.net, fed.client_data(0, 1, {})
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    sgd(net, list(net.head.parameters()), fed.method.loss, data, epochs=1)
    moved = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"head.weight", "head.bias"}


def test_terms_add_up_to_the_loss(tmp_path: Path) -> None:
    fed = Federation(harness.tiny(tmp_path))
    metrics = sgd(
        fed.net,
        fed.method.trainable(fed.net),
        fed.method.loss,
        fed.client_data(0, 1, {}),
        epochs=2,
    )
    terms = [metrics[f"loss-{name}"] for name in ("fixed", "global", "local")]
    assert metrics["loss"] == sum(terms) and len(metrics) == 4


def test_a_purpose_gives_other_batches(tmp_path: Path) -> None:
    results = []
    for purpose in ("train", "train", "head"):
        fed = Federation(harness.tiny(tmp_path, method="fedavg"))
        net = fed.load(*fed.initial.values())
        data = fed.client_data(0, 1, {})
        sgd(net, list(net.parameters()), fed.method.loss, data, epochs=1, purpose=purpose)
        results.append({k: v.clone() for k, v in fed.tensors(Part.SHARED).items()})
    assert harness.same_tensors(results[0], results[1])
    assert not harness.same_tensors(results[0], results[2])
