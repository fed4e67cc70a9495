from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fedloge.learning.loop import sgd
from fedloge.methods.method import Part


def state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_first_the_head_then_the_backbone(federation: Callable[..., Any]) -> None:
    fed = federation("fedrep", "head-epochs = 2", local_epochs=1)
    method, net = fed.method, fed.net
    data = fed.client_data(0, 1, {})
    start = state(net)
    head = list(net.head.parameters())
    sgd(net, head, method.head_loss, data, epochs=2, purpose="train-head", frozen=net.backbone)
    phase_one = state(net)
    # In the head's turn neither the backbone's weights nor its running statistics move.
    assert same({n: t for n, t in start.items() if "backbone" in n}, phase_one)
    assert not same({n: t for n, t in start.items() if "head" in n}, phase_one)

    net.load_state_dict(start)
    update = method.local_update(net, data)
    assert same({n: t for n, t in phase_one.items() if "head" in n}, state(net))
    assert not any(
        torch.equal(t, start[n]) for n, t in net.state_dict().items() if n.startswith("backbone")
    )
    assert {"loss", "loss-head"} == update.metrics.keys()


def test_the_head_never_leaves_its_client(federation: Callable[..., Any]) -> None:
    fed = federation("fedrep")
    assert sorted(fed.tensors(Part.PERSONAL)) == ["head.bias", "head.weight"]


def test_options_out_of_range_are_refused(refuses: Callable[[str, str], None]) -> None:
    refuses("fedrep", "head-epochs = 0")
