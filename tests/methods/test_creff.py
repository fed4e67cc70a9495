from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedloge.methods.creff import CReFF, class_gradients, gradient_distance, match_features
from fedloge.methods.method import Aggregate
from fedloge.models.head import LinearHead

CLASSES, DIM, EACH = 4, 6, 8


def problem(seed: int = 0) -> tuple[nn.Linear, Tensor, Tensor]:
    """A head, and images of classes 0, 1 and 3."""
    g = torch.Generator().manual_seed(seed)
    head = nn.Linear(DIM, CLASSES)
    with torch.no_grad():
        head.weight.copy_(torch.randn(CLASSES, DIM, generator=g) / 2)
        head.bias.copy_(torch.randn(CLASSES, generator=g) / 2)
    labels = torch.tensor([0, 1, 3]).repeat_interleave(EACH)
    centres = 2 * torch.randn(CLASSES, DIM, generator=g)
    return head, centres[labels] + torch.randn(len(labels), DIM, generator=g), labels


def test_class_gradients_are_those_of_autograd() -> None:
    head, features, labels = problem()
    gradients = class_gradients(LinearHead.of(head), features, labels)
    for c in (0, 1, 3):
        head.zero_grad()
        cross_entropy(head(features[labels == c]), labels[labels == c]).backward()
        expected = torch.cat([head.weight.grad, head.bias.grad[:, None]], dim=1)
        torch.testing.assert_close(gradients[c], expected)
    assert not gradients[2].any()


def test_the_real_features_match_their_own_gradients_and_are_found_again() -> None:
    # An exact solution exists: the real features themselves. From nearby, matching returns
    # to distance zero; from noise it comes close.
    layer, features, labels = problem()
    head, present = LinearHead.of(layer), torch.tensor([True, True, False, True])
    wanted = class_gradients(head, features, labels)
    real = features.view(3, EACH, DIM)

    def distance(candidates: Tensor) -> Tensor:
        return gradient_distance(candidates, head, wanted[present], present)

    assert distance(real).abs().max() < 1e-5

    start = torch.randn(CLASSES, EACH, DIM, generator=torch.Generator().manual_seed(1))
    near = start.clone()
    near[present] = real + 0.5 * start[present]
    for initial, bound in ((near, 1e-3), (start, 0.05)):
        matched = match_features(initial, head, wanted, present, steps=200, lr=3.0)
        assert distance(initial[present]).min() > 3 * bound
        assert distance(matched[present]).max() < bound
        assert torch.equal(matched[2], initial[2])  # nobody has class 2


def test_only_classes_that_a_client_has_are_matched(task: Callable[..., Any]) -> None:
    # Of three clients two have class 0, none has class 2; in class 1 two clients' gradients
    # are opposite, and their mean asks for nothing.
    method = CReFF(task(num_classes=3), CReFF.Options(match_steps=5, retrain_epochs=2))
    net = method.build()
    state, sums = method.server_state(net), method.uplink(net)
    g = torch.Generator().manual_seed(0)
    first, second = (torch.randn(sums["gradients"].shape[1:], generator=g) for _ in range(2))
    sums["gradients"][0] = first + second
    sums["clients"] = torch.tensor([2.0, 2.0, 0.0])
    after = method.server_update(net, Aggregate(1, net.state_dict(), sums, state))
    moved = (after.state["features"] != state["features"]).flatten(1).any(dim=1)
    assert moved.tolist() == [True, False, False]
    alone = match_features(
        state["features"],
        LinearHead.of(net.retrained),
        torch.stack([(first + second) / 2] * 3),
        torch.tensor([True, False, False]),
        steps=5,
        lr=0.1,
    )
    torch.testing.assert_close(after.state["features"], alone)


def test_the_server_replaces_the_retrained_head_and_leaves_the_rest(
    task: Callable[..., Any],
) -> None:
    method = CReFF(task(), CReFF.Options(match_steps=1, retrain_epochs=1, features_per_class=5))
    net = method.build()
    assert {p for p, _ in net.named_parameters()} - {
        name for name, p in net.named_parameters() if p.requires_grad
    } == {"retrained.weight", "retrained.bias"}
    shared = {name: t.clone() for name, t in net.state_dict().items()}
    sums = {name: torch.ones_like(t) for name, t in method.uplink(net).items()}
    one, two = (
        method.server_update(net, Aggregate(round, shared, sums, method.server_state(net)))
        for round in (1, 1)
    )
    changed = {name for name in shared if not torch.equal(one.shared[name], shared[name])}
    assert changed == {"retrained.weight", "retrained.bias"}
    assert all(torch.equal(one.shared[name], two.shared[name]) for name in shared)


def test_a_retrained_head_is_balanced(task: Callable[..., Any]) -> None:
    # Long-tailed real features: a head trained on them leans to class 0; the one trained on
    # matched federated features, as many for each class, does better on balanced data.
    g = torch.Generator().manual_seed(3)
    method = CReFF(task(num_classes=3), CReFF.Options(match_steps=100, retrain_epochs=50))
    net = method.build()
    d = net.head.in_features
    centres = 0.35 * torch.randn(3, d, generator=g)

    def draw(counts: list[int]) -> tuple[Tensor, Tensor]:
        labels = torch.arange(3).repeat_interleave(torch.tensor(counts))
        return (centres[labels] + torch.randn(len(labels), d, generator=g)), labels

    features, labels = draw([1000, 50, 10])
    test, truth = draw([300, 300, 300])
    optimiser = torch.optim.SGD(net.head.parameters(), lr=0.1)
    for _ in range(200):
        optimiser.zero_grad()
        cross_entropy(net.head(features), labels).backward()
        optimiser.step()
    retrained = LinearHead.of(net.retrained)
    sums = {"gradients": class_gradients(retrained, features, labels), "clients": torch.ones(3)}
    after = method.server_update(
        net, Aggregate(1, net.state_dict(), sums, method.server_state(net))
    )
    head = LinearHead(after.shared["retrained.weight"], after.shared["retrained.bias"])
    raw = (LinearHead.of(net.head).predict(test) == truth).double().mean()
    balanced = (head.predict(test) == truth).double().mean()
    assert balanced > raw + 0.05


def test_a_run(run_twice: Callable[..., Any]) -> None:
    run = run_twice("creff", "match-steps = 10, retrain-epochs = 10, features-per-class = 10")
    last = run.metrics[-1]
    assert {"global/raw/all", "global/retrained/all", "personal/tuned/mean"} <= last.keys()
    assert {"gradients", "clients", "retrained.weight"} <= run.sent


@pytest.mark.parametrize(
    "options", ["match-lr = 0", "features-per-class = 0", "retrain-epochs = -1"]
)
def test_options_out_of_range_are_refused(options: str, refuses: Callable[..., None]) -> None:
    refuses("creff", options)
