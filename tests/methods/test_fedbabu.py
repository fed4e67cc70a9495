from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fedloge.methods.method import Part


def test_the_head_stays_as_drawn_and_the_backbone_learns(
    federation: Callable[..., Any], run_twice: Callable[..., Any], trained: Callable[..., Any]
) -> None:
    run = run_twice("fedbabu", "tune-epochs = 2")
    assert not any("head" in name for name in run.sent | trained(run.folder).keys())
    assert {"global/raw/all", "personal/raw/mean", "personal/tuned/mean"} <= run.metrics[-1].keys()

    fed = federation("fedbabu")
    head, backbone = fed.net.head.weight.clone(), fed.net.backbone.layers[0].weight.clone()
    fed.method.local_update(fed.net, fed.client_data(0, 1, {}))
    assert torch.equal(fed.net.head.weight, head)
    assert torch.equal(head, federation("fedavg").net.head.weight)
    assert not torch.equal(fed.net.backbone.layers[0].weight, backbone)


def test_tuning_moves_a_copy(federation: Callable[..., Any]) -> None:
    fed = federation("fedbabu")
    head = fed.net.head.weight.clone()
    models = fed.method.personal_predictors(fed.net, fed.client_data(0, 1, {}))
    assert torch.equal(models["raw"].head.weight, head) and torch.equal(fed.net.head.weight, head)
    assert not torch.equal(models["tuned"].head.weight, head)


def test_the_whole_network_is_tuned_if_asked_and_none_of_it_kept_in_the_shared_one(
    federation: Callable[..., Any],
) -> None:
    fed = federation("fedbabu", "tune = all, tune-epochs = 1")
    net, data = fed.net, fed.client_data(0, 1, {})
    shared = {k: t.clone() for k, t in fed.tensors(Part.SHARED).items()}
    head = net.head.weight.clone()
    models = fed.method.personal_predictors(net, data)
    assert models["tuned"].extractor == "tuned_features" and models["raw"].extractor == "features"
    assert torch.equal(models["raw"].head.weight, head)
    assert not torch.equal(models["tuned"].head.weight, head)
    assert not torch.equal(net.tuned.backbone.layers[0].weight, net.backbone.layers[0].weight)
    assert all(torch.equal(t, shared[k]) for k, t in fed.tensors(Part.SHARED).items())
    # It is tuned from the shared network each time, not from what was tuned before.
    again = fed.method.personal_predictors(net, data)
    assert torch.equal(again["tuned"].head.weight, models["tuned"].head.weight)
    untuned = federation("fedbabu", "tune = all, tune-epochs = 0")
    models = untuned.method.personal_predictors(untuned.net, data)
    assert torch.equal(models["tuned"].head.weight, models["raw"].head.weight)


def test_options_out_of_range_are_refused(refuses: Callable[[str, str], None]) -> None:
    refuses("fedbabu", "tune = backbone")
    refuses("fedbabu", "tune-epochs = -1")
