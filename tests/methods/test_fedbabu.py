from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


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
