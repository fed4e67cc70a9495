"""Written-out gradients of linear heads: autograd's steps, wherever they are taken in its place."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import frozen
from torch import Tensor, nn

from fedloge.federation import Federation
from fedloge.learning.linear_heads import LinearLoss, LinearStep
from fedloge.learning.loop import Step, sgd
from fedloge.learning.optimiser import Sgd
from fedloge.methods.fedavg import FedAvg
from fedloge.methods.method import ClientData, Losses, Part
from fedloge.models.network import Network

CASES: dict[str, dict[str, Any]] = {
    "cross-entropy": {"method": "fedavg"},
    "momentum": {"method": "fedavg", "momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
    "adamw": {"method": "fedavg", "optimiser": "adamw", "lr": 0.001},
    "balanced": {"method": "fedavg", "method_options": {"loss": "balanced-softmax"}},
    "adjusted": {
        "method": "local-only",
        "method_options": {"loss": "logit-adjusted", "loss-options": {"tau": 0.5}},
    },
    "fedlc": {"method": "local-only", "method_options": {"loss": "fedlc"}},
    "fedrod": {"method": "fedrod"},
    "fedloge": {
        "method": "fedloge",
        "method_options": {"head-rate": 3.0, "global-adjustment": 1.0, "fixed-adjustment": 1.0},
    },
    "trained-w": {"method": "fedloge", "method_options": {"prototypes": "none"}},
    "creff": {"method": "creff", "momentum": 0.0},
}


def after(fed: Federation, *, written_out: bool) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The tensors after a client's training, and its figures."""
    net = fed.load(fed.initial[Part.SHARED], fed.initial[Part.PERSONAL])
    method, data = fed.method, fed.client_data(0, 1, fed.initial[Part.SHARED])
    figures = sgd(
        net,
        method.trainable(net),
        method.loss,
        data,
        epochs=3,
        linear=method.linear_losses(net, data) if written_out else None,
    )
    return {n: t.detach().clone() for n, t in net.state_dict().items()}, figures


@pytest.mark.parametrize("case", CASES)
def test_same_steps_as_autograd(
    case: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.getbasetemp()
    fed = Federation(frozen(tmp_path, cache_dir=str(cache), **CASES[case]))
    assert fed.method.linear_losses(fed.net, fed.client_data(0, 1, {})) is not None
    ours, our_figures = after(fed, written_out=True)
    theirs, their_figures = after(fed, written_out=False)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert our_figures == pytest.approx(their_figures, rel=1e-5)
    start = fed.initial[Part.SHARED] | fed.initial[Part.PERSONAL]
    assert any(not torch.equal(ours[name], tensor) for name, tensor in start.items())


def test_a_written_out_step_asks_autograd_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = Federation(frozen(tmp_path))

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a step by autograd")

    monkeypatch.setattr(Step, "__call__", refused)
    fed.method.local_update(fed.net, fed.client_data(0, 1, fed.initial[Part.SHARED]))
    # With a backbone to train there is no other way.
    whole = Federation(frozen(tmp_path, train_part="adapter"))
    with pytest.raises(AssertionError, match="by autograd"):
        whole.method.local_update(whole.net, whole.client_data(0, 1, whole.initial[Part.SHARED]))


@pytest.mark.parametrize("changes", [{"mixup": 0.2}, {"precision": "bf16"}])
def test_what_a_batch_of_features_cannot_say_goes_by_autograd(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    fed = Federation(frozen(tmp_path, **changes))
    ours, _ = after(fed, written_out=True)
    theirs, _ = after(fed, written_out=False)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_method_with_a_loss_of_its_own_inherits_no_other_form_of_it() -> None:
    class Doubled(FedAvg):
        def loss(self, net: Any, inputs: Tensor, labels: Tensor, client: ClientData) -> Losses:
            return {"local": 2 * super().loss(net, inputs, labels, client)["local"]}

    assert Doubled.linear_losses(None, None, None) is None  # type: ignore[arg-type]


def test_soft_labels_and_absent_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(6, 5, generator=generator)
    shares = torch.rand(6, 4, generator=generator)
    shares[:, 2] = 0
    shares /= shares.sum(dim=1, keepdim=True)
    shift = torch.tensor([0.3, -1.0, -torch.inf, 0.1])
    head = nn.Linear(5, 4)
    same = copy.deepcopy(head)
    loss = LinearStep({"local": LinearLoss(head, shift)}, Sgd(head.parameters(), lr=0.5))(h, shares)
    log_p = (same(h) + shift).log_softmax(dim=1)
    expected = -torch.where(shares > 0, shares * log_p, 0.0).sum(dim=1).mean()
    expected.backward()
    torch.testing.assert_close(loss[0], expected.detach())
    for ours, theirs in zip(head.parameters(), same.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(ours.detach(), (theirs - 0.5 * theirs.grad).detach())
    assert torch.equal(head.weight[2], same.weight[2])


@pytest.mark.parametrize("soft", [False, True])
def test_a_client_of_few_classes_moves_their_rows_alone(soft: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    h, labels = torch.randn(9, 5, generator=generator), torch.tensor([3, 17, 3, 3, 17, 8, 8, 3, 17])
    given = nn.functional.one_hot(labels, 20).float() if soft else labels
    shift = torch.full((20,), -torch.inf)
    shift[[3, 8, 17]] = torch.tensor([0.5, -1.0, 0.2])
    net = Network(head=nn.Linear(5, 20), other=nn.Linear(5, 20))
    head, other = net.head, net.other
    same = copy.deepcopy(head)
    loss = LinearLoss(head, shift, beside=other.requires_grad_(False), rate=2.0)
    found = LinearStep({"local": loss}, Sgd(head.parameters(), lr=0.3))(h, given)
    expected = nn.functional.cross_entropy(same(h) + other(h) + shift, labels)
    expected.backward()
    torch.testing.assert_close(found[0], expected.detach())
    for ours, theirs in zip(head.parameters(), same.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(ours.detach(), (theirs - 0.6 * theirs.grad).detach())


def test_heads_move_together() -> None:
    h, y = torch.randn(8, 3, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 2
    net = Network(first=nn.Linear(3, 2), second=nn.Linear(3, 2))
    first, second = net.first, net.second
    before = copy.deepcopy(net)
    losses = {"a": LinearLoss(first), "b": LinearLoss(second, beside=first)}
    found = LinearStep(losses, Sgd(net.parameters(), lr=1.0))(h, y)
    # The second loss is that of the first head before its step.
    both = before.first(h) + before.second(h)
    torch.testing.assert_close(found[1], nn.functional.cross_entropy(both, y).detach())
