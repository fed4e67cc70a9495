from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedloge.methods.fedprox import FedProx, squared_distance


def test_without_a_pull_it_is_fedavg_bit_for_bit(
    run_once: Callable[..., Path], trained: Callable[[Path], dict[str, Tensor]]
) -> None:
    prox, avg = run_once("fedprox", "mu = 0"), run_once("fedavg")
    mine, theirs = trained(prox), trained(avg)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert (prox / "clients.jsonl").read_bytes() == (avg / "clients.jsonl").read_bytes()


@pytest.mark.parametrize("shared", ["weight and bias", "weight"])
def test_the_second_step_is_drawn_back_to_where_the_first_began(
    task: Callable[..., Any], client: Callable[..., Any], shared: str
) -> None:
    made = task(num_classes=2, dim=2, batch_size=4, local_epochs=2, lr=0.1, momentum=0.0)
    method = FedProx(made, FedProx.Options(mu=0.5))
    net = method.build()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    # What is not shared, and so not received, is not pulled.
    received = {name: t for name, t in before.items() if name.removeprefix("head.") in shared}
    x, y = torch.tensor([[3, 1], [0, 2], [1, 1], [5, 0]]), torch.tensor([0, 1, 1, 0])
    method.local_update(net, client(made, x, y, received=received))

    def gradient(weight: Tensor) -> Tensor:
        weight = weight.clone().requires_grad_(True)
        logits = x.float() @ weight[:, :2].T + weight[:, 2]
        return torch.autograd.grad(cross_entropy(logits, y), weight)[0]

    pull = 0.5 * torch.tensor([1.0, 1.0, float("bias" in shared)])
    start = torch.cat([before["head.weight"], before["head.bias"][:, None]], dim=1)
    once = start - 0.1 * gradient(start)
    twice = once - 0.1 * (gradient(once) + pull * (once - start))
    found = torch.cat([net.head.weight, net.head.bias[:, None]], dim=1)
    torch.testing.assert_close(found, twice)


def test_squared_distance() -> None:
    a, b = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([[3.0]])
    value = squared_distance([(a, torch.tensor([0.0, 4.0])), (b, torch.tensor([[1.0]]))])
    assert value.item() == 1 + 4 + 4
    value.backward()
    assert a.grad.tolist() == [2, -4]


def test_options_out_of_range_are_refused(refuses: Callable[[str, str], None]) -> None:
    refuses("fedprox", "mu = -1")
    refuses("fedprox", "nu = 1")
